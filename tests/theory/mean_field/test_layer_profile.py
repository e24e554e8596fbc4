"""Profiles with correlation and dropout against closed forms, their own fixed points and a wide network."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow import theory

DEPTH, WIDTH = 5, 1000


@pytest.mark.parametrize("keep", [1.0, 0.8])
def test_profile_is_that_of_a_wide_network(keep: float) -> None:
    """Two inputs, masks of their own, forward and backward, every layer."""
    keys = jax.random.split(jax.random.key(1), 3 * DEPTH + 3)
    first = jax.random.normal(keys[0], (WIDTH,))
    x = jnp.stack([first, 0.5 * first + math.sqrt(0.75) * jax.random.normal(keys[1], (WIDTH,))])

    def network(shifts: jax.Array) -> tuple[jax.Array, jax.Array]:
        signal, seen = x, []
        for layer in range(DEPTH):
            weight = math.sqrt(2.0 / WIDTH) * jax.random.normal(keys[3 * layer + 2], (WIDTH, WIDTH))
            bias = math.sqrt(0.05) * jax.random.normal(keys[3 * layer + 3], (WIDTH,))
            if layer:
                mask = jax.random.bernoulli(keys[3 * layer + 4], keep, (2, WIDTH))
                signal = jnp.where(mask, jnp.tanh(signal) / keep, 0.0)
            signal = signal @ weight.T + bias + shifts[layer]
            seen.append(signal)
        return signal, jnp.stack(seen)

    _, back, seen = jax.vjp(network, jnp.zeros((DEPTH, 2, WIDTH)), has_aux=True)
    gradient = back(jnp.tile(jax.random.normal(keys[-1], (WIDTH,)), (2, 1)))[0]
    profile = theory.network_profile(
        "tanh", DEPTH, 1.0, weight_variance=2.0, bias_variance=0.05, correlation=0.5, keep=keep
    )
    squares = np.asarray((seen**2).mean((1, 2)))
    np.testing.assert_allclose(np.sqrt(squares), profile.forward_rms, rtol=0.06)
    np.testing.assert_allclose(
        (seen[:, 0] * seen[:, 1]).mean(1) / squares, profile.correlations, atol=0.18
    )  # 4 x spread over seeds
    size = jnp.sqrt((gradient**2).mean((1, 2)))
    np.testing.assert_allclose(size / size[-1], profile.backward_rms, rtol=0.1)
    alike = (gradient[:, 0] * gradient[:, 1]).mean(1) / (gradient**2).mean((1, 2))
    np.testing.assert_allclose(alike, profile.gradient_correlations, atol=0.18)


def test_without_dropout_it_is_what_the_single_maps_say() -> None:
    given = {"weight_variance": 1.5, "bias_variance": 0.1}
    profile = theory.network_profile("gelu", 7, 2.0, **given)
    variances = theory.variance_profile("gelu", 7, 2.0, **given)
    np.testing.assert_allclose(profile.variances, variances, rtol=1e-12)
    np.testing.assert_allclose(
        profile.backward_rates, theory.backward_rates("gelu", variances[:-1], weight_variance=1.5), rtol=1e-12
    )
    assert theory.dropout_fixed_point("tanh", keep=1.0, **given) == theory.fixed_point("tanh", **given)


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(("weight_variance", "keep"), [(1.0, 0.9), (1.761, 0.99), (4.0, 0.8)])
def test_dropout_fixed_point_is_where_the_profile_leads(weight_variance: float, keep: float) -> None:
    given = {"weight_variance": weight_variance, "bias_variance": 0.05, "keep": keep}
    point = theory.dropout_fixed_point("tanh", **given)
    for start in (0.0, 1.0):
        profile = theory.network_profile("tanh", 300, 1.0, correlation=start, **given)
        assert profile.correlations[-1] == pytest.approx(point.c_star, abs=1e-6)
        assert profile.variances[-1] == pytest.approx(point.q_star, rel=1e-6)
    assert point.c_star < 1
    assert math.isfinite(point.xi_c)


def test_linear_network_with_dropout_is_its_closed_form() -> None:
    """Q c keeps its value where q grows by 1 / rho: after L layers c = rho^(L-1)."""
    profile = theory.network_profile(
        "identity", 4, 1.0, weight_variance=1.0, bias_variance=0.0, correlation=1.0, keep=0.5
    )
    np.testing.assert_allclose(profile.correlations, [1, 0.5, 0.25, 0.125], rtol=1e-9)
    np.testing.assert_allclose(profile.variances, [1, 2, 4, 8], rtol=1e-9)
    np.testing.assert_allclose(profile.backward_rates, 2, rtol=1e-9)


def test_trainable_depth_is_the_published_table() -> None:
    """6 xi_c of tanh at sigma_b^2 = 0.05; dropout shortens it, also at criticality."""
    for weight_variance, depth in ((1.0, 22), (1.5, 95), (4.0, 42)):
        assert round(theory.trainable_depth("tanh", weight_variance=weight_variance, bias_variance=0.05)) == depth
    critical = theory.critical_weight_variance("tanh", bias_variance=0.05)
    assert theory.trainable_depth("tanh", weight_variance=critical, bias_variance=0.05) == math.inf
    assert theory.trainable_depth("tanh", weight_variance=critical, bias_variance=0.05, keep=0.9) < 30


@pytest.mark.parametrize("name", ["tanh", "erf", "hard_tanh"])
def test_best_variances_are_critical_and_keep_the_spread(name: str) -> None:
    best = theory.best_variances(name, 100)
    point = theory.fixed_point(name, weight_variance=best.weight_variance, bias_variance=best.bias_variance)
    assert point.phase == "critical"
    assert point.q_star == pytest.approx(best.q_star, rel=1e-4)
    moments = theory.spectrum_moments(
        name, [best.q_star] * 100, weight_variance=best.weight_variance, ensemble="orthogonal"
    )
    assert moments.variance == pytest.approx(1, rel=1e-3)


def test_best_variances_say_where_there_are_none() -> None:
    assert theory.best_variances("relu", 50) == pytest.approx((2.0, 0.0, 1.0))
    with pytest.raises(ValueError, match="the least is"):
        theory.best_variances("selu", 50)
    with pytest.raises(ValueError, match="does not stay"):
        theory.best_variances("gelu", 50)


def test_bad_input_is_named() -> None:
    given = {"weight_variance": 1.0, "bias_variance": 0.0}
    with pytest.raises(ValueError, match="keep probability"):
        theory.network_profile("tanh", 3, 1.0, keep=0.0, **given)
    with pytest.raises(ArithmeticError, match="dies"):
        theory.network_profile("sigmoid", 3, 0.0, **given)
    with pytest.raises(ArithmeticError, match="acts as"):
        theory.dropout_fixed_point("relu", keep=0.9, weight_variance=2.0, bias_variance=0.0)
