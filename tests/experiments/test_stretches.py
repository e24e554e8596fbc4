"""Training in stretches: the same rows however long these are, and wherever it was stopped and went on."""

from __future__ import annotations

import functools
import os
import signal

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure

import gradflow as gf
from experiments.framework import progress, stretches
from experiments.framework.runner import Experiment, main
from experiments.framework.stretches import in_stretches, take
from tests.experiments.test_runner import Config, claims
from tests.training import problems

STEPS, EVERY = 24, 4


@pytest.fixture(autouse=True)
def _always_worth_a_file(monkeypatch):
    monkeypatch.setattr(stretches, "WORTH", 0.0)
    monkeypatch.setattr(stretches, "SAVED", 0.0)


@functools.partial(jax.jit, static_argnames="steps")
def looked_at(states, keys, steps):
    """Two networks side by side, looked at every `EVERY` steps."""
    step = gf.training.make_step(problems.loss_fn, problems.OPTIMIZER)

    def one(state, key):
        state = problems.start()._replace(key=key) if state is None else state
        return take(step, state, problems.batch, steps, every=EVERY, record=lambda state: state.params)

    return jax.vmap(one)(states, keys)


@functools.partial(jax.jit, static_argnames="steps")
def summed(states, keys, steps):
    """The same, with the loss of every `EVERY` steps."""
    step = gf.training.make_step(problems.loss_fn, problems.OPTIMIZER)

    def one(state, key):
        state = problems.start()._replace(key=key) if state is None else state
        state, metrics = gf.training.run(step, state, problems.batch, steps, every=EVERY)
        return state, gf.training.means(metrics)

    return jax.vmap(one)(states, keys)


class Training:
    """One training, with the steps that it was asked for; something happens before one of its stretches."""

    def __init__(self, program=looked_at, happens=None, at=3):
        self.program, self.happens, self.at, self.asked = program, happens, at, []

    def further(self, states, steps):
        if len(self.asked) == self.at and self.happens is not None:
            self.happens()
        self.asked.append(steps)
        return self.program(states, jax.random.split(jax.random.key(3)), steps)

    def run(self):
        sums = self.program is summed
        return in_stretches("net", self.further, steps=STEPS, every=EVERY, work=1.0, axis=1, sums=sums)


def allow(monkeypatch, steps):
    """Let a stretch have so many steps, about."""
    monkeypatch.setattr(stretches, "WORK", float(steps))


def assert_same(found, wanted):
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("program", "steps", "asked"),
    [
        (looked_at, 3, [0, *[2, 2, 0] * 6]),
        (looked_at, 9, [8, 8, 8]),
        (looked_at, 10, [8, 8, 8]),
        (looked_at, 20, [20, 4]),
        (summed, 3, [4] * 6),
        (summed, 9, [8, 8, 8]),
    ],
)
def test_rows_are_those_of_a_single_stretch(monkeypatch, program, steps, asked):
    whole, parts = Training(program), Training(program)
    _, wanted = whole.run()
    assert whole.asked == [STEPS]
    rows = STEPS // EVERY + (program is looked_at)
    assert {leaf.shape[:2] for leaf in jax.tree.leaves(wanted)} == {(2, rows)}
    allow(monkeypatch, steps)
    assert_same(parts.run()[1], wanted)
    assert parts.asked == asked


def experiment(training):
    def run(config):
        rows = progress.side_by_side({"net": lambda: training.run()[1]}, "part")["net"]
        return {"values": np.asarray(jax.tree.leaves(rows)[0]).ravel().astype(np.float64), "w": np.zeros(1)}

    presets = {name: Config() for name in ("smoke", "laptop", "paper")}
    return Experiment("toy", "Head.", presets, run, claims, lambda results: {"one": Figure()})


def invoke(out, training, *arguments):
    return main(experiment(training), ["--out", str(out), *arguments])


def fail():
    raise RuntimeError("the cable was pulled")


def interrupt():
    """Interrupt the main thread, and wait until it has told this one to stop."""
    os.kill(os.getpid(), signal.SIGTERM)  # SIGINT may be ignored, as in a background job
    assert progress._stopping.get().wait(timeout=60)


@pytest.mark.parametrize("program", [looked_at, summed])
@pytest.mark.parametrize(("steps", "at"), [(3, 5), (9, 1)])
@pytest.mark.parametrize("happens", [fail, interrupt])
def test_a_stopped_run_goes_on_to_the_same_bytes(tmp_path, monkeypatch, capsys, program, steps, at, happens):
    allow(monkeypatch, steps)
    whole, stopped, rest = Training(program), Training(program, happens, at), Training(program)
    assert invoke(tmp_path / "whole", whole) in (0, 1)
    assert invoke(tmp_path, stopped) == (3 if happens is fail else 130)
    assert "--resume" in capsys.readouterr().err or happens is fail
    assert len(list((tmp_path / "toy").glob("*.unfinished-*/net.npz"))) == 1
    assert invoke(tmp_path, rest, "--resume") in (0, 1)
    assert "net: goes on from step" in capsys.readouterr().out
    done = stopped.asked[: at + (happens is interrupt)]
    assert sum(done) + sum(rest.asked) == STEPS
    assert sum(done) > 0
    first, second = ((out / "toy" / "laptop" / "data.npz").read_bytes() for out in (tmp_path / "whole", tmp_path))
    assert first == second


def test_what_is_finished_is_not_done_again(tmp_path, capsys):
    """A part that fails after training leaves a file of all steps, which the next run only reads."""
    first, second = Training(), Training()

    def failing(config):
        first.run()
        fail()

    presets = {name: Config() for name in ("smoke", "laptop", "paper")}
    broken = Experiment("toy", "Head.", presets, failing, claims, lambda results: {"one": Figure()})
    assert main(broken, ["--out", str(tmp_path)]) == 3
    assert invoke(tmp_path, second, "--resume") in (0, 1)
    assert first.asked == [STEPS]
    assert second.asked == [0]  # traced for the form of what the file holds
    capsys.readouterr()


def test_two_trainings_of_one_name_are_refused(tmp_path, capsys):
    def twice(config):
        Training().run()
        Training().run()

    presets = {name: Config() for name in ("smoke", "laptop", "paper")}
    broken = Experiment("toy", "Head.", presets, twice, claims, lambda results: {"one": Figure()})
    assert main(broken, ["--out", str(tmp_path)]) == 3
    assert "got 'net' twice" in capsys.readouterr().err
