"""The report as a command."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from gradflow.live.reporting.page import report

__all__ = ["Command", "main"]

PROG = "python -m gradflow report"
WRITTEN, NOT_WRITTEN, BAD_USAGE = 0, 1, 2


@dataclasses.dataclass(frozen=True)
class Command:
    """Write a page of one recorded run, or of several side by side: exit 0 if it is written, 1 if not, 2 for bad usage.

    The files are those that `gradflow.live.Jsonl` wrote, also of a run that still goes on. A folder stands for its
    newest file.
    """

    sources: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN")]
    """Recorded runs: files, or folders."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Path("report.html")
    """Where the page is written."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out `python -m gradflow report`.

    Args:
        arguments: what follows the command; by default that of this process.

    Returns:
        0 for a page that was written, 1 for one that could not be, 2 for bad usage.
    """
    command = tyro.cli(Command, prog=PROG, args=arguments)
    try:
        written = report(list(command.sources), command.out)
    except (ValueError, FileNotFoundError) as error:
        return _said(str(error).removeprefix("report: ").removeprefix("read_jsonl: "), BAD_USAGE)
    except OSError as error:
        return _said(f"{command.out} could not be written ({error})", NOT_WRITTEN)
    print(written)
    return WRITTEN


def _said(text: str, status: int) -> int:
    print(f"{PROG}: {text}", file=sys.stderr)
    return status
