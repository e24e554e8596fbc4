"""Runs that train for long and are stopped: refused anew, gone on with by --resume to the same bits, then no trace."""

from __future__ import annotations

import os
import signal

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure

import gradflow as gf
from experiments.framework import resume
from experiments.framework.runner import Experiment, main
from tests.experiments.test_runner import Config, claims
from tests.training import problems

STEPS, EVERY, STOP = 24, 4, 12


class Source:
    """Batches, and what happens to the process once, before a step."""

    def __init__(self, happens=None):
        self.happens, self.asked = happens, []

    def window(self, first, count):
        self.asked.append(first)
        if first == STOP and self.happens is not None:
            self.happens()
        return jax.tree_util.Partial(problems.batch)


def experiment(source):
    def run(config):
        fitted = gf.training.fit(
            problems.loss_fn, problems.OPTIMIZER, problems.start(seed=config.seed), source, STEPS, every=EVERY,
            checkpoints=resume.checkpoints("net"), progress=False,
        )  # fmt: skip
        return {"values": fitted.curve["loss"], "w": np.asarray(fitted.state.params["Dense_0"]["kernel"])}

    presets = {name: Config() for name in ("smoke", "laptop", "paper")}
    return Experiment("toy", "Head.", presets, run, claims, lambda results: {"one": Figure()})


def invoke(out, source, *arguments):
    return main(experiment(source), ["--out", str(out), *arguments])


def fail():
    raise RuntimeError("the cable was pulled")


def ask_to_stop():
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(autouse=True)
def _always_due(monkeypatch):
    monkeypatch.setattr(resume, "MINUTES", 1e-9)


@pytest.mark.parametrize("happens", [fail, ask_to_stop])
def test_a_stopped_run_goes_on_to_the_same_bytes(tmp_path, capsys, happens):
    whole, stopped, rest = Source(), Source(happens), Source()
    invoke(tmp_path / "whole", whole)
    if happens is fail:
        assert invoke(tmp_path, stopped) == 3
        assert "cable" in capsys.readouterr().err
    else:
        assert invoke(tmp_path, stopped) == 130
        assert "interrupted; --resume goes on from what it saved" in capsys.readouterr().err
    (left,) = (tmp_path / "toy").iterdir()
    assert left.name.startswith("laptop.unfinished-")
    refused = Source()
    assert invoke(tmp_path, refused) == 2
    error = capsys.readouterr().err
    assert f"left checkpoints in {left}. Fix: --resume continues from them" in error
    assert error.count("\n") == 1
    assert not refused.asked
    invoke(tmp_path, rest, "--resume")
    assert rest.asked
    assert rest.asked[0] > 0
    assert [path.name for path in (tmp_path / "toy").iterdir()] == ["laptop"]
    first, second = ((out / "toy" / "laptop" / "data.npz").read_bytes() for out in (tmp_path / "whole", tmp_path))
    assert first == second


def test_other_settings_know_nothing_of_it(tmp_path):
    assert invoke(tmp_path, Source(fail)) == 3
    other = Source()
    invoke(tmp_path, other, "--seed", "1", "--resume")
    assert other.asked[0] == 0
    assert len(list((tmp_path / "toy").glob("laptop.unfinished-*"))) == 1


def test_outside_of_a_command_nothing_is_kept():
    assert resume.checkpoints("net") is None


def parts_of(made):
    def run(config):
        parts = resume.Parts("parts")
        values = [parts.part(f"part {k}", lambda k=k: made(k)) for k in range(4)]
        return {"values": np.array(values), "w": np.zeros(1)}

    presets = {name: Config() for name in ("smoke", "laptop", "paper")}
    return Experiment("toy", "Head.", presets, run, claims, lambda results: {"one": Figure()})


def test_finished_parts_are_not_made_again(tmp_path, capsys):
    asked = []

    def make(k, last=3):
        asked.append(k)
        if k == last:
            fail()
        return float(k) / 3

    assert main(parts_of(lambda k: make(k, 2)), ["--out", str(tmp_path)]) == 3
    (left,) = (tmp_path / "toy").iterdir()
    with (left / "parts.jsonl").open("ab") as file:
        file.write(b'["part 2", 0.6')  # killed while it wrote
    assert main(parts_of(lambda k: make(k, 9)), ["--out", str(tmp_path), "--resume"]) in (0, 1)
    assert asked == [0, 1, 2, 2, 3]
    assert not left.exists()
    with np.load(tmp_path / "toy" / "laptop" / "data.npz") as data:
        assert data["values"].tolist() == [0.0, 1 / 3, 2 / 3, 1.0]
    capsys.readouterr()
