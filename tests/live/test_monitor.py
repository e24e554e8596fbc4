"""Flow during training: rows, profiles, histories, and where a value first went non-finite."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow.monitor import Monitor, NonFinitePlace, first_nonfinite, history, profile, rows

TURNS, WIDTH = 4, 3


def loss_fn(params, x, bad):
    """A layer, four turns of one inside a scan, and another; `bad` = (forward turn, backward turn), -1 for never."""

    def turn(h, inputs):
        w, number = inputs
        h = h @ w + jnp.where(number == bad[0], jnp.inf, 0).astype(h.dtype)
        h = explode(h @ jnp.eye(WIDTH, dtype=h.dtype), number == bad[1])
        return h, None

    h = x @ params["first"]["w"]
    h, _ = jax.lax.scan(turn, h, (params["inside"]["w"], jnp.arange(TURNS)))
    return jnp.mean((h @ params["last"]["w"]) ** 2)


@jax.custom_vjp
def explode(x, when):
    """An identity whose cotangent is Inf where told so."""
    return x


explode.defvjp(lambda x, when: (x, when), lambda when, g: (jnp.where(when, jnp.inf, g).astype(g.dtype), None))


@pytest.fixture(scope="module")
def measured():
    random = np.random.default_rng(0)
    square = lambda *shape: jnp.asarray(random.normal(size=(*shape, WIDTH, WIDTH)).astype(np.float32))  # noqa: E731
    params = {"first": {"w": square()}, "inside": {"w": square(TURNS)}, "last": {"w": square()}}
    x = jnp.asarray(random.normal(size=(5, WIDTH)).astype(np.float32))
    look = jax.jit(gf.value_grad_and_flow(loss_fn, statistics=("output_rms", "output_grad_rms", "nonfinite")))
    return lambda *bad: look(params, x, jnp.asarray(bad))[2]


def test_a_layer_inside_a_scan_has_a_row_a_turn(measured):
    flow = measured(-1, -1)
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


@pytest.mark.parametrize(
    "bad, place",
    [
        ((-1, -1), None),
        ((2, -1), ("inside[3]", "forward")),
        ((3, 1), ("last", "forward")),
        ((-1, 2), ("inside[2]", "backward")),
    ],
)
def test_the_first_place_is_found_by_turn_and_direction(measured, bad, place):
    """Inf is added behind the layer of its turn, so the next turn's is the first layer to put it out."""
    with jax.debug_nans(False):
        flow = measured(*bad)
    assert first_nonfinite(flow) == (None if place is None else NonFinitePlace(*place))


def test_monitor_refuses_no_steps():
    with pytest.raises(ValueError, match="at least 1 step, got 0"):
        Monitor(every=0)
