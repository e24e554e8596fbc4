"""A run in the terminal: what it shows is what the file has, also while the file grows or is written anew."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import gradflow as gf
from gradflow.__main__ import main
from gradflow.live import Jsonl, Snapshot
from gradflow.live.run_file import RunFile
from gradflow.live.terminal import description
from tests.live.problems import batch, loss_fn, parameters
from tests.live.test_spikes import noise, run


@pytest.fixture(scope="module")
def flow():
    return jax.jit(gf.value_grad_and_flow(loss_fn))(parameters(), batch(0))[2]


def write(path, flow, steps, events=()):
    writer = Jsonl(path)
    for step in steps:
        writer.write_snapshot(Snapshot(step, flow, 1.5 + step, {"first/kernel": 0.25}, 0.5))
    for event in events:
        writer.write_postmortem(event)
    writer.close()


@pytest.fixture(scope="module")
def event():
    gradients, losses = noise()
    gradients[70] *= 40
    return run(gradients, losses)[0]


def test_what_is_shown_is_what_was_recorded(flow, event, tmp_path):
    write(tmp_path / "a.jsonl", flow, [0, 10], [event])
    found = RunFile(tmp_path / "a.jsonl")
    assert found.update()
    want = [float(flow[name].output_grad_rms) for name in flow.layers]
    np.testing.assert_allclose(found.profile("output_grad_rms"), want, rtol=1e-6)
    np.testing.assert_array_equal(found.profile("update_ratio"), [0.25])
    lines = description(found)
    assert lines[0] == "step 10   2 records"
    assert lines[1].split()[:2] == ["loss", "11.5"]
    assert any(line.startswith("update ratio") and line.endswith("1 layer, 2 without a number") for line in lines)
    assert lines[-1] == event.sentence


def test_a_layer_inside_a_scan_is_one_number():
    found = RunFile(Path("none"))
    lines = ({"g_rms": [3.0, 4.0], "share": [0.0, 1.0]}, {"g_rms": None}, {"g_rms": [None, "NaN"]}, {"g_rms": 1e-300})
    found.layers = lines
    np.testing.assert_allclose(found.profile("g_rms"), [12.5**0.5, np.nan, 1e-300])
    np.testing.assert_allclose(found.profile("share"), [0.5])


def test_a_file_that_grows_is_followed_and_one_that_is_made_anew_begins_again(flow, tmp_path):
    whole, growing = tmp_path / "whole.jsonl", tmp_path / "a.jsonl"
    write(whole, flow, [0, 10, 20])
    text = whole.read_bytes()
    found, seen = RunFile(growing), []
    for end in range(0, len(text) + 97, 97):  # cut anywhere, in the middle of a line and of a record
        growing.write_bytes(text[:end])
        found.update()
        assert not found.foreign
        seen.append(None if found.record is None else found.record["step"])
    assert seen == sorted(seen, key=lambda step: -1 if step is None else step)
    assert set(seen) == {None, 0, 10, 20}
    np.testing.assert_array_equal(found.scalars["loss"], [1.5, 11.5, 21.5])
    assert len(found.layers) == 3
    assert not found.update()
    write(whole, flow, [5])  # the run goes on from step 5: later steps are dropped
    os.replace(whole, growing)
    assert found.update()
    np.testing.assert_array_equal(found.scalars["loss"], [1.5, 6.5])


def test_once_shows_the_newest_file_of_a_folder(flow, tmp_path, capsys):
    write(tmp_path / "runs" / "old.jsonl", flow, [0])
    os.utime(tmp_path / "runs" / "old.jsonl", (0, 0))
    write(tmp_path / "runs" / "new.jsonl", flow, [0, 30])
    assert main(["watch", str(tmp_path), "--once"]) == 0
    said = capsys.readouterr().out
    assert "new.jsonl" in said
    assert "step 30" in said
    (tmp_path / "empty.jsonl").touch()
    assert main(["watch", str(tmp_path / "empty.jsonl"), "--once"]) == 1
    assert "no record yet" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["b.jsonl"], "got b.jsonl, which is not there"),
        (["folder"], "without a file *.jsonl"),
        (["other.jsonl"], "Likely cause: another tool's file"),
        (["steps.jsonl"], "Likely cause: another tool's file"),
        (["records.jsonl"], "Likely cause: another tool's file"),
        (["a.jsonl", "--seconds", "0"], "expected --seconds above 0"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(flow, tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.jsonl", flow, [0])
    (tmp_path / "folder").mkdir()
    (tmp_path / "other.jsonl").write_text(json.dumps({"loss": 1}) + "\n")
    (tmp_path / "steps.jsonl").write_text(json.dumps({"step": 1, "loss": 1}) + "\n")
    (tmp_path / "records.jsonl").write_text(json.dumps({"step": 1, "line": "record", "layers": 0, "scalars": 3}) + "\n")
    assert main(["watch", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("python -m gradflow watch: ")
    assert said.count("\n") == 1
    assert words in said


@pytest.mark.slow
def test_it_follows_until_it_is_interrupted(flow, tmp_path):
    path = tmp_path / "a.jsonl"
    write(path, flow, [0])
    command = [sys.executable, "-m", "gradflow", "watch", str(path), "--seconds", "0.05"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        write(path, flow, [7])
        deadline = time.monotonic() + 120
        while "step 7" not in process.stdout.readline():
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
