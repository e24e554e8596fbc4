"""A watched run that is killed, stopped by a signal, or shared by two processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gradflow.live import read_jsonl

# Each of ten processes imports JAX anew, which takes a minute where other work runs beside.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
ROOT = Path(__file__).parents[2]
QUIET = {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}


def begin(*arguments):
    command = [sys.executable, "-m", "tests.live.runs", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | QUIET, stdout=subprocess.PIPE, text=True)


def said(process, count):
    """The steps that a run has handed over, after it has said so many of them."""
    return [int(process.stdout.readline()) for _ in range(count)]


def rest(process):
    with process.stdout as pipe:
        return [int(line) for line in pipe.read().split()]


def test_a_kill_loses_two_records_at_most_and_no_step_is_written_twice(tmp_path):
    """Ten times: killed after ever more records, and continued two records before, as from a checkpoint."""
    first = 0
    for kill in range(10):
        process = begin("main", tmp_path, first, 10**6, 3, 0.002)
        handed = said(process, 5 + kill)
        process.kill()
        handed += rest(process)  # whatever it said before the kill
        process.wait()
        log = read_jsonl(tmp_path / "run.jsonl")
        steps = log.steps.tolist()
        assert steps == list(range(0, steps[-1] + 1, 3))
        assert steps[-1] >= handed[-1] - 2 * 3
        assert all(len(layers) == log.records[0]["layers"] for layers in log.layers)
        first = max(0, steps[-1] - 3)
    assert not list(tmp_path.glob("*.[0-9].jsonl"))


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_loses_no_record(tmp_path, number, code):
    process = begin("main", tmp_path, 0, 10**6, 1, 0.0)
    handed = said(process, 10)
    process.send_signal(number)
    handed += rest(process)
    assert process.wait() in (code, -number)
    assert read_jsonl(tmp_path / "run.jsonl").steps[-1] >= handed[-1]


def test_two_processes_write_once(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = [begin("together", tmp_path, port, number) for number in range(2)]
    said_by = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said_by
    assert [path.name for path in tmp_path.iterdir()] == ["run0.jsonl"]
    log = read_jsonl(tmp_path / "run0.jsonl")
    assert log.steps.tolist() == [0, 2, 4]
    assert (log.flow.values["output_rms"] > 0).all()
