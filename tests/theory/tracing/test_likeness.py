"""How alike gradients are on the way down: against loops over every pair, and against networks drawn many times."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow import theory
from gradflow.theory.tracing.components import Component
from gradflow.theory.tracing.correlations import Correlations
from gradflow.theory.tracing.likeness import (
    Likeness,
    mixture,
    summed_over_positions,
    through_coefficients,
    through_slopes,
    through_windows_down,
)
from gradflow.theory.tracing.positions import Window
from gradflow.theory.tracing.quadrature import NODES, WEIGHTS

WINDOWS = [Window(7, 7, 1), Window(7, 7, 3, low=1), Window(8, 4, 2, stride=2), Window(9, 5, 3, dilation=2)]
CHANNELS = 64


def by_pairs(moments: np.ndarray, window: Window) -> np.ndarray:
    """Second moments of the gradient below a random convolution, pair by pair of positions, of outputs and of taps."""
    out = np.zeros(window.positions)
    places = range(window.outputs)
    for distance in range(window.positions):
        for first, last, tap in itertools.product(places, places, range(window.size)):
            a, b = (o * window.stride + tap * window.dilation - window.low for o in (first, last))
            if b - a == distance and min(a, b) >= 0 and max(a, b) < window.positions:
                out[distance] += moments[abs(last - first)] / (window.positions - distance)
    return out / out[0]


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_positions_meet_where_they_reach_outputs_by_the_same_tap(window: Window) -> None:
    moments = 0.7 ** np.arange(window.outputs)
    found = through_windows_down([window])(Likeness(moments))
    assert not isinstance(found, str)
    np.testing.assert_allclose(found[1].positions, by_pairs(moments, window), rtol=1e-12)


def test_a_signal_at_all_positions_gets_the_sum_of_all_pairs() -> None:
    rows, columns = 0.7 ** np.arange(4), 0.5 ** np.arange(3)
    found = summed_over_positions((4, 3))(Likeness(np.outer(rows, columns)))
    pairs = [
        rows[abs(i - k)] * columns[abs(j - m)]
        for i, j, k, m in itertools.product(range(4), range(3), range(4), range(3))
    ]
    assert not isinstance(found, str)
    assert found[0] == pytest.approx(sum(pairs))
    for unknown in (Likeness(), Likeness(rows)):
        assert "all positions add up" in str(summed_over_positions((4, 3))(unknown))


def test_a_sum_over_nodes_sends_back_what_drawn_gradients_do() -> None:
    rng = np.random.default_rng(0)
    coefficients, root = rng.normal(size=(5, 4)), rng.normal(size=(5, 5))
    above = root @ root.T
    above *= 5 / np.trace(above)
    found = through_coefficients(coefficients)(Likeness(nodes=above))
    assert not isinstance(found, str)
    below = coefficients.T @ above @ coefficients
    assert found[0] * (coefficients**2).sum() == pytest.approx(np.trace(below))
    np.testing.assert_allclose(found[1].nodes, below / np.diag(below).mean(), rtol=1e-12)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9, -0.4])
def test_slopes_of_correlated_units(correlation: float) -> None:
    component = Component(np.tanh(2 * NODES), 2 / np.cosh(2 * NODES) ** 2)
    at = Correlations(np.array([1.0, correlation]), examples=correlation)
    carry = through_slopes(component.slope_spectrum, component.along_spectrum(NODES), at)
    found = carry(Likeness(np.ones(2), examples=np.full(2, 0.5)))
    assert not isinstance(found, str)
    assert found[1].along is not None
    other = correlation * NODES[:, None] + np.sqrt(1 - correlation**2) * NODES
    slopes, whole = 2 / np.cosh(2 * other) ** 2, WEIGHTS @ component.slope**2
    together = WEIGHTS @ (component.slope * (slopes @ WEIGHTS)) / whole
    np.testing.assert_allclose(found[1].positions, [1.0, together], rtol=2e-3)
    np.testing.assert_allclose(found[1].examples, 0.5 * together, rtol=2e-3)
    along = [
        WEIGHTS @ (NODES * component.slope) ** 2,
        WEIGHTS @ (NODES * component.slope * ((slopes * other) @ WEIGHTS)),
    ]
    np.testing.assert_allclose(found[1].along[0], np.asarray(along) / whole, rtol=5e-3, atol=1e-9)
    np.testing.assert_allclose(found[1].along[1], 0.5 * along[1] / whole, rtol=5e-3, atol=1e-9)


def test_a_mixture_is_known_where_all_that_counts_is() -> None:
    known = Likeness(np.array([1.0, 0.5]))
    assert mixture([(1.0, known), (1.0, Likeness())]).positions is None
    np.testing.assert_allclose(mixture([(1.0, known), (3.0, Likeness(np.ones(())))]).positions, [1.0, 0.875])
    np.testing.assert_allclose(mixture([(1.0, known), (1e-4, Likeness())]).positions, [1.0, 0.5])


def gated(params: list[jax.Array], x: jax.Array) -> jax.Array:
    """Squeeze and excitation between two convolutions; the third layer is the gate's."""
    h = nn.silu(conv(x, params[0]))
    gate = nn.silu(h.mean((1, 2)) @ params[1]) @ params[2]
    y = jax.nn.tanh(conv(h * nn.sigmoid(gate)[:, None, None, :], params[3]))
    return y.mean((1, 2)) @ params[4]


