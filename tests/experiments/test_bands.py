"""What the bands of several experiments rest on, against exact data and draws."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import gradflow as gf
from experiments.framework.bands import (
    gain_variance,
    gradient_rate,
    mean_limit,
    pilot_limits,
    product_spread,
    product_variance,
    share_error,
    slope_variance,
    worst_of,
)


def test_a_fitted_rate_is_that_of_an_exponential():
    rates = np.array([[0.02, 0.9], [1.0, 1.3]])
    profiles = rates[..., None] ** (-np.arange(30) / 2)
    np.testing.assert_allclose(gradient_rate(profiles), rates, rtol=1e-9)
    bent = profiles.copy()
    bent[..., :3] *= 7
    np.testing.assert_allclose(gradient_rate(bent, 3), rates, rtol=1e-9)
    assert np.abs(gradient_rate(bent, 2) / rates - 1).min() > 0.01


@pytest.fixture(scope="module", params=["gaussian", "uniform"])
def layers(request):
    """Products of 4,000 random matrices with a signal x and a direction u, both of mean square 1, 100 wide."""
    random, networks, width = np.random.default_rng(0), 4000, 100
    x, u = random.normal(size=(2, width))
    products = np.empty((2, networks, width))
    for index in range(networks):
        if request.param == "gaussian":
            kernel = random.normal(size=(width, width)) / np.sqrt(width)
        else:
            kernel = random.uniform(-1, 1, (width, width)) * np.sqrt(3 / width)
        products[:, index] = x @ kernel / np.sqrt(np.mean(x**2)), u @ kernel / np.linalg.norm(u)
    return products


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "tanh", "softsign", "selu", "gelu"])
@pytest.mark.parametrize("q", [0.1, 2.0])
def test_the_variance_of_a_layers_gain_is_that_of_drawn_layers(layers, activation, q):
    z, moved = layers
    slope = np.asarray(jax.jit(gf.activations.get(activation).derivative)(np.sqrt(q) * z), np.float64)
    logs = np.log(np.sum((slope * moved) ** 2, axis=1))
    assert np.var(logs) * z.shape[1] == pytest.approx(gain_variance(activation, q), rel=0.15)


def test_known_variances_of_a_layers_gain():
    assert gain_variance("relu", 3.0) == pytest.approx(5, rel=1e-5)
    assert gain_variance("sigmoid", 1e-4) == pytest.approx(2, abs=1e-3)
    spread = product_spread("relu", 10, 100, q=1.0, weight_variance=2.0)
    assert spread.variance == pytest.approx(product_variance(10, 100))
    assert spread.shift == pytest.approx(-spread.variance / 2)


def test_the_spread_of_a_product_is_that_of_drawn_networks():
    """Tanh off its linear part, whose signal strays and moves its slopes with it."""
    random, depth, width, weight_variance = np.random.default_rng(0), 5, 60, 2.0
    logs = []
    for _ in range(1500):
        h, u = np.ones(width), random.normal(size=width)
        start = np.sum(u**2)
        for _ in range(depth):
            kernel = random.normal(size=(width, width)) * np.sqrt(weight_variance / width)
            h = np.tanh(h @ kernel)
            u = (u @ kernel) * (1 - h**2)
        logs.append(np.log(np.sum(u**2) / start))
    spread = product_spread("tanh", depth, width, q=weight_variance, weight_variance=weight_variance)
    assert np.var(logs) == pytest.approx(spread.variance, rel=0.2)


def test_the_variance_of_a_slope_is_that_of_drawn_walks():
    walks = np.cumsum(np.random.default_rng(0).normal(size=(12, 4000)), axis=0)
    slopes = np.polyfit(np.arange(12), walks, 1)[0]
    assert np.var(slopes) == pytest.approx(slope_variance(11), rel=0.08)
    assert slope_variance(1) == pytest.approx(1)


def test_the_error_of_a_share_is_that_of_drawn_shares():
    drawn = np.random.default_rng(0).binomial(400, 0.3, 20_000) / 400
    assert float(share_error(0.3, 400)) == pytest.approx(drawn.std(), rel=0.03)
    assert float(share_error(0.0, 400)) == 1 / 400


def test_the_worst_of_many_passes_its_limit_as_rarely_as_one_passes_three():
    assert worst_of(1) == pytest.approx(3)
    drawn = np.abs(np.random.default_rng(0).normal(size=(200_000, 10))).max(1)
    assert np.mean(drawn > worst_of(10)) == pytest.approx(0.0027, rel=0.15)


def test_limits_of_pilots():
    assert pilot_limits([1.0, 2.0, 3.0]) == pytest.approx((-2, 6))
    assert pilot_limits([1.0, 2.0, 3.0], possible=(0, 1e9)) == pytest.approx((0, 6))
    assert pilot_limits([1.0, 1.0, 1.0], floor=0.1) == pytest.approx((0.6, 1.4))
    assert pilot_limits([0.1, 1.0, 10.0], log=True) == pytest.approx((1e-4, 1e4))


def test_means_of_few_networks_pass_their_limit_as_seldom_as_they_should():
    drawn = np.random.default_rng(0).normal(size=(4000, 4))
    missed = np.mean([abs(row.mean()) > mean_limit(row) for row in drawn])
    assert missed == pytest.approx(0.0027, abs=0.002)
    assert mean_limit(drawn[0], 7) > 1.5 * mean_limit(drawn[0])
