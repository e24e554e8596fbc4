"""The runner on a small experiment: command line, results folder, verdicts, interruption."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

import gradflow as gf
from experiments.__main__ import main as list_main
from experiments.framework import commandline, images, progress, storage
from experiments.framework.catalogue import heads, read_head
from experiments.framework.claims import Claim, theory
from experiments.framework.runner import Experiment, main

ROOT = Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Config:
    """Sum of normal numbers."""

    count: int = 100
    """How many."""
    shift: float = 0.0
    """Added to each."""
    seed: int = 0
    """Seed."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count must be at least 1, got {self.count}")


def run(config):
    values = np.random.default_rng(config.seed).normal(size=config.count) + config.shift
    return {"values": values, "names": np.array(["a", "b"])}


def claims(results):
    return [Claim("mean", "the mean is zero", theory("symmetry", 0, absolute=0.5), results["values"].mean())]


def figures(results):
    figure = Figure()
    figure.subplots().plot(results["values"])
    return {"values": figure}


TOY = Experiment("toy", "Head.", {"smoke": Config(10), "laptop": Config(), "paper": Config(1000)}, run, claims, figures)


def invoke(out: Path, *arguments: str, experiment: Experiment = TOY) -> int:
    return main(experiment, ["--out", str(out), *arguments])


def test_a_run_writes_everything_and_exits_0(tmp_path, capsys):
    assert invoke(tmp_path, "--seed", "3", "--count", "40") == 0
    folder = tmp_path / "toy" / "laptop"
    assert {file.name for file in folder.iterdir()} == {
        "claims.json", "config.json", "data.npz", "figure_values.pdf", "figure_values.png",
    }  # fmt: skip
    config = json.loads((folder / "config.json").read_text())
    assert config["config"] == {"count": 40, "shift": 0.0, "seed": 3}
    assert config["preset"] == "laptop"
    assert {"jax", "numpy", "python"} <= set(config["versions"])
    assert config["device"]["platform"]
    with np.load(folder / "data.npz", allow_pickle=False) as data:
        np.testing.assert_array_equal(data["values"], run(Config(40, seed=3))["values"])
        assert data["names"].tolist() == ["a", "b"]
    assert [record["holds"] for record in json.loads((folder / "claims.json").read_text())] == [True]
    assert "1 holds: 1 theory" in capsys.readouterr().out


def test_a_false_claim_exits_1_and_the_result_is_still_written(tmp_path, capsys):
    assert invoke(tmp_path, "--shift", "5") == 1
    records = json.loads((tmp_path / "toy" / "laptop" / "claims.json").read_text())
    assert [record["holds"] for record in records] == [False]
    printed = capsys.readouterr().out
    assert "NO" in printed
    assert "1 fails: 1 theory" in printed


def test_presets_set_the_defaults_and_options_override_them(tmp_path):
    assert invoke(tmp_path, "--preset", "smoke") == 0
    assert invoke(tmp_path, "--preset=paper", "--count=12") == 0
    counts = {
        preset: json.loads((tmp_path / "toy" / preset / "config.json").read_text())["config"]["count"]
        for preset in ("smoke", "paper")
    }
    assert counts == {"smoke": 10, "paper": 12}


def test_same_seed_same_bytes_another_seed_others(tmp_path):
    for out, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        invoke(tmp_path / out, "--seed", seed)
        if out == "a":
            time.sleep(2.1)  # a zip's time stamps have a resolution of two seconds
    for name in ("data.npz", "claims.json", "figure_values.png", "figure_values.pdf"):
        first, second, other = ((tmp_path / out / "toy" / "laptop" / name).read_bytes() for out in "abc")
        assert first == second, name
        assert first != other, name


@pytest.fixture
def _optimized():
    """Programs compile as users compile them, which in these tests they do not."""
    usual = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", usual)


