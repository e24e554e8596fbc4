"""Measure how good predictions are, for docs/predict.md: `python -m tests.theory.tracing.measure [SEEDS]`.

First bands over many seeds of small networks: share of numbers inside, layers with an outlier, median width. Then
networks with one layer at fault: whether that layer leaves its band, and whether it is the first to do so. Last the
coverage of small models of the shapes that people train.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gradflow import theory
from tests.theory.tracing.language_models import outside_attention
from tests.theory.tracing.test_architectures import (
    IMAGES,
    VECTORS,
    ActorCritic,
    GatedUnits,
    GraphNetwork,
    MobileNet,
    RecurrentLanguageModel,
    ResidualActorCritic,
    ResNet,
    TransformerLanguageModel,
    UNet,
    predicted,
    tokens,
)
from tests.theory.tracing.test_centring import LOSSES, dense
from tests.theory.tracing.test_likeness import CHANNELS, draw_convolutions, draw_dense, gated, graph

MODELS: dict[str, tuple[nn.Module, tuple[int, ...] | None]] = {
    "ResNet": (ResNet(), IMAGES),
    "MobileNet, squeeze and excitation": (MobileNet(blocks=5), IMAGES),
    "UNet": (UNet(), IMAGES),
    "gated units": (GatedUnits(blocks=6), VECTORS),
    "actor and critic": (ActorCritic(), IMAGES),
    "residual actor and critic": (ResidualActorCritic(), IMAGES),
    "recurrent language model": (RecurrentLanguageModel(), None),
    "transformer, tied embedding": (TransformerLanguageModel(blocks=6), None),
    "graph, adjacency": (GraphNetwork(blocks=5), (48, 20)),
    "graph, list of edges": (GraphNetwork(edges=True, blocks=5), (48, 20)),
}
DEPTH, WIDTH, BROKEN = 6, 128, 3


def coverage(seeds: int) -> None:
    """Print how much of each model is predicted."""
    print(
        "\n| model | layers | outputs predicted | gradients predicted | outside attention | layers with an outlier "
        "| gradients apart |\n|---|---|---|---|---|---|---|"
    )
    for name, (module, shape) in MODELS.items():
        found = []
        for seed in range(seeds):
            x = tokens(1000 + seed) if shape is None else jax.random.normal(jax.random.key(1000 + seed), shape)
            found.append(predicted(module, x, seed=seed))
        rows = [row for prediction in found for row in prediction.layers]
        forward, backward = np.mean([prediction.coverage for prediction in found], 0)
        alarms = sum(bool(row.deviations) for row in rows)
        shares = np.mean([outside_attention(prediction, ("Attention",)).coverage for prediction in found], 0)
        apart = [
            abs(np.log(row.measured_output_grad_rms / row.output_grad_rms))
            for row in rows
            if not row.anchored and row.output_grad_rms > 0
        ]
        print(
            f"| {name} | {len(rows) // seeds} | {forward:.0%} | {backward:.0%} | {shares[0]:.0%}, {shares[1]:.0%} "
            f"| {alarms} of {len(rows)} | x{np.exp(np.median(apart)):.2f}, x{np.exp(np.max(apart)):.2f} |",
            flush=True,
        )


def plain(params: Sequence[jax.Array], x: jax.Array) -> jax.Array:
    """Six layers of tanh."""
    for w in params:
        x = jnp.tanh(x) @ w
    return x


def residual(params: Sequence[jax.Array], x: jax.Array, axis: int = -1) -> jax.Array:
    """A layer, pre-normalized residual ones, and a layer; the fourth normalizes along `axis`."""
    x = x @ params[0]
    for k, w in enumerate(params[1:-1], 1):
        along = axis if k == BROKEN else -1
        h = (x - x.mean(along, keepdims=True)) * jax.lax.rsqrt(x.var(along, keepdims=True) + 1e-6)
        x = x + jax.nn.gelu(h) @ w
    return x @ params[-1]


def convolutional(params: Sequence[jax.Array], x: jax.Array) -> jax.Array:
    """Six convolutions with batch normalization, whose weights are written as those of dense layers of nine taps."""
    for k, w in enumerate(params):
        kernel = w.reshape(3, 3, -1, w.shape[1])
        x = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=None
        )
        if k < len(params) - 1:
            x = jax.nn.relu((x - x.mean((0, 1, 2))) * jax.lax.rsqrt(x.var((0, 1, 2)) + 1e-5))
    return x


def regression(params: Sequence[jax.Array], x: jax.Array) -> jax.Array:
    """Dense layers with batch normalization, and a loss whose gradient all examples share."""
    return LOSSES["squares"](dense(jax.nn.relu, "centred first")(list(params), x))


def classification(params: Sequence[jax.Array], x: jax.Array) -> jax.Array:
    """Convolutions with batch normalization, and the cross-entropy of one class."""
    return LOSSES["one class"](convolutional(params, x).mean((1, 2)))


def draw(seed: int, gain: float = 1.2, inputs: int = WIDTH, outputs: int = WIDTH) -> list[jax.Array]:
    """Weights of six layers."""
    keys = jax.random.split(jax.random.key(seed), DEPTH)
    return [gain * jax.random.normal(key, (inputs, outputs)) / inputs**0.5 for key in keys]


NETWORKS: dict[str, tuple[Callable[..., Any], Callable[[int], Any], tuple[int, ...]]] = {
    "tanh": (plain, draw, (32, WIDTH)),
    "pre-norm residual": (residual, lambda seed: draw(seed, 1.0), (32, WIDTH)),
    "gate of a channel": (gated, lambda seed: draw_convolutions(jax.random.key(seed)), (8, 6, 6, 3)),
    "graph": (graph, lambda seed: draw_dense(jax.random.key(seed)), (20, CHANNELS)),
    "convolutions, batch norm": (convolutional, lambda seed: draw(seed, 1.4, 9 * 32, 32), (8, 8, 8, 32)),
    "batch norm, squared error": (regression, draw, (32, WIDTH)),
    "convolutions, batch norm, one class": (classification, lambda seed: draw(seed, 1.4, 9 * 32, 32), (8, 8, 8, 32)),
}


def bands(seeds: int) -> None:
    """Print how many numbers of fresh networks are inside their bands, and how wide these are."""
    print(
        "\n| network | outputs inside | gradients inside | layers with an outlier | median width | one deviation |\n"
        "|---|---|---|---|---|---|"
    )
    for name, (model, weights, shape) in NETWORKS.items():
        rows: list[theory.LayerPrediction] = []
        for seed in range(seeds):
            x = jax.random.normal(jax.random.key(1000 + seed), shape)
            rows += theory.predict(model, weights(seed), x).layers
        said = [r for r in rows if not r.anchored]
        outputs = np.mean(["output" not in r.deviations for r in rows])
        gradients = np.mean(["gradient" not in r.deviations for r in said])
        alarms = sum(bool(r.deviations) for r in rows)
        spread = [
            np.std([np.log(r.measured_output_rms / r.output_rms) for r in rows]),
            np.std([np.log(r.measured_output_grad_rms / r.output_grad_rms) for r in said]),
        ]
        widths = np.median([r.output_band for r in rows]), np.median([r.output_grad_band for r in said])
        print(
            f"| {name} | {outputs:.1%} | {gradients:.1%} | {alarms} of {len(rows)} | "
            f"x{widths[0]:.2f}, x{widths[1]:.2f} | x{np.exp(spread[0]):.2f}, x{np.exp(spread[1]):.2f} |",
            flush=True,
        )


def at_fault(fault: str, size: float, seed: int) -> theory.Prediction:
    """Predict a network whose fourth layer has a fault, from the weights before.

    Args:
        fault: "scale", "dead units", "correlated weights" (a part of rank 1 along the layer's mean input) or "axis of
            norm".
        size: factor, share of the units, share of the weight's variance, or axis.
        seed: of weights and batch.
    """
    x = jax.random.normal(jax.random.key(1000 + seed), (32, WIDTH)) + 1.0
    initial = draw(seed)
    if fault == "axis of norm":
        return theory.predict(lambda p, x: residual(p, x, int(size)), initial, x)
    params = list(initial)
    if fault == "scale":
        params[BROKEN] = size * params[BROKEN]
    elif fault == "dead units":
        params[BROKEN] = params[BROKEN] * (jnp.arange(WIDTH) >= size * WIDTH)
    else:
        entering = jnp.tanh(plain(params[:BROKEN], x)).mean(0)
        rank_one = jnp.outer(entering / jnp.linalg.norm(entering), jnp.ones(WIDTH) / WIDTH**0.5)
        rank_one = rank_one * jnp.linalg.norm(params[BROKEN])
        params[BROKEN] = (1 - size) ** 0.5 * params[BROKEN] + size**0.5 * rank_one
    return theory.predict(plain, params, x, initial=initial)


def faults(seeds: int) -> None:
    """Print whether the layer at fault leaves its band, and whether it is the first whose output does."""
    print("\n| fault of layer 3 | size | layer 3 an outlier | first output outside |\n|---|---|---|---|")
    for fault, sizes in {
        "scale": (1.25, 1.5, 2.0, 3.0),
        "dead units": (0.25, 0.5, 0.75),
        "correlated weights": (0.03, 0.1, 0.3),
        "axis of norm": (0,),
    }.items():
        for size in sizes:
            found = [at_fault(fault, size, seed) for seed in range(seeds)]
            outside = [[layer.name for layer in p.layers if "output" in layer.deviations] for p in found]
            seen = sum(str(BROKEN) in names for names in outside)
            first = sum(names[:1] == [str(BROKEN)] for names in outside)
            print(f"| {fault} | {size:g} | {seen} of {seeds} | {first} of {seeds} |", flush=True)


def main() -> None:
    """Measure, with compiled programs kept between networks of one kind."""
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    jax.config.update("jax_disable_most_optimizations", True)
    begin = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        bands(seeds)
        faults(max(seeds // 4, 1))
        coverage(max(seeds // 20, 1))
    print(f"\n{seeds} seeds, {time.process_time() - begin:.0f} CPU seconds")


if __name__ == "__main__":
    main()
