"""Rules about a loss that falls at no rate, neither with the user's optimizer nor with Adam."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gradflow.diagnosis import path_rules, remedies, thresholds
from gradflow.diagnosis.book import Book, Entry
from gradflow.diagnosis.finding import Evidence, Finding
from gradflow.diagnosis.measurements import Measurements

__all__ = ["RULES", "bounded", "held_back", "worse_than_nothing"]

_INF = math.inf
_OF_SOFTMAX = 0.5  # norm of its Jacobian where two of its outputs are 1/2
_OF_A_MEAN = ("constant factor", "reduce_sum")


def bounded(m: Measurements) -> Iterator[Finding]:
    """A loss that stands still far above 0, because what lies between the last layer and the loss has reached a bound.

    Two measurements have to agree where Adam ends, with all parameters multiplied by 4: the loss is what it was, and
    one operation behind the last layer is flat. A loss that stands still because nothing more can be known, as with
    soft targets, rises there.
    """
    t, book = m.trial, m.floor_book
    if t is None or t.floor is None or book is None:
        return
    entry = min(_behind(book), key=_relative, default=None)
    if entry is None or not _relative(entry) < thresholds.SATURATED:
        return
    evidence = (
        Evidence("part of the loss that is learned where it stands still", t.learned(t.floor.loss), thresholds.LEARNT,
                 1.0),
        Evidence("relative change of the loss there when all parameters are multiplied by 4", t.floor.change,
                 thresholds.FLAT, _INF),
        Evidence(f"log10 of the rms slope of {entry.operation} there over its largest", _relative(entry),
                 thresholds.SATURATED, 0.0),
    )  # fmt: skip
    cause = (
        f"{entry.operation} between {book.last} and the loss is at its bound, where the loss stands still: the targets "
        "lie beyond it, or what enters is far too large"
    )
    yield Finding("saturation", "fatal", (book.last,), evidence, cause, remedies.AGAINST_BOUNDS, "likely")


def worse_than_nothing(m: Measurements) -> Iterator[Finding]:
    """Outputs so large at the start that no rate brings the loss down to that of a network which knows nothing."""
    t = m.trial
    if t is None or t.floor is None or not t.finite:
        return
    best = min(t.floor.loss, *t.rates.values())
    if t.blank_loss < best and t.blank_loss < thresholds.TRAINED * t.start_loss:
        evidence = Evidence("loss over that with all parameters 0, after the steps at the best rate",
                            best / t.blank_loss, 0.0, 1.0)  # fmt: skip
        cause = "outputs that are far too large, and wrong: unscaled data, or weights that are too large"
        yield Finding("poor_initialization", "severe", (m.book.last,), (evidence,), cause,
                      remedies.AGAINST_LARGE_OUTPUTS, "likely", "depth")  # fmt: skip


def held_back(m: Measurements) -> Iterator[Finding]:
    """Layers behind a stop_gradient, in a network that learns nothing without them.

    A stop_gradient is somebody's intention, and says nothing where the other layers learn.
    """
    t = m.trial
    if t is None or t.floor is None:
        return
    layers = [name for name, by in path_rules.cut_off(m.flow).items() if "stop_gradient" in by]
    if layers:
        evidence = Evidence("part of the loss that is learned at the best rate, Adam's among them",
                            t.learned(min(t.floor.loss, *t.rates.values())), thresholds.LEARNT, 1.0)  # fmt: skip
        cause = "a stop_gradient between them and the loss, and the layers behind it cannot learn alone"
        yield Finding("vanishing", "severe", tuple(layers), (evidence,), cause, remedies.AGAINST_CUTS, "likely",
                      "depth")  # fmt: skip


RULES = (bounded, worse_than_nothing, held_back)


def _relative(entry: Entry) -> float:
    return entry.log10_gain - math.log10(thresholds.LARGEST_SLOPES.get(entry.operation, _OF_SOFTMAX))


def _behind(book: Book) -> list[Entry]:
    """Return the operations behind the last layer, without those of a mean: its sum and its constant factor."""
    entries = [e for e in book.entries if e.cause == "loss" and e.operation not in _OF_A_MEAN]
    return [e for e in entries if not math.isnan(e.log10_gain)]
