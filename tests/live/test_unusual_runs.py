"""Runs that are unlike others: steps of any kind, several arguments, NaN from the start, writers that are shared."""

from __future__ import annotations

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow.instrument import FlowError
from tests.live.problems import Collected, batch, loss_fn, make_train_step, parameters

FEW = ("output_grad_rms", "weight_grad_norm")


def train(watch, steps, factor=1.0, params=None):
    run, params = watch.jit(make_train_step(watch), donate_argnums=1), parameters() if params is None else params
    with watch:
        for step in steps:
            params, _, record = run(
                step, params, (batch(abs(int(step))) * factor).astype(params["head"]["kernel"].dtype)
            )
            watch.write(record)


def test_a_writer_belongs_to_one_open_watch(tmp_path):
    """Two runs in one file or on one page could not be told apart."""
    writer = gf.live.Jsonl(tmp_path / "run.jsonl")
    one, two, three = (gf.watch(loss_fn, statistics=FEW, every=1, writers=[writer]) for _ in range(3))
    record = one(0, parameters(), batch(0))[2]
    one.write(record)
    while not one._courier._queue.empty() or not (tmp_path / "run.jsonl").exists():
        time.sleep(0.01)
    two.write(record)
    with pytest.warns(
        RuntimeWarning, match="expected a writer of one watch, got one that another open watch writes to"
    ):
        two.close()
    for step in range(1, 3):
        one.write(dataclasses.replace(record, step=jnp.int32(step)))
    one.close()
    three.write(dataclasses.replace(record, step=jnp.int32(3)))  # the first is closed
    three.close()
    assert gf.live.read_jsonl(tmp_path / "run.jsonl").steps.tolist() == [0, 1, 2, 3]


def test_updates_of_several_arguments_have_the_names_of_their_layers(tmp_path):
    def loss(scale, params, x):
        return loss_fn(params, x) * scale

    watch = gf.watch(loss, every=1, writers=[gf.live.Jsonl(tmp_path / "run.jsonl")], argnums=(-3, -2), statistics=FEW)
    _, grads, record = watch(0, 1.0, parameters(), batch(0))
    updates = jax.tree.map(lambda g: -0.1 * g, grads)
    record = watch.updates(record, updates, (jnp.float32(1), parameters()))
    with watch:
        watch.write(record)
    log = gf.live.read_jsonl(tmp_path / "run.jsonl")
    assert {"scale", "params/first/kernel"} < log.records[0]["update_ratios"].keys()
    assert log.flow.layers[0] == "params/first"
    want = np.linalg.norm(updates[1]["first"]["kernel"]) / np.linalg.norm(parameters()["first"]["kernel"])
    np.testing.assert_allclose(log.flow.values["update_ratio"][0, 0], want, rtol=1e-5)


def test_steps_may_be_integers_of_any_kind_and_negative():
    for kind in (np.int64, np.uint8, np.asarray, jnp.int32):
        writer = Collected()
        watch = gf.watch(loss_fn, statistics=FEW, every=3, writers=[writer])
        train(watch, map(kind, range(7)))
        assert list(writer.flows) == [0, 3, 6], kind
    writer = Collected()
    watch = gf.watch(loss_fn, statistics=FEW, every=3, writers=[writer])
    train(watch, range(-6, 1))
    assert list(writer.flows) == [-6, -3, 0]


@pytest.mark.parametrize("history", [0, 30])
def test_nan_from_the_first_step_is_one_event_and_no_number(tmp_path, history):
    path = tmp_path / "run.jsonl"
    statistics = (*FEW, "output_rms", "nonfinite")
    watch = gf.watch(loss_fn, every=5, writers=[gf.live.Jsonl(path)], history=history, statistics=statistics)
    with jax.debug_nans(False):
        train(watch, range(20), factor=float("nan"))
    log = gf.live.read_jsonl(path)
    assert log.steps.tolist() == [0, 5, 10, 15]
    assert np.isnan(log.scalar("loss")).all()
    assert log.records[0]["alarms"] == ["NaN or Inf forward, in the data (input)"]
    (event,) = watch.postmortems
    assert (event.kind, event.step) == ("nonfinite", 0)
    assert [line["step"] for line in log.events] == [0]
    assert gf.report(path, tmp_path / "page.html").exists()


def test_bfloat16_donated_with_a_history_longer_than_the_run(tmp_path):
    path = tmp_path / "run.jsonl"
    watch = gf.watch(loss_fn, every=5, writers=[gf.live.Jsonl(path)], history=1000)
    with jax.debug_nans(False):  # JAX donates nothing where it may have to run a program again
        train(watch, range(11), params=jax.tree.map(lambda x: x.astype(jnp.bfloat16), parameters()))
    log = gf.live.read_jsonl(path)
    assert log.steps.tolist() == [0, 5, 10]
    assert (log.flow.values["output_rms"] > 0).all()
    assert watch.postmortems == ()
    watch.close()  # again


def test_a_selection_that_matches_nothing_is_refused_at_the_first_step():
    with pytest.raises(FlowError, match="which matches none of input, first, second, head"):
        gf.watch(loss_fn, select="nothing")(0, parameters(), batch(0))