def conv(x: jax.Array, w: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def graph(params: list[jax.Array], x: jax.Array) -> jax.Array:
    """Sums over the neighbours of a ring, without a norm."""
    n = len(x)
    ring = jnp.eye(n) + jnp.roll(jnp.eye(n), 1, 1) + jnp.roll(jnp.eye(n), 2, 1)
    for w in params[:-1]:
        x = ring @ jnp.tanh(x @ w)
    return x @ params[-1]


def draw_convolutions(key: jax.Array) -> list[jax.Array]:
    shapes = [(3, 3, 3), (CHANNELS,), (CHANNELS,), (3, 3, CHANNELS), (CHANNELS,)]
    return [
        1.5 * jax.random.normal(k, (*s, CHANNELS)) / float(np.prod(s)) ** 0.5
        for k, s in zip(jax.random.split(key, 5), shapes, strict=True)
    ]


def draw_dense(key: jax.Array) -> list[jax.Array]:
    return [jax.random.normal(k, (CHANNELS, CHANNELS)) / CHANNELS**0.5 for k in jax.random.split(key, 4)]


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(
    ("network", "draw", "shape"),
    [(graph, draw_dense, (20, CHANNELS)), (gated, draw_convolutions, (8, 6, 6, 3))],
    ids=["neighbours", "gate of a channel"],
)
def test_gradients_that_add_up_are_those_of_drawn_networks(
    network: Callable[..., Any], draw: Callable[[jax.Array], list[jax.Array]], shape: tuple[int, ...]
) -> None:
    """Each network predicted on its own; the ratio of measured and predicted rms is 1 on average over networks."""
    x = jax.random.normal(jax.random.key(0), shape)
    ratios = []
    for seed in range(4):
        prediction = theory.predict(network, draw(jax.random.key(1 + seed)), x)
        assert [layer.anchored for layer in prediction.layers] == [False] * (len(prediction.layers) - 1) + [True]
        assert not any("gradient" in layer.deviations for layer in prediction.layers), str(prediction)
        ratios.append([layer.measured_output_grad_rms / layer.output_grad_rms for layer in prediction.layers[:-1]])
    np.testing.assert_allclose(np.exp(np.log(ratios).mean(0)), 1.0, atol=0.1)


@pytest.mark.slow
def test_a_norm_over_nodes_takes_out_what_their_gradients_share() -> None:
    """How alike gradients of nodes are is not followed through the norm, so that a sum below has the measured one."""

    def network(params: list[jax.Array], x: jax.Array) -> jax.Array:
        h = graph(params[:2], x)
        h = (h - h.mean(0)) * jax.lax.rsqrt(h.var(0) + 1e-5)
        return jnp.tanh(h) @ params[2]

    prediction = theory.predict(
        network, draw_dense(jax.random.key(0))[:3], jax.random.normal(jax.random.key(1), (20, CHANNELS))
    )
    assert [layer.anchored for layer in prediction.layers] == [True, False, True], str(prediction)
