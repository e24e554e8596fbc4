"""A file of JSON lines that grows: its last record, and what came before in short."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from gradflow.live.line_file import Assembler

__all__ = ["RunFile", "file_of"]

_KINDS = ("layer", "embedding", "activation")


def file_of(path: Path) -> Path:
    """Return the file of a run: of a folder its newest.

    Args:
        path: of a file or a folder.

    Raises:
        ValueError: if there is none.
    """
    if path.is_dir():
        files = sorted(path.rglob("*.jsonl"), key=lambda file: file.stat().st_mtime)
        if not files:
            raise ValueError(
                f"expected a run, got the folder {path} without a file *.jsonl. Fix: gf.watch(..., "
                f'writers=[gf.live.Jsonl("{path / "run.jsonl"}")])'
            )
        return files[-1]
    if not path.exists():
        raise ValueError(f"expected a file of gf.live.Jsonl or a folder with one, got {path}, which is not there")
    if not path.is_file():
        raise ValueError(f"expected a file of gf.live.Jsonl or a folder with one, got {path}, which is neither")
    return path


class RunFile:
    """Follows a file of `gf.live.Jsonl` while it grows; each part of it is read once.

    Attributes:
        path: of the file.
        record: the last line `"line": "record"`; None as long as there is none.
        layers: the lines of its layers, in forward order.
        events: the lines of events.
        scalars: loss and gradient norm of each record; NaN where the record has none.
        foreign: whether there are whole lines, and none that `Jsonl` wrote.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._begin()

    def _begin(self) -> None:
        self.record: dict[str, Any] | None = None
        self.layers: tuple[dict[str, Any], ...] = ()
        self.events: list[dict[str, Any]] = []
        self.scalars: dict[str, list[float]] = {"loss": [], "flow/gradient norm": []}
        self.foreign = self._found = False
        self._assembler, self._rest = Assembler(), b""
        self._offset, self._file = 0, -1

    def update(self) -> bool:
        """Read what has been added, or the whole of a file that was made anew; return whether anything was.

        Raises:
            OSError: if the file cannot be read.
        """
        with open(self.path, "rb") as file:
            status = os.fstat(file.fileno())
            if status.st_ino != self._file or status.st_size < self._offset:
                self._begin()
                self._file = status.st_ino
            file.seek(self._offset)
            added = file.read()
        self._offset += len(added)
        *whole, self._rest = (self._rest + added).split(b"\n")
        found = [line for text in whole for _, line in self._assembler.feed(text.decode("utf-8", "replace"))]
        self._take(found)
        self._found |= bool(found)
        self.foreign = bool(self._assembler.foreign) and not self._found and not self._assembler.waiting
        return bool(added)

    def _take(self, lines: list[dict[str, Any]]) -> None:
        layers: list[dict[str, Any]] = []
        for line in lines:
            if line["line"] == "layer":
                layers.append(line)
            elif line["line"] == "record":
                self.record = line
                self.layers = tuple(layer for layer in layers if layer.get("kind") in _KINDS)
                layers = []
                for name, numbers in self.scalars.items():
                    numbers.append(_number(line.get("scalars", {}).get(name)))
            elif line["line"] == "event":
                self.events.append(line)

    def profile(self, field: str) -> Float[np.ndarray, " layers"]:
        """Return a number for each layer of the last record, in forward order; layers without one are left out.

        Of a layer inside a scan it is the root mean square over its steps, or the mean of shares and ratios.

        Args:
            field: a statistic.
        """
        found = [_over_steps(line.get(field), rms=field.endswith("_rms")) for line in self.layers]
        return np.array([x for x in found if x is not None], np.float64)


def _over_steps(value: Any, *, rms: bool) -> float | None:
    numbers = np.array(list(_flat(value)), np.float64)
    if not numbers.size:
        return None
    largest = float(np.max(np.abs(numbers)))
    if not rms or not math.isfinite(largest) or largest == 0:
        return float(numbers.mean())
    return largest * math.sqrt(float(np.mean(np.square(numbers / largest))))


def _flat(value: Any) -> Any:
    if isinstance(value, list):
        for one in value:
            yield from _flat(one)
    elif value is not None:
        yield _number(value)


def _number(value: Any) -> float:
    """Return a number of the file, in which NaN and Inf are words."""
    try:
        return math.nan if value is None else float(value)
    except (TypeError, ValueError):
        return math.nan
