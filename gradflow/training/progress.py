"""Progress of a run: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np

from gradflow.live.sparkline import sparkline

__all__ = ["SECONDS", "Report", "report_progress", "say"]

SECONDS = 10.0  # from one plain line to the next

Report: TypeAlias = Callable[[int, Mapping[str, float], "np.ndarray | None"], None]


@contextlib.contextmanager
def report_progress(done: int, steps: int, wanted: bool) -> Iterator[Report]:
    """Show progress on stderr while the block runs, with a function (step, metrics, gradients by layer) that tells it.

    Args:
        done: steps done before.
        steps: of the whole run.
        wanted: False shows nothing.
    """
    if not wanted or done >= steps:
        yield lambda step, metrics, gradients: None
    elif sys.stderr.isatty() and importlib.util.find_spec("rich") is not None:
        with _bar(done, steps) as report:
            yield report
    else:
        yield _lines(done, steps)


def say(text: str) -> None:
    """Print lines on stderr; while a bar is shown, it passes them on above itself.

    Args:
        text: of one line or several.
    """
    print(text, file=sys.stderr, flush=True)


def _speaker() -> Callable[[Mapping[str, float], "np.ndarray | None"], str]:
    """Put reports into words; those without a gradient profile, which most are, repeat the latest."""
    profile = ""

    def words(metrics: Mapping[str, float], gradients: np.ndarray | None) -> str:
        nonlocal profile
        if gradients is not None:
            profile = f"gradient {sparkline(gradients)}"
        return "  ".join([*(f"{name} {value:.4g}" for name, value in metrics.items()), *filter(None, [profile])])

    return words


@contextlib.contextmanager
def _bar(done: int, steps: int) -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns: tuple[Any, ...] = (
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[words]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=steps, completed=done, rate="", words="")
        rate, words = _rate(done), _speaker()

        def report(step: int, metrics: Mapping[str, float], gradients: np.ndarray | None) -> None:
            progress.update(task, completed=step, rate=rate(step), words=words(metrics, gradients))

        yield report


def _lines(done: int, steps: int) -> Report:
    rate, words = _rate(done), _speaker()
    last = -SECONDS

    def report(step: int, metrics: Mapping[str, float], gradients: np.ndarray | None) -> None:
        nonlocal last
        said = words(metrics, gradients)
        if step < steps and time.monotonic() - last < SECONDS:
            return
        last = time.monotonic()
        say(f"step {step}/{steps}  {rate(step)}  {said}")

    return report


def _rate(done: int) -> Callable[[int], str]:
    started = time.monotonic()

    def rate(step: int) -> str:
        return f"{(step - done) / max(time.monotonic() - started, 1e-9):.3g} steps/s"

    return rate
