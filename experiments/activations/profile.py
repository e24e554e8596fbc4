"""Gradient over depth before training, by activation: mean field, and what networks do.

Weights are Gaussian with variance sigma_w^2 / n, biases 0, and the first layer's pre-activations have variance 1. Then
sigma_w^2 = gain^2 = 1 / E[phi(z)^2] keeps the variance at 1, and the squared gradient changes by
chi_1 = E[phi'(z)^2] / E[phi(z)^2] a layer, z ~ N(0, 1). With sigma_w^2 = 1 for all, the variance moves too, and with it
the rate.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

import gradflow as gf
from experiments.activations import training
from experiments.framework.images import Images, rows

IMAGES = 16  # that the loss of a network is averaged over


@dataclasses.dataclass(frozen=True)
class Profile:
    """Gradients before training, with weight variance gain^2 (first) and 1 (second).

    Attributes:
        width: units of each layer.
        rated: first layers over which `measured` and `rate` are means.
        gain: sigma_w of both.
        gradient: rms of dL/dz.
        signal: rms of z.
        measured: mean of ln chi over the first layers of each network.
        theory: rms of dL/dz over that of the last layer.
        rate: the mean of ln chi over the same layers, by theory.
    """

    width: int
    rated: int
    gain: Float[np.ndarray, "2 activations"]
    gradient: Float[np.ndarray, "2 activations networks depth"]
    signal: Float[np.ndarray, "2 activations networks depth"]
    measured: Float[np.ndarray, "2 activations networks"]
    theory: Float[np.ndarray, "2 activations depth"]
    rate: Float[np.ndarray, "2 activations"]


def theory(names: Sequence[str], gains: Sequence[float], depth: int, rated: int) -> tuple[np.ndarray, np.ndarray]:
    """Predict gradients at infinite width.

    Args:
        names: activations.
        gains: standard deviations sigma_w, one for each activation.
        depth: hidden layers.
        rated: layers whose rate is fitted, from the first.

    Returns:
        `Profile.theory` and `Profile.rate` of one scheme.
    """
    profiles, rates = [], []
    for name, gain in zip(names, gains, strict=True):
        q, slopes = 1.0, []
        for _ in range(depth - 1):
            moments = gf.activations.get(name).moments(q)
            q = gain**2 * float(moments.square)
            slopes.append(float(moments.slope_square))
        log_chi = np.log(gain**2 * np.array(slopes))
        profiles.append(np.exp(np.append(np.cumsum(log_chi[::-1])[::-1], 0.0) / 2))
        rates.append(log_chi[: rated - 1].mean())
    return np.array(profiles), np.array(rates)


def measure(
    data: gf.data.ImageDataset, names: Sequence[str], *, depth: int, width: int, networks: int, rated: int, seed: int
) -> Profile:
    """Draw networks of every activation and differentiate the loss once.

    Args:
        data: images.
        names: activations.
        depth: hidden layers.
        width: units of each.
        networks: how many to draw of each activation.
        rated: layers whose rate is fitted, from the first.
        seed: of the draws.

    Returns:
        The gradients.
    """
    batch = rows(data, data.train, IMAGES, unit_square=True)
    keys = jax.random.split(jax.random.key(seed), networks)
    gains = [gf.activations.get(name).gain for name in names]
    schemes = np.array([gains, np.ones(len(names))])
    drawn = draw(keys, jnp.asarray(schemes, jnp.float32), batch, names=tuple(names), depth=depth, width=width)
    gradient, signal = (np.asarray(value, np.float64) for value in drawn)
    profiles, rates = zip(*(theory(names, scheme, depth, rated) for scheme in schemes), strict=True)
    return Profile(
        width=width,
        rated=rated,
        gain=schemes,
        gradient=gradient,
        signal=signal,
        measured=2 * np.log(gradient[..., 0] / gradient[..., rated - 1]) / (rated - 1),
        theory=np.stack(profiles),
        rate=np.stack(rates),
    )


@functools.partial(jax.jit, static_argnames=("names", "depth", "width"))
def draw(
    keys: PRNGKeyArray,
    gains: Float[Array, "schemes activations"],
    batch: Images,
    *,
    names: tuple[str, ...],
    depth: int,
    width: int,
) -> tuple[Float[Array, "schemes activations networks depth"], Float[Array, "schemes activations networks depth"]]:
    """Return the rms of dL/dz and of z by hidden layer, cross-entropy at initialization.

    Args:
        keys: of the networks.
        gains: sigma_w of all kernels but the first, where it is 1.
        batch: images.
        names: activations; a learned parameter is at its start.
        depth: hidden layers.
        width: units of each.
    """
    # Through a function each, so that PReLU is one with a fixed slope.
    functions = [_at_start(name) for name in names]

    def one(kind: Array, gain: Array, key: PRNGKeyArray) -> tuple[Array, Array]:
        model = training.build(lambda x: jax.lax.switch(kind, functions, x), depth, width)
        params = training.scale_kernels(model.init(key, batch.x[:2])["params"], gain)

        def loss(params: Any) -> Array:
            logits: Any = model.apply({"params": params}, batch.x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch.y).mean()

        _, _, flow = gf.value_grad_and_flow(loss, statistics=("output_grad_rms", "output_rms"))(params)
        return training.by_layer(flow, "output_grad_rms"), training.by_layer(flow, "output_rms")

    def row(gains: Float[Array, " activations"]) -> tuple[Array, Array]:
        kinds = jnp.arange(len(names))
        return jax.lax.map(lambda pair: jax.vmap(lambda key: one(pair[0], pair[1], key))(keys), (kinds, gains))

    return jax.lax.map(row, gains)


def _at_start(name: str) -> Callable[[Array], Array]:
    record = gf.activations.get(name)
    return lambda x: record(x)
