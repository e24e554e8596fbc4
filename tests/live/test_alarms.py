"""Alarms: by the limits of diagnosis, from norms, and the same whatever the loss is multiplied by."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow.diagnosis.thresholds import VANISHED
from gradflow.live import Snapshot
from gradflow.live.alarms import alarms
from gradflow.live.watch import STATISTICS

DEPTH = 6


def measured(loss, params, *args):
    return jax.jit(gf.value_grad_and_flow(loss, statistics=STATISTICS, data_gradients=False))(params, *args)[2]


def chain(scale, depth=DEPTH, width=8):
    keys = jax.random.split(jax.random.key(0), depth)
    params = {f"layer_{k}": scale * jax.random.normal(keys[k], (width, width)) / width**0.5 for k in range(depth)}

    def loss(params, x, shifts=None, factor=1.0):
        for k, name in enumerate(params):
            x = x @ params[name] + (0.0 if shifts is None else shifts[k])
        return factor * jnp.sum(jnp.square(x))

    return loss, params, jax.random.normal(jax.random.key(1), (16, width))


@pytest.mark.parametrize("scale", [0.2, 1.0, 5.0])
def test_the_gradient_over_depth_is_a_ratio_of_norms(scale):
    """Held against gradients of zeros that are added to the outputs of the layers."""
    loss, params, x = chain(scale)
    first, *_, last = jax.grad(loss, argnums=2)(params, x, [jnp.zeros((16, 8))] * DEPTH)
    log = float(np.log10(np.linalg.norm(first) / np.linalg.norm(last)))
    said = [alarms(Snapshot(0, measured(lambda p, x, f=f: loss(p, x, None, f), params, x))) for f in (1.0, 1e6)]
    assert said[0] == said[1]
    if abs(log) < -VANISHED:
        assert said[0] == ()
        return
    (sentence,) = said[0]
    assert sentence.startswith(f"the gradient {'shrinks' if log < 0 else 'grows'} by a factor of ")
    assert sentence.endswith(" from layer_5 to layer_0")
    assert float(re.findall(r"of (\S+) from", sentence)[0]) == pytest.approx(10 ** abs(log), rel=0.06)


def test_a_wide_layer_has_small_entries_and_no_small_gradient():
    size = 400_000
    params = {"a": jnp.ones((1, size)), "b": jnp.full((size, 1), size**-0.5)}
    flow = measured(lambda p, x: jnp.sum(x @ p["a"] @ p["b"]), params, jnp.ones((2, 1)))
    assert np.log10(flow["a"].output_grad_rms / flow["b"].output_grad_rms) < VANISHED
    assert alarms(Snapshot(0, flow)) == ()


def test_over_depth_what_the_optimizer_evens_out_is_left_out():
    loss, params, x = chain(0.2)
    flow = measured(loss, params, x)
    alike = dict.fromkeys(params, 1e-3)
    assert alarms(Snapshot(0, flow, 1.0, alike)) == ()
    path, stalled = alarms(Snapshot(0, flow, 1.0, alike | {"layer_0": 1e-7}))
    assert path.startswith("the gradient shrinks")
    assert stalled == "relative to its size, layer_0 moves 1.0e+04 times less than the median weight"


def test_frozen_and_unknown_updates_are_no_alarm():
    loss, params, x = chain(1.0)
    flow = measured(loss, params, x)
    for odd in (0.0, float("nan"), float("inf")):
        assert alarms(Snapshot(0, flow, 1.0, dict.fromkeys(params, 1e-3) | {"layer_0": odd})) == ()


def test_over_time_an_optimizer_evens_nothing_out():
    params = {"in": jnp.eye(4), "recurrent": 0.3 * jnp.eye(4), "out": jnp.eye(4)}

    def loss(params, x):
        def step(h, x):
            return x @ params["in"] + h @ params["recurrent"], None

        return jnp.sum(jnp.square(jax.lax.scan(step, jnp.zeros((3, 4)), x)[0] @ params["out"]))

    flow = measured(loss, params, jnp.ones((10, 3, 4)))
    (sentence,) = alarms(Snapshot(0, flow, 1.0, dict.fromkeys(params, 1e-3)))
    assert re.fullmatch(r"the gradient shrinks by a factor of 5\.1e\+04 from out to (in|recurrent)\[0\]", sentence)


@pytest.mark.parametrize("dead, batch, warned", [(90, 16, True), (60, 16, False), (90, 1, False)])
def test_more_dead_units_than_chance_allows(dead, batch, warned):
    params = {"a": jax.random.normal(jax.random.key(0), (5, 100)), "b": jnp.ones((100, 2))}
    bias = jnp.where(jnp.arange(100) < dead, -1e3, 1e3)
    flow = measured(
        lambda p, x: jnp.sum(jax.nn.relu(x @ p["a"] + bias) @ p["b"]),
        params,
        jax.random.normal(jax.random.key(1), (batch, 5)),
    )
    said = alarms(Snapshot(0, flow))
    assert said == (
        ("90% of the units of a get no gradient from this batch (by chance at most 70%)",) if warned else ()
    )


def test_nothing_is_said_of_what_was_not_recorded():
    loss, params, x = chain(0.2)
    flow = jax.jit(gf.value_grad_and_flow(loss, statistics="output_rms"))(params, x)[2]
    assert alarms(Snapshot(0, flow)) == ()
