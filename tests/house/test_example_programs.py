"""What is in `examples`: a few steps of each program, in a process without network; the notebook, cell by cell."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import numpy as np
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
    smaller = ["--blocks", "1"] if program.stem == "nnx_gpt" else []
    settings = {"PYTHONPATH": str(ROOT), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_NETWORK, str(program), "--steps", "3", "--logdir", str(tmp_path), *smaller],
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


NOTEBOOK = ROOT / "examples" / "vanishing.ipynb"


def code_cells():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_the_notebook_holds_no_outputs():
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code_cells())
    assert "/home/" not in NOTEBOOK.read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_notebook_runs_and_shows_what_it_says(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    plt = importlib.import_module("matplotlib.pyplot")
    scope, figures = {"__name__": "notebook"}, 0
    with jax.numpy_dtype_promotion("standard"), jax.debug_nans(False), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number, cell in enumerate(code_cells()):
            exec(compile("".join(cell["source"]), f"<cell {number}>", "exec"), scope)
            figures += len(plt.get_fignums())
            plt.close("all")
    assert figures == 10
    assert next(finding.kind for finding in scope["verdict"].findings) == "vanishing"
    sick = scope["gradient"](scope["measure"](*scope["sick"]))
    assert sick[0] < 1e-6 * sick[-1]
    assert {radius: int(np.sign(np.log(h[-1] / h[0]).round(2))) for radius, h in scope["over_time"].items()} == {
        "radius 0.8": 1,
        "radius 1.0": 0,
        "radius 1.2": -1,
    }
    first_over_last = {name: h[0] / h[-1] for name, h in scope["carried"].items()}
    assert (
        first_over_last["rnn"] < 1e-3 * first_over_last["lstm, forget bias 1"] < first_over_last["lstm, forget bias 5"]
    )
    after = {name: curve[-20:].mean() for name, curve in scope["losses"].items()}
    assert after.pop("sigmoid, 1990s") > 2.2  # log 10 = 2.3: nothing is learned
    assert len(after) == 4
    assert max(after.values()) < 1
