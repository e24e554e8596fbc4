"""Quadrature against closed forms, a plain fine grid and seeded sampling."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow import activations, gaussian

VARIANCES = (1e-8, 0.01, 1.0, 30.0, 1e4)
CORRELATIONS = (-1.0, -0.99, -0.3, 0.0, 0.5, 0.99, 1 - 1e-6, 1 - 1e-10, 1.0)


def arccos_kernel(c: float) -> float:
    """E[relu(x) relu(y)] at variance 1: Cho & Saul 2009."""
    return (math.sqrt(1 - c * c) + (math.pi - math.acos(c)) * c) / (2 * math.pi)


def leaky(c: float, slope: float) -> float:
    """Phi = slope x + (1 - slope) relu; E[x relu(y)] = c / 2."""
    return slope**2 * c + slope * (1 - slope) * c + (1 - slope) ** 2 * arccos_kernel(c)


PAIRS = {
    "identity": lambda c, q: q * c,
    "relu": lambda c, q: q * arccos_kernel(c),
    "leaky_relu": lambda c, q: q * leaky(c, 0.01),
    "prelu": lambda c, q: q * leaky(c, 0.25),
    "erf": lambda c, q: 2 / math.pi * math.asin(2 * c * q / (1 + 2 * q)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_pair_is_its_closed_form(name: str) -> None:
    phi = activations.get(name)
    with jax.enable_x64(True):
        pair = jax.jit(lambda c, q: gaussian.pair_expectation(phi, c, (q, q), kinks=phi.kinks))
        for q in VARIANCES:
            for c in CORRELATIONS:
                got = float(pair(jnp.float64(c), jnp.float64(q)))
                assert got == pytest.approx(PAIRS[name](c, q), abs=1e-9 * min(q, 1) if name == "erf" else 1e-12 * q)


def test_pair_of_steps_is_the_angle() -> None:
    """Relu' jumps: E = (pi - arccos c) / (2 pi), the chance that both are positive."""
    relu = activations.get("relu")
    with jax.enable_x64(True):
        pair = jax.jit(lambda c: gaussian.pair_expectation(relu.derivative, c, kinks=relu.kinks))
        got = [float(pair(jnp.float64(c))) for c in CORRELATIONS]
    np.testing.assert_allclose(got, [(math.pi - math.acos(c)) / (2 * math.pi) for c in CORRELATIONS], atol=1e-11)


def test_pair_of_unequal_variances() -> None:
    with jax.enable_x64(True):
        got = float(gaussian.pair_expectation(jax.lax.erf, 0.4, (0.3, 5.0)))
    expected = 2 / math.pi * math.asin(2 * 0.4 * math.sqrt(1.5) / math.sqrt(1.6 * 11))
    assert got == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("name", activations.ACTIVATIONS)
def test_moments_are_those_of_a_fine_grid(name: str) -> None:
    """A million points, phi' by central differences: the oracle shares neither panels nor derivative."""
    phi = activations.get(name)
    z = np.linspace(-9, 9, 1_000_000)
    weight = np.exp(-(z**2) / 2)
    weight /= weight.sum()
    with jax.enable_x64(True):
        moments = jax.jit(lambda q: activations.moments(name, q))
        for q in (0.05, 1.0, 9.0):
            value, above, below = (np.asarray(phi(jnp.asarray(math.sqrt(q) * z + h))) for h in (0.0, 1e-6, -1e-6))
            slope = (above - below) / 2e-6
            expected = [weight @ v for v in (value, value**2, slope, slope**2)]
            np.testing.assert_allclose(moments(jnp.float64(q)), expected, rtol=2e-5, atol=1e-8)


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("name", ["relu", "tanh", "gelu", "hard_tanh"])
def test_pair_is_what_sampling_gives(name: str) -> None:
    phi = activations.get(name)
    z1, z2 = jax.random.normal(jax.random.key(3), (2, 400_000))
    product = phi(1.5 * z1) * phi(1.5 * (0.6 * z1 + 0.8 * z2))
    error = float(product.std()) / math.sqrt(product.size)
    got = float(gaussian.pair_expectation(phi, 0.6, (2.25, 2.25), kinks=phi.kinks))
    assert abs(got - float(product.mean())) < 4 * error


def test_expectation_of_a_polynomial_and_of_a_shifted_kink() -> None:
    with jax.enable_x64(True):
        assert float(gaussian.expectation(lambda z: z**6, 2.0)) == pytest.approx(15 * 8, rel=1e-12)
        hinge = float(gaussian.expectation(lambda z: jax.nn.relu(z - 0.37), 1.0, kinks=[0.37]))
    density, tail = math.exp(-(0.37**2) / 2) / math.sqrt(2 * math.pi), math.erfc(0.37 / math.sqrt(2)) / 2
    assert hinge == pytest.approx(density - 0.37 * tail, abs=1e-13)


def test_gradient_by_variance() -> None:
    """D E[erf(z)^2] / dq of (2 / pi) asin(2 q / (1 + 2 q)), at the user's own float32."""
    got = jax.jit(jax.grad(lambda q: activations.moments("erf", q).square))(jnp.float32(0.7))
    assert got.dtype == jnp.float32
    assert float(got) == pytest.approx(2 / math.pi * 2 / (2.4 * math.sqrt(2.4**2 - 1.4**2)), rel=1e-5)


@pytest.mark.quick_cases(3)
@pytest.mark.parametrize("c", [-1.0, -0.4, 0.0, 0.9, 1.0])
def test_gradient_by_correlation(c: float) -> None:
    """Of E[relu relu]: (pi - arccos c) / (2 pi), also at the ends; of E[step step]: 1 / (2 pi sqrt(1 - c^2))."""
    relu = activations.get("relu")
    with jax.enable_x64(True):
        gradient = jax.grad(lambda x: gaussian.pair_expectation(relu, x, kinks=(0.0,)))(c)
        assert float(gradient) == pytest.approx((math.pi - math.acos(c)) / (2 * math.pi), abs=1e-8)
        if abs(c) < 1:
            gradient = jax.grad(lambda x: gaussian.pair_expectation(relu.derivative, x, kinks=(0.0,)))(c)
            assert float(gradient) == pytest.approx(1 / (2 * math.pi * math.sqrt(1 - c**2)), rel=1e-8)
