"""A recorded run in the terminal, as it grows."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from gradflow.live.run_file import RunFile, file_of
from gradflow.live.sparkline import sparkline

__all__ = ["Command", "description", "main"]

PROG = "python -m gradflow watch"
SHOWN, NOTHING_YET, BAD_USAGE, INTERRUPTED = 0, 1, 2, 130
_EVENTS = 3  # the last ones, which are shown
_PROFILES = (
    ("output_rms", "forward rms", True),
    ("output_grad_rms", "backward rms", True),
    ("update_ratio", "update ratio", True),
    ("dead_fraction", "dead share", False),
)


@dataclasses.dataclass(frozen=True)
class Command:
    """Show a recorded run in the terminal, and follow it until Ctrl-C (exit 130); 2 for bad usage.

    With `--once`: exit 0 if there is a record, 1 if there is none yet.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """A file of `gradflow.live.Jsonl`, or a folder: then its newest file."""
    once: bool = False
    """Show what is there, and leave."""
    seconds: float = 1.0
    """From one look at the file to the next."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out `python -m gradflow watch`.

    Args:
        arguments: what follows the command; by default that of this process.

    Returns:
        0, or 1 if `--once` found no record; 2 for bad usage, 130 for Ctrl-C.
    """
    command = tyro.cli(Command, prog=PROG, args=arguments)
    try:
        if not command.seconds > 0:
            raise ValueError(f"expected --seconds above 0, got {command.seconds}")
        run = RunFile(file_of(command.run))
        _look(run)
        if command.once:
            Console().print(_panel(run))
            return NOTHING_YET if run.record is None else SHOWN
        _follow(run, command.seconds)
    except KeyboardInterrupt:
        return INTERRUPTED
    except (ValueError, OSError) as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return BAD_USAGE
    return SHOWN


def _look(run: RunFile) -> bool:
    changed = run.update()
    if run.foreign:
        raise ValueError(
            f"expected lines of gf.live.Jsonl, got others in {run.path}. Likely cause: another tool's file. Fix: name "
            "a file that gf.watch(..., writers=[gf.live.Jsonl(path)]) wrote"
        )
    return changed


def _follow(run: RunFile, seconds: float) -> None:
    console = Console()
    if not console.is_terminal:  # a panel for every change, since nothing can be drawn anew
        console.print(_panel(run))
        while True:
            time.sleep(seconds)
            if _look(run):
                console.print(_panel(run))
    with Live(_panel(run), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(seconds)
            _look(run)
            live.update(_panel(run), refresh=True)


def _panel(run: RunFile) -> Any:
    lines = description(run)
    try:
        lines[0] += f"   written {max(0.0, time.time() - run.path.stat().st_mtime):.0f} s ago"
    except OSError:
        lines[0] += "   the file is gone"
    text = Text("\n".join("".join(c if c.isprintable() else "?" for c in line) for line in lines))
    return Panel(text, title=Text(run.path.name), expand=False)


def description(run: RunFile) -> list[str]:
    """Return what there is to say of a run, a line each.

    Args:
        run: a file that was read.
    """
    if run.record is None:
        lines = ["no record yet"]
    else:
        count = len(run.scalars["loss"])
        lines = [f"step {run.record['step']}   {count} record{'s' if count > 1 else ''}"]
        lines += _over_records(run) + _over_layers(run)
        lines += [f"! {sentence}" for sentence in run.record.get("alarms", ())]
        lines += [f"  {what}: {name}" for what, name in run.record.get("worst", {}).items()]
    if len(run.events) > _EVENTS:
        lines.append(f"{len(run.events)} post-mortems, the last {_EVENTS}:")
    return lines + [str(event.get("sentence", "")) for event in run.events[-_EVENTS:]]


def _over_records(run: RunFile) -> list[str]:
    lines = []
    for tag, name in (("loss", "loss"), ("flow/gradient norm", "gradient norm")):
        if run.record is not None and tag in run.record.get("scalars", {}):
            numbers = np.array(run.scalars[tag])
            log = tag != "loss"
            lines.append(f"{name:14} {numbers[-1]:<10.4g} {sparkline(numbers, log=log)} over the records")
    return lines


def _over_layers(run: RunFile) -> list[str]:
    lines = []
    for field, name, log in _PROFILES:
        profile = run.profile(field)
        if profile.size:
            missing = len(run.layers) - len(profile)
            note = f", {missing} without a number" if missing else ""
            layers = "1 layer" if len(profile) == 1 else f"{len(profile)} layers"
            lines.append(f"{name:14} {sparkline(profile, log=log)} over {layers}{note}")
    return lines
