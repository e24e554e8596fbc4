"""Correlations between positions: windows and data against loops over every pair, pooling against drawn fields."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from gradflow import theory
from gradflow.theory.tracing.positions import Window, autocorrelation, through_windows
from gradflow.theory.tracing.quadrature import WEIGHTS
from gradflow.theory.tracing.rules import pooling

WINDOWS = [
    Window(7, 7, 1),
    Window(7, 3, 3, stride=2),
    Window(7, 7, 3, low=1),
    Window(8, 4, 2, stride=2),
    Window(9, 5, 3, dilation=2),
    Window(6, 1, 6),
]


def by_pairs(moments: np.ndarray, window: Window, same_tap: bool) -> np.ndarray:
    """Second moments of the sums over a window, pair by pair of places and of taps."""
    out = np.zeros(window.outputs)
    for distance in range(window.outputs):
        sums = []
        for place in range(window.outputs - distance):
            total = 0.0
            for first, second in itertools.product(range(window.size), repeat=2):
                a = place * window.stride + first * window.dilation - window.low
                b = (place + distance) * window.stride + second * window.dilation - window.low
                inside = 0 <= a < window.positions and 0 <= b < window.positions
                if inside and (first == second or not same_tap):
                    total += moments[abs(a - b)]
            sums.append(total)
        out[distance] = np.mean(sums)
    return out


@pytest.mark.parametrize("same_tap", [False, True])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_windows_add_up_all_pairs(window: Window, same_tap: bool) -> None:
    moments = 0.7 ** np.arange(window.positions) + 0.1
    found = through_windows(moments, [window], same_tap=same_tap)
    np.testing.assert_allclose(found, by_pairs(moments, window, same_tap), rtol=1e-12)


def test_axes_of_positions_are_taken_one_after_the_other() -> None:
    first, second = WINDOWS[1], WINDOWS[4]
    a, b = 0.7 ** np.arange(first.positions), 0.5 ** np.arange(second.positions)
    found = through_windows(np.outer(a, b), [first, second], same_tap=False)
    np.testing.assert_allclose(found, np.outer(by_pairs(a, first, False), by_pairs(b, second, False)), rtol=1e-12)
    assert through_windows(np.ones((3, 3)), [first, second], same_tap=False) is None


def test_autocorrelation_is_the_mean_over_pairs_of_either_sign() -> None:
    x = np.random.default_rng(0).normal(size=(3, 5, 4, 2)).cumsum(1).cumsum(2)
    found = autocorrelation(x)
    assert found is not None
    for down, right in itertools.product(range(5), range(4)):
        means = []
        for sign in (1, -1):
            pairs = [
                (x[:, i, j] * x[:, i + down, j + sign * right]).mean()
                for i in range(5 - down)
                for j in range(4)
                if 0 <= j + sign * right < 4
            ]
            means.append(np.mean(pairs))
        np.testing.assert_allclose(found[down, right], np.clip(np.mean(means) / (x**2).mean(), -1, 1), atol=1e-12)
    assert autocorrelation(np.zeros((2, 3, 1))) is None


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("taps", [4, 9])
def test_the_largest_of_a_window_is_that_of_drawn_ones(correlation: float, taps: int) -> None:
    normal = np.random.default_rng(0).normal(size=(100_000, taps + 1))
    drawn = (np.sqrt(correlation) * normal[:, :1] + np.sqrt(1 - correlation) * normal[:, 1:]).max(1)
    largest = pooling._largest(correlation, taps)
    mean = WEIGHTS @ largest.mean(1)
    assert mean == pytest.approx(drawn.mean(), abs=0.02)
    assert WEIGHTS @ (largest**2).mean(1) - mean**2 == pytest.approx(drawn.var(), rel=0.05)


@pytest.mark.parametrize("pool", ["average", "maximum"])
def test_pooling_of_alike_neighbours_is_what_drawn_networks_do(pool: str) -> None:
    """Neighbours that are nearly alike keep the variance of a mean; unlike ones lose most of it."""
    window, strides = (1, 3, 3, 1), (1, 3, 3, 1)

    def model(params: Any, x: jax.Array) -> jax.Array:
        z = lax.conv_general_dilated(x, params[0], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        y = jnp.tanh(z)
        if pool == "average":
            y = lax.reduce_window(y, 0.0, lax.add, window, strides, "VALID") / 9
        else:
            y = lax.reduce_window(y, -jnp.inf, lax.max, window, strides, "VALID")
        return lax.conv_general_dilated(y, params[1], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    keys = jax.random.split(jax.random.key(0), 3)
    noise = jax.random.normal(keys[0], (8, 18, 18, 3))
    smooth = lax.reduce_window(noise, 0.0, lax.add, (1, 5, 5, 1), (1, 1, 1, 1), "SAME") / 5
    params = [
        jax.random.normal(keys[1], (3, 3, 3, 256)) / 27**0.5,
        jax.random.normal(keys[2], (1, 1, 256, 256)) / 16,
    ]
    for x in (noise, smooth):
        last = theory.predict(lambda p, x: jnp.mean(model(p, x) ** 2), params, x).layers[-1]
        assert last.output_rms == pytest.approx(last.measured_output_rms, rel=0.1), pool
        assert not last.starts_anew, last.note
