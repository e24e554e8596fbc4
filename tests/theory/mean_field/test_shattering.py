"""Gradient correlation against Balduzzi's closed forms and a finite network."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow import activations, theory

DEPTH, WIDTH = 4, 1000


def test_independent_masks_give_the_published_rates() -> None:
    zeros = np.zeros(12)
    layers = np.arange(1, 13)
    np.testing.assert_allclose(theory.gradient_correlation("relu", zeros), 0.5**layers, rtol=1e-9)
    residual = theory.gradient_correlation("relu", zeros, weight_variance=2.0, branch_scale=1.0)
    np.testing.assert_allclose(residual, 0.75**layers, rtol=1e-9)


def test_residual_with_batch_normalization_falls_like_a_root() -> None:
    depth = 800
    normalized = theory.gradient_correlation(
        "relu", np.zeros(depth), weight_variance=2 / np.arange(1, depth + 1), branch_scale=1.0
    )
    assert normalized[799] / normalized[199] == pytest.approx(0.5, rel=5e-3)  # 1 + O(1/l)


def test_relu_is_the_angle() -> None:
    c = np.array([0.2, 0.5, 0.8])
    expected = np.cumprod(1 - np.arccos(c) / math.pi)
    np.testing.assert_allclose(theory.gradient_correlation("relu", c), expected, rtol=1e-9)


@pytest.mark.parametrize(("name", "scale"), [("relu", None), ("tanh", None), ("tanh", 0.7)])
def test_correlation_is_that_of_a_wide_network(name: str, scale: float | None) -> None:
    """The correlations c_l are measured, the gradients' is predicted."""
    phi = activations.get(name)
    keys = jax.random.split(jax.random.key(5), DEPTH + 3)
    weights = [math.sqrt(2 / WIDTH) * jax.random.normal(k, (WIDTH, WIDTH)) for k in keys[:DEPTH]]
    first = jax.random.normal(keys[-1], (WIDTH,))
    pair = jnp.stack([first, 0.6 * first + 0.8 * jax.random.normal(keys[-2], (WIDTH,))])

    def network(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        seen = []
        for weight in weights:
            z = x @ weight.T
            x = phi(z) if scale is None else x + scale * phi(z)
            seen.append(z)
        return x, jnp.stack(seen)

    _, back, seen = jax.vjp(network, pair, has_aux=True)
    gradient = back(jnp.tile(jax.random.normal(keys[-3], (WIDTH,)), (2, 1)))[0]
    squares = (seen**2).mean((1, 2))
    correlations = (seen[:, 0] * seen[:, 1]).mean(1) / squares
    predicted = theory.gradient_correlation(name, correlations, squares, weight_variance=2.0, branch_scale=scale)
    measured = float((gradient[0] @ gradient[1]) / jnp.sqrt(jnp.sum(gradient[0] ** 2) * jnp.sum(gradient[1] ** 2)))
    assert measured == pytest.approx(predicted[-1], abs=4 / math.sqrt(WIDTH))


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="correlations"):
        theory.gradient_correlation("relu", [1.5])
    with pytest.raises(ValueError, match="slope"):
        theory.gradient_correlation(jnp.zeros_like, [0.5])
