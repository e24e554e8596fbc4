"""What experiments there are, read from the heads of their packages without importing them."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import re
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class Head:
    """What the head docstring of an experiment says.

    Attributes:
        name: the experiment's name.
        title: its first line.
        paper: the papers it reproduces.
        figure: which of their figures and tables.
        minutes: cost of the default preset on `machine`.
        expected: what a run should find, in words and numbers.
        alone: whether it measures the machine, so that nothing else may run beside it ("Alone: yes", optional).
        paper_cost: of the preset `paper`: what stands behind "paper:" in the line `Minutes:`; "" where nothing does.
        machine: that took these minutes: what stands behind "on" there.
    """

    name: str
    title: str
    paper: str
    figure: str
    minutes: str
    expected: str
    alone: bool
    paper_cost: str = ""
    machine: str = "two cores"


def read_head(file: Path) -> Head | None:
    """Read the head of a package.

    Args:
        file: the package's `__init__.py`.

    Returns:
        Its head, or None if its docstring gives no command of its own: then it is no experiment.

    Raises:
        ValueError: if an experiment's docstring lacks a field.
    """
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    if not re.search(rf"^Command:.*\bexperiments\.{file.parent.name}\b", docstring, re.MULTILINE):
        return None
    fields = {}
    for field in ("Paper", "Figure", "Command", "Minutes", "Expected"):
        value = _field(field, docstring)
        if value is None:
            raise ValueError(f"the docstring of {file.parent.name} has no line '{field}: ...'. Fix: add it to {file}")
        fields[field] = value
    paper_cost = re.search(r"paper: ([^)]*)", fields["Minutes"])
    machine = re.match(r"\S+ on ([^(,]*\w)", fields["Minutes"])
    return Head(
        name=file.parent.name,
        title=docstring.splitlines()[0],
        paper=fields["Paper"],
        figure=fields["Figure"],
        minutes=fields["Minutes"].split()[0],
        expected=fields["Expected"],
        alone=(_field("Alone", docstring) or "no").startswith("yes"),
        paper_cost=paper_cost[1].strip() if paper_cost else "",
        machine=machine[1] if machine else Head.machine,
    )


def _field(name: str, docstring: str) -> str | None:
    found = re.search(rf"^{name}:\s*(.+(?:\n[ ]+.+)*)", docstring, re.MULTILINE)
    return None if found is None else " ".join(found[1].split())


def heads(folder: Path = FOLDER) -> list[Head]:
    """Read the heads of all experiments in a folder, by name.

    Args:
        folder: where the experiments are.
    """
    found = (read_head(file) for file in sorted(folder.glob("[a-z]*/__init__.py")))
    return [head for head in found if head is not None]


def load(name: str) -> Any:
    """Import an experiment.

    Args:
        name: of its package.

    Returns:
        Its `Experiment`.
    """
    return importlib.import_module(f"{__package__.partition('.')[0]}.{name}.experiment").EXPERIMENT
