"""SIGTERM and Ctrl-C, delayed until a run has saved."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

__all__ = ["Interruption", "defer_signals"]

_DEFERRED = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Which signal has come.

    Attributes:
        received: number of the first signal, 0 for none yet.
    """

    def __init__(self) -> None:
        self.received = 0

    def obey(self) -> None:
        """Do what the signal asked for.

        Raises:
            KeyboardInterrupt: after Ctrl-C.
            SystemExit: with code 143 = 128 + 15 after SIGTERM, as of a process that it ended.
        """
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt
        if self.received:
            raise SystemExit(128 + self.received)


@contextlib.contextmanager
def defer_signals() -> Iterator[Interruption]:
    """Delay the first SIGTERM or Ctrl-C while the block runs; a second Ctrl-C acts at once.

    Outside of the main thread, where signals do not arrive, nothing is changed.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return

    def note(number: int, _: FrameType | None) -> None:
        if interruption.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        interruption.received = interruption.received or number

    before: dict[int, Any] = {number: signal.signal(number, note) for number in _DEFERRED}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            # None stands for one that was not installed from Python, which Python cannot put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
