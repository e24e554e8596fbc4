"""The results of a run: its last state, curves of exact means, and the flow over layers and steps."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from gradflow import _lookup
from gradflow.live import FlowHistory
from gradflow.training.checkpoints import pack, unpack
from gradflow.training.step import Metrics, TrainState

if TYPE_CHECKING:
    from gradflow.diagnosis import Diagnosis

__all__ = ["Curve", "FitResult", "History", "record"]


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """Means over the course of training; `curve["loss"]` is an array (records,).

    Attributes:
        steps: how many steps were done at the end of each record.
        totals: sums of what is averaged over a record, by name.
        counts: how many these were, by name.
    """

    steps: Int[np.ndarray, " records"]
    totals: dict[str, Float[np.ndarray, " records"]]
    counts: dict[str, Float[np.ndarray, " records"]]

    @property
    def names(self) -> tuple[str, ...]:
        """What was averaged."""
        return tuple(self.totals)

    def __getitem__(self, name: str) -> Float[np.ndarray, " records"]:
        total, count = (_lookup.find("metric", name, of) for of in (self.totals, self.counts))
        return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)

    def last(self) -> dict[str, float]:
        """Return the means of the last record; none if there is none."""
        return {name: float(self[name][-1]) for name in self.names if len(self.steps)}

    def joined(self, later: Curve) -> Curve:
        """Return both, one after the other.

        Args:
            later: records of later steps.
        """
        if not len(self.steps):
            return later
        totals = {name: np.concatenate([old, later.totals[name]]) for name, old in self.totals.items()}
        counts = {name: np.concatenate([old, later.counts[name]]) for name, old in self.counts.items()}
        return Curve(np.concatenate([self.steps, later.steps]), totals, counts)


def record(step: int, metrics: Metrics) -> Curve:
    """Return a curve of one record.

    Args:
        step: steps done at its end.
        metrics: sums and counts, on the host.
    """
    totals = {name: np.asarray(mean.total, np.float32).reshape(1) for name, mean in metrics.items()}
    counts = {name: np.asarray(mean.count, np.float32).reshape(1) for name, mean in metrics.items()}
    return Curve(np.array([step], np.int64), totals, counts)


@dataclasses.dataclass(frozen=True, eq=False)
class FitResult:
    """What `fit` returns.

    Attributes:
        state: after the last step.
        curve: of the training batches, each record over the steps since the one before.
        validation: of the validation data; without records if there are none.
        flow: of the recorded steps, None without a watch.
        seconds_per_step: median over the dispatches of this process that compiled nothing and held no flow; NaN if
            there were none.
        seconds_per_flow: what a step with flow took beyond one without, likewise.
        diagnosis: the latest that was said, of `fit(..., diagnose=True)`; None where there is none.
    """

    state: TrainState
    curve: Curve
    validation: Curve
    flow: FlowHistory | None
    seconds_per_step: float = float("nan")
    seconds_per_flow: float = float("nan")
    diagnosis: Diagnosis | None = None


class History:
    """Curves and flow so far, as they grow."""

    def __init__(self) -> None:
        self._curves: dict[str, list[Curve]] = {"train": [], "validation": []}
        self._flows: list[FlowHistory] = []

    def add(self, kind: str, step: int, metrics: Metrics) -> None:
        """Append a record of metrics.

        Args:
            kind: "train" or "validation".
            step: steps done at its end.
            metrics: sums and counts, on the host.
        """
        self._curves[kind].append(record(step, metrics))

    def add_flow(self, flow: FlowHistory) -> None:
        """Append records of the flow.

        Args:
            flow: of later steps, on the host.
        """
        self._flows.append(flow)

    def first(self) -> dict[str, float]:
        """Return the means over the first record of training; none if there is none."""
        curve = self.curve("train")
        return {name: float(curve[name][0]) for name in curve.names if len(curve.steps)}

    def last(self) -> dict[str, float]:
        """Return the means of the last record, those of validation under "validation ..."."""
        last = {kind: curves[-1] for kind, curves in self._curves.items() if curves}
        named = {"train": "{}", "validation": "validation {}"}
        return {named[kind].format(name): x for kind, curve in last.items() for name, x in curve.last().items()}

    def curve(self, kind: str) -> Curve:
        """Return a curve so far.

        Args:
            kind: "train" or "validation".
        """
        empty = Curve(np.zeros(0, np.int64), {}, {})
        self._curves[kind] = [functools.reduce(Curve.joined, self._curves[kind], empty)]
        return self._curves[kind][0]

    @property
    def flow(self) -> FlowHistory | None:
        """The flow so far."""
        self._flows = [functools.reduce(FlowHistory.joined, self._flows)] if self._flows else []
        return self._flows[0] if self._flows else None

    def to_notes(self) -> dict[str, Any]:
        """Return all of it, JSON-ready and exact."""
        notes: dict[str, Any] = {}
        for kind in self._curves:
            curve = self.curve(kind)
            arrays = {"steps": curve.steps}
            arrays |= {f"total/{name}": x for name, x in curve.totals.items()}
            arrays |= {f"count/{name}": x for name, x in curve.counts.items()}
            notes[kind] = pack(arrays)
        if (flow := self.flow) is not None:
            notes["flow"] = pack({"steps": flow.steps, **{f"value/{name}": x for name, x in flow.values.items()}})
            notes["layers"] = list(flow.layers)
        return notes

    @classmethod
    def from_notes(cls, notes: dict[str, Any]) -> History:
        """Return what `to_notes` was made from.

        Args:
            notes: from `to_notes`.
        """
        history = cls()
        for kind, curves in history._curves.items():
            arrays = unpack(notes[kind])
            totals, counts = _under(arrays, "total/"), _under(arrays, "count/")
            if totals:
                curves.append(Curve(arrays["steps"], totals, counts))
        if "flow" in notes:
            arrays = unpack(notes["flow"])
            history.add_flow(FlowHistory(arrays["steps"], tuple(notes["layers"]), _under(arrays, "value/")))
        return history


def _under(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): x for name, x in arrays.items() if name.startswith(prefix)}
