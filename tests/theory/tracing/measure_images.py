"""Measure how well fresh networks are predicted on images, not on noise, for docs/predict.md.

python -m tests.theory.tracing.measure_images [SEEDS]

32 images of the Fashion-MNIST subset that comes with gradflow, raw and with mean 0 and deviation 1, and noise of that
shape; dense networks of six hidden layers of 200 units, convolutional ones of five of 64 channels with a mean at the
end; without a norm, with layer norm and with batch norm; ReLU and tanh.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gradflow as gf
from gradflow import theory

DENSE, CONVOLUTIONAL = [784, *[200] * 6, 10], [1, *[64] * 5, 10]


def normalized(x: jax.Array, axes: Any) -> jax.Array:
    """Normalize over axes, without scale and bias."""
    return (x - x.mean(axes, keepdims=True)) * jax.lax.rsqrt(x.var(axes, keepdims=True) + 1e-5)


NORMS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "no norm": lambda x: x,
    "layer norm": lambda x: normalized(x, -1),
    "batch norm": lambda x: normalized(x, tuple(range(x.ndim - 1))),
}


def network(norm: str, act: Callable[[jax.Array], jax.Array], convolutional: bool) -> Callable[..., jax.Array]:
    """Return a function of weights and images."""

    def model(weights: list[jax.Array], x: jax.Array) -> jax.Array:
        x = x if convolutional else x.reshape(len(x), -1)
        for number, w in enumerate(weights[:-1]):
            stride = (2, 2) if number % 2 == 0 else (1, 1)
            names = ("NHWC", "HWIO", "NHWC")
            x = jax.lax.conv_general_dilated(x, w, stride, "SAME", dimension_numbers=names) if convolutional else x @ w
            x = act(NORMS[norm](x))
        return (x.mean((1, 2)) if convolutional else x) @ weights[-1]

    return model


def drawn(seed: int, convolutional: bool) -> list[jax.Array]:
    """He weights."""
    units = CONVOLUTIONAL if convolutional else DENSE
    keys = jax.random.split(jax.random.key(seed), len(units) - 1)
    shapes = [
        (3, 3, m, n) if convolutional and k < len(units) - 2 else (m, n)
        for k, (m, n) in enumerate(itertools.pairwise(units))
    ]
    return [
        jax.random.normal(key, shape) * math.sqrt(2 / math.prod(shape[:-1]))
        for key, shape in zip(keys, shapes, strict=True)
    ]


def main(seeds: int) -> None:
    """Print a row a network and kind of images."""
    images = np.asarray(gf.data.load("fashion_mnist_subset").train.images[:32], np.float32).reshape(32, 28, 28, 1)
    raw = images / images.max()
    noise = np.random.default_rng(0).normal(size=raw.shape).astype(np.float32)
    print(
        "| network | images | layers with an outlier | outputs, gradients predicted | worst factor of a gradient |\n"
        "|---|---|---|---|---|"
    )
    for convolutional in (False, True):
        for norm in NORMS:
            for act in (jax.nn.relu, jnp.tanh):
                for kind, x in {"raw": raw, "standardized": (raw - raw.mean()) / raw.std(), "noise": noise}.items():
                    found = [
                        theory.predict(network(norm, act, convolutional), drawn(seed, convolutional), jnp.asarray(x))
                        for seed in range(seeds)
                    ]
                    rows = [row for prediction in found for row in prediction.layers]
                    parts = [abs(math.log(row.output_grad_rms / row.measured_output_grad_rms)) for row in rows]
                    shares = np.mean([prediction.coverage for prediction in found], 0)
                    outliers = sum(len(prediction.outliers) for prediction in found)
                    print(
                        f"| {'convolutions' if convolutional else 'dense'}, {norm}, {act.__name__} | {kind} "
                        f"| {outliers} of {len(rows)} "
                        f"| {shares[0]:.0%}, {shares[1]:.0%} | {math.exp(max(parts)):.2f} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
