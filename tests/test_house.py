"""The house: lint, format, types, import order, what may be heavy, pinned versions, commands that README names."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.framework import catalogue

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "gradflow"
EXPERIMENTS = ROOT / "experiments"

# Who may import whom inside gradflow; `lookup` (nearest names) is for all but the instrument.
ALLOWED = {
    "instrument": {"instrument"},
    "lookup": set(),
    "gaussian": set(),
    "activations": {"lookup", "gaussian"},
    "averages": {"activations", "gaussian"},
    "criticality": {"averages"},
    "initializers": {"initializers", "lookup", "activations", "criticality"},
    "unit_variance": {"initializers", "instrument"},
    "models": {"models", "activations", "initializers", "lookup", "instrument"},
    # `theory.predict` measures what it predicts; a test below holds the rest of theory off the instrument.
    "theory": {
        "theory",
        "activations",
        "averages",
        "criticality",
        "gaussian",
        "initializers",
        "lookup",
        "instrument",
    },
    "data": {"data", "lookup"},
    "plots": {"instrument"},
    "monitor": {"monitor", "instrument"},
    "training": {"training", "instrument", "monitor", "lookup", "data"},
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
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = [f for f in sorted(PACKAGE.rglob("*.py")) if f != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_run_one_way(file):
    part = part_of(file)
    for name in imports(file, at_import=False):
        pieces = name.split(".")
        if pieces[0] == "gradflow" and len(pieces) > 1:
            assert pieces[1] == part or pieces[1] in ALLOWED[part], f"{file.name} imports {name}"
        assert pieces[0] not in ("experiments", "tests"), f"{file.name} imports {name}"


def test_models_know_nothing_of_the_instrument_but_the_tap():
    """An identity, so that they can be used without it; gates inside a scan cannot be named from outside."""
    for file in (PACKAGE / "models").glob("*.py"):
        used = {name for name in imports(file, at_import=False) if name.startswith("gradflow.instrument")}
        assert used <= {"gradflow.instrument.tap", "gradflow.instrument.tap.tap"}


def test_theory_knows_nothing_of_the_instrument_but_to_predict_a_model():
    for file in (PACKAGE / "theory").glob("*.py"):
        used = any(name.startswith("gradflow.instrument") for name in imports(file, at_import=False))
        assert not used or file.stem in ("predict", "propagate", "values")


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


def test_no_file_is_too_long():
    long = {str(f.relative_to(ROOT)): n for f in FILES if (n := len(f.read_text(encoding="utf-8").splitlines())) > 420}
    assert not long


@pytest.mark.parametrize("command", [["ruff", "check"], ["ruff", "format", "--check"], ["mypy"]], ids=" ".join)
def test_lint_format_and_types(command):
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_constraints_pin_every_requirement():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.+!-]+", line) for line in lines)
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    for requirement in importlib.metadata.requires("gradflow-jax") or ():
        name = re.match(r"[A-Za-z0-9_.-]+", requirement)
        assert name is not None
        normal = name[0].lower().replace("_", "-")
        assert normal == "gradflow-jax" or normal in pinned, requirement


def test_ci_runs_what_readme_says():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for text in (readme, script):
        assert "-c constraints.txt -e '.[test]'" in text
        assert "-m pytest -n 2" in text
    assert "python -m experiments.vanishing" in readme
