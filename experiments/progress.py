"""Progress of a run: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def track(items: Sequence[Item], what: str, label: Callable[[Item], str] = str) -> Iterator[Item]:
    """Yield the items one by one and show how far the loop has come.

    Args:
        items: what the loop goes over.
        what: name of the loop, e.g. "training".
        label: item to the words shown while it is worked on.

    Yields:
        The items, in order.
    """
    if sys.stdout.isatty():
        yield from _with_bar(items, what, label)
    else:
        yield from _with_lines(items, what, label)


def _with_bar(items: Sequence[Item], what: str, label: Callable[[Item], str]) -> Iterator[Item]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[item]}"),
    )
    with Progress(*columns) as bar:
        task = bar.add_task(what, total=len(items), item="")
        for item in items:
            bar.update(task, item=label(item))
            yield item
            bar.advance(task)
        bar.update(task, item="")


def _with_lines(items: Sequence[Item], what: str, label: Callable[[Item], str]) -> Iterator[Item]:
    for number, item in enumerate(items, start=1):
        started = time.perf_counter()
        yield item
        seconds = time.perf_counter() - started
        print(f"{what} {number}/{len(items)}: {label(item)} ({seconds:.1f} s)", flush=True)
