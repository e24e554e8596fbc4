"""The house: lint, format, types, import order, what may be heavy, pinned versions, commands that README names."""

from __future__ import annotations

import ast
import contextlib
import importlib.metadata
import itertools
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from experiments.framework import catalogue
from tests import conftest, heavy_tests

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "gradflow"
EXPERIMENTS = ROOT / "experiments"

# Who may import whom inside gradflow; `_lookup` (nearest names) is for all but the instrument.
ALLOWED = {
    "__main__": {"_lookup"},
    "_files": set(),
    "_lazy": set(),
    "_lookup": set(),
    "primitives": set(),
    "instrument": {"primitives"},
    "gaussian": set(),
    "activations": {"_lookup", "gaussian"},
    "theory": {"_lazy", "activations", "gaussian", "theory.mean_field", "theory.spectra", "theory.tracing"},
    "theory.mean_field": {"activations", "gaussian"},
    "theory.spectra": {"theory.mean_field"},
    # `theory.predict` measures what it predicts; the rest of theory does not know the instrument.
    "theory.tracing": {"instrument", "primitives"},
    # `initializers.lsuv` measures the layers that it scales; a test below holds the other schemes off the instrument.
    "initializers": {"_lookup", "activations", "theory.mean_field", "instrument"},
    "models": {"_lookup", "activations", "initializers", "instrument"},
    "data": {"_lookup"},
    # Treatment asks an activation whether it saturates; models are known by their fields, and never imported.
    "diagnosis": {
        "_files",
        "_lookup",
        "activations",
        "diagnosis.thresholds",
        "initializers",
        "instrument",
        "plots",
        "primitives",
    },
    "plots": {"instrument"},
    # A run is judged by the limits of diagnosis, and by nothing else of it.
    "diagnosis.thresholds": set(),
    "live": {"_files", "_lazy", "diagnosis.thresholds", "instrument", "plots"},
    # `training.fit` diagnoses a run that goes wrong, and finds the operation in which an error began when asked.
    "training": {"_lookup", "instrument", "live", "data", "diagnosis"},
}
# Who may import which heavy package while it is itself being imported.
HEAVY = {
    "flax": {"models"},
    "matplotlib": {"plots"},
    "optax": set(),
    "orbax": set(),
    "tensorflow_datasets": set(),
    "grain": set(),
}


def imports(file: Path, *, at_import: bool) -> set[str]:
    """Names of all modules that a file imports; `at_import` leaves out functions and type checking."""
    found = set()

    def visit(node: ast.AST) -> None:
        if at_import and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.orelse:
                visit(child)
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(file.read_text(encoding="utf-8")))
    return found


def part_of(file: Path) -> str:
    return part_of_module(".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))


def part_of_module(name: str) -> str:
    """The first piece below gradflow; the first two of the wings of theory, and of the limits of diagnosis."""
    pieces = name.split(".")[1:]
    return ".".join(pieces[:2]) if ".".join(pieces[:2]) in ALLOWED else pieces[0]


FILES = [f for f in sorted(PACKAGE.rglob("*.py")) if f not in (PACKAGE / "__init__.py", PACKAGE / "_distribution.py")]


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_run_one_way(file):
    part = part_of(file)
    for name in imports(file, at_import=False):
        pieces = name.split(".")
        if pieces[0] == "gradflow" and len(pieces) > 1:
            other = part_of_module(name)
            assert other == part or other in ALLOWED[part], f"{file.name} imports {name}"
        assert pieces[0] not in ("experiments", "tests"), f"{file.name} imports {name}"


def test_models_know_nothing_of_the_instrument_but_the_tap():
    """An identity, so that they can be used without it; gates inside a scan cannot be named from outside."""
    for file in (PACKAGE / "models").glob("*.py"):
        used = {name for name in imports(file, at_import=False) if name.startswith("gradflow.instrument")}
        assert used <= {"gradflow.instrument.tap", "gradflow.instrument.tap.tap"}


def test_schemes_know_nothing_of_the_instrument():
    for file in (PACKAGE / "initializers").glob("*.py"):
        used = any(name.startswith("gradflow.instrument") for name in imports(file, at_import=False))
        assert not used or file.stem == "lsuv"


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_heavy_imports_happen_when_needed(file):
    for name in imports(file, at_import=True):
        package = name.split(".")[0]
        assert package not in HEAVY or part_of(file) in HEAVY[package], f"{file.name} imports {name}"


def room_of(module: str) -> str | None:
    """The file of `experiments` that a module is, as a path without its suffix; None for what is no file of it."""
    path = ROOT.joinpath(*module.split("."))
    if path.with_suffix(".py").is_file():
        return str(path.relative_to(EXPERIMENTS))
    return str((path / "__init__").relative_to(EXPERIMENTS)) if (path / "__init__.py").is_file() else None


def rooms() -> dict[str, set[str]]:
    """Every file of `experiments`, and those of it that it imports, whenever."""
    graph = {}
    for file in sorted(EXPERIMENTS.rglob("*.py")):
        names = {name for name in imports(file, at_import=False) if name.startswith("experiments.")}
        # `from experiments.framework import claims` imports the file, and nothing of the package's own.
        names -= {name.rpartition(".")[0] for name in names if room_of(name)}
        found = {room_of(name) or room_of(name.rpartition(".")[0]) for name in names}
        graph[str(file.with_suffix("").relative_to(EXPERIMENTS))] = {room for room in found if room} - {"__init__"}
    return graph


def floor_of(room: str) -> str:
    return room.partition("/")[0]


def test_experiments_never_import_each_other_and_the_framework_none_of_them():
    names = {head.name for head in catalogue.heads()}
    assert {"vanishing", "overhead"} <= names
    graph = rooms()
    assert {floor_of(room) for room in graph} == names | {"framework", "__init__", "__main__", "gallery"}
    for room, imported in graph.items():
        allowed = {"framework", floor_of(room)} if floor_of(room) in names else {"framework"}
        strangers = {other for other in imported if floor_of(other) not in allowed}
        assert not strangers, f"{room} imports {strangers}"


def test_no_file_of_the_experiments_imports_itself_by_way_of_others():
    graph, done = rooms(), set()
    while ready := [room for room in graph if room not in done and graph[room] - {room} <= done]:
        done |= set(ready)
    assert not set(graph) - done, "these form a circle, or stand on one"


@pytest.mark.parametrize("path", ["_src", "jax.core.", "jax.interpreters"])
def test_no_private_jax(path):
    """All of JAX that is not public API is one attribute of an equation, its name stack, and one class to test by."""
    for file in FILES:
        lines = [line for line in file.read_text(encoding="utf-8").splitlines() if path in line]
        lines = [line for line in lines if "jax.core.Tracer" not in line]
        assert not lines, f"{file.name}: {lines}"


def test_what_is_private_is_where_it_should_be():
    users = [f.name for f in FILES if "source_info" in f.read_text(encoding="utf-8")]
    assert users == ["jaxprs.py"]


# These are being rewritten in another place; take them out of here when they are shorter.
def test_no_file_is_longer_than_400_lines():
    files = [f for folder in ("gradflow", "experiments", "tests") for f in (ROOT / folder).rglob("*.py")]
    lengths = {str(f.relative_to(ROOT)): len(f.read_text(encoding="utf-8").splitlines()) for f in files}
    assert not {name: n for name, n in lengths.items() if n > 400}


@pytest.mark.parametrize("command", [["ruff", "check"], ["ruff", "format", "--check"], ["mypy"]], ids=" ".join)
def test_lint_format_and_types(command):
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def pins(version: str) -> dict[str, Requirement]:
    """Every line of the constraints that a Python version heeds, by the name of the distribution."""
    lines = [Requirement(line) for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()]
    heeded = [r for r in lines if r.marker is None or r.marker.evaluate({"python_version": version})]
    named = {canonicalize_name(r.name): r for r in heeded}
    assert len(named) == len(heeded), "a distribution is pinned twice"
    return named


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PYTHONS = sorted(set(re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["classifiers"]))))


