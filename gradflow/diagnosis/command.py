"""The diagnosis as a command, with an exit status that continuous integration can read."""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from gradflow import _lookup
from gradflow._files import write_whole
from gradflow.diagnosis.verdict import diagnose

__all__ = ["Command", "main"]

PROG = "python -m gradflow diagnose"
HEALTHY, SICK, BAD_USAGE, CRASHED = 0, 1, 2, 3
_PARTS = 3  # of what the function returns: a loss, its parameters, its other arguments


@dataclasses.dataclass(frozen=True)
class Command:
    """Say what is wrong with a network: exit 0 for healthy, 1 for sick, 2 for bad usage, 3 if your code fails.

    The function takes no arguments and returns `loss_fn, params, args`, where `args` is the tuple of what the loss
    takes behind its parameters. A fourth item is a dict of more arguments of `gradflow.diagnose`, such as `optimizer`.
    """

    target: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODULE:FUNCTION")]
    """Where that function is."""
    steps: int = 20
    """How many steps are taken, where the fourth item names an optimizer."""
    html: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write a self-contained page."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write findings and ledger."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out `python -m gradflow diagnose`.

    Args:
        arguments: what follows the command; by default that of this process.

    Returns:
        0 for a healthy network, 1 for a sick one, 2 for bad usage, 3 if the user's code fails.
    """
    command = tyro.cli(Command, prog=PROG, args=arguments)
    try:
        function = _resolved(command.target)
        for path in (command.html, command.json):
            if path is not None and not path.resolve().parent.is_dir():
                raise ValueError(f"expected a file in a folder that is there, got {path}. Fix: make the folder")
    except ValueError as error:
        return _said(str(error), BAD_USAGE)
    try:
        call = _call(function(), command)
    except _UsageError as error:
        return _said(f"{command.target}: {error}", BAD_USAGE)
    except Exception as error:
        traceback.print_exc()
        return _said(f"{command.target} failed ({type(error).__name__})", CRASHED)
    try:
        d = call()
    except ValueError as error:
        return _said(str(error), BAD_USAGE)
    except Exception as error:
        traceback.print_exc()
        return _said(f"the loss of {command.target} failed ({type(error).__name__})", CRASHED)
    print(d)
    if command.html is not None:
        write_whole(command.html, d.to_html())
    if command.json is not None:
        write_whole(command.json, d.to_json())
    return HEALTHY if d.healthy else SICK


class _UsageError(ValueError):
    """The function returned something else."""


def _resolved(target: str) -> Callable[[], Any]:
    """Return the function that a target names.

    Raises:
        ValueError: if there is none.
    """
    module_name, colon, name = target.partition(":")
    if not colon or not name or not module_name:
        raise ValueError(f"expected MODULE:FUNCTION, such as my_project.train:problem, got {target!r}")
    sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not module_name.startswith(error.name):
            raise ValueError(f"{module_name} needs {error.name}, which is not installed") from None
        raise ValueError(
            f"no module is called {module_name!r}. Likely cause: another folder. Fix: run this from the folder that "
            "holds it, and leave .py away"
        ) from None
    finally:
        sys.path.pop(0)
    known = {key: value for key, value in vars(module).items() if callable(value)}
    function: Callable[[], Any] = _lookup.find(f"function in {module_name}", name, known)
    return function


def _call(returned: Any, command: Command) -> Callable[[], Any]:
    """Return the call of `diagnose` that the user's function describes."""
    if not isinstance(returned, tuple) or not _PARTS <= len(returned) <= _PARTS + 1 or not callable(returned[0]):
        raise _UsageError(f"expected it to return (loss_fn, params, args), got {_words(returned)}")
    loss_fn, params, args = returned[:_PARTS]
    options: Any = returned[_PARTS] if len(returned) > _PARTS else {}
    if not isinstance(args, tuple):
        raise _UsageError(f"expected args to be a tuple, got {_words(args)}. Fix: (x,) for a single argument")
    if not isinstance(options, dict):
        raise _UsageError(f"expected a dict of more arguments of gradflow.diagnose, got {_words(options)}")
    options = {"steps": command.steps} | options
    return lambda: diagnose(loss_fn, params, *args, **options)


def _words(value: Any) -> str:
    kind = type(value).__name__
    return f"{kind} of {len(value)}" if isinstance(value, (tuple, list, dict)) else kind


def _said(text: str, status: int) -> int:
    print(f"{PROG}: {text}", file=sys.stderr)
    return status
