"""The table that `print` shows of a prediction."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradflow.theory.tracing.predict import LayerPrediction, Prediction

__all__ = ["table"]

MOST_ROWS = 60
_TITLES = ("layer", "output", "predicted", "within", "dL/doutput", "predicted", "within")


def table(prediction: Prediction) -> str:
    """Lay out measured and predicted rms with their bands; outliers are marked, and notes stand below.

    Args:
        prediction: the prediction.
    """
    rows: list[tuple[str, ...]] = [_TITLES]
    marks = [""]
    notes = list(dict.fromkeys(prediction.outside.values()))
    for layer in _abridged(_chosen(prediction.layers)):
        if layer is None:
            rows.append(("…",) + ("",) * (len(_TITLES) - 1))
            marks.append("")
            continue
        rows.append(_row(layer))
        note = [f"[{notes.index(layer.note) + 1}]"] if layer.note else []
        marks.append(" ".join([*note, *(f"<- {which} outside its band" for which in layer.deviations)]))
    widths = [max(len(row[k]) for row in rows) for k in range(len(_TITLES))]
    lines = []
    for row, mark in zip(rows, marks, strict=True):
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)), mark]
        lines.append("  ".join(cells).rstrip())
    forward, backward = prediction.coverage
    head = f"predicted: outputs of {forward:.0%} of the layers, gradients of {backward:.0%}"
    return "\n".join([head, *lines, *(_note(prediction, k, note) for k, note in enumerate(notes, 1))])


def _note(prediction: Prediction, number: int, note: str) -> str:
    """A note, with how many layers it concerns."""
    count = len({layer.name for layer in prediction.layers if layer.note == note})
    return f"[{number}] {note}" + (f" ({count} layers)" if count > 1 else "")


def _row(layer: LayerPrediction) -> tuple[str, ...]:
    name = layer.name + "".join(f"[{k}]" for k in layer.step)
    output = (f"{layer.measured_output_rms:.2e}", f"{layer.output_rms:.2e}", f"x{layer.output_band:.2f}")
    if math.isnan(layer.output_rms):
        return (name, "did not run", "", "", "", "", "")
    if math.isnan(layer.output_grad_rms):
        return (name, *output, "not reached", "", "")
    gradient = (
        ("measured", "") if layer.anchored else (f"{layer.output_grad_rms:.2e}", f"x{layer.output_grad_band:.2f}")
    )
    return (name, *output, f"{layer.measured_output_grad_rms:.2e}", *gradient)


def _chosen(layers: tuple[LayerPrediction, ...]) -> list[LayerPrediction]:
    """All layers outside scans, and of those inside the first, middle and last step."""
    steps: dict[str, list[LayerPrediction]] = {}
    for layer in layers:
        steps.setdefault(layer.name, []).append(layer)
    return [s[k] for s in steps.values() for k in sorted({0, len(s) // 2, len(s) - 1})]


def _abridged(rows: list[LayerPrediction]) -> list[LayerPrediction | None]:
    half = MOST_ROWS // 2
    return list(rows) if len(rows) <= MOST_ROWS else [*rows[:half], None, *rows[-half:]]
