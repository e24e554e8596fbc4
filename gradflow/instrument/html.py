"""A flow as a table of HTML for notebooks: self-contained, readable on a dark and on a light background."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from gradflow.instrument.cells import curve
from gradflow.instrument.folding import Fold
from gradflow.instrument.table import MOST_ROWS, Table, height, make_table
from gradflow.instrument.table_rows import Row, texts

if TYPE_CHECKING:
    from gradflow.instrument.views import FlowView

__all__ = ["cell_html", "curve_svg", "flow_html", "history_html", "table_html"]

_BAR_WIDTH, _BAR_HEIGHT, _POINTS = 96, 14, 48
_BLUE, _RED = "#3b8fd0", "#d9622b"  # both readable on black and on white
_CELL = "padding:1px 8px;text-align:right;white-space:nowrap;border:0"
_LEFT = _CELL.replace("right", "left")


def flow_html(flow: FlowView) -> str:
    """Return the table of a flow; what `Flow.table` says is in it."""
    table = make_table(flow, MOST_ROWS, "forward")
    header = ["layer", *(c.title for c in table.columns)]
    scale = _scale_text(table)
    body = [_line(line, table) for line in table.lines]
    return table_html([*header, scale] if table.lines else [], body, table.notes, repr(flow))


def history_html(title: str, layers: Sequence[str], values: Mapping[str, Float[np.ndarray, "layers records"]]) -> str:
    """Return the table of statistics over training: a curve, the first and the last value of each.

    Args:
        title: the line above.
        layers: label of each row.
        values: statistic -> array layer x record; NaN is drawn as a gap.
    """
    scales = {name: _log_range(array) for name, array in values.items()}
    order = list(range(len(layers)))
    hidden = 0
    if len(layers) > MOST_ROWS:
        half, hidden = MOST_ROWS // 2, len(layers) - MOST_ROWS
        order = [*range(half), *range(len(layers) - half, len(layers))]
    lines = []
    for row in order:
        cells = [cell_html(layers[row], left=True)]
        for name, array in values.items():
            points = _points(array[row])
            ends = dict.fromkeys(f"{v:.1e}" for v in (array[row][:1].tolist() + array[row][-1:].tolist()))
            cells.append(f'<td style="{_LEFT}">{curve_svg(points, scales[name])}</td>')
            cells.append(cell_html(" … ".join(ends), bad=bool(np.isinf(array[row]).any())))
        lines.append(f'<tr style="background:transparent">{"".join(cells)}</tr>')
    header = ["layer", *(heading for name in values for heading in (name, "first … last"))]
    notes = ["gaps: NaN, or no number"] if any(np.isnan(array).any() for array in values.values()) else []
    notes += [f"{hidden} rows in the middle are not shown"] if hidden else []
    return table_html(header, lines, notes, title)


def _points(values: Float[np.ndarray, " records"]) -> list[float | None]:
    """Return at most as many values as a curve can show, means of neighbours; a NaN among them makes a gap."""
    chunks = np.array_split(values, min(_POINTS, len(values))) if len(values) else []
    return [None if np.isnan(chunk).any() else float(chunk.mean()) for chunk in chunks]


def _log_range(values: Float[np.ndarray, "layers records"]) -> tuple[float, float]:
    positive = values[np.isfinite(values) & (values > 0)]
    return (math.log10(positive.min()), math.log10(positive.max())) if positive.size else (0.0, 0.0)


def table_html(header: Sequence[str], lines: Sequence[str], notes: Sequence[str], title: str) -> str:
    """Return a table that scrolls sideways where the screen is narrow.

    Args:
        header: headings as plain text.
        lines: `<tr>` elements.
        notes: lines below, as plain text.
        title: the line above, as plain text.
    """
    heads = "".join(f'<th style="{_LEFT if k == 0 else _CELL}">{html.escape(h)}</th>' for k, h in enumerate(header))
    rule = "border-bottom:1px solid rgba(128,128,128,.5)"
    below = "".join(f'<div style="opacity:.85;max-width:60em">{html.escape(note)}</div>' for note in notes)
    return (
        '<div style="max-width:100%;overflow-x:auto;color:inherit;font-size:90%">'
        f'<div style="opacity:.85">{html.escape(title)}</div>'
        '<table style="border-collapse:collapse;background:transparent;color:inherit;'
        f'font-variant-numeric:tabular-nums"><thead><tr style="background:transparent;{rule}">{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table>{below}</div>"
    )


def cell_html(text: str, *, left: bool = False, bad: bool = False) -> str:
    """Return a `<td>` of plain text, in red where it is bad."""
    style = (_LEFT if left else _CELL) + (f";color:{_RED};font-weight:bold" if bad else "")
    return f'<td style="{style}">{html.escape(text)}</td>'


def curve_svg(values: Sequence[float | None], scale: tuple[float, float]) -> str:
    """Draw a curve of columns: absent values are gaps, what is not positive a line at the bottom, NaN and Inf red.

    Args:
        values: of each point; None where there is none.
        scale: log10 of the lowest and highest number.
    """
    step = _BAR_WIDTH / max(1, len(values))
    marks = []
    for k, value in enumerate(values):
        if value is None:
            continue
        bad = not math.isfinite(value)
        tall = _BAR_HEIGHT if bad else 1 if value <= 0 else 2 + height(value, scale) * (_BAR_HEIGHT - 2)
        marks.append(
            f'<rect x="{k * step:.1f}" y="{_BAR_HEIGHT - tall:.1f}" width="{max(step * 0.9, 0.5):.1f}" '
            f'height="{tall:.1f}" fill="{_RED if bad else _BLUE}"/>'
        )
    return _svg("".join(marks))


def _line(line: Row | Fold, table: Table) -> str:
    if isinstance(line, Fold):
        text = html.escape(table.fold_text(line))
        return (
            f'<tr style="background:transparent"><td colspan="{len(table.columns) + 2}" '
            f'style="{_LEFT};opacity:.75">{text}</td></tr>'
        )
    cells = [cell_html(line.label, left=True)]
    for column, text in zip(table.columns, texts(line, table.columns), strict=True):
        cells.append(cell_html(text, bad=line.cells[column.field].is_nonfinite))
    remark = f" {html.escape(line.remark)}" if line.remark else ""
    cells.append(f'<td style="{_LEFT}">{_bar(line, table.scale)}{remark}</td>')
    return f'<tr style="background:transparent">{"".join(cells)}</tr>'


def _bar(row: Row, scale: tuple[float, float] | None) -> str:
    cell = row.cells.get("output_grad_rms")
    if cell is None or cell.words:
        return ""
    if row.layer.lengths:
        return curve_svg(curve(row.layer, "output_grad_rms", _POINTS), scale or (0.0, 0.0))
    if scale is None or cell.is_nonfinite or cell.number == 0:
        return ""
    long = height(cell.number, scale) * _BAR_WIDTH
    return _svg(f'<rect x="0" y="2" width="{long:.1f}" height="{_BAR_HEIGHT - 4}" fill="{_BLUE}"/>')


def _svg(marks: str) -> str:
    return (
        f'<svg width="{_BAR_WIDTH}" height="{_BAR_HEIGHT}" viewBox="0 0 {_BAR_WIDTH} {_BAR_HEIGHT}" '
        f'style="vertical-align:middle" role="img" aria-label="dL/doutput">{marks}</svg>'
    )


def _scale_text(table: Table) -> str:
    if table.scale is None:
        return ""
    return f"dL/doutput, 1e{table.scale[0]:g} … 1e{table.scale[1]:g}"
