"""The tanh table of `vanishing`: measured per-layer rate of the squared gradient against mean-field chi_1."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

import gradflow as gf
from experiments.framework.bands import gradient_rate
from experiments.framework.progress import track

WEIGHT_VARIANCES = (1.0, 1.3, 1.761, 2.5, 4.0)
BIAS_VARIANCE = 0.05
IMAGES = 64


def init(
    key: PRNGKeyArray,
    depth: int,
    width: int,
    weight_variance: Float[Array, ""],
    q_star: Float[Array, ""],
    pixels: int,
) -> dict:
    """Draw a tanh network whose pre-activations have variance q_star in the first layer already.

    For inputs of length 1, the first weights have variance q_star - sigma_b^2; the others sigma_w^2 / width.

    Args:
        key: randomness.
        depth: number of hidden layers.
        width: units a layer.
        weight_variance: sigma_w^2.
        q_star: fixed point of the variance map.
        pixels: length of an input.

    Returns:
        Parameters; those of the hidden layers after the first are stacked, for a scan.
    """
    keys = jax.random.split(key, 5)
    bias_scale = BIAS_VARIANCE**0.5
    return {
        "first": {
            "kernel": jax.random.normal(keys[0], (pixels, width)) * jnp.sqrt(q_star - BIAS_VARIANCE),
            "bias": jax.random.normal(keys[1], (width,)) * bias_scale,
        },
        "hidden": {
            "kernel": jax.random.normal(keys[2], (depth - 1, width, width)) * jnp.sqrt(weight_variance / width),
            "bias": jax.random.normal(keys[3], (depth - 1, width)) * bias_scale,
        },
        "head": {"kernel": jax.random.normal(keys[4], (width, 10)) / width**0.5},
    }


def loss(params: dict, images: Float[Array, "batch pixels"], labels: Int[Array, " batch"]) -> Float[Array, ""]:
    """Mean cross-entropy of the network written as a scan over its layers.

    Args:
        params: from `init`.
        images: inputs of length 1.
        labels: classes.
    """

    def layer(hidden: Array, p: dict) -> tuple[Array, None]:
        return jnp.tanh(hidden @ p["kernel"] + p["bias"]), None

    hidden = jnp.tanh(images @ params["first"]["kernel"] + params["first"]["bias"])
    hidden, _ = jax.lax.scan(layer, hidden, params["hidden"])
    logits = hidden @ params["head"]["kernel"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


@dataclasses.dataclass(frozen=True)
class Table:
    """Gradient over depth at initialization: chi_1, the rate fitted to each network, and dL/dz by layer."""

    width: int
    variance: Float[np.ndarray, " variances"]
    theory: Float[np.ndarray, " variances"]
    rate: Float[np.ndarray, "variances seeds"]
    gradient: Float[np.ndarray, "variances seeds layers"]


def measure(data: gf.data.ImageDataset, depth: int, width: int, seeds: int, seed: int) -> Table:
    """Measure the gradient profile of tanh networks over five weight variances and several seeds.

    Args:
        data: images; the first 64 of the training split are used, each scaled to length 1.
        depth: number of hidden layers.
        width: units a layer.
        seeds: networks drawn for each weight variance.
        seed: where their randomness starts.
    """
    labels = jnp.asarray(data.train.labels[:IMAGES])
    flat = data.normalize(data.train.images[:IMAGES]).reshape(len(labels), -1)
    images = jnp.asarray(flat / np.linalg.norm(flat, axis=1, keepdims=True))
    instrumented = gf.value_grad_and_flow(loss, select="hidden", statistics=("output_grad_rms",))

    @jax.jit
    def profiles(
        keys: PRNGKeyArray, weight_variance: Float[Array, ""], q_star: Float[Array, ""]
    ) -> Float[Array, "seeds layers"]:
        def one(key: PRNGKeyArray) -> Float[Array, " layers"]:
            params = init(key, depth, width, weight_variance, q_star, images.shape[1])
            _, _, flow = instrumented(params, images, labels)
            return flow["hidden"].output_grad_rms

        return jax.vmap(one)(keys)

    keys = jax.random.split(jax.random.key(seed), seeds)
    measured, theory = [], []
    for variance in track(WEIGHT_VARIANCES, "tanh table", "sigma_w^2 = {}".format):
        point = gf.theory.fixed_point("tanh", weight_variance=variance, bias_variance=BIAS_VARIANCE)
        theory.append(float(point.chi_1))
        measured.append(np.asarray(profiles(keys, jnp.float32(variance), jnp.float32(point.q_star))))
    return Table(
        width=width,
        variance=np.array(WEIGHT_VARIANCES),
        theory=np.array(theory),
        rate=np.stack([gradient_rate(profile) for profile in measured]),
        gradient=np.stack(measured),
    )
