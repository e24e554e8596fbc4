"""Time step functions in turn, so that other work of the machine affects all of them alike."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float


def interleaved(
    steps: Sequence[Callable[[], object]], rounds: int, seconds: float
) -> Float[np.ndarray, "steps rounds"]:
    """Run functions in turn, round by round.

    Args:
        steps: each does its work completely before it returns.
        rounds: how often each has its turn.
        seconds: that a turn takes at least, by repetition.

    Returns:
        Seconds a call.
    """
    repeats = []
    for step in steps:
        step()
        started = time.perf_counter()
        step()
        repeats.append(max(1, round(seconds / (time.perf_counter() - started))))
    measured = np.empty((len(steps), rounds))
    for turn in range(rounds):
        for row, (step, count) in enumerate(zip(steps, repeats, strict=True)):
            started = time.perf_counter()
            for _ in range(count):
                step()
            measured[row, turn] = (time.perf_counter() - started) / count
    return measured


def torch_installed() -> bool:
    """Whether PyTorch is installed."""
    return importlib.util.find_spec("torch") is not None
