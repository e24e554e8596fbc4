"""The programs in `examples`: a few steps of each, in a process that no network can be reached from."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = sorted((ROOT / "examples").glob("*.py"))
FRAMEWORKS = {"equinox", "haiku", "keras", "linen", "nnx", "plain"}
WITHOUT_NETWORK = """
import runpy, socket, sys

def refuse(*args):
    raise OSError("an example reaches for the network")

socket.socket.connect = socket.getaddrinfo = refuse
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_there_is_one_for_each_framework():
    assert {program.stem.split("_")[0] for program in PROGRAMS} == FRAMEWORKS


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.stem)
def test_an_example_is_short_and_shows_all_three(program):
    text = program.read_text(encoding="utf-8")
    assert 30 <= sum(bool(line.strip()) for line in text.splitlines()) <= 60
    assert all(name in text for name in ("gf.watch(", "gf.live.TensorBoard(", "print(gf.diagnose("))
    assert f"python examples/{program.name}" in text


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.stem)
def test_an_example_runs(program, tmp_path):
    """Compiled without optimizations, which take most of the time of three steps."""
    settings = {"PYTHONPATH": str(ROOT), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_NETWORK, str(program), "--steps", "3", "--logdir", str(tmp_path)],
        env={**{k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"}, **settings},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "One batch was looked at" in done.stdout
    reading = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    events = reading.EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [0]
    assert events.Histograms("flow/gradient_by_layer")
    assert "flow/figure" in events.Tags()["images"]
