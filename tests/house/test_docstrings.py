"""Docstrings of public functions: one line of summary, and every parameter under Args."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

MODULES = ("", "activations", "data", "initializers", "live", "models", "plots", "theory", "training")


def functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the public functions of the modules above by their full names."""
    for name in MODULES:
        module = importlib.import_module(f"gradflow.{name}".rstrip("."))
        for public in module.__all__:
            value = getattr(module, public)
            if inspect.isfunction(value):
                yield f"{value.__module__}.{public}", value


def faults(function: Callable[..., Any]) -> list[str]:
    """Return what is wrong with a docstring."""
    text = inspect.getdoc(function) or ""
    summary, _, rest = text.partition("\n")
    wrong = [] if summary.rstrip().endswith((".", ":")) and not rest.partition("\n")[0].strip() else ["summary line"]
    section = re.search(r"^Args:\n((?: .*\n?|\n)*)", text, re.MULTILINE)
    listed = " ".join(re.findall(r"^ {4}(\S[^:]*):", section.group(1) if section else "", re.MULTILINE))
    documented = set(re.findall(r"\w+", listed))
    return wrong + [name for name in inspect.signature(function).parameters if name not in documented]


@pytest.mark.parametrize(
    "name, function", sorted(set(functions())), ids=lambda value: value if isinstance(value, str) else ""
)
def test_summary_and_parameters(name, function):
    assert faults(function) == []


def test_what_is_missing_is_seen():
    def undocumented(x, *more):
        pass

    undocumented.__doc__ = "Add numbers\nto others.\n\nArgs:\n    x: a number.\n"
    assert faults(undocumented) == ["summary line", "more"]
