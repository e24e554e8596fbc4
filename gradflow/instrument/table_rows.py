"""Rows of a flow's table: a label, a cell a statistic, and what has to be said of the row in words."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from gradflow.instrument.cells import ABSENT, NOT_KNOWN, Cell, Column, columns_of, summary
from gradflow.instrument.entries import BACKWARD_FIELDS

if TYPE_CHECKING:
    from gradflow.instrument.views import FlowView, LayerView

__all__ = ["Row", "informative", "rows_of", "texts"]

_SIGNALS = ("output_grad_rms", "weight_grad_rms", "output_rms")


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """One row.

    Attributes:
        layer: what it shows.
        label: the name, with kind, role and pass where they say something.
        cells: by field.
        remark: what has to be said of it in words, "" mostly.
        signal: the cell by which rows are compared: dL/d(output) where it was asked for.
    """

    layer: LayerView
    label: str
    cells: Mapping[str, Cell]
    remark: str
    signal: Cell

    @property
    def is_nonfinite(self) -> bool:
        """Whether a cell holds NaN or Inf."""
        return any(cell.is_nonfinite for cell in self.cells.values())

    @property
    def is_unreached(self) -> bool:
        """Whether no cotangent reached it, or it did not run."""
        return any(cell.words in ("not reached", "not run") for cell in self.cells.values())


def rows_of(flow: FlowView) -> list[Row]:
    """Return the rows of all entries, inputs first, then in forward order."""
    names = [*flow.inputs, *(name for name in flow if name not in set(flow.inputs))]
    siblings = {flow[n].innermost_scan for n in flow.layers if flow[n].role != "recurrent"}
    return [_row(flow, flow[name], siblings) for name in names]


def informative(columns: list[Column], rows: list[Row]) -> list[Column]:
    """Leave out columns that say nothing: without a number, means small beside the rms, no underflow at all."""
    out = []
    for column in columns:
        cells = [row.cells[column.field] for row in rows]
        shown = [c for c in cells if c.words != ABSENT]
        if column.field == "output_mean":
            keep = any(_mean_is_large(row) for row in rows)
        elif column.field == "underflow_fraction":
            keep = any(c.is_nonfinite or c.number > 0 for c in shown)
        else:
            keep = any(c.words != NOT_KNOWN for c in shown)
        if keep:
            out.append(column)
    return out


def texts(row: Row, columns: list[Column]) -> list[str]:
    """Write the cells of a row; the same words stand once."""
    out, said = [], set[str]()
    for column in columns:
        cell = row.cells[column.field]
        text = cell.text(column.form)
        # A weight behind a cut has gradient 0 by construction, which is no measurement.
        if column.field.startswith("weight_grad") and row.is_unreached and cell.number == 0:
            text = ABSENT
        repeated = cell.words in said and cell.words != NOT_KNOWN
        said.add(cell.words)
        out.append(ABSENT if repeated and cell.words else text)
    return out


def _row(flow: FlowView, layer: LayerView, siblings: set[tuple[int | None, ...]]) -> Row:
    fields = [c.field for c in columns_of(flow)]
    cells = {field: summary(layer, field) for field in fields}
    signal = next((cells[f] for f in _SIGNALS if f in cells), Cell(np.nan, words=ABSENT))
    return Row(layer, _label(layer, siblings), cells, _remark(flow, layer, cells), signal)


def _label(layer: LayerView, siblings: set[tuple[int | None, ...]]) -> str:
    name = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in layer.name)
    notes = [] if layer.kind in ("layer", "input") else [layer.kind]
    # That a kernel is recurrent says something where another one is not.
    if layer.role and (layer.role != "recurrent" or layer.innermost_scan in siblings):
        notes.append(layer.role)
    if layer.computed_in != "value":
        notes.append(layer.computed_in)
    return f"{name} ({', '.join(notes)})" if notes else name


def _remark(flow: FlowView, layer: LayerView, cells: Mapping[str, Cell]) -> str:
    """Say why numbers are missing, and what a 0 may mean."""
    asked = [f for f in BACKWARD_FIELDS if f in flow.statistics]
    ran, reached = np.asarray(layer.calls) > 0, np.asarray(layer.backward_calls) > 0
    notes = ["reverse scan"] if layer.reverse and layer.reverse[-1] else []
    if 0 < ran.sum() < ran.size:
        notes.append(f"ran in {ran.sum()}/{ran.size} steps")
    notes += _experts(layer)
    if not asked or not ran.any():
        return "; ".join(notes)
    backward = layer.remark(asked[0])
    if backward.startswith("not reached: "):
        notes.append(f"cut by {backward.removeprefix('not reached: ')}")
    elif 0 < reached.sum() < ran.sum():
        notes.append(f"reached in {reached.sum()}/{ran.sum()} steps")
    grad, zero = cells.get("output_grad_rms"), cells.get("zero_grad_fraction")
    if grad is not None and not grad.words and grad.number == 0:
        notes.append(layer.remark("output_grad_rms"))
    elif grad is None and zero is not None and zero.number == 1:
        notes.append(layer.remark("zero_grad_fraction"))
    elif grad is not None and not grad.words and grad.count > 1:
        values = np.asarray(layer.output_grad_rms)[np.broadcast_to(reached, np.shape(layer.output_grad_rms))]
        zeros = int((values == 0).sum())
        if zeros > 1:
            notes.append(f"0 in {zeros}/{grad.count} steps")
    return "; ".join(n for n in notes if n)


def _experts(layer: LayerView) -> list[str]:
    """Say how many groups of a ragged contraction had nothing to do."""
    if not layer.experts:
        return []
    entries = np.asarray(layer.expert_rows)
    idle = int((entries.reshape(-1, entries.shape[-1]).sum(0) == 0).sum())
    return [f"{idle}/{entries.shape[-1]} experts without rows"] if idle else []


def _mean_is_large(row: Row) -> bool:
    mean, rms = row.cells["output_mean"], row.cells.get("output_rms")
    if mean.words:
        return False
    return mean.is_nonfinite or rms is None or not np.isfinite(rms.number) or abs(mean.number) >= 0.1 * rms.number > 0
