"""What the bands of several experiments rest on, against exact data and draws."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.framework.bands import gradient_rate, product_variance, share_error


def test_a_fitted_rate_is_that_of_an_exponential():
    rates = np.array([[0.02, 0.9], [1.0, 1.3]])
    profiles = rates[..., None] ** (-np.arange(30) / 2)
    np.testing.assert_allclose(gradient_rate(profiles), rates, rtol=1e-9)
    bent = profiles.copy()
    bent[..., :3] *= 7
    np.testing.assert_allclose(gradient_rate(bent, 3), rates, rtol=1e-9)
    assert np.abs(gradient_rate(bent, 2) / rates - 1).min() > 0.01


def test_the_spread_of_a_product_is_that_of_drawn_networks():
    random, depth, width = np.random.default_rng(0), 6, 60
    logs = []
    for _ in range(1000):
        u = random.normal(size=width)
        start = np.sum(u**2)
        for _ in range(depth):
            kernel = random.normal(size=(width, width)) * np.sqrt(2 / width)
            u = (u @ kernel) * (random.random(width) < 0.5)
        logs.append(np.log(np.sum(u**2) / start))
    assert np.var(logs) == pytest.approx(product_variance(depth, width), rel=0.2)


def test_the_error_of_a_share_is_that_of_drawn_shares():
    drawn = np.random.default_rng(0).binomial(400, 0.3, 20_000) / 400
    assert float(share_error(0.3, 400)) == pytest.approx(drawn.std(), rel=0.03)
    assert float(share_error(0.0, 400)) == 1 / 400
