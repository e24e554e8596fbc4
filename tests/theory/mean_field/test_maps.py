"""Fixed points against published values, closed forms, plain iteration and finite networks."""

from __future__ import annotations

import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow import activations, theory

# sigma_w^2: chi_1, 6 xi_c, for tanh with sigma_b^2 = 0.05.
TANH = {
    1.0: (0.759, 22),
    1.3: (0.880, 47),
    1.5: (0.939, 95),
    2.0: (1.048, 151),
    2.5: (1.134, 71),
    3.0: (1.209, 54),
    4.0: (1.342, 42),
}


def square(x: jax.Array) -> jax.Array:
    return x * x


@pytest.mark.parametrize("weight_variance", TANH)
def test_tanh_table(weight_variance: float) -> None:
    chi_1, trainable = TANH[weight_variance]
    point = theory.fixed_point("tanh", weight_variance=weight_variance, bias_variance=0.05)
    assert round(point.chi_1, 3) == chi_1
    assert round(6 * point.xi_c) == trainable
    assert point.phase == ("ordered" if chi_1 < 1 else "chaotic")


def test_tanh_at_the_edge_of_chaos() -> None:
    critical = theory.critical_weight_variance("tanh", bias_variance=0.05)
    assert round(critical, 3) == 1.761
    point = theory.fixed_point("tanh", weight_variance=critical, bias_variance=0.05)
    assert (round(point.q_star, 3), point.phase, point.c_star, point.xi_c) == (0.570, "critical", 1.0, math.inf)


@pytest.mark.quick_cases(12)
@pytest.mark.parametrize("bias_variance", [0.0, 0.05])
@pytest.mark.parametrize("name", activations.ACTIVATIONS)
def test_every_activation_settles_where_its_maps_lead(name: str, bias_variance: float) -> None:
    for weight_variance in (1 / 3, 1.0):
        given = {"weight_variance": weight_variance, "bias_variance": bias_variance}
        point = theory.fixed_point(name, **given)
        assert all(not math.isnan(v) for v in vars(point).values() if isinstance(v, float))
        if math.isinf(point.q_star):
            assert name == "identity"
            assert weight_variance == 1
            continue
        profile = theory.variance_profile(name, 301, 1.0, **given)
        gaps = np.abs(profile - point.q_star)
        # At criticality the approach is slower than any exponential: only its direction can be held.
        assert gaps[-1] < (max(gaps[0], 1e-9) if math.isinf(point.xi_q) else 1e-6)
        chi = theory.backward_rates(name, point.q_star, weight_variance=weight_variance)
        assert float(chi) == pytest.approx(point.chi_1, rel=1e-6)
        assert (point.phase == "ordered") == (point.chi_1 < 1 - 1e-8)
        if point.q_star > 1e-6:
            moved = theory.correlation_map(name, point.q_star, point.c_star, **given)
            assert float(moved) == pytest.approx(point.c_star, abs=1e-8)


@pytest.mark.parametrize("weight_variance", [1.0, 2.5])
def test_scales_are_those_of_plain_iteration(weight_variance: float) -> None:
    given = {"weight_variance": weight_variance, "bias_variance": 0.05}
    point = theory.fixed_point("tanh", **given)
    q, c, q_gaps, c_gaps = 1.0, point.c_star - 0.01, [], []  # the scales hold near the fixed point
    for _ in range(12):
        q = float(theory.variance_map("tanh", q, **given))
        c = float(theory.correlation_map("tanh", point.q_star, c, **given))
        q_gaps.append(abs(q - point.q_star))
        c_gaps.append(abs(c - point.c_star))
    assert -1 / math.log(q_gaps[-1] / q_gaps[-2]) == pytest.approx(point.xi_q, rel=0.01)
    assert -1 / math.log(c_gaps[-1] / c_gaps[-2]) == pytest.approx(point.xi_c, rel=0.05)


def test_relu_correlation_approaches_one_by_a_power() -> None:
    """1 - c_l -> 9 pi^2 / (2 l^2); the next term falls like ln(l) / l, so two depths have to close in on it."""
    c, gaps = 0.0, {}
    for layer in range(1, 1601):
        c = float(theory.correlation_map("relu", 1.0, c, weight_variance=2.0, bias_variance=0.0))
        gaps[layer] = (1 - c) * 2 * layer**2 / (9 * math.pi**2)
    assert 0.95 < gaps[1600] < 1
    assert gaps[200] < gaps[400] < gaps[800] < gaps[1600]


@pytest.mark.parametrize(
    ("name", "weight_variance"),
    [
        ("relu", 2),
        ("leaky_relu", 2 / 1.0001),
        ("prelu", 2 / 1.0625),
        ("erf", math.pi / 4),
        ("tanh", 1),
        ("identity", 1),
    ],
)
def test_critical_variance_without_bias_is_its_closed_form(name: str, weight_variance: float) -> None:
    """He et al. 2015: (1 + a^2) / 2 of sigma_w^2 is 1; smooth odd functions: 1 / phi'(0)^2."""
    critical = theory.critical_weight_variance(name, bias_variance=0.0)
    assert critical == pytest.approx(weight_variance, rel=1e-9)
    assert theory.fixed_point(name, weight_variance=critical, bias_variance=0.0).phase == "critical"


