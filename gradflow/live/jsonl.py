"""A run as JSON lines: a line a layer and record, a line a record, a line an event. A kill leaves a readable file."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
import warnings
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from gradflow.live.alarms import alarms
from gradflow.live.flow_history import FlowHistory
from gradflow.live.postmortem import PostMortem
from gradflow.live.record import Snapshot
from gradflow.live.summary import layer_update_ratio, scalars, worst_layers
from gradflow.live.writer import Writer

__all__ = ["Assembler", "Jsonl", "RunLog", "Verdict", "read_jsonl"]


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
    are dropped first, so that none stands twice. A run that begins anew keeps the old file beside it, `run.1.jsonl`.

    Args:
        path: of the file; its folder is made.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._file: Any = None
        self._lock = threading.Lock()
        self._waiting: list[dict[str, Any]] = []

    def write_snapshot(self, snapshot: Snapshot) -> None:
        """Append a recorded step.

        Args:
            snapshot: of it.
        """
        step, lines = snapshot.step, []
        for layer in snapshot.flow.to_records(everything=True):
            ratio = _plain(layer_update_ratio(snapshot, layer["name"]))
            lines.append({"line": "layer", "step": step, **layer, "update_ratio": ratio})
        ratios = snapshot.update_ratios
        record: dict[str, Any] = {"line": "record", "step": step, "layers": len(lines)}
        record["scalars"] = {name: _plain(value) for name, value in scalars(snapshot).items()}
        record["worst"], record["alarms"] = worst_layers(snapshot), list(alarms(snapshot))
        record["update_ratios"] = None if ratios is None else {path: _plain(x) for path, x in ratios.items()}
        self._append([*lines, record])

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
            if self._file is None:
                self._waiting.append(line)
                return
        self._append([line])

    def close(self) -> None:
        """Close the file."""
        if self._waiting:
            self._append([])
        if self._file is not None:
            self._file.close()
            self._file = None

    def _append(self, lines: list[dict[str, Any]]) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
            self._write([*waiting, *lines], (lines or waiting)[0]["step"])

    def _write(self, lines: list[dict[str, Any]], first: int) -> None:
        text = "".join(json.dumps(line, allow_nan=False, separators=(",", ":")) + "\n" for line in lines)
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            _make_room(self._path, min(first, lines[0]["step"]))
            self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115
        end = os.fstat(self._file.fileno()).st_size
        data = text.encode()
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError:
            os.ftruncate(self._file.fileno(), end)  # a piece of a line would spoil the next one
            raise


def _make_room(path: Path, step: int) -> None:
    """Drop what the run is about to write again; keep the whole file elsewhere if that is all of it."""
    if not path.exists() or not path.stat().st_size:
        return
    lines = _complete(path)
    kept = [text for text, line in lines if line["step"] < step]
    if lines and not kept:
        number = next(n for n in range(1, 10**6) if not _numbered(path, n).exists())
        path.rename(_numbered(path, number))
        warnings.warn(
            f"gradflow: {path} holds another run, which is kept as {_numbered(path, number).name}",
            RuntimeWarning,
            stacklevel=2,
        )
        return
    beside = path.with_name(path.name + ".part")
    beside.write_text("".join(text + "\n" for text in kept), encoding="utf-8")
    os.replace(beside, path)


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}.{number}{path.suffix}")


class Assembler:
    """Puts the lines of a file together: those of layers count when the line of their record is there."""

    def __init__(self) -> None:
        self._loose: list[tuple[str, dict[str, Any]]] = []

    @property
    def waiting(self) -> int:
        """How many lines of layers wait for that of their record."""
        return len(self._loose)

    def feed(self, text: str) -> list[tuple[str, dict[str, Any]]]:
        """Take a line, and return those that are complete with it, as text and parsed.

        Args:
            text: of the line; what `Jsonl` did not write is left out.
        """
        try:
            line = json.loads(text)
        except ValueError:
            return []
        if not isinstance(line, dict) or "step" not in line:
            return []
        if line.get("line") == "layer":
            self._loose = [*[x for x in self._loose if x[1]["step"] == line["step"]], (text, line)]
            return []
        if line.get("line") != "record":
            return [(text, line)]
        whole, self._loose = self._loose, []
        return [*whole, (text, line)] if line.get("layers") == len(whole) else []


def _complete(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return the lines, as text and parsed, that belong to records that were written to their end."""
    assembler = Assembler()
    texts = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return [line for text in texts for line in assembler.feed(text)]


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
    lines = [line for _, line in _complete(Path(path))]
    if not lines and Path(path).stat().st_size:
        raise ValueError(
            f"read_jsonl: expected lines of gf.live.Jsonl, got none in {path}. Likely cause: another file, or a run "
            "that was killed before its first record"
        )
    by_step: dict[int, list[dict[str, Any]]] = {}
    for line in lines:
        if line["line"] == "layer":
            by_step.setdefault(line["step"], []).append(line)
    records = [line for line in lines if line["line"] == "record"]
    events, diagnoses = (tuple(x for x in lines if x["line"] == kind) for kind in ("event", "diagnosis"))
    return RunLog(tuple(records), tuple(tuple(by_step.get(r["step"], [])) for r in records), events, diagnoses)


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
