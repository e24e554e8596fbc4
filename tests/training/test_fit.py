"""The host loop: schedules, curves, flow during training, compilation, donation, display, bad input."""

from __future__ import annotations

import contextlib
import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradflow as gf
from gradflow import training
from gradflow.training import loop
from gradflow.training.dispatch import Dispatches, programs
from gradflow.training.step import draw, step_key
from tests.training import problems
from tests.user_errors import without_type_checker

STEPS = 24


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def fit(steps=STEPS, source=problems.batch, **options):
    state = options.pop("state", None) or problems.start()
    return training.fit(
        problems.loss_fn, problems.OPTIMIZER, state, source, steps, **{"every": 4, "progress": False, **options}
    )


@pytest.fixture(scope="module")
def oracle():
    """State, total loss and flow at each step, one after the other."""
    step = jax.jit(training.make_step(problems.loss_fn, problems.OPTIMIZER))
    look = jax.jit(gf.value_grad_and_flow(problems.loss_fn, has_aux=True))
    states, totals, flows = [problems.start()], [], []
    for _ in range(STEPS):
        state = states[-1]
        batch = draw(problems.batch, state)
        flows.append(look(state.params, state.model_state, batch, step_key(state))[2])
        state, metrics = step(state, batch)
        states.append(state)
        totals.append(np.asarray(metrics["loss"].total))
    return states, np.array(totals), flows


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("apart", [2, 4, 8])
def test_curve_and_flow_are_those_of_steps_one_by_one(oracle, apart):
    """The flow of every second step, of the first of every dispatch, of every second dispatch."""
    states, totals, flows = oracle
    statistics = ("output_grad_rms", "weight_grad_norm", "output_mean")
    fitted = fit(watch=gf.watch(every=apart, statistics=statistics))
    np.testing.assert_array_equal(fitted.curve.steps, np.arange(4, STEPS + 1, 4))
    np.testing.assert_allclose(fitted.curve["loss"], totals.reshape(-1, 4).mean(1) / problems.BATCH, rtol=1e-5)
    np.testing.assert_array_equal(fitted.curve.counts["loss"], np.full(STEPS // 4, 4 * problems.BATCH))
    np.testing.assert_array_equal(fitted.flow.steps, np.arange(0, STEPS, apart))
    assert fitted.flow.layers == ("Dense_0", "Dense_1", "Dense_2")
    for name in statistics:
        want = [[getattr(flows[step][layer], name) for step in fitted.flow.steps] for layer in fitted.flow.layers]
        np.testing.assert_allclose(fitted.flow.values[name], want, rtol=1e-4, atol=1e-7)
    jax.tree.map(close, fitted.state.params, states[-1].params)


def test_looking_changes_nothing():
    plain, looked = fit(), fit(watch=problems.watch(8))
    jax.tree.map(np.testing.assert_array_equal, looked.state.params, plain.state.params)
    np.testing.assert_allclose(looked.curve["loss"], plain.curve["loss"], rtol=1e-6)  # summed in another order
    assert plain.flow is None
    assert np.isfinite([looked.seconds_per_step, looked.seconds_per_flow]).all()


def test_writers_get_every_recorded_step(oracle):
    """With the updates beside the weights, of dispatches with several recorded steps, and once with none between."""
    states, totals, flows = oracle
    taken = {}

    class Writer:
        def write(self, flow, step):
            raise AssertionError

        def write_snapshot(self, snapshot):
            taken[snapshot.step] = snapshot

    with problems.watch(2, writers=[Writer()]) as watch:
        fitted = fit(watch=watch, steps=12)
    assert list(taken) == [0, 2, 4, 6, 8, 10] == fitted.flow.steps.tolist()
    for step, snapshot in taken.items():
        assert snapshot.flow.layers == flows[step].layers
        for name in snapshot.flow.layers:
            close(snapshot.flow[name].output_grad_rms, flows[step][name].output_grad_rms)
        np.testing.assert_allclose(snapshot.loss, totals[step] / problems.BATCH, rtol=1e-4)
        old, new = (states[k].params["Dense_1"]["kernel"] for k in (step, step + 1))
        want = np.linalg.norm(new - old) / np.linalg.norm(old)
        np.testing.assert_allclose(snapshot.update_ratios["Dense_1/kernel"], want, rtol=1e-2)
    jax.tree.map(close, fitted.state.params, states[12].params)


def test_going_on_from_a_state_is_one_run():
    whole, half = fit(), fit(steps=12)
    rest = fit(state=half.state)
    jax.tree.map(np.testing.assert_array_equal, rest.state.params, whole.state.params)
    joined = half.curve.joined(rest.curve)
    np.testing.assert_array_equal(joined.steps, whole.curve.steps)
    np.testing.assert_array_equal(joined["loss"], whole.curve["loss"])


def test_validation_is_of_the_state_after_those_steps(oracle):
    held_out = problems.batch(jax.random.key(3), 0)
    fitted = fit(validation=held_out, validate_every=8)
    np.testing.assert_array_equal(fitted.validation.steps, [8, 16, 24])
    for step, value in zip(fitted.validation.steps, fitted.validation["loss"], strict=True):
        state = oracle[0][step]
        want = problems.loss_fn(state.params, state.model_state, held_out, None, train=False)[0]
        np.testing.assert_allclose(value, want, rtol=1e-4)
    np.testing.assert_array_equal(fit(validation=held_out).validation.steps, [24])


class Stream:
    """Batches that the host fetches, as those of `gf.data.stream`."""

    def __init__(self):
        self.asked = []
        self.drawn = jax.jit(jax.vmap(problems.batch, (None, 0)))

    def window(self, first, count):
        self.asked.append((first, count))
        key = jax.random.fold_in(problems.start().key, 0)
        rows = self.drawn(key, jnp.arange(first, first + count))
        return Fetched(jnp.int32(first), rows)


@jax.tree_util.register_pytree_node_class
class Fetched:
    def __init__(self, first, rows):
        self.first, self.rows = first, rows

    def batch(self, key, step):
        return jax.tree.map(lambda x: x[step - self.first], self.rows)

    def tree_flatten(self):
        return (self.first, self.rows), None

    @classmethod
    def tree_unflatten(cls, _, parts):
        return cls(*parts)


def test_a_stream_is_asked_for_every_window_once():
    stream = Stream()
    streamed, plain = fit(source=stream), fit()
    assert stream.asked == [(first, 4) for first in range(0, STEPS, 4)]
    jax.tree.map(close, streamed.state.params, plain.state.params)


@pytest.mark.parametrize("streamed", [False, True])
def test_two_programs_are_compiled_and_no_more(caplog, streamed):
    loss = functools.partial(problems.loss_fn)  # one that no other test has compiled
    source = Stream() if streamed else problems.batch
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        for steps in (16, 32):
            training.fit(
                loss,
                problems.OPTIMIZER,
                problems.start(),
                source,
                steps,
                every=4,
                watch=problems.watch(8),
                progress=False,
            )
    compiled = [r.getMessage() for r in caplog.records if r.getMessage().startswith("Compiling jit(")]
    assert sum("jit(plain)" in message for message in compiled) == 1
    assert sum("jit(flowing)" in message for message in compiled) == 1


def test_buffers_are_reused_but_not_those_of_the_caller():
    state = problems.start()
    with jax.debug_nans(False):  # JAX donates nothing where it may have to run a program again
        dispatches = Dispatches(problems.loss_fn, problems.OPTIMIZER, state, problems.batch, 2, None, None, None)
        before = jax.tree.leaves(dispatches.state)
        dispatches.queue(0, validate=False)
    assert all(leaf.is_deleted() for leaf in before if leaf.dtype != state.key.dtype)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(state))


def test_the_host_reads_one_dispatch_while_the_next_runs(monkeypatch):
    """And inside a dispatch nothing calls back to it, nor does JAX move an array that it was not told to."""
    events = []

    class Watched(Stream):
        def window(self, first, count):
            events.append(f"queue {first}")
            return super().window(first, count)

    @contextlib.contextmanager
    def report_progress(done, steps, wanted):
        yield lambda step, metrics, gradients: events.append(f"read {step - 4}")

    monkeypatch.setattr(loop, "report_progress", report_progress)
    fit(steps=12, source=Watched())
    assert events == ["queue 0", "queue 4", "read 0", "queue 8", "read 4", "read 8"]
    made = programs(problems.loss_fn, problems.OPTIMIZER, 4, problems.watch(8).plan(problems.loss_fn), None)
    for program in (made.plain, made.flowing):
        assert "callback" not in program.lower(problems.start(), jax.tree_util.Partial(problems.batch)).as_text()
    state = problems.start()
    with jax.transfer_guard("disallow"):
        fit(state=state, watch=problems.watch(8))


def test_progress_goes_to_stderr_in_plain_lines(capsys):
    """The last dispatch is not a monitored one: its line has the profile of the latest that was."""
    fit(watch=problems.watch(8), progress=True)
    out, err = capsys.readouterr()
    first, *_, last = err.splitlines()
    assert not out
    assert first.startswith("step 4/24  ")
    assert last.startswith("step 24/24  ")
    for line in (first, last):
        assert "loss " in line
        assert "gradient " in line
    fit(progress=True)
    assert "gradient" not in capsys.readouterr().err


def test_a_bar_is_drawn_on_a_terminal(capsys, monkeypatch):
    import sys

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    fit(watch=problems.watch(8), progress=True)
    err = capsys.readouterr().err
    assert "gradient" in err[err.index("24/24") :]
    assert "24/24" in err
    assert "steps/s" in err
    assert "loss" in err


@pytest.mark.parametrize(
    "options, kind, words",
    [
        ({"steps": 25}, ValueError, r"multiple of every >= 1, got steps=25, every=4. Fix: every=25, or steps=28"),
        ({"every": 0}, ValueError, "every=0"),
        ({"watch": gf.watch(every=6)}, ValueError, "a multiple or a divisor of every=4, got 6"),
        ({"watch": gf.watch(every=4, history=9)}, ValueError, "expected history=0 for fit, got history=9"),
        ({"watch": gf.watch(jnp.mean, every=4)}, ValueError, "or of the loss that fit trains, got one of another"),
        ({"validate_every": 6}, ValueError, "multiple of every=4, got 6"),
        ({"source": 3}, TypeError, "expected a source of batches, got int"),
        ({"state": {"w": 1}}, TypeError, "expected a TrainState, got dict"),
        ({"steps": 8, "state": problems.start()._replace(step=jnp.int32(12))}, ValueError, "at most steps=8"),
        ({"state": problems.start()._replace(step=jnp.int32(2))}, ValueError, "multiple of every=4.*one of step 2"),
        ({"state": problems.start()._replace(finite=jnp.bool_(False))}, ValueError, "finite=True"),
        ({"state": problems.start(optax.sgd(0.1))}, ValueError, "expected a state of this optimizer"),
    ],
)
@without_type_checker()
def test_bad_input_is_refused(options, kind, words):
    with pytest.raises(kind, match=words):
        fit(**options)


def test_losses_that_cannot_evaluate_are_refused_validation():
    def loss(params, model_state, batch, key):
        return problems.loss_fn(params, model_state, batch, key)

    with pytest.raises(TypeError, match="expected a loss with an argument train="):
        training.fit(loss, problems.OPTIMIZER, problems.start(), problems.batch, 4, every=4, validation=(0, 0))
