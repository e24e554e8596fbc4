"""Predicted spectra against closed forms, their own moments, and the singular values of networks drawn at random."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import numpy as np
import pytest

from gradflow import theory
from tests.theory.networks import jacobian
from tests.user_errors import without_type_checker

WIDTH = 150
CASES = [
    ("identity", 3, 1.0, 1.0, "gaussian"),
    ("relu", 4, 1.0, 2.0, "orthogonal"),
    ("tanh", 5, 0.5, 1.5, "gaussian"),
    ("tanh", 8, 0.1, 1.1, "orthogonal"),
]


def test_one_gaussian_layer_is_the_quarter_circle() -> None:
    s = np.linspace(0.05, 1.95, 9)
    density = theory.spectrum_density("identity", 1, s, q=1.0, weight_variance=1.0)
    np.testing.assert_allclose(density, np.sqrt(4 - s**2) / math.pi, atol=1e-6)


def test_two_gaussian_layers_are_fuss_catalan() -> None:
    """Density of the squares, Penson & Zyczkowski 2011: with x = 27 / 4 sin(3 p)^2, explicit in p."""
    angle = np.linspace(0.1, math.pi / 3 - 0.1, 9)
    squares = np.sin(3 * angle) ** 3 / (np.sin(2 * angle) ** 2 * np.sin(angle))
    expected = np.sin(angle) ** 2 * np.sin(2 * angle) / (math.pi * np.sin(3 * angle) ** 2)
    density = theory.spectrum_density("identity", 2, np.sqrt(squares), q=1.0, weight_variance=1.0)
    np.testing.assert_allclose(density / (2 * np.sqrt(squares)), expected, atol=1e-6)


def test_one_orthogonal_relu_layer_has_an_atom_and_two_have_the_projections_law() -> None:
    """Product of two free projections of rank 1/2: arcsine law on [0, 1], mass 1/2, in terms of s^2."""
    s = np.sqrt(np.linspace(0.1, 0.9, 5))
    density = theory.spectrum_density("relu", 2, s, q=1.0, weight_variance=1.0, ensemble="orthogonal")
    np.testing.assert_allclose(density / (2 * s), 1 / (2 * math.pi * np.sqrt(s**2 * (1 - s**2))), rtol=1e-5)
    assert theory.zero_fraction("relu", q=1.0) == pytest.approx(0.5, abs=1e-9)


@pytest.mark.parametrize(("name", "depth", "q", "weight_variance", "ensemble"), CASES)
def test_density_has_the_moments(name: str, depth: int, q: float, weight_variance: float, ensemble: Any) -> None:
    given = {"weight_variance": weight_variance, "ensemble": ensemble}
    moments = theory.spectrum_moments(name, [q] * depth, **given)
    top = theory.largest_singular_value(name, depth, q=q, **given)
    u = (np.arange(150) + 0.5) / 150
    s = top * (1 - np.cos(math.pi * u)) / 2  # points crowd at both edges
    density = theory.spectrum_density(name, depth, s, q=q, **given)
    mass = density * top * math.pi / 2 * np.sin(math.pi * u) / 150
    assert mass @ s**2 == pytest.approx(moments.mean, rel=5e-3)
    assert mass @ s**4 == pytest.approx(moments.second, rel=5e-3)
    assert theory.spectrum_density(name, depth, 1.05 * top, q=q, **given) < 1e-5


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize(("name", "depth", "q", "weight_variance", "ensemble"), CASES)
def test_spectrum_is_that_of_a_wide_network(
    name: str, depth: int, q: float, weight_variance: float, ensemble: Any
) -> None:
    """Moments, edge and the distribution function itself, at a q that the network keeps through all layers."""
    given = {"weight_variance": weight_variance, "ensemble": ensemble}
    square = float(theory.moments(name, q).square)
    bias_variance = max(q - weight_variance * square, 0.0)
    q0 = (q - bias_variance) / weight_variance
    draw = functools.partial(jacobian, activation=name, depth=depth, width=WIDTH, weight_variance=weight_variance)
    options = {"bias_variance": bias_variance, "q0": q0, "orthogonal": ensemble == "orthogonal"}
    matrices = jax.jit(jax.vmap(functools.partial(draw, **options)))(jax.random.split(jax.random.key(2), 4))
    measured = np.linalg.svd(np.asarray(matrices), compute_uv=False)
    moments = theory.spectrum_moments(name, [q] * depth, **given)
    # Fluctuations of s^2's mean over networks are of order depth / width, its spread of m_2 about four times that.
    assert (measured**2).mean() == pytest.approx(moments.mean, rel=0.1)
    assert (measured**4).mean() == pytest.approx(moments.second, rel=0.25)
    top = theory.largest_singular_value(name, depth, q=q, **given)
    assert measured.max() == pytest.approx(top, rel=0.12)
    s = np.linspace(0, top, 201)[1:]
    density = theory.spectrum_density(name, depth, s - top / 400, q=q, **given)
    above = np.cumsum((density * top / 200)[::-1])[::-1]
    shape = measured * np.sqrt(moments.mean / (measured**2).mean(-1, keepdims=True))  # each network's own scale aside
    for at in (60, 100, 140):
        assert (shape > s[at] - top / 200).mean() == pytest.approx(above[at], abs=0.02)


def test_published_closed_forms() -> None:
    """Pennington et al. 2017: Gaussian linear networks, L + 1 and sqrt((L+1)^(L+1) / L^L); ReLU, p = 1/2."""
    for depth in (1, 3, 10):
        gaussian = theory.spectrum_moments("identity", [1.0] * depth, weight_variance=1.0)
        assert gaussian.second == pytest.approx(depth + 1, rel=1e-9)
        edge = math.sqrt((depth + 1) ** (depth + 1) / depth**depth)
        assert theory.largest_singular_value("identity", depth, q=1.0, weight_variance=1.0) == pytest.approx(edge, 1e-6)
        relu = theory.spectrum_moments("relu", [1.0] * depth, weight_variance=2.0, ensemble="orthogonal")
        assert relu.variance == pytest.approx(depth, rel=1e-6)
    isometry = theory.spectrum_moments("identity", [1.0] * 50, weight_variance=1.0, ensemble="orthogonal")
    assert isometry == (1.0, pytest.approx(0, abs=1e-9))


def test_orthogonal_tanh_reaches_isometry_at_criticality_and_gaussian_does_not() -> None:
    """With q* going to 0 on the critical line the variance at a fixed depth goes to 0, or to L."""
    cases: Any = (("orthogonal", 0.0), ("gaussian", 50.0))
    for ensemble, limit in cases:
        moments = theory.spectrum_moments("tanh", [1e-3] * 50, weight_variance=1.0, ensemble=ensemble)
        assert moments.variance / moments.mean**2 == pytest.approx(limit, abs=0.01)


@without_type_checker()
def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="no density"):
        theory.spectrum_density("identity", 3, 1.0, q=1.0, weight_variance=1.0, ensemble="orthogonal")
    with pytest.raises(ValueError, match="unknown ensemble 'normal'"):
        theory.largest_singular_value("tanh", 3, q=1.0, weight_variance=1.0, ensemble="normal")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="positive variance"):
        theory.zero_fraction("relu", q=0.0)
    with pytest.raises(ValueError, match="depth"):
        theory.largest_singular_value("tanh", 0, q=1.0, weight_variance=1.0)
    with pytest.raises(ArithmeticError, match="explodes"):
        theory.spectrum_moments("relu", [1.0] * 2000, weight_variance=4.0)
    with pytest.raises(ValueError, match="singular values"):
        theory.spectrum_density("tanh", 3, [-1.0], q=1.0, weight_variance=1.0)
