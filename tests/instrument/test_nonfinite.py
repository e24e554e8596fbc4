"""Where NaN or Inf began: by phase, place, step and direction of scans, and record of stacked flows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow.instrument.errors import FlowError

STEPS, WIDTH = 6, 3
NEVER = {"forward": -1, "reverse": -1, "backward": -1, "loss": False, "leaf": False, "input": False}


@jax.custom_vjp
def explode(x, when):
    """An identity whose cotangent is Inf where told so."""
    return x


explode.defvjp(lambda x, when: (x, when), lambda when, g: (jnp.where(when, jnp.inf, g).astype(g.dtype), None))


def nan_where(condition):
    return jnp.where(condition, jnp.nan, 0.0).astype(jnp.float32)


def loss_fn(params, x, bad):
    """A layer, the same inputs through a scan and a reverse scan, a read-out; `bad` says where NaN is made."""

    def run(w, name, reverse):
        def step(h, inputs):
            row, number = inputs
            h = jnp.tanh(h @ w + row) + nan_where(number == bad[name])
            return explode(h, (number == bad["backward"]) & reverse), None

        return jax.lax.scan(step, jnp.zeros((2, WIDTH)), (rows, jnp.arange(STEPS)), reverse=reverse)[0]

    rows = x @ params["first"]["w"]
    h = run(params["onward"]["w"], "forward", False) + run(params["backward"]["w"], "reverse", True)
    return jnp.mean((h @ params["last"]["w"]) ** 2) + nan_where(bad["loss"])


CASES = {
    "nothing": ({}, None),
    # NaN is added behind the layer of its step, so the carry is the first to hold it.
    "forward scan": ({"forward": 2}, ("onward/h", "forward", (2,))),
    "reverse scan": ({"reverse": 3}, ("backward/h", "forward", (3,))),
    "both scans": ({"forward": 5, "reverse": 5}, ("onward/h", "forward", (5,))),
    "backward pass of a reverse scan": ({"backward": 4}, ("backward", "backward", (4,))),
    "loss": ({"loss": True}, ("loss", "forward", ())),
    "leaf": ({"leaf": True, "forward": 0}, ("last/w", "forward", ())),
    "input": ({"input": True, "loss": True}, ("input", "forward", ())),
}


@pytest.fixture(scope="module")
def flows():
    """All cases as one stacked flow: one compilation."""
    random = np.random.default_rng(0)
    square = lambda: {"w": jnp.asarray(random.normal(size=(WIDTH, WIDTH)), jnp.float32)}  # noqa: E731
    params = {name: square() for name in ("first", "onward", "backward", "last")}
    x = jnp.asarray(random.normal(size=(STEPS, 2, WIDTH)), jnp.float32)

    def measure(bad):
        last = {"w": params["last"]["w"].at[0, 0].add(nan_where(bad["leaf"]))}
        statistics = ("nonfinite", "weight_rms", "weight_grad_norm", "output_rms")
        look = gf.value_grad_and_flow(loss_fn, statistics=statistics)
        return look({**params, "last": last}, x.at[0, 0, 0].add(nan_where(bad["input"])), bad)[2]

    bad = [NEVER | case for case, _ in CASES.values()]
    with jax.debug_nans(False):
        # On the host: a slice of NaN on the device is an error or not by what has been compiled before.
        return jax.device_get(jax.jit(jax.vmap(measure))(jax.tree.map(lambda *v: jnp.asarray(v), *bad)))


@pytest.mark.parametrize("case", CASES)
def test_the_place_is_the_first_in_the_order_of_computation(flows, case):
    place = jax.tree.map(lambda a: a[list(CASES).index(case)], flows).first_nonfinite
    want = CASES[case][1]
    assert (place and (place.name, place.direction, place.steps)) == want


def test_of_stacked_flows_the_first_record_that_holds_one_counts(flows):
    place = flows.first_nonfinite
    assert (place.name, place.steps, place.record) == ("onward/h", (2,), (1,))
    assert str(place) == "forward, in the output of carry onward/h at step 2, record 1"
    assert place.label == "onward/h[2]"


def test_places_in_words(flows):
    said = {name: str(jax.tree.map(lambda a: a[k], flows).first_nonfinite) for k, name in enumerate(CASES)}  # noqa: B023
    assert said["backward pass of a reverse scan"] == "backward, at the output of layer backward at step 4"
    assert said["loss"] == "forward, in the loss, behind the last layer"
    assert said["leaf"] == "in the parameter last/w"
    assert said["input"] == "forward, in the data (input)"


def test_a_flow_without_the_counts_says_what_to_ask_for():
    flow = gf.value_grad_and_flow(lambda w, x: jnp.sum(x @ w), statistics="output_rms")(jnp.eye(2), jnp.eye(2))[2]
    with pytest.raises(FlowError, match="add 'nonfinite' to statistics="):
        flow.first_nonfinite
