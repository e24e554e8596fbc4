"""A run as JSON lines: a line a layer and record, a line a record, a line an event. A kill leaves a readable file."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from gradflow.live.alarms import alarms
from gradflow.live.flow_history import FlowHistory
from gradflow.live.line_file import LineFile, complete_lines
from gradflow.live.postmortem import PostMortem
from gradflow.live.record import Snapshot
from gradflow.live.summary import layer_update_ratio, scalars, worst_layers
from gradflow.live.writer import Writer

__all__ = ["Jsonl", "RunLog", "Verdict", "read_jsonl"]


@runtime_checkable
class Verdict(Protocol):
    """What `gf.diagnose` returns, as far as it is written."""

    def to_json(self) -> str:
        """Return findings and ledger as JSON."""


class Jsonl(Writer):
    """Writes a run to a file of JSON lines, each with the key `step`.

    `"line": "layer"`: what `LayerFlow.to_record` gives, and `update_ratio`; one for each layer, input, carry and tap.
    `"line": "record"`: after those of its step, with their number as `layers`: the numbers of
    `gradflow.live.summary.scalars` as `scalars`, the names of `worst_layers` as `worst`, the sentences of
    `gradflow.live.alarms` as `alarms`, `update_ratios` leaf by leaf.
    `"line": "event"`: a post-mortem, as `PostMortem.to_record` gives it. `"line": "diagnosis"`: what `write_diagnosis`
    is given, as its `to_json` has it. NaN and Inf are strings, a number that is not there is null.

    A record goes to the file in one piece. A run that goes on from a checkpoint continues the file: steps from there on
    are dropped first, so that none stands twice; the same where a running loop goes back, whose events stay. A run that
    begins anew keeps the old file beside it, `run.1.jsonl`, and one that finds its file in use takes such a name.

    Args:
        path: of the file; its folder is made.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = LineFile(Path(path))
        self._last: int | None = None
        self._lock = threading.Lock()
        self._waiting: list[dict[str, Any]] = []

    def write_snapshot(self, snapshot: Snapshot) -> None:
        """Append a recorded step.

        Args:
            snapshot: of it.
        """
        step, lines = int(snapshot.step), []
        for layer in snapshot.flow.to_records(everything=True):
            ratio = _plain(layer_update_ratio(snapshot, layer["name"]))
            lines.append({"line": "layer", "step": step, **layer, "update_ratio": ratio})
        ratios = snapshot.update_ratios
        record: dict[str, Any] = {"line": "record", "step": step, "layers": len(lines)}
        record["scalars"] = {name: _plain(value) for name, value in scalars(snapshot).items()}
        record["worst"], record["alarms"] = worst_layers(snapshot), list(alarms(snapshot))
        record["update_ratios"] = None if ratios is None else {path: _plain(x) for path, x in ratios.items()}
        if self._last is not None and step <= self._last and self._file.is_open:
            with self._lock:
                self._file.go_back(step, same=step == self._last)
        self._append([*lines, record])
        self._last = step

    def write_postmortem(self, postmortem: PostMortem) -> None:
        """Append an event.

        Args:
            postmortem: of it.
        """
        self._append([{"line": "event", **postmortem.to_record()}])

    def write_diagnosis(self, diagnosis: Verdict, step: int) -> None:
        """Append a diagnosis, from which `gf.report` draws ledger and verdict over training; from any thread.

        One that comes before the first record is written with it, or when the file is closed: only a record tells
        where a run goes on.

        Args:
            diagnosis: what `gf.diagnose` returns for the parameters at this step.
            step: number of the next step that is taken with them.
        """
        line = {"line": "diagnosis", "step": int(step), **json.loads(diagnosis.to_json())}
        with self._lock:
            if not self._file.is_open:
                self._waiting.append(line)
                return
        self._append([line])

    def close(self) -> None:
        """Close the file."""
        try:
            if self._waiting:
                self._append([])
        finally:
            self._file.close()

    def _append(self, lines: list[dict[str, Any]]) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
            every = [*waiting, *lines]
            try:
                self._file.append(every, min(every[0]["step"], (lines or waiting)[0]["step"]))
            except OSError:
                self._waiting = [*waiting, *self._waiting]
                raise