def test_sigmoid_loses_the_gradient_under_xavier_and_standard_initialization() -> None:
    for weight_variance in (1.0, 1 / 3):
        point = theory.fixed_point("sigmoid", weight_variance=weight_variance, bias_variance=0.0)
        assert point.phase == "ordered"
        assert point.chi_1 < weight_variance / 16


def test_selu_keeps_variance_one() -> None:
    point = theory.fixed_point("selu", weight_variance=1.0, bias_variance=0.0)
    assert point.q_star == pytest.approx(1, abs=1e-6)
    assert point.chi_1 == pytest.approx(1.0714, abs=0.005)
    assert theory.moments("selu", 1.0).mean == pytest.approx(0, abs=1e-6)


def test_batchnorm_rates() -> None:
    assert theory.batchnorm_rate("relu") == pytest.approx(math.pi / (math.pi - 1), rel=1e-12)
    assert theory.batchnorm_rate("identity") == pytest.approx(1, rel=1e-12)
    with pytest.raises(ValueError, match="constant"):
        theory.batchnorm_rate(jnp.zeros_like)


def test_profiles_are_those_of_a_wide_network() -> None:
    """Forward and backward through 6 tanh layers of 1,000 units, against theory from the input's own second moment."""
    width, depth, weight_variance, bias_variance = 1000, 6, 2.0, 0.05
    keys = jax.random.split(jax.random.key(0), 2 * depth + 2)
    signal = 0.7 * jax.random.normal(keys[-1], (width,))
    given = {"weight_variance": weight_variance, "bias_variance": bias_variance}
    predicted = theory.variance_profile("tanh", depth, float((signal**2).mean()), **given)
    rates = theory.backward_rates("tanh", predicted, weight_variance=weight_variance)
    weights, slopes, measured = [], [], []
    for layer in range(depth):
        weights.append(jax.random.normal(keys[2 * layer], (width, width)) * math.sqrt(weight_variance / width))
        z = weights[-1] @ signal + math.sqrt(bias_variance) * jax.random.normal(keys[2 * layer + 1], (width,))
        signal, slope = jnp.tanh(z), 1 - jnp.tanh(z) ** 2
        slopes.append(slope)
        measured.append(float((z**2).mean()))
    np.testing.assert_allclose(measured, predicted, rtol=0.1)
    gradient = jax.random.normal(keys[-2], (width,)) * slopes[-1]
    for layer in reversed(range(depth - 1)):
        below = (weights[layer + 1].T @ gradient) * slopes[layer]
        assert float((below**2).sum() / (gradient**2).sum()) == pytest.approx(rates[layer], rel=0.15)
        gradient = below


def test_explosion_and_death_are_said_in_words_or_as_documented() -> None:
    growing = theory.fixed_point("relu", weight_variance=2.5, bias_variance=0.1)
    assert (growing.q_star, growing.c_star, growing.phase) == (math.inf, 1.0, "chaotic")
    assert growing.chi_1 == pytest.approx(1.25)
    dying = theory.fixed_point("relu", weight_variance=1.0, bias_variance=0.0)
    assert (dying.q_star, dying.phase) == (0.0, "ordered")
    with pytest.raises(ArithmeticError, match="faster than linearly"):
        theory.fixed_point(square, weight_variance=1.0, bias_variance=0.0)
    with pytest.raises(ArithmeticError, match=r"explodes.*critical_weight_variance"):
        theory.variance_profile("relu", 100, 1.0, weight_variance=10.0, bias_variance=0.0)
    with pytest.raises(ValueError, match=r"no critical weight variance.*rectifier with bias"):
        theory.critical_weight_variance("relu", bias_variance=0.1)
    with pytest.raises(ValueError, match="jump"):
        theory.fixed_point(jnp.sign, weight_variance=1.0, bias_variance=0.0)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="did you mean 'tanh'"):
        theory.fixed_point("tahn", weight_variance=1.0, bias_variance=0.0)
    with pytest.raises(ValueError, match=r"weight_variance.*-1"):
        theory.fixed_point("tanh", weight_variance=-1.0, bias_variance=0.0)
    with pytest.raises(ValueError, match="variances q"):
        theory.variance_map("tanh", [1.0, math.nan], 1.0, 0.0)
    with pytest.raises(ValueError, match="correlations c"):
        theory.correlation_map("tanh", 1.0, 1.1, 1.0, 0.0)
    with pytest.raises(ValueError, match="variance 0"):
        theory.correlation_map("tanh", 0.0, 0.5, 1.0, 0.0)
    with pytest.raises(ValueError, match="depth"):
        theory.variance_profile("tanh", 0, 1.0, weight_variance=1.0, bias_variance=0.0)


def test_runs_inside_a_trace_and_leaves_precision_alone() -> None:
    def scaled(x: jax.Array) -> jax.Array:
        return x * theory.fixed_point("tanh", weight_variance=2.5, bias_variance=0.05).chi_1

    out = jax.jit(scaled)(jnp.ones(()))
    assert out.dtype == jnp.float32
    assert float(out) == pytest.approx(1.1335, abs=1e-4)
    assert jnp.ones(()).dtype == jnp.float32


def test_import_is_light() -> None:
    code = (
        "import sys, gradflow.theory; print([m for m in ('scipy', 'flax', 'matplotlib', 'optax') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
