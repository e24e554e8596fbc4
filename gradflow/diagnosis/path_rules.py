"""Rules about the path of the backward signal: where it vanishes, explodes, or is cut."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from gradflow.diagnosis import remedies, thresholds
from gradflow.diagnosis.book import Book, Entry
from gradflow.diagnosis.finding import Evidence, Finding
from gradflow.diagnosis.measurements import Measurements
from gradflow.instrument import Flow
from gradflow.instrument.layer_flow import LayerFlow

__all__ = ["cut_off", "in_words", "outlying", "path", "severed"]

_INF = math.inf
_CELLS = ("recurrent state",)
_SEVERAL = 3  # layers, of which one can be unlike the others


def path(m: Measurements) -> Iterator[Finding]:
    """A cotangent that vanishes or explodes between the last layer and the first, or over time."""
    book = m.book
    if not book.entries:
        return
    cut = next((e for e in book.entries if e.log10_gain == -_INF), None)
    if cut is not None:
        yield from _cut(cut, m)
        return
    total = book.total - sum(e.log10_gain for e in book.entries if e.cause == "weights" and _from_zero(e, m))
    if thresholds.VANISHED <= total <= thresholds.EXPLODED or math.isnan(total):
        return
    kind, limit = ("vanishing", thresholds.VANISHED) if total < 0 else ("exploding", thresholds.EXPLODED)
    yield _of_path(book, total, kind, limit)


def _from_zero(entry: Entry, m: Measurements) -> bool:
    """Tell whether an entry's weights started from 0, so that their size says nothing yet."""
    owned = [p for p in m.leaves.values() if p.path == entry.where or p.path.startswith(entry.where + "/")]
    return any(p.is_weight and p.norm == 0 for p in owned)


def _of_path(book: Book, total: float, kind: str, limit: float) -> Finding:
    sign = -1 if kind == "vanishing" else 1
    by_cause = sorted(book.by_cause.items(), key=lambda item: -sign * item[1])
    cause = by_cause[0][0]
    time = sum(e.log10_gain for e in book.entries if e.cause == "time" or (e.steps is not None and _shared(book)))
    over_time = cause == "time" or abs(time) > abs(total) / 2
    worst = sorted((e for e in book.entries if e.cause == cause), key=lambda e: sign * -e.log10_gain)
    layers = tuple(dict.fromkeys(e.where for e in worst))
    low, high = (limit, _INF) if kind == "vanishing" else (-_INF, limit)
    evidence = Evidence(f"log10 |dL/d({book.first})| / |dL/d({book.last})|", total, low, high)
    why = book.summary
    if book.expected is not None:
        # Beyond these numbers the weights are not as drawn: trained, or broken.
        why += f" By chance, these widths and activations give {book.expected.low:.1f} to {book.expected.high:.1f}."
    help_ = remedies.against_vanishing(cause, over_time=over_time) if sign < 0 else remedies.AGAINST_EXPLODING
    severity = "severe" if abs(total) < 2 * abs(limit) else "fatal"
    return Finding(kind, severity, layers, (evidence,), why, help_, "likely",  # type: ignore[arg-type]
                   "time" if over_time else "depth")  # fmt: skip


def _shared(book: Book) -> bool:
    return any(word in book.path for word in _CELLS)