@pytest.mark.parametrize("version", PYTHONS)
def test_constraints_pin_every_requirement_to_a_version_that_it_allows(version):
    pinned = pins(version)
    assert all(re.fullmatch(r"==[A-Za-z0-9_.+!-]+", str(pin.specifier)) for pin in pinned.values())
    extras = PROJECT["optional-dependencies"].values()
    for line in [*PROJECT["dependencies"], *itertools.chain(*extras)]:
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        if name != "gradflow-jax":
            assert requirement.specifier.contains(str(pinned[name].specifier).removeprefix("==")), line


def test_constraints_are_what_is_installed():
    """Otherwise these tests say nothing about README's commands."""
    version = ".".join(map(str, sys.version_info[:2]))
    for name, pin in pins(version).items():
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # of another platform
            assert pin.specifier.contains(importlib.metadata.version(name)), name


def test_the_newest_jax_is_taken_where_python_allows_it():
    of = {version: str(pins(version)["jax"].specifier) for version in ("3.11", "3.12", "3.13")}
    assert of == {"3.11": "==0.10.2", "3.12": of["3.13"], "3.13": of["3.13"]}
    assert of["3.13"].startswith("==0.12")


def test_ci_runs_what_readme_says():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for text in (readme, script):
        assert "-c constraints.txt -e '.[test]'" in text
        assert "-m pytest -n 2" in text
    assert "-m pytest -n 2 -m slow" in script
    assert "-m 'not slow'" in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert "python -m experiments.vanishing" in readme


def test_heavy_tests_are_tests():
    for id_ in heavy_tests.read():
        path, *_, name = id_.split("[")[0].split("::")
        assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), id_


def test_every_slow_test_has_its_turn():
    """Of a file with few one runs in each turn; of one with many each runs in one turn."""
    many, two = [f"many::test_{number // 3}[{number}]" for number in range(7)], ["two::test[a]", "two::test[b]"]
    items = [
        SimpleNamespace(nodeid=id_, get_closest_marker=lambda name, id_=id_: "quick" not in id_)
        for id_ in (*many, *two, "single::test", "many::test_0[quick]")
    ]
    turns = [conftest.of_turn(items, turn) for turn in range(conftest.TURNS)]
    assert set.union(*turns) == {*many, *two, "single::test"}
    assert [len(turn & set(many)) for turn in turns] == [2, 2, 2, 1]
    assert [turn & set(two) for turn in turns] == [{two[0]}, {two[1]}] * 2
    assert all("single::test" in turn for turn in turns)


def test_what_is_heavy_is_listed_and_what_is_essential_is_not():
    essential = heavy_tests.ESSENTIAL[1]
    assert heavy_tests.heavy({"b": 3.0, "a": 2.5, "quick": 1.0, essential: 9.0}) == ["a", "b"]
    assert not any(id_.startswith(heavy_tests.ESSENTIAL) for id_ in heavy_tests.read())
