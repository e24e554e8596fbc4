"""A run on the terminal: loss, speed, the gradient over depth, and a word when something goes wrong."""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np

from gradflow.live.alarms import alarms
from gradflow.live.postmortem import PostMortem
from gradflow.live.record import Snapshot
from gradflow.live.sparkline import sparkline
from gradflow.live.summary import layer_number
from gradflow.live.writer import Writer

__all__ = ["Progress"]

_SECONDS = 10.0  # from one plain line to the next


class Progress(Writer):
    """Shows a run on standard error: a panel of `rich` on a terminal, else a line every ten seconds.

    Steps a second are counted from record to record.
    """

    def __init__(self) -> None:
        self._live: Any = None
        self._last: tuple[int, float] | None = None
        self._said = -_SECONDS
        self._event = ""

    def write_snapshot(self, snapshot: Snapshot) -> None:
        """Show a recorded step.

        Args:
            snapshot: of it.
        """
        now = time.monotonic()
        speed = ""
        if self._last is not None and snapshot.step > self._last[0]:
            speed = f"{(snapshot.step - self._last[0]) / max(now - self._last[1], 1e-9):.3g} steps/s"
        self._last = snapshot.step, now
        loss = "" if snapshot.loss is None else f"loss {snapshot.loss:.4g}"
        head = "  ".join(filter(None, [f"step {snapshot.step}", loss, speed]))
        self._show([head, f"gradient {_profile(snapshot)}", *alarms(snapshot), *filter(None, [self._event])])

    def write_postmortem(self, postmortem: PostMortem) -> None:
        """Show an event, from now on.

        Args:
            postmortem: of it.
        """
        self._event = postmortem.sentence
        if self._live is None:
            print(self._event, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the last panel on the terminal."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _show(self, lines: list[str]) -> None:
        if not sys.stderr.isatty():
            now = time.monotonic()
            if now - self._said >= _SECONDS:
                self._said = now
                print("  ".join(lines), file=sys.stderr, flush=True)
            return
        from rich.console import Console
        from rich.live import Live
        from rich.panel import Panel
        from rich.text import Text

        panel = Panel(Text("\n".join(lines)), title="gradflow", expand=False)
        if self._live is None:
            self._live = Live(panel, console=Console(stderr=True), auto_refresh=False)
            self._live.start()
        self._live.update(panel, refresh=True)


def _profile(snapshot: Snapshot) -> str:
    numbers = [layer_number(snapshot.flow[name], "output_grad_rms") for name in snapshot.flow.layers]
    known = [x for x in numbers if x is not None]
    return sparkline(np.array(known, np.float64)) if known else "of no layer"
