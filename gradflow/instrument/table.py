"""A flow as a table of text, a small log-scale bar a layer."""

from __future__ import annotations

import dataclasses
import difflib
import math
import shutil
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gradflow.instrument.cells import ABSENT, Column, columns_of, curve
from gradflow.instrument.folding import Fold, choose
from gradflow.instrument.footnotes import first_place, footnotes, names_and_more
from gradflow.instrument.labels import shorten
from gradflow.instrument.statistics import STATISTICS
from gradflow.instrument.table_rows import Row, informative, rows_of, texts

if TYPE_CHECKING:
    from gradflow.instrument.views import FlowView

__all__ = ["MOST_ROWS", "NARROWEST", "Table", "height", "make_table", "render"]

NARROWEST = 60
MOST_ROWS = 40
_BAR, _SMALLEST_BAR = 16, 4
_LABEL = 20
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_LEVELS = "▁▂▃▄▅▆▇█"
_ABSENT, _ZERO, _NONFINITE = "·", "0", "×"


@dataclasses.dataclass(frozen=True)
class Table:
    """What a table shows, before it is laid out.

    Attributes:
        columns: with something to show.
        lines: rows and folds.
        notes: the lines below.
        scale: log10 of the ends of the bars; None where there are none.
    """

    columns: list[Column]
    lines: list[Row | Fold]
    notes: list[str]
    scale: tuple[float, float] | None

    @property
    def signal(self) -> Column | None:
        """The column that folds and bars are about."""
        by_field = {c.field: c for c in self.columns}
        fields = ("output_grad_rms", "weight_grad_rms", "output_rms")
        return next((by_field[f] for f in fields if f in by_field), None)

    def fold_text(self, fold: Fold) -> str:
        """Say what a fold hides."""
        column = self.signal
        return fold.text("{:.1e}", "") if column is None else fold.text("{:.1e}", column.title)


def make_table(flow: FlowView, rows: int | None, sort: str) -> Table:
    """Choose what to show; see `Flow.table` for the arguments."""
    if rows is not None and rows < 2:
        raise ValueError(f"Flow.table(rows=...): expected at least 2 lines, or None for all, got {rows}")
    everything = _sorted(flow, rows_of(flow), sort)
    began = first_place(flow)
    lines = choose(everything, rows, began.name if began else "", forward=sort == "forward")
    grads = [r.cells["output_grad_rms"].number for r in everything if "output_grad_rms" in r.cells]
    positive = [math.log10(g) for g in grads if np.isfinite(g) and g > 0]
    scale = (float(math.floor(min(positive))), float(math.ceil(max(positive)))) if positive else None
    return Table(informative(columns_of(flow), everything), lines, footnotes(flow, everything, began), scale)


def render(flow: FlowView, rows: int | None = MOST_ROWS, sort: str = "forward", width: int | None = None) -> str:
    """Return the table as text; see `Flow.table`."""
    if width is None:
        width = max(NARROWEST, shutil.get_terminal_size().columns)
    elif width < NARROWEST:
        raise ValueError(f"Flow.table(width=...): expected at least {NARROWEST} columns, got {width}")
    table = make_table(flow, rows, sort)
    notes = list(table.notes)
    body = _laid_out(table, width, notes) if table.lines else []
    wrapped = [textwrap.fill(note, width, subsequent_indent="  ", break_on_hyphens=False) for note in notes]
    return "\n".join([*body, *wrapped])


def _laid_out(table: Table, width: int, notes: list[str]) -> list[str]:
    """Return the lines of the table; what has no room in them goes to the notes."""
    rows = [line for line in table.lines if isinstance(line, Row)]
    columns, label_width = _fit(table, rows, width)
    labels = shorten([row.label for row in rows], label_width)
    cells = [["layer", *(c.title for c in columns)]]
    cells += [[label, *texts(row, columns)] for label, row in zip(labels, rows, strict=True)]
    widths = _widths(cells)
    room = width - sum(widths) - 2 * len(widths)
    written = iter(cells[1:])
    out = [_joined(cells[0], widths, _scale_text(table, room))]
    unsaid: dict[str, list[str]] = {}
    for line in table.lines:
        if isinstance(line, Fold):
            out.append("  " + textwrap.shorten(table.fold_text(line), width - 2, placeholder=" …"))
            tails = dict.fromkeys(line.rows, "")
        else:
            tails = {line: _tail(line, table.scale, room)}
            out.append(_joined(next(written), widths, tails[line]))
        for row, tail in tails.items():
            if row.remark and not tail.endswith(row.remark):
                unsaid.setdefault(row.remark, []).append(row.layer.name)
    behind = 1 if notes and notes[0].startswith("NaN") else 0  # where NaN began comes first
    notes[behind:behind] = [f"{remark}: {names_and_more(names)}" for remark, names in unsaid.items()]
    omitted = [c.title for c in table.columns if all(c.field != shown.field for shown in columns)]
    if omitted:
        notes.append(f"no room for: {', '.join(omitted)} (a larger width shows them)")
    return out


