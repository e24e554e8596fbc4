"""What a report is made of: files of JSON lines and histories, brought into one form."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int

from gradflow.live.flow_history import FlowHistory
from gradflow.live.jsonl import RunLog, read_jsonl
from gradflow.live.reporting.diagnoses import Judged, judged
from gradflow.live.run_file import file_of

__all__ = ["STATISTICS", "Run", "Source", "Statistic", "read_runs"]

Source: TypeAlias = str | os.PathLike[str] | FlowHistory
_FIX = "Fix: name a file, or a folder of one, that gf.watch(..., writers=[gf.live.Jsonl(path)]) wrote"
SCALARS = {"loss": "loss", "flow/gradient norm": "gradient norm"}


@dataclasses.dataclass(frozen=True)
class Statistic:
    """A statistic that the page shows.

    Attributes:
        field: its key in a history.
        title: heading of its section.
        log: whether its scale is logarithmic. A share is mostly 0, which has no logarithm.
    """

    field: str
    title: str
    log: bool = True


STATISTICS = (
    Statistic("output_rms", "Forward rms"),
    Statistic("output_grad_rms", "Backward rms"),
    Statistic("update_ratio", "Update ratio"),
    Statistic("dead_fraction", "Dead share", log=False),
)


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """One run, as the page needs it.

    Attributes:
        name: told apart from the other runs by it.
        steps: number of each record.
        layers: rows, from the input to the loss.
        values: field of a statistic -> numbers; NaN where `absent`, too.
        absent: field -> where there is no number. A history cannot tell that from NaN; then it is all false.
        tells_absent: whether `absent` was known.
        scalars: title -> numbers over the records; None where there is none.
        events: post-mortems.
        left_out: names of rows that only later records have.
        diagnoses: by step.
        alarms: step and sentence; None where they were not looked for.
    """

    name: str
    steps: Int[np.ndarray, " records"]
    layers: tuple[str, ...]
    values: Mapping[str, Float[np.ndarray, "layers records"]]
    absent: Mapping[str, Bool[np.ndarray, "layers records"]]
    tells_absent: bool
    scalars: Mapping[str, Sequence[float | None]] = dataclasses.field(default_factory=dict)
    events: tuple[Mapping[str, Any], ...] = ()
    left_out: tuple[str, ...] = ()
    diagnoses: tuple[Judged, ...] = ()
    alarms: tuple[tuple[int, str], ...] | None = None

    def has(self, statistic: Statistic) -> bool:
        """Return whether it holds any number, NaN among them, of a statistic; where NaN may be one, true.

        Args:
            statistic: of those that the page shows.
        """
        field = statistic.field
        if field not in self.values or not self.values[field].size:
            return False
        return not bool(self.absent[field].all())


def read_runs(source: Source | Sequence[Source] | Mapping[str, Source]) -> list[Run]:
    """Read one run or several.

    Args:
        source: a path, a history, or several of them; a mapping gives them names.

    Raises:
        FileNotFoundError: if a file is not there.
        ValueError: for a file that `gf.live.Jsonl` did not write, and for a source without a record.
        TypeError: for anything else.
    """
    if isinstance(source, (str, os.PathLike, FlowHistory)):
        source = [source]
    if isinstance(source, Mapping):
        runs = [_run(str(name), _file(one)) for name, one in source.items()]
    elif isinstance(source, Sequence):
        files = [_file(one) for one in source]
        runs = [_run(_name(one, files, k), one) for k, one in enumerate(files)]
    else:
        raise _type_error(source)
    if not runs:
        raise ValueError("report: expected a run, got none. Fix: name a file of gf.live.Jsonl")
    return runs


def _file(source: Source) -> Source:
    """Return the source, of a folder its newest file."""
    if not isinstance(source, (str, os.PathLike)):
        return source
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"report: expected a file of gf.live.Jsonl, got {path}, which is not there. {_FIX}")
    try:
        return file_of(path)
    except ValueError as error:
        raise ValueError(f"report: {error}") from None


def _name(source: Source, sources: Sequence[Source], index: int) -> str:
    """Return the file's name, or as much of its path as tells it apart."""
    if isinstance(source, FlowHistory):
        return "run" if len(sources) == 1 else f"run {index + 1}"
    paths = [Path(s) for s in sources if isinstance(s, (str, os.PathLike))]
    path = Path(source)
    if sum(p == path for p in paths) > 1:
        return f"{path} ({index + 1})"
    if sum(p.stem == path.stem for p in paths) == 1:
        return path.stem
    for count in range(1, len(path.parts)):
        end = path.parts[-count:]
        if sum(p.parts[-count:] == end for p in paths) == 1:
            return "/".join(end)
    return str(path)


