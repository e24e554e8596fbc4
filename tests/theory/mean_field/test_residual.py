"""Residual theory against finite networks, closed forms and its asymptotic laws."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow import activations, theory

DEPTH, WIDTH = 8, 600


@pytest.mark.parametrize(("name", "scale"), [("sigmoid", 1.0), ("tanh", 1.0), ("relu", 0.5)])
def test_profile_is_that_of_a_wide_network(name: str, scale: float) -> None:
    phi = activations.get(name)
    keys = jax.random.split(jax.random.key(1), 4)
    weights = jax.random.normal(keys[0], (DEPTH, WIDTH, WIDTH)) * math.sqrt(1.5 / WIDTH)
    biases = jax.random.normal(keys[1], (DEPTH, WIDTH)) * math.sqrt(0.05)
    x0 = 0.2 + jax.random.normal(keys[2], (WIDTH,))

    def stream(shifts: jax.Array) -> tuple[jax.Array, jax.Array]:
        x, seen = x0 + shifts[0], []
        for weight, bias, shift in zip(weights, biases, shifts[1:], strict=True):
            x = x + scale * phi(weight @ x + bias) + shift
            seen.append(x)
        return x, jnp.stack(seen)

    _, back, seen = jax.vjp(stream, jnp.zeros((DEPTH + 1, WIDTH)), has_aux=True)
    gradient = np.asarray((back(jax.random.normal(keys[3], (WIDTH,)))[0] ** 2).mean(1))
    profile = theory.residual_profile(
        name,
        DEPTH,
        float((x0**2).mean()),
        weight_variance=1.5,
        bias_variance=0.05,
        mean=float(x0.mean()),
        branch_scale=scale,
    )
    np.testing.assert_allclose(np.asarray((seen**2).mean(1)), profile.second_moments, rtol=0.1)
    np.testing.assert_allclose(gradient[:-1] / gradient[1:], profile.backward_rates, rtol=0.1)
    assert math.sqrt(gradient[0] / gradient[-1]) == pytest.approx(profile.gradient_ratio, rel=0.1)


def test_linear_branches_multiply() -> None:
    profile = theory.residual_profile("identity", 5, 2.0, weight_variance=0.5, bias_variance=0.0, branch_scale=2.0)
    np.testing.assert_allclose(profile.second_moments, 2 * 3.0 ** np.arange(1, 6), rtol=1e-12)
    assert profile.gradient_ratio == pytest.approx(3**2.5, rel=1e-12)


def test_growth_of_the_stream() -> None:
    """tanh: p_l grows like l; sigmoid, whose branch has mean 1/2 whatever q: m_l = l / 2, p_l like l^2 / 4."""
    tanh = theory.residual_profile("tanh", 2000, 1.0, weight_variance=1.0, bias_variance=0.0)
    assert tanh.second_moments[-1] / tanh.second_moments[999] == pytest.approx(2, rel=0.03)
    sigmoid = theory.residual_profile("sigmoid", 200, 1.0, weight_variance=1.0, bias_variance=0.0)
    np.testing.assert_allclose(sigmoid.means, np.arange(1, 201) / 2, rtol=1e-9)
    assert sigmoid.second_moments[-1] == pytest.approx(200**2 / 4, rel=0.03)
    assert sigmoid.gradient_ratio < 2


def test_bad_input_is_named() -> None:
    given = {"weight_variance": 2.0, "bias_variance": 0.0}
    with pytest.raises(ArithmeticError, match=r"explodes.*branch_scale"):
        theory.residual_profile("relu", 200, 1.0, **given)
    with pytest.raises(ValueError, match="mean within the root"):
        theory.residual_profile("relu", 2, 1.0, mean=2.0, **given)
    with pytest.raises(ValueError, match="depth"):
        theory.residual_profile("relu", 0, 1.0, **given)