def _fit(table: Table, rows: Sequence[Row], width: int) -> tuple[list[Column], int]:
    """Return the columns for which there is room, and the room for labels: bars shrink first, then digits, labels."""
    longest = max([len("layer"), *(len(row.label) for row in rows)])

    def room(columns: list[Column]) -> int:
        lines = [[c.title for c in columns], *(texts(row, columns) for row in rows)]
        return width - sum(_widths(lines)) - 2 * len(columns)

    if room(table.columns) >= longest + _SMALLEST_BAR + 2:
        return table.columns, longest
    columns = [c.compact for c in table.columns]
    while len(columns) > 1 and room(columns) < min(longest, _LABEL):
        columns.remove(max(columns, key=lambda c: c.rank))
    return columns, min(longest, room(columns))


def _widths(lines: Sequence[Sequence[str]]) -> list[int]:
    """Return the width of each column; words reach over the empty cells to their right."""
    widths = [0] * len(lines[0])
    spans = []
    for line in lines:
        for k, text in enumerate(line):
            reach = _reach(line, k)
            if reach == 1:
                widths[k] = max(widths[k], len(text))
            else:
                spans.append((k, reach, len(text)))
    for k, reach, length in spans:
        widths[k] += max(0, length - sum(widths[k : k + reach]) - 2 * (reach - 1))
    return widths


def _reach(line: Sequence[str], k: int) -> int:
    """Return over how many columns a cell reaches."""
    if line[k] not in ("not reached", "not run"):
        return 1
    rest = line[k + 1 :]
    return 1 + next((n for n, text in enumerate(rest) if text != ABSENT), len(rest))


def _joined(cells: Sequence[str], widths: Sequence[int], tail: str) -> str:
    out, k = [cells[0].ljust(widths[0])], 1
    while k < len(cells):
        reach = _reach(cells, k)
        over = sum(widths[k : k + reach]) + 2 * (reach - 1)
        out.append(cells[k].ljust(over) if reach > 1 else cells[k].rjust(over))
        k += reach
    return "  ".join([*out, tail]).rstrip()


def _scale_text(table: Table, room: int) -> str:
    if table.scale is None:
        return ""
    low, high = table.scale
    for text in (f"dL/doutput, 10^{low:g} … 10^{high:g}", f"10^{low:g} … 10^{high:g}", f"1e{low:g}…1e{high:g}"):
        if len(text) <= room:
            return text
    return ""


def _tail(row: Row, scale: tuple[float, float] | None, room: int) -> str:
    """Return the bar of a row and, as far as there is room, its remark."""
    size = min(_BAR, room)
    bar = _bar(row, scale, size) if size >= _SMALLEST_BAR else ""
    if not row.remark:
        return bar
    both = f"{bar} {row.remark}" if bar else row.remark
    return both if len(both) <= room else bar


def _bar(row: Row, scale: tuple[float, float] | None, size: int) -> str:
    cell = row.cells.get("output_grad_rms")
    if cell is None or cell.words:
        return ""
    if row.layer.lengths:
        return "".join(_glyph(number, scale) for number in curve(row.layer, "output_grad_rms", size))
    if scale is None or cell.is_nonfinite or cell.number == 0:
        return ""
    full, rest = divmod(round(height(cell.number, scale) * size * 8), 8)
    return "█" * full + (_EIGHTHS[rest] if rest else "")


def _glyph(number: float | None, scale: tuple[float, float] | None) -> str:
    if number is None:
        return _ABSENT
    if not np.isfinite(number):
        return _NONFINITE
    return _ZERO if number == 0 or scale is None else _LEVELS[round(height(number, scale) * (len(_LEVELS) - 1))]


def height(number: float, scale: tuple[float, float]) -> float:
    """Return where a positive number stands between the ends of a scale, from 0 to 1."""
    low, high = scale
    place = (math.log10(number) - low) / (high - low) if high > low else 1.0
    return min(max(place, 0.0), 1.0)


def _sorted(flow: FlowView, rows: list[Row], sort: str) -> list[Row]:
    if sort == "forward":
        return rows
    field = sort.removeprefix("-")
    known = [c.field for c in columns_of(flow)]
    if field not in known:
        near = difflib.get_close_matches(field, ["forward", *known], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        asked = " was not asked for" if field in STATISTICS else " is unknown"
        raise ValueError(f"Flow.table(sort=...): {sort!r}{asked}{hint} Known here: forward, {', '.join(known)}")
    sign = 1 if sort.startswith("-") else -1

    def key(row: Row) -> tuple[int, float]:
        cell = row.cells[field]
        if cell.words:
            return (2, 0.0)
        return (0, 0.0) if cell.is_nonfinite else (1, sign * cell.number)

    return sorted(rows, key=key)