def _cut(entry: Entry, m: Measurements) -> Iterator[Finding]:
    """The signal becomes exactly 0 at one place."""
    flushed = "flushed" in entry.remark
    evidence = (
        Evidence(f"norm of the cotangent below {entry.operation} at {entry.where}", 0.0, thresholds.SMALLEST, _INF),
    )
    cause = f"{entry.operation} ({entry.cause}) at {entry.where}: {entry.remark}"
    emptied = [e for e in m.book.entries if e.forward_log10_gain == -_INF and _centres(e)]
    if emptied:
        at = tuple(e.where for e in emptied)
        cause = f"{emptied[-1].operation} at {at[-1]} subtracts all there is: the signal does not vary along its axis"
        yield Finding("batch_norm", "fatal", at, evidence, cause, remedies.AGAINST_CONSTANT_NORMALIZATION, "certain")
    elif flushed:
        yield Finding("underflow", "fatal", (entry.where,), evidence, cause, remedies.AGAINST_FLUSHING, "likely")
    elif entry.cause == "normalization":
        yield Finding("batch_norm", "fatal", (entry.where,), evidence, cause,
                      remedies.AGAINST_CONSTANT_NORMALIZATION, "certain")  # fmt: skip
    elif entry.cause == "activation" and entry.operation not in thresholds.LARGEST_SLOPES:
        yield Finding("dead_units", "fatal", (entry.where,), evidence, cause, remedies.AGAINST_DEATH, "certain")
    else:
        yield Finding("vanishing", "fatal", (entry.where,), evidence, cause,
                      remedies.against_vanishing(entry.cause, over_time=False), "certain")  # fmt: skip


def outlying(book: Book, flow: Flow) -> dict[str, float]:
    """Return the layers whose weights multiply a signal far more than the median layer's, and how many times.

    By the ledger; where its path passes no such layer, by the rms of each layer's output over that of its input.

    Args:
        book: a ledger.
        flow: of the same batch.
    """
    of_path = {e.where: e.log10_gain for e in book.entries if e.cause == "weights"}
    return _far_above_the_median(of_path) or _far_above_the_median({name: _gain(flow[name]) for name in flow.layers})


def _gain(layer: LayerFlow) -> float:
    """Return log10 of the rms of a layer's output over that of its input, of its largest call; NaN without either."""
    with np.errstate(all="ignore"):
        gains = np.log10(np.asarray(layer.output_rms) / np.asarray(layer.input_rms))
    return float(np.max(gains, initial=-_INF, where=np.isfinite(gains))) if layer.kind == "layer" else math.nan


def _far_above_the_median(gains: Mapping[str, float]) -> dict[str, float]:
    finite = {name: gain for name, gain in gains.items() if math.isfinite(gain)}
    if len(finite) < _SEVERAL:
        return {}
    middle = float(np.median(list(finite.values())))
    most = sorted(finite, key=lambda name: -finite[name])
    return {name: 10 ** (finite[name] - middle) for name in most if finite[name] - middle > thresholds.OUTLYING}


def in_words(large: Mapping[str, float]) -> str:
    """Return what to add to a cause: the most outlying layer; "" without one.

    Args:
        large: from `outlying`.
    """
    if not large:
        return ""
    name, times = next(iter(large.items()))
    return f"; the weights of {name} multiply a signal {times:.0f} times as much as those of the median layer"


def _centres(entry: Entry) -> bool:
    """Tell whether an entry takes a mean away: a normalization, also one behind the last layer."""
    ops = entry.operation.split(", ")
    return entry.cause == "normalization" or (entry.cause == "loss" and ops[0] == "reduce_sum" and "sub" in ops)


def cut_off(flow: Flow) -> dict[str, tuple[str, ...]]:
    """Return the layers that no cotangent reaches, with the operations without a derivative behind each.

    Args:
        flow: of a batch.
    """
    return {name: flow[name].cut for name in flow.layers if flow[name].cut and not np.any(flow[name].backward_calls)}


def severed(m: Measurements) -> Iterator[Finding]:
    """Layers behind which an operation without a derivative stands; a stop_gradient is somebody's intention."""
    cut = {name: by for name, by in cut_off(m.flow).items() if set(by) - {"stop_gradient"}}
    if cut:
        by = ", ".join(dict.fromkeys(op for ops in cut.values() for op in ops if op != "stop_gradient"))
        evidence = Evidence("layers that no cotangent reaches", float(len(cut)), 0.0, 0.0)
        cause = f"{by} between them and the loss has no derivative"
        yield Finding("vanishing", "fatal", tuple(cut), (evidence,), cause, remedies.AGAINST_CUTS, "certain", "depth")
