"""Flow during training: rows, profiles and histories."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow.live.flow_history import FlowHistory, history, profile, rows

STEPS, WIDTH = 4, 3


def loss_fn(params, x):
    """A layer, four steps of one inside a reverse scan, and another."""
    h = x @ params["first"]["w"]
    h, _ = jax.lax.scan(lambda h, w: (h @ w, None), h, params["inside"]["w"], reverse=True)
    return jnp.mean((h @ params["last"]["w"]) ** 2)


@pytest.fixture(scope="module")
def flow():
    random = np.random.default_rng(0)
    square = lambda *shape: jnp.asarray(random.normal(size=(*shape, WIDTH, WIDTH)).astype(np.float32))  # noqa: E731
    params = {"first": {"w": square()}, "inside": {"w": square(STEPS)}, "last": {"w": square()}}
    x = jnp.asarray(random.normal(size=(5, WIDTH)).astype(np.float32))
    look = jax.jit(gf.value_grad_and_flow(loss_fn, statistics=("output_rms", "output_grad_rms", "nonfinite")))
    return look(params, x)[2]


def test_a_layer_inside_a_scan_has_a_row_a_step_in_the_order_of_their_index(flow):
    assert rows(flow) == ("first", "inside[0]", "inside[1]", "inside[2]", "inside[3]", "last")
    lines = profile(flow)
    assert set(lines) == {"output_rms", "output_grad_rms"}
    want = [flow["first"].output_rms, *flow["inside"].output_rms, flow["last"].output_rms]
    np.testing.assert_array_equal(lines["output_rms"], want)
    assert set(profile(flow, ["output_rms"])) == {"output_rms"}


def test_history_is_layer_by_step():
    measure = gf.value_grad_and_flow(lambda p, x: jnp.mean((x @ p["w"]) ** 2), statistics="output_rms")
    x = np.random.default_rng(0).normal(size=(5, 4, WIDTH)).astype(np.float32)
    w = {"w": jnp.eye(WIDTH, dtype=jnp.float32)}
    flow = jax.lax.scan(lambda carry, x: (carry, measure(w, x)[2]), 0, jnp.asarray(x))[1]
    kept = history(flow, [0, 10, 20, 30, 40])
    np.testing.assert_array_equal(kept.steps, [0, 10, 20, 30, 40])
    np.testing.assert_allclose(kept.values["output_rms"], np.sqrt((x**2).mean((1, 2)))[None], rtol=1e-6)
    first, rest = kept.until(2), kept.until(5)
    assert first.values["output_rms"].shape == (1, 2)
    twice = first.joined(rest)
    np.testing.assert_array_equal(twice.steps, [0, 10, 0, 10, 20, 30, 40])
    assert twice.values["output_rms"].shape == (1, 7)
    other = history(flow, range(5)).__class__(kept.steps, ("other",), kept.values)
    with pytest.raises(ValueError, match="expected a history of 1 layers with output_rms"):
        kept.joined(other)


def test_history_in_a_notebook_shows_gaps_and_escapes_names():
    values = {"output_rms": np.array([[1.0, np.nan, 3.0], [1e-3, 0.0, 2.0]])}
    text = FlowHistory(np.arange(3), ("<a>", "b"), values)._repr_html_()
    assert "&lt;a&gt;" in text
    assert "<a>" not in text
    assert text.count("<rect") == 5  # six values, one gap
    assert "gaps: NaN, or no number" in text
    assert "1.0e+00 … 3.0e+00" in text
