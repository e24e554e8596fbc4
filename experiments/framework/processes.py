"""Calls in processes of their own, one a core: for parts that do not depend on each other and that compile for long."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from typing import TypeVar

import jax

__all__ = ["cores", "in_processes", "usable_cores"]

Made = TypeVar("Made")
MOST = 8  # of a process each, which holds programs of its own: .6 GB after a dozen networks
_OPTIMIZATIONS = "jax_disable_most_optimizations"


def usable_cores() -> int:
    """Return on how many cores this process may run; all there are where the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores() -> int:
    """Return on how many cores this process may run, at most `MOST`."""
    return min(MOST, usable_cores())


def in_processes(calls: Mapping[str, Callable[[], Made]], workers: int) -> Iterator[tuple[str, Made]]:
    """Make calls in processes of their own, and yield each with its result as soon as it is there.

    One worker is this process, which makes the calls in order. Otherwise all are begun anew, compile with XLA's
    optimizations if this process does, and end when it ends, however that comes about. JAX's compiled programs are
    forgotten after each call: those of hundreds of calls would fill the memory.

    Args:
        calls: what to call, by a key; can be pickled, and what it returns, too. No call waits for another.
        workers: how many.

    Yields:
        Key and result.

    Raises:
        BaseException: the first that a call raised; calls not begun are left out.
    """
    if min(workers, len(calls)) <= 1:
        yield from ((key, _made(call)) for key, call in calls.items())
        return
    spawn = multiprocessing.get_context("spawn")  # a fork would share JAX's threads, which do not survive it
    pool = ProcessPoolExecutor(min(workers, len(calls)), spawn, _begin, (jax.config.read(_OPTIMIZATIONS),))
    try:
        futures: dict[Future[Made], str] = {pool.submit(_made, call): key for key, call in calls.items()}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BaseException:
        _kill(pool)
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _made(call: Callable[[], Made]) -> Made:
    try:
        return call()
    finally:
        jax.clear_caches()


def _begin(disable_optimizations: bool) -> None:
    """Prepare a worker: an interrupt is for the first process alone, and without that there is nothing to work for."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    jax.config.update(_OPTIMIZATIONS, disable_optimizations)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _kill(pool: ProcessPoolExecutor) -> None:
    """End the workers at once: what they make now is lost anyway."""
    for process in list((getattr(pool, "_processes", None) or {}).values()):
        process.kill()