@pytest.mark.usefixtures("_optimized")
def test_no_program_compiled_under_other_optimizations_is_reused(tmp_path):
    """Otherwise the last bits of a smoke run depend on what the process did before, and those of later runs on it."""
    traced = []

    @jax.jit
    def double(x):
        traced.append(jax.config.read("jax_disable_most_optimizations"))
        return 2 * x

    experiment = dataclasses.replace(TOY, run=lambda config: {"values": np.asarray(double(np.ones(3, np.float32)))},
                                     claims=lambda results: [])  # fmt: skip
    for preset in ("laptop", "smoke", "laptop", "laptop"):
        assert invoke(tmp_path, "--preset", preset, experiment=experiment) == 0
    assert traced == [False, True, False]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--preset", "lap"], "no preset is called 'lap'. Did you mean laptop?"),
        (["--preset"], "no preset is called ''"),
        (["--cuont", "3"], "no option is called '--cuont'. Did you mean --count?"),
        (["--count", "many"], "--count"),
        (["--count", "0"], "count must be at least 1, got 0"),
        (["--seed"], "--seed"),
        (["stray"], "stray"),
    ],
)
def test_bad_usage_is_one_line_and_exits_2(tmp_path, capsys, arguments, message):
    assert invoke(tmp_path, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert error.startswith("python -m experiments.toy: ")
    assert not any(tmp_path.iterdir())


def test_help_lists_the_options_with_the_presets_defaults(capsys):
    with pytest.raises(SystemExit) as stop:
        main(TOY, ["--preset", "smoke", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("--count", "(default: 10)", "--preset", "--out", "Head."))


def test_a_crash_exits_3_with_its_traceback_and_leaves_the_earlier_result_alone(tmp_path, capsys):
    assert invoke(tmp_path) == 0
    before = snapshot(tmp_path)

    def broken_figures(results):
        raise RuntimeError("broken")

    class Unsavable(Figure):
        def savefig(self, *arguments, **options):
            raise OSError("disk full")

    for figures in (broken_figures, lambda results: {"values": Unsavable()}):
        assert invoke(tmp_path, experiment=dataclasses.replace(TOY, figures=figures)) == 3
        error = capsys.readouterr().err
        assert "Traceback" in error
        assert error.splitlines()[-1].startswith("python -m experiments.toy: crashed (")
        assert snapshot(tmp_path) == before


def test_a_new_result_replaces_the_earlier_one_as_a_whole(tmp_path):
    invoke(tmp_path)
    (tmp_path / "toy" / "laptop" / "figure_old.png").touch()
    invoke(tmp_path)
    assert not (tmp_path / "toy" / "laptop" / "figure_old.png").exists()
    assert [folder.name for folder in (tmp_path / "toy").iterdir()] == ["laptop"]


def test_a_failed_swap_brings_the_earlier_result_back(tmp_path, monkeypatch):
    folder = tmp_path / "laptop"
    folder.mkdir()
    (folder / "old").touch()
    rename = Path.rename

    def fail_on_partial(self, target):
        if "partial" in self.name:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_on_partial)
    with pytest.raises(KeyboardInterrupt), storage.replacing(folder) as partial:
        (partial / "new").touch()
    assert snapshot(tmp_path) == {"laptop/old": b""}


def snapshot(folder: Path) -> dict[str, bytes]:
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def test_further_files_belong_to_the_result(tmp_path):
    experiment = dataclasses.replace(TOY, files=lambda results: {"table.md": "| ratio |\n"})
    assert invoke(tmp_path, experiment=experiment) == 0
    assert (tmp_path / "toy" / "laptop" / "table.md").read_text() == "| ratio |\n"


def test_python_objects_are_refused(tmp_path, capsys):
    experiment = dataclasses.replace(TOY, run=lambda config: {"values": np.array([None, {}])}, claims=lambda r: [])
    assert invoke(tmp_path, experiment=dataclasses.replace(experiment, figures=lambda results: {})) == 3
    assert "'values', got Python objects" in capsys.readouterr().err
    assert list((tmp_path / "toy").iterdir()) == []


def test_presets_must_be_complete():
    with pytest.raises(ValueError, match="presets must be"):
        dataclasses.replace(TOY, presets={"smoke": Config()})


INTERRUPTIBLE = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell inherits that it is ignored
sys.path.insert(0, "tests/experiments")
import dataclasses, test_runner as t
def slow(results):
    print("ready", flush=True)
    time.sleep(60)
where = sys.argv[1]
parts = {where: slow} if where == "figures" else {"run": slow}
sys.exit(t.main(dataclasses.replace(t.TOY, **parts), ["--out", sys.argv[2]]))
"""


@pytest.mark.parametrize("number, where", [(signal.SIGINT, "run"), (signal.SIGTERM, "figures")])
def test_interrupting_leaves_no_half_written_result(tmp_path, number, where):
    invoke(tmp_path)
    before = snapshot(tmp_path)
    command = [sys.executable, "-c", INTERRUPTIBLE, where, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, number)
        _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert error == "python -m experiments.toy: interrupted; nothing was written\n"
    assert snapshot(tmp_path) == before
    assert [path.name for path in (tmp_path / "toy").iterdir()] == ["laptop"]


def python(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def test_words_are_on_the_screen_before_anything_that_takes_long_is_imported():
    """Python alone starts in a fraction of a second; of what follows, the imports are the first that one waits for."""
    program = (
        "import sys, experiments.vanishing\n"
        "from experiments.framework import entry, progress\n"
        "def stage(words):\n"
        "    print(words, sorted({'jax', 'numpy', 'matplotlib', 'gradflow', 'tyro'} & set(sys.modules)), flush=True)\n"
        "progress.stage = stage\n"
        "sys.argv[1:] = ['--help']\n"
        "sys.exit(entry.run('vanishing'))\n"
    )
    done = python("-c", program)
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == "importing vanishing []"
    assert "--tanh-depth" in done.stdout


def test_a_data_set_that_is_not_there_is_bad_usage_in_one_line(tmp_path, capsys, monkeypatch):
    def load(name, **options):
        raise FileNotFoundError(f"{name} is not there.\nWays out:\n  1. download it")

    monkeypatch.setattr(gf.data, "load", load)
    experiment = dataclasses.replace(TOY, run=lambda config: images.load("cifar10"))
    assert invoke(tmp_path, experiment=experiment) == 2
    printed = capsys.readouterr()
    expected = "data set 'cifar10': cifar10 is not there. Ways out: 1. download it"
    assert printed.err == f"python -m experiments.toy: {expected}\n"
    assert "loading cifar10" in printed.out


def test_long_compilation_is_said(capsys, monkeypatch):
    monkeypatch.setattr(progress, "NOTICEABLE", 0.0)
    with progress.compilation_shown():
        jax.jit(lambda x: jnp.sin(x) + 3)(jnp.ones(7, jnp.float32))
    printed = capsys.readouterr().out
    assert "traced a program in" in printed
    assert "compiled a program in" in printed
    jax.jit(lambda x: jnp.cos(x) + 3)(jnp.ones(7, jnp.float32))
    assert not capsys.readouterr().out


def test_every_command_has_a_way_in():
    for head in heads():
        main_file = ROOT / "experiments" / head.name / "__main__.py"
        assert f'sys.exit(entry.run("{head.name}"))' in main_file.read_text()


def test_unknown_experiment_is_one_line_and_exits_2():
    done = python("-m", "experiments.vanishin")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "Did you mean vanishing?" in done.stderr


def test_list_names_every_experiment_with_its_last_verdict(tmp_path, capsys, monkeypatch):
    assert list_main(["--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    for head in heads():
        assert head.name in printed
    assert "not run" in printed
    assert storage.verdict(tmp_path / "toy") == "not run"
    invoke(tmp_path)
    invoke(tmp_path, "--preset", "smoke", "--shift", "5")
    os.utime(tmp_path / "toy" / "laptop" / "claims.json", (0, 0))
    assert storage.verdict(tmp_path / "toy") == "1 fails: 1 theory (smoke)"


@pytest.mark.parametrize(
    "word, message",
    [("--ouf", "--out"), ("vanishin", "vanishing"), ("vanishing", "python -m experiments.vanishing")],
)
def test_list_with_an_unknown_word_exits_2(capsys, word, message):
    assert list_main([word]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


HEAD = '''"""Title.

Paper:    A 2010, and
          B 2015.
Figure:   3
Command:  python -m experiments.one
Minutes:  2 on two cores.
Expected: nothing.
"""
'''


def test_heads_are_read_from_docstrings(tmp_path):
    file = tmp_path / "one" / "__init__.py"
    file.parent.mkdir()
    file.write_text(HEAD)
    head = read_head(file)
    assert dataclasses.astuple(head) == (
        "one", "Title.", "A 2010, and B 2015.", "3", "2", "nothing.", False, "", "two cores",
    )  # fmt: skip
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "__init__.py").write_text('"""A part of `python -m experiments.one`."""')
    assert [found.name for found in heads(tmp_path)] == ["one"]
    file.write_text(HEAD.replace("Minutes", "Cost"))
    with pytest.raises(ValueError, match=r"one has no line 'Minutes: ...'"):
        read_head(file)


def test_missing_packages_are_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "tyro" else object())
    assert invoke(tmp_path) == 2
    assert "tyro cannot be imported" in capsys.readouterr().err


def test_options_are_those_of_the_config():
    command = commandline.parse("p", "d", TOY.presets, ["--shift", "-1.5"])
    assert command == commandline.Command("laptop", Path("results"), Config(shift=-1.5))
