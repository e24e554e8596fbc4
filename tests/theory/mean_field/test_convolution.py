"""Convolutional networks follow the maps of fully connected ones: averages over positions, circular padding."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from gradflow import activations, theory

DEPTH, CHANNELS, SIDE, WINDOW = 6, 128, 8, 3


def circular(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolution on a torus."""
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="wrap")
    return lax.conv_general_dilated(padded, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(
    ("name", "weight_variance", "bias_variance"), [("tanh", 2.5, 0.05), ("relu", 2.0, 0.0), ("gelu", 1.8, 0.1)]
)
def test_variance_correlation_and_gradient(name: str, weight_variance: float, bias_variance: float) -> None:
    phi, c0 = activations.get(name), 0.5
    keys = jax.random.split(jax.random.key(0), 2 * DEPTH + 2)
    drawn = jax.random.normal(keys[0], (2, SIDE, SIDE, CHANNELS))
    x = jnp.stack([drawn[0], c0 * drawn[0] + math.sqrt(1 - c0**2) * drawn[1]])

    def network(shifts: jax.Array) -> tuple[jax.Array, jax.Array]:
        signal, seen = x, []
        for layer, shift in enumerate(shifts):
            kernel = jax.random.normal(keys[2 * layer + 1], (WINDOW, WINDOW, CHANNELS, CHANNELS))
            kernel = kernel * math.sqrt(weight_variance / (WINDOW**2 * CHANNELS))
            bias = math.sqrt(bias_variance) * jax.random.normal(keys[2 * layer + 2], (CHANNELS,))
            z = circular(signal, kernel) + bias + shift
            seen.append(z)
            signal = phi(z)
        return z, jnp.stack(seen)

    @jax.jit
    def measured() -> tuple[jax.Array, jax.Array, jax.Array]:
        z, back, seen = jax.vjp(network, jnp.zeros((DEPTH, *x.shape)), has_aux=True)
        gradient = back(jax.random.normal(keys[-1], z.shape))[0]
        products = (seen[:, 0] * seen[:, 1]).mean((1, 2, 3))
        return (seen**2).mean((1, 2, 3, 4)), products, (gradient**2).mean((1, 2, 3, 4))

    squares, products, gradient = (np.asarray(values, np.float64) for values in measured())
    given = {"weight_variance": weight_variance, "bias_variance": bias_variance}
    profile = theory.network_profile(name, DEPTH, 1.0, correlation=c0, **given)
    # ln of a mean square strays by sqrt(5 / channels) a layer at most (ReLU), less for what positions average out.
    chance = 3 * math.sqrt(5 / CHANNELS / WINDOW**2)
    np.testing.assert_allclose(squares, profile.variances, rtol=2 * chance)
    np.testing.assert_allclose(products / squares, profile.correlations, atol=chance)
    np.testing.assert_allclose(gradient[:-1] / gradient[1:], profile.backward_rates, rtol=chance)


def test_uneven_positions_even_out() -> None:
    """A bright half: position by position the variance is the window's mean of E[phi^2], on average the map's."""
    keys = jax.random.split(jax.random.key(1), 5)
    scale = jnp.where(jnp.arange(SIDE) < SIDE // 2, 2.0, 0.2)[None, None, :, None]
    z = scale * jax.random.normal(keys[0], (1, SIDE, SIDE, 512))
    kernel = jax.random.normal(keys[1], (WINDOW, WINDOW, 512, 512)) * math.sqrt(1.5 / (WINDOW**2 * 512))
    after = np.asarray((circular(jnp.tanh(z), kernel) ** 2).mean((0, 1, 3)), np.float64)
    columns = np.asarray(scale, np.float64).ravel() ** 2
    each = theory.variance_map("tanh", columns, 1.5, 0.0)
    predicted = (each + np.roll(each, 1) + np.roll(each, -1)) / 3
    np.testing.assert_allclose(after, predicted, rtol=4 * math.sqrt(2 / 512))
    assert np.ptp(predicted) < np.ptp(columns)
