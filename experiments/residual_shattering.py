"""Shattered gradients (Balduzzi et al. 2017): how like each other the gradients at nearby inputs are."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

import gradflow as gf
from experiments import residual_network as network
from experiments.residual_network import Form, Params
from experiments.runner import Results

NETWORKS = {
    "plain, 1 block": (1, network.form(skip=False, normalized=True)),
    "plain, 24 blocks": (24, network.form(skip=False, normalized=True)),
    "residual, 50 blocks": (50, network.form(skip=True, normalized=True, branch_scale=0.1)),
}  # Balduzzi et al., Fig. 1
POINTS, LIMIT = 256, 2.0
LAGS = 15
LINES = 32  # networks that autocorrelations are averaged over
CORRELATION = 0.5  # of the two inputs whose gradients are compared over depth


def grid_gradients(key: PRNGKeyArray, blocks: int, width: int, kind: Form) -> Float[Array, " points"]:
    """Gradient of a random network's output at 256 numbers between -2 and 2, all of them one batch.

    Args:
        key: randomness.
        blocks: number of blocks.
        width: of the stream.
        kind: of network.
    """
    params = network.init(key, blocks, width, 1, 1)
    x = jnp.linspace(-LIMIT, LIMIT, POINTS)[:, None]
    return jax.grad(lambda x: jnp.sum(_readout(params, x @ params["stem"]["kernel"], kind, blocks)))(x)[:, 0]


def _readout(params: Params, x: Float[Array, "batch width"], kind: Form, depth: Array | int) -> Float[Array, "batch 1"]:
    """A linear function of the stream after `depth` blocks."""

    def block(x: Array, layer: tuple[dict[str, Array], Array]) -> tuple[Array, None]:
        there = kind.skip * x + network.branch(x, layer[0], kind)
        return jnp.where(layer[1] < depth, there, x), None

    indices = jnp.arange(len(params["blocks"]["scale"]))
    return jax.lax.scan(block, x, (params["blocks"], indices))[0] @ params["head"]["kernel"]


def autocorrelation(gradients: Float[np.ndarray, "networks points"], lags: int) -> Float[np.ndarray, " lags"]:
    """Mean autocorrelation of gradients along the line of inputs, at distances of 0 ... lags - 1 points.

    Args:
        gradients: of several networks.
        lags: how many distances.
    """
    centred = gradients - gradients.mean(1, keepdims=True)
    power = (centred**2).sum(1)
    products = [(centred[:, : POINTS - lag] * centred[:, lag:]).sum(1) for lag in range(lags)]
    return np.array([(product / power).mean() for product in products])


def gradient_correlation(
    key: PRNGKeyArray, depth: Int[Array, ""], kind: Form, *, blocks: int, width: int
) -> Float[Array, ""]:
    """Cosine between a random network's gradients with respect to the stream, at two inputs of cosine 1/2.

    Args:
        key: randomness.
        depth: blocks that count.
        kind: of network, without normalization.
        blocks: blocks that there are.
        width: of the stream.
    """
    params_key, input_key, other_key = jax.random.split(key, 3)
    params = network.init(params_key, blocks, width, width, 1)
    first, independent = (jax.random.normal(k, (width,)) for k in (input_key, other_key))
    other = CORRELATION * first + np.sqrt(1 - CORRELATION**2).astype(np.float32) * independent
    a, b = (jax.grad(lambda x: jnp.sum(_readout(params, x[None], kind, depth)))(x) for x in (first, other))
    return jnp.vdot(a, b) / (jnp.linalg.norm(a) * jnp.linalg.norm(b))


def predicted_correlation(blocks: int, *, skip: bool) -> Float[np.ndarray, " blocks"]:
    """Correlation of gradients after 1 ... L blocks of He-initialized ReLU, for inputs of cosine c_0 = 1/2.

    Plain: a block multiplies it by 1 - arccos(c) / pi, the part of units that are active at both inputs over that at
    one, and maps c to C(c). Residual: both sides of a block carry half, so both factors are means, of these and 1
    or c.
    With independent masks, c = 0, that is 1/2 and 3/4 a block.

    Args:
        blocks: L.
        skip: with skip connections.
    """
    c, product, found = CORRELATION, 1.0, []
    for _ in range(blocks):
        both = 1 - np.arccos(min(c, 1.0)) / np.pi
        after = float(gf.theory.correlation_map("relu", 1.0, min(c, 1.0), weight_variance=2.0, bias_variance=0.0))
        product *= (1 + both) / 2 if skip else both
        c = (c + after) / 2 if skip else after
        found.append(product)
    return np.array(found)


def measure(depths: tuple[int, ...], width: int, networks: int, seed: int) -> Results:
    """Measure Balduzzi et al.'s Fig. 1, and the correlation of gradients over depth.

    Args:
        depths: numbers of blocks for the correlation over depth.
        width: of the stream.
        networks: drawn for each number.
        seed: of their randomness.

    Returns:
        `shatter_x` (points,), `shatter_gradient` (3 networks, points), one each; `shatter_autocorrelation` (3, lags);
        `shatter_depths` (depths,), `shatter_correlation`, `shatter_theory` (2, depths), plain first.
    """
    keys = jax.random.split(jax.random.key(seed), networks)
    lines = []
    for blocks, kind in NETWORKS.values():
        one = functools.partial(grid_gradients, blocks=blocks, width=width, kind=kind)
        lines.append(np.asarray(jax.jit(jax.vmap(one))(keys[:LINES])))

    pair = functools.partial(gradient_correlation, blocks=max(depths), width=width)
    over_networks = jax.vmap(pair, in_axes=(0, None, None))
    forms = network.Form(jnp.asarray([0.0, 1.0]), jnp.zeros(2), jnp.ones(2))
    over_depths = jax.jit(
        lambda kinds: jax.lax.map(
            lambda kind: jax.lax.map(lambda depth: over_networks(keys, depth, kind).mean(), jnp.asarray(depths)), kinds
        )
    )
    theory = [predicted_correlation(max(depths), skip=skip)[np.array(depths) - 1] for skip in (False, True)]
    return {
        "shatter_x": np.linspace(-LIMIT, LIMIT, POINTS),
        "shatter_gradient": np.stack([line[0] for line in lines]),
        "shatter_autocorrelation": np.stack([autocorrelation(line, LAGS) for line in lines]),
        "shatter_depths": np.array(depths),
        "shatter_correlation": np.asarray(over_depths(forms)),
        "shatter_theory": np.stack(theory),
    }
