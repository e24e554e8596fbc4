"""Networks drawn at random, as plain as they come: what predictions are held against."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow import activations, initializers


def jacobian(
    key: jax.Array,
    activation: str,
    depth: int,
    width: int,
    *,
    weight_variance: float,
    bias_variance: float = 0.0,
    q0: float = 1.0,
    orthogonal: bool = False,
) -> jax.Array:
    """D_L W_L ... D_1 W_1 of a square network at an input of mean square q0."""
    phi = activations.get(activation)
    start, *keys = jax.random.split(key, depth + 1)
    x = math.sqrt(q0) * jax.random.normal(start, (width,))
    product = jnp.eye(width)
    for layer in keys:
        for_weight, for_bias = jax.random.split(layer)
        if orthogonal:
            weight = initializers.orthogonal(math.sqrt(weight_variance))(for_weight, (width, width), jnp.float32)
        else:
            weight = math.sqrt(weight_variance / width) * jax.random.normal(for_weight, (width, width))
        z = weight @ x + math.sqrt(bias_variance) * jax.random.normal(for_bias, (width,))
        product = phi.derivative(z)[:, None] * (weight @ product)
        x = phi(z)
    return product


def growth(
    key: jax.Array,
    activation: str,
    depth: int,
    width: int,
    *,
    weight_variance: float,
    bias_variance: float,
    q0: float,
    orthogonal: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Ln of the mean square of the last layer's pre-activations, and of |J u|^2 / |u|^2."""
    phi = activations.get(activation)
    start, direction, *keys = jax.random.split(key, depth + 2)
    x = jax.random.normal(start, (width,))
    x = x * jnp.sqrt(q0 * width / jnp.sum(x**2))
    u = jax.random.normal(direction, (width,))
    u = u - x * (u @ x) / (x @ x)
    before = jnp.sum(u**2)
    for layer in keys:
        for_weight, for_bias = jax.random.split(layer)
        if orthogonal:
            weight = initializers.orthogonal(math.sqrt(weight_variance))(for_weight, (width, width), jnp.float32)
        else:
            weight = math.sqrt(weight_variance / width) * jax.random.normal(for_weight, (width, width))
        z = weight @ x + math.sqrt(bias_variance) * jax.random.normal(for_bias, (width,))
        x, u = phi(z), phi.derivative(z) * (weight @ u)
    return jnp.log(jnp.mean(z**2)), jnp.log(jnp.sum(u**2) / before)


def chain(between: Callable[[jax.Array], jax.Array]) -> Callable[..., jax.Array]:
    """Three layers, with a function between the first two."""

    def model(params: Any, x: jax.Array) -> jax.Array:
        return jnp.tanh(between(x @ params[0]) @ params[1]) @ params[2]

    return model


def square_weights() -> list[jax.Array]:
    """Weights of `chain`, of 100 units each."""
    return [jax.random.normal(key, (100, 100)) / 10 for key in jax.random.split(jax.random.key(0), 3)]


def within(measured: float, predicted: float, error: float, deviations: float = 4.0) -> None:
    """Hold a measured mean against a prediction, within some standard errors."""
    assert abs(measured - predicted) < deviations * error, (measured, predicted, error)


def spread(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard error."""
    values = np.asarray(values, np.float64)
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))
