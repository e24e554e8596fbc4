"""Progress of a run: its stages, a bar on a terminal, plain lines elsewhere; and calls that go on at the same time."""

from __future__ import annotations

import contextlib
import contextvars
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)

STARTED = time.monotonic()
TRACED, COMPILED = "/jax/core/compile/jaxpr_trace_duration", "/jax/core/compile/backend_compile_duration"
NOTICEABLE = 0.5  # seconds of tracing or compiling, below which nothing is said of it
AT_ONCE = 2  # compiling keeps one core busy, and lets go of Python's lock

# Set when one of the calls side by side has failed, or all of them are to stop. Every `side_by_side` has its own.
_stopping: contextvars.ContextVar[threading.Event | None] = contextvars.ContextVar("stopping", default=None)


class Stopped(Exception):
    """A call ends early because another one has failed, or because the run was interrupted."""


def check_stopping() -> None:
    """End the call that this is part of, if there is no use in going on.

    Raises:
        Stopped: if so.
    """
    stopping = _stopping.get()
    if stopping is not None and stopping.is_set():
        raise Stopped


def stage(words: str) -> None:
    """Say what a command is doing now, and how long after its start.

    Args:
        words: what it does.
    """
    print(f"[{time.monotonic() - STARTED:6.1f} s] {words}", flush=True)


@contextlib.contextmanager
def compilation_shown() -> Iterator[None]:
    """Say inside the block what JAX traces and compiles, where that takes its time."""
    import jax

    def say(event: str, duration_secs: float, **_: str | int) -> None:
        if event == TRACED and duration_secs > NOTICEABLE:
            stage(f"traced a program in {duration_secs:.1f} s; compiling it")
        if event == COMPILED and duration_secs > NOTICEABLE:
            stage(f"compiled a program in {duration_secs:.1f} s; running it")

    jax.monitoring.register_event_duration_secs_listener(say)
    try:
        yield
    finally:
        jax.monitoring.unregister_event_duration_listener(say)


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


def track_made(made: Iterator[tuple[str, Item]], count: int, what: str) -> Iterator[tuple[str, Item]]:
    """Yield what others make, with its key, and show after each how far they have come.

    Args:
        made: yields a key and what was made, as soon as it is there.
        count: how many there will be.
        what: name of the whole, e.g. "networks".

    Yields:
        The same pairs.
    """
    last = ""
    numbers = track(range(count), what, lambda _: last)
    next(numbers, None)
    for last, item in made:
        yield last, item
        next(numbers, None)


def side_by_side(
    calls: Mapping[Key, Callable[[], Item]], what: str, label: Callable[[Key], str] = str
) -> dict[Key, Item]:
    """Make calls two at a time, and show how far they have come.

    They know the folder of `resume.keep_checkpoints`. If one fails or the run is interrupted, the others end at the
    next `check_stopping`.

    Args:
        calls: what to call, by a key; no call waits for another.
        what: name of the whole, e.g. "training".
        label: key to the words shown.

    Returns:
        What they returned, by the same keys.

    Raises:
        BaseException: the first that a call raised, in the order of `calls`; those not begun are left out.
    """
    pool, stopping = ThreadPoolExecutor(AT_ONCE), threading.Event()

    def within(call: Callable[[], Item]) -> Item:
        _stopping.set(stopping)
        return call()

    try:
        futures = {key: pool.submit(contextvars.copy_context().run, within, call) for key, call in calls.items()}
        return {key: futures[key].result() for key in track(list(calls), what, label)}
    except BaseException:
        stopping.set()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
