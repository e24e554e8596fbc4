"""The table that `print` and a notebook show of a prediction."""

from __future__ import annotations

import math

from gradflow.instrument.html import cell_html, table_html
from gradflow.theory.tracing.layer_prediction import LayerPrediction

__all__ = ["html", "table"]

MOST_ROWS = 60
_TITLES = ("layer", "output", "predicted", "within", "dL/doutput", "predicted", "within")


def table(layers: tuple[LayerPrediction, ...], coverage: tuple[float, float]) -> str:
    """Lay out measured and predicted rms with their bands; outliers are marked, and notes stand below.

    Args:
        layers: of the prediction.
        coverage: share of the layers whose output, and whose gradient, is predicted.
    """
    notes = _notes(layers)
    rows: list[tuple[str, ...]] = [_TITLES]
    marks = [""]
    for layer in _abridged(_chosen(layers)):
        rows.append(("…",) + ("",) * (len(_TITLES) - 1) if layer is None else _row(layer))
        marks.append("" if layer is None else _mark(layer, notes))
    widths = [max(len(row[k]) for row in rows) for k in range(len(_TITLES))]
    lines = []
    for row, mark in zip(rows, marks, strict=True):
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)), mark]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([_head(coverage), *lines, *(f"[{k}] {note}" for k, note in enumerate(notes.values(), 1))])


def html(layers: tuple[LayerPrediction, ...], coverage: tuple[float, float]) -> str:
    """Return the same table for a notebook, outliers in red.

    Args:
        layers: of the prediction.
        coverage: share of the layers whose output, and whose gradient, is predicted.
    """
    notes = _notes(layers)
    lines = []
    for layer in _abridged(_chosen(layers)):
        if layer is None:
            lines.append(f"<tr>{cell_html('…', left=True)}</tr>")
            continue
        texts = (*_row(layer), _mark(layer, notes))
        bad = bool(layer.deviations)
        cells = [cell_html(text, left=k in (0, len(_TITLES)), bad=bad) for k, text in enumerate(texts)]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    below = [f"[{k}] {note}" for k, note in enumerate(notes.values(), 1)]
    return table_html([*_TITLES, ""], lines, below, _head(coverage))


def _head(coverage: tuple[float, float]) -> str:
    forward, backward = coverage
    return f"predicted: outputs of {forward:.0%} of the layers, gradients of {backward:.0%}"


def _notes(layers: tuple[LayerPrediction, ...]) -> dict[str, str]:
    """Return each note once, with how many layers it concerns."""
    named: dict[str, set[str]] = {}
    for layer in layers:
        if layer.note:
            named.setdefault(layer.note, set()).add(layer.name)
    return {note: note + (f" ({len(names)} layers)" if len(names) > 1 else "") for note, names in named.items()}


def _mark(layer: LayerPrediction, notes: dict[str, str]) -> str:
    note = [f"[{list(notes).index(layer.note) + 1}]"] if layer.note else []
    return " ".join([*note, *(f"<- {which} outside its band" for which in layer.deviations)])


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
