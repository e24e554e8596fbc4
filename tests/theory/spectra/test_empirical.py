"""Measured singular values against matrices whose spectrum is known."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow import theory
from tests.user_errors import without_type_checker


def linear(singular_values: np.ndarray, rows: int, columns: int, seed: int = 0) -> tuple[Any, jax.Array]:
    """A function x -> reshape(A vec(x)) with these singular values, and an input for it."""
    rng = np.random.default_rng(seed)
    left = np.linalg.qr(rng.standard_normal((rows, len(singular_values))))[0]
    right = np.linalg.qr(rng.standard_normal((columns, len(singular_values))))[0]
    matrix = jnp.asarray((left * singular_values) @ right.T, jnp.float32)
    return (lambda x: (matrix @ x.ravel()).reshape(2, -1)), jnp.ones((columns // 2, 2), jnp.float32)


@pytest.mark.parametrize(("rows", "columns"), [(8, 20), (20, 8)])
def test_all_values_of_a_small_one(rows: int, columns: int) -> None:
    expected = np.linspace(3, 0.1, 8)
    fn, x = linear(expected, rows, columns)
    np.testing.assert_allclose(jax.jit(lambda x: theory.singular_values(fn, x))(x), expected, atol=1e-5)


def test_batch_by_vmap_is_one_by_one() -> None:
    def fn(x: jax.Array) -> jax.Array:
        return jnp.tanh(x) * x.sum()

    batch = jax.random.normal(jax.random.key(0), (3, 5))
    together = jax.vmap(lambda x: theory.singular_values(fn, x))(batch)
    for row, x in zip(together, batch, strict=True):
        np.testing.assert_allclose(row, np.linalg.svd(np.asarray(jax.jacobian(fn)(x)), compute_uv=False), rtol=1e-4)


@pytest.mark.parametrize("smallest", [False, True])
def test_extreme_values_of_a_large_one(smallest: bool) -> None:
    expected = np.concatenate([[9.0, 7.0, 6.0], np.linspace(5, 2, 94), [1.5, 1.0, 0.5]])
    fn, x = linear(expected, 100, 140)
    got = theory.extreme_singular_values(fn, x, 3, smallest=smallest)
    np.testing.assert_allclose(got, expected[-3:] if smallest else expected[:3], rtol=1e-3)


def test_extreme_values_of_a_small_one_are_exact() -> None:
    fn, x = linear(np.array([4.0, 3.0, 2.0, 1.0]), 4, 6)
    np.testing.assert_allclose(theory.extreme_singular_values(fn, x, 2), [4, 3], rtol=1e-5)
    np.testing.assert_allclose(theory.extreme_singular_values(fn, x, 2, smallest=True), [2, 1], rtol=1e-4)


def test_moments_are_those_of_the_spectrum() -> None:
    values = np.linspace(2, 0.5, 60)
    fn, x = linear(values, 80, 60)
    estimate = jax.jit(lambda key: theory.singular_value_moments(fn, x, key, 200))(jax.random.key(1))
    assert abs(float(estimate.mean) - (values**2).mean()) < 4 * float(estimate.mean_error)
    assert abs(float(estimate.second) - (values**4).mean()) < 4 * float(estimate.second_error)
    assert float(estimate.mean_error) < 0.05


def test_measured_network_is_the_predicted_one() -> None:
    """A wide Gaussian tanh network, matrix-free, beside free probability with its own q_l."""
    width, depth = 300, 4
    keys = jax.random.split(jax.random.key(3), depth + 1)
    weights = [1.2**0.5 * jax.random.normal(k, (width, width)) / width**0.5 for k in keys[1:]]
    x = jax.random.normal(keys[0], (width,))

    def network(x: jax.Array) -> jax.Array:
        for weight in weights:
            x = jnp.tanh(weight @ x)
        return x

    variances = theory.variance_profile("tanh", depth, 1.0, weight_variance=1.2, bias_variance=0.0)
    predicted = theory.spectrum_moments("tanh", variances, weight_variance=1.2)
    measured = theory.singular_value_moments(network, x, jax.random.key(4), 40)
    assert float(measured.mean) == pytest.approx(predicted.mean, rel=0.1)
    assert float(measured.second) == pytest.approx(predicted.second, rel=0.2)
    top = theory.extreme_singular_values(network, x)
    assert float(top[0]) == pytest.approx(float(theory.singular_values(network, x)[0]), rel=1e-3)


@without_type_checker()
def test_bad_input_is_named() -> None:
    with pytest.raises(TypeError, match="floating-point array to differentiate"):
        theory.singular_values(lambda x: x, jnp.arange(3))
    with pytest.raises(TypeError, match="one floating-point array, got one to"):
        theory.singular_values(lambda x: (x, x), jnp.ones(3))  # type: ignore[arg-type,return-value]
    with pytest.raises(ValueError, match="count between 1 and 3"):
        theory.extreme_singular_values(lambda x: x, jnp.ones(3), 4)
    with pytest.raises(ValueError, match="at least 2 samples"):
        theory.singular_value_moments(lambda x: x, jnp.ones(3), jax.random.key(0), 1)
