"""Batch normalization at initialization: gradients that explode in a plain network, signals tamed in a residual one."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped

import gradflow as gf
from experiments.framework.bands import gradient_rate
from experiments.framework.progress import track

SETTLED = 5  # layers at either end that are left out of a fit: there the profile still bends


def gradient_profile(
    key: PRNGKeyArray, *, activation: str, depth: int, width: int, batch: int, normalization: str | None
) -> Float[Array, " depth"]:
    """Rms of dL/d(W x) of every hidden layer of a random network for random inputs and a random linear loss.

    Args:
        key: randomness.
        activation: name.
        depth: hidden layers.
        width: units a layer.
        batch: examples.
        normalization: "batch" or None.
    """
    model = gf.models.MLP(
        depth=depth,
        width=width,
        outputs=1,
        activation=activation,
        initializer="he_normal" if activation == "relu" else "lecun_normal",
        normalization=normalization,  # type: ignore[arg-type]
        bias=False,
        scan=True,
    )
    keys = jax.random.split(key, 3)
    x = jax.random.normal(keys[0], (batch, width))
    direction = jax.random.normal(keys[1], (batch, 1))
    variables = model.init(keys[2], x)
    state = {name: value for name, value in variables.items() if name != "params"}

    def loss(params: Any) -> Float[Array, ""]:
        outputs: Any = model.apply({"params": params, **state}, x, train=True, mutable=["batch_stats"])[0]
        return jnp.sum(outputs * direction)

    statistics = ("output_grad_rms",)
    _, _, flow = gf.value_grad_and_flow(loss, statistics=statistics, data_gradients=False)(variables["params"])
    return jnp.concatenate([jnp.atleast_1d(flow[name].output_grad_rms) for name in flow.layers[:-1]])


@dataclasses.dataclass(frozen=True)
class Explosion:
    """Squared gradient a layer by activation; `profile` is rms by layer over the last, `plain` that without norm."""

    activations: Shaped[np.ndarray, " activations"]
    theory: Float[np.ndarray, " activations"]
    rate: Float[np.ndarray, "activations networks"]
    profile: Float[np.ndarray, "activations depth"]
    plain: Float[np.ndarray, " depth"]


@dataclasses.dataclass(frozen=True)
class Linear:
    """Squared gradient a layer of the linear network, by batch."""

    batches: Int[np.ndarray, " batches"]
    theory: Float[np.ndarray, " batches"]
    rate: Float[np.ndarray, "batches networks"]


@dataclasses.dataclass(frozen=True)
class Streams:
    """Variance of the residual stream after each block, with batch norm in the branch and without."""

    normalized: Float[np.ndarray, "networks blocks"]
    plain: Float[np.ndarray, "networks blocks"]


def measure(
    depth: int,
    width: int,
    batch: int,
    activations: tuple[str, ...],
    linear_batches: tuple[int, ...],
    networks: int,
    seed: int,
) -> tuple[Explosion, Linear]:
    """Measure the explosion of gradients for each activation, and for the linear network at small batches.

    Args:
        depth: hidden layers.
        width: units a layer.
        batch: examples, for the activations.
        activations: names.
        linear_batches: batches of the linear network, whose rate (B - 2) / (B - 3) depends on the batch.
        networks: drawn for each measurement.
        seed: of their randomness.

    Returns:
        Both.
    """
    keys = jax.random.split(jax.random.key(seed), networks)

    def profiles(activation: str, batch: int, normalization: str | None = "batch") -> np.ndarray:
        one = functools.partial(
            gradient_profile,
            activation=activation,
            depth=depth,
            width=width,
            batch=batch,
            normalization=normalization,
        )
        return np.asarray(jax.jit(lambda keys: jax.lax.map(one, keys))(keys))

    measured = [profiles(name, batch) for name in track(activations, "explosion")]
    linear = [profiles("identity", size) for size in track(linear_batches, "linear network", "batch {}".format)]
    explosion = Explosion(
        activations=np.array(activations),
        theory=np.array([gf.theory.batchnorm_rate(name, batch) for name in activations]),
        rate=np.stack([gradient_rate(profile, SETTLED) for profile in measured]),
        profile=np.stack([_typical(profile) for profile in measured]),
        plain=_typical(profiles("relu", batch, None)),
    )
    return explosion, Linear(
        batches=np.array(linear_batches),
        theory=np.array([(size - 2) / (size - 3) for size in linear_batches]),
        rate=np.stack([gradient_rate(profile, SETTLED) for profile in linear]),
    )


def _typical(profiles: np.ndarray) -> np.ndarray:
    """Geometric mean over networks, relative to the last layer."""
    logs = np.log(profiles.astype(np.float64))
    return np.exp((logs - logs[:, -1:]).mean(0))


def stream_variances(
    key: PRNGKeyArray, *, blocks: int, width: int, batch: int, normalized: bool
) -> Float[Array, " blocks"]:
    """Variance of the residual stream x_l = x_(l-1) + W relu(norm(x_(l-1))), He-initialized, after each block.

    Args:
        key: randomness.
        blocks: number of them.
        width: of the stream.
        batch: examples.
        normalized: whether the branch starts with batch normalization.
    """
    first, rest = jax.random.split(key)

    def block(x: Array, key: PRNGKeyArray) -> tuple[Array, Array]:
        entering = (x - x.mean(0)) / jnp.sqrt(x.var(0) + 1e-5) if normalized else x
        kernel = jax.random.normal(key, (width, width)) * jnp.sqrt(2 / width)
        x = x + jax.nn.relu(entering) @ kernel
        return x, jnp.mean(jnp.square(x))

    _, variances = jax.lax.scan(block, jax.random.normal(first, (batch, width)), jax.random.split(rest, blocks))
    return variances


def measure_streams(blocks: int, width: int, batch: int, networks: int, seed: int) -> Streams:
    """Measure the growth of the residual stream with and without batch normalization.

    Args:
        blocks: residual blocks.
        width: of the stream.
        batch: examples.
        networks: drawn for each.
        seed: of their randomness.
    """
    keys = jax.random.split(jax.random.key(seed), networks)

    def variances(normalized: bool) -> np.ndarray:
        one = functools.partial(stream_variances, blocks=blocks, width=width, batch=batch, normalized=normalized)
        return np.asarray(jax.jit(jax.vmap(one))(keys))

    return Streams(normalized=variances(True), plain=variances(False))