@dataclasses.dataclass(frozen=True, eq=False)
class RunLog:
    """A run as `Jsonl` wrote it.

    Attributes:
        records: the lines `"line": "record"`, by step.
        layers: for each of them the lines of its layers, in forward order.
        events: the lines of events.
        diagnoses: the lines of diagnoses.
    """

    records: tuple[dict[str, Any], ...]
    layers: tuple[tuple[dict[str, Any], ...], ...]
    events: tuple[dict[str, Any], ...]
    diagnoses: tuple[dict[str, Any], ...] = ()

    @property
    def steps(self) -> np.ndarray:
        """Numbers of the recorded steps, of shape (records,)."""
        return np.array([record["step"] for record in self.records], np.int64)

    def scalar(self, name: str) -> np.ndarray:
        """Return a scalar over the records, of shape (records,); NaN where it is not there.

        Args:
            name: its tag, such as "loss".
        """
        return np.array([_number(record["scalars"].get(name)) for record in self.records], np.float64)

    @property
    def flow(self) -> FlowHistory | None:
        """Every statistic as an array layer x step, with `update_ratio`; None without records.

        A layer inside a scan has one row a step of it. Rows are those of the first record.
        """
        if not self.records:
            return None
        rows: dict[tuple[str, tuple[int, ...]], int] = {}
        for line in self.layers[0]:
            if line["kind"] in ("layer", "embedding", "activation"):
                rows |= {(line["name"], i): 0 for i in np.ndindex(np.shape(line["calls"]))}
        rows = {key: k for k, key in enumerate(rows)}
        names = [f for f in self.layers[0][0] if f not in _WORDS] if self.layers[0] else []
        values = {name: np.full((len(rows), len(self.records)), np.nan) for name in names}
        for column, lines in enumerate(self.layers):
            for line in lines:
                for name in names:
                    for index in np.ndindex(np.shape(line["calls"])):
                        if (line["name"], index) in rows:
                            value = _at(line.get(name), index)
                            values[name][rows[line["name"], index], column] = _number(value)
        layers = tuple(name + "".join(f"[{i}]" for i in index) for name, index in rows)
        return FlowHistory(self.steps, layers, values)


_WORDS = ("line", "step", "name", "kind", "shape", "dtype", "role", "computed_in", "remarks", "exponent_histogram")


def read_jsonl(path: str | os.PathLike[str]) -> RunLog:
    """Read a file of `Jsonl`, also one of a run that was killed or still goes on.

    Args:
        path: of the file.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it holds nothing that `Jsonl` wrote.
    """
    found, _ = complete_lines(Path(path))
    lines = [line for _, line in found]
    if not lines and Path(path).stat().st_size:
        raise ValueError(
            f"read_jsonl: expected lines of gf.live.Jsonl, got none in {path}. Likely cause: another file, or a run "
            "that was killed before its first record. Fix: name a file that gf.watch(..., "
            "writers=[gf.live.Jsonl(path)]) wrote"
        )
    records, layers = [], []
    own: list[dict[str, Any]] = []
    for line in lines:  # those of a record's layers stand before it
        if line["line"] == "layer":
            own.append(line)
        elif line["line"] == "record":
            records.append(line)
            layers.append(tuple(own))
            own = []
    events, diagnoses = (tuple(x for x in lines if x["line"] == kind) for kind in ("event", "diagnosis"))
    return RunLog(tuple(records), tuple(layers), events, diagnoses)


def _at(value: Any, index: tuple[int, ...]) -> Any:
    for i in index:
        if not isinstance(value, list):
            return value
        value = value[i]
    return value


def _number(value: Any) -> float:
    return float("nan") if value is None or isinstance(value, (list, dict)) else float(value)


def _plain(x: float | None) -> float | str | None:
    if x is None or np.isfinite(x):
        return x
    return "NaN" if np.isnan(x) else "Infinity" if x > 0 else "-Infinity"
