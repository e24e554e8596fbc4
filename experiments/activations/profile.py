"""Gradient over depth before training, by activation: closed form, quadrature, and what networks do.

Weights are Gaussian with variance sigma_w^2 / n, biases 0, and the first layer's pre-activations have variance 1. Then
sigma_w^2 = gain^2 = 1 / E[phi(z)^2] keeps the variance at 1, and the squared gradient changes by
chi_1 = E[phi'(z)^2] / E[phi(z)^2] a layer, z ~ N(0, 1). With sigma_w^2 = 1 for all, the variance moves too, and with it
the rate.
"""

from __future__ import annotations

import dataclasses
import functools
import math
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

LEAKY_SLOPE, PRELU_SLOPE = 0.01, 0.25
IMAGES = 16  # that the loss of a network is averaged over
SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772  # Klambauer et al. 2017, equation 14


@dataclasses.dataclass(frozen=True)
class Moments:
    """E[phi^2] (square) and E[phi'^2] (slope) by quadrature and in closed form, NaN where there is none."""

    closed_square: Float[np.ndarray, " activations"]
    closed_slope: Float[np.ndarray, " activations"]
    quadrature_square: Float[np.ndarray, " activations"]
    quadrature_slope: Float[np.ndarray, " activations"]


@dataclasses.dataclass(frozen=True)
class Profile:
    """Gradients before training, with weight variance gain^2 (first) and 1 (second).

    Attributes:
        gain: sigma_w of both.
        gradient: rms of dL/dz.
        signal: rms of z.
        measured: mean of ln chi over the first layers of each network.
        theory: rms of dL/dz over that of the last layer.
        rate: the mean of ln chi over the same layers, by theory.
        deviation: standard deviation of `measured` between networks of this width, by theory, at gain^2.
        offset: shift of its mean by this width, by theory, at gain^2.
        variance_slope: V'(1) of the variance map at gain^2.
    """

    gain: Float[np.ndarray, "2 activations"]
    gradient: Float[np.ndarray, "2 activations networks depth"]
    signal: Float[np.ndarray, "2 activations networks depth"]
    measured: Float[np.ndarray, "2 activations networks"]
    theory: Float[np.ndarray, "2 activations depth"]
    rate: Float[np.ndarray, "2 activations"]
    deviation: Float[np.ndarray, " activations"]
    offset: Float[np.ndarray, " activations"]
    variance_slope: Float[np.ndarray, " activations"]


def closed_forms() -> dict[str, tuple[float, float]]:
    """Return (E[phi^2], E[phi'^2]) over z ~ N(0, 1) where these have a closed form.

    With Phi the normal distribution function: E[e^(az); z < 0] = e^(a^2 / 2) Phi(-a) for ELU and SELU; and for GELU,
    z Phi(z), by integration by parts, E[Phi^2] = 1/3, E[phi^2] = 1 / (2 pi sqrt(3)), E[z Phi phi] = E[phi^2] / 2 and
    E[z^2 phi^2] = E[phi^2] / 3, phi the density.
    """

    def tail(a: float) -> float:
        return math.exp(a**2 / 2) * math.erfc(a / math.sqrt(2)) / 2

    def rectifier(slope: float) -> tuple[float, float]:
        return ((1 + slope**2) / 2,) * 2

    def exponential(scale: float, alpha: float) -> tuple[float, float]:
        below = alpha**2 * (tail(2) - 2 * tail(1) + 0.5)
        return scale**2 * (0.5 + below), scale**2 * (0.5 + alpha**2 * tail(2))

    density = 1 / (2 * math.pi * math.sqrt(3))
    return {
        "relu": rectifier(0.0),
        "leaky_relu": rectifier(LEAKY_SLOPE),
        "prelu": rectifier(PRELU_SLOPE),
        "elu": exponential(1.0, 1.0),
        "selu": exponential(SELU_SCALE, SELU_ALPHA),
        "gelu": (1 / 3 + density, 1 / 3 + density * (2 * 0.5 + 1 / 3)),
    }


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


def spread(names: Sequence[str], gains: Sequence[float], width: int, rated: int) -> tuple[np.ndarray, np.ndarray]:
    """Predict how far the rates of networks of finite width stray.

    Args:
        names: activations.
        gains: standard deviations sigma_w that keep a variance of 1, one for each activation.
        width: units of each layer.
        rated: layers whose rate is fitted, from the first.

    Returns:
        `Profile.deviation` and `Profile.offset`.
    """
    deviations, offsets = [], []
    for name, gain in zip(names, gains, strict=True):
        # What comes in front of a first layer of the same sigma_w, so that its pre-activations have variance 1.
        law = gf.theory.width_profile(
            name, [width] * (rated - 1), 1 / gain**2, weight_variance=gain**2, bias_variance=0.0
        )  # fmt: skip
        infinite = math.log(gain**2 * gf.activations.get(name).moments().slope_square)
        deviations.append(math.sqrt(law.jacobian_variance[-1]) / (rated - 1))
        offsets.append(law.jacobian_mean[-1] / (rated - 1) - infinite)
    return np.array(deviations), np.array(offsets)


def measure(
    data: gf.data.ImageDataset, names: Sequence[str], *, depth: int, width: int, networks: int, rated: int, seed: int
) -> tuple[Profile, Moments]:
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
        The gradients, and the moments of the activations.
    """
    batch = rows(data, data.train, IMAGES, unit_square=True)
    keys = jax.random.split(jax.random.key(seed), networks)
    moments = [gf.activations.get(name).moments() for name in names]
    gains = [gf.activations.get(name).gain for name in names]
    schemes = np.array([gains, np.ones(len(names))])
    drawn = draw(keys, jnp.asarray(schemes, jnp.float32), batch, names=tuple(names), depth=depth, width=width)
    gradient, signal = (np.asarray(value, np.float64) for value in drawn)
    profiles, rates = zip(*(theory(names, scheme, depth, rated) for scheme in schemes), strict=True)
    deviation, offset = spread(names, gains, width, rated)
    closed = np.array([closed_forms().get(name, (np.nan, np.nan)) for name in names])
    return Profile(
        gain=schemes,
        gradient=gradient,
        signal=signal,
        measured=2 * np.log(gradient[..., 0] / gradient[..., rated - 1]) / (rated - 1),
        theory=np.stack(profiles),
        rate=np.stack(rates),
        deviation=deviation,
        offset=offset,
        variance_slope=np.array([variance_slope(name, gain) for name, gain in zip(names, gains, strict=True)]),
    ), Moments(
        closed_square=closed[:, 0],
        closed_slope=closed[:, 1],
        quadrature_square=np.array([float(moment.square) for moment in moments]),
        quadrature_slope=np.array([float(moment.slope_square) for moment in moments]),
    )


def variance_slope(name: str, gain: float, step: float = 1e-4) -> float:
    """V'(1), V(q) = gain^2 E[phi(sqrt(q) z)^2], by central differences: above 1, errors of the variance grow.

    Args:
        name: activation.
        gain: its gain, so that V(1) = 1.
        step: of the difference.
    """
    low, high = gf.theory.variance_map(name, [1 - step, 1 + step], gain**2, 0.0)
    return float((high - low) / (2 * step))


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