def _run(name: str, source: Source) -> Run:
    if isinstance(source, FlowHistory):
        if not len(source.steps):
            raise ValueError(f"report: expected records in {name}, got a history without any")
        values = {field: np.asarray(value, np.float64) for field, value in source.values.items()}
        nowhere = {field: np.zeros(value.shape, bool) for field, value in values.items()}
        return Run(name, np.asarray(source.steps), source.layers, values, nowhere, tells_absent=False)
    if not isinstance(source, (str, os.PathLike)):
        raise _type_error(source)
    path = Path(source)
    try:
        log = read_jsonl(path)
        run = _from_log(name, log)
    except OSError as error:
        raise ValueError(f"report: expected a file that can be read, got {path} ({error})") from None
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        if str(error).startswith("read_jsonl: "):
            raise
        raise ValueError(
            f"report: expected lines of gf.live.Jsonl in {path}, got others ({type(error).__name__}: {error}). Likely "
            f"cause: a file of another tool. {_FIX}"
        ) from None
    if not log.records and not log.events and not log.diagnoses:
        raise ValueError(
            f"report: expected records, got none in {path}. Likely cause: the run was killed before its first record. "
            f"{_FIX}"
        )
    return run


def _from_log(name: str, log: RunLog) -> Run:
    found = {title: [_scalar(r["scalars"].get(tag)) for r in log.records] for tag, title in SCALARS.items()}
    scalars = {title: numbers for title, numbers in found.items() if any(x is not None for x in numbers)}
    history = log.flow or FlowHistory(log.steps, (), {})
    fields = [s.field for s in STATISTICS if s.field in history.values]
    where = {row: k for k, row in enumerate(history.layers)}
    absent = {field: np.ones(history.values[field].shape, bool) for field in fields}
    left_out: dict[str, None] = {}
    for column, lines in enumerate(log.layers):
        for line in lines:
            if line["kind"] not in ("layer", "embedding", "activation"):
                continue
            for index in np.ndindex(np.shape(line["calls"])):
                row = line["name"] + "".join(f"[{i}]" for i in index)
                if row not in where:
                    left_out[row] = None
                    continue
                for field in fields:
                    absent[field][where[row], column] = _entry(line.get(field), index) is None
    values = {field: history.values[field] for field in fields}
    events = tuple({**event, "step": int(event["step"])} for event in log.events)
    diagnoses = tuple(sorted((judged(line) for line in log.diagnoses), key=lambda one: one.step))
    known = [record for record in log.records if "alarms" in record]
    alarms = tuple((int(record["step"]), str(words)) for record in known for words in record["alarms"])
    return Run(
        name, log.steps, history.layers, values, absent, True, scalars, events, tuple(left_out), diagnoses,
        alarms if known else None,
    )  # fmt: skip


def _entry(value: Any, index: tuple[int, ...]) -> Any:
    for i in index:
        if not isinstance(value, list):
            break
        value = value[i]
    return None if isinstance(value, (list, dict)) else value


def _scalar(value: Any) -> float | None:
    return None if value is None else float(value)


def _type_error(source: Any) -> TypeError:
    return TypeError(
        "report: expected a path of a file of gf.live.Jsonl, a gf.live.FlowHistory, or several of them as a list or a "
        f"mapping from names; got {type(source).__name__}"
    )
