"""A statistic over layers and steps as coloured cells."""

from __future__ import annotations

import dataclasses
import html
import math

import numpy as np

from gradflow.live.reporting.marks import HATCHES, Scale, color, figure_box, legend, number, table, ticks
from gradflow.live.reporting.sources import Run, Statistic

__all__ = ["heat_map"]

_MOST_ROWS, _MOST_COLUMNS, _LETTERS = 120, 80, 36


@dataclasses.dataclass(frozen=True)
class _Cell:
    """One number: that of one layer and step, which stands for a block where there are too many."""

    value: float | None
    layer: str
    step: int


def heat_map(run: Run, statistic: Statistic, scale: Scale, label: str) -> str:
    """Draw a heat map with its colour bar, its legend and the table of its numbers.

    Args:
        run: that has the statistic.
        statistic: to be drawn.
        scale: of the colours.
        label: plain text of the caption.
    """
    cells = _cells(run, statistic)
    many = len(run.layers) > _MOST_ROWS or len(run.steps) > _MOST_COLUMNS
    thinned = (
        f'<p class="note">{len(run.layers)} rows and {len(run.steps)} records are more than fit: neighbours share a '
        "cell. It shows the number that is furthest from the usual one of its layer, NaN and Inf before all others.</p>"
        if many
        else ""
    )
    rows = _blocks(len(run.layers), _MOST_ROWS)
    columns = _blocks(len(run.steps), _MOST_COLUMNS)
    names = [_ends([run.layers[i] for i in block]) for block in rows]
    steps = [_ends([str(run.steps[i]) for i in block]) for block in columns]
    kinds = {scale.state(cell.value, sure=run.tells_absent) for line in cells for cell in line}
    swatches = [(_swatch(kind), words) for kind, words in HATCHES.items() if kind in _hatched(kinds)]
    texts = [
        [name, *(number(c.value, sure=run.tells_absent) for c in line)] for name, line in zip(names, cells, strict=True)
    ]
    bar = _bar(scale) if "number" in kinds else ""  # otherwise its ends would be invented
    below = f"{bar}{legend(swatches)}{thinned}{table(label, ['layer', *(f'step {s}' for s in steps)], texts)}"
    return figure_box(_svg(run, cells, names, steps, scale, label), label, below)


def _blocks(count: int, most: int) -> list[np.ndarray]:
    return np.array_split(np.arange(count), min(count, most))


def _ends(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{words[0]} … {words[-1]}"


def _cells(run: Run, statistic: Statistic) -> list[list[_Cell]]:
    values, absent = run.values[statistic.field], run.absent[statistic.field]
    with np.errstate(all="ignore"):
        shown = np.log10(values) if statistic.log else values
        known = np.where(np.isfinite(shown), shown, np.nan)
        usual = np.array([np.median(x[np.isfinite(x)]) if np.isfinite(x).any() else 0.0 for x in known])
        oddity = np.where(np.isfinite(shown), np.abs(shown - usual[:, None]), np.where(values == 0, 1e300, np.inf))
    oddity = np.where(absent, -1.0, oddity)
    found = []
    for rows in _blocks(len(run.layers), _MOST_ROWS):
        line = []
        for columns in _blocks(len(run.steps), _MOST_COLUMNS):
            at = int(np.argmax(oddity[np.ix_(rows, columns)]))
            row, column = rows[at // len(columns)], columns[at % len(columns)]
            value = None if absent[row, column] else float(values[row, column])
            line.append(_Cell(value, run.layers[row], int(run.steps[column])))
        found.append(line)
    return found


def _svg(run: Run, cells: list[list[_Cell]], names: list[str], steps: list[str], scale: Scale, label: str) -> str:
    wide = max(8.0, min(40.0, 560 / len(steps)))
    high = 18.0 if len(names) <= 40 else 9.0
    left = 12.0 + 7 * min(_LETTERS, max(map(len, names)))
    width, height = left + max(wide * len(steps), 300) + 40, high * len(names) + 34  # 300: room for the words below
    marks = [_rects(line, y * high, left, (wide, high), scale, run.tells_absent) for y, line in enumerate(cells)]
    every = 1 if high > 12 else 2
    for y in range(0, len(names), every):
        short = names[y] if len(names[y]) <= _LETTERS else f"{names[y][:17]}…{names[y][-18:]}"
        marks.append(
            f'<text x="{left - 6}" y="{y * high + high / 2 + 4:.1f}" text-anchor="end">{html.escape(short)}'
            f"<title>{html.escape(names[y])}</title></text>"
        )
    for x in range(0, len(steps), math.ceil(70 / wide)):
        place = left + (x + 0.5) * wide
        marks.append(f'<text x="{place:.1f}" y="{high * len(names) + 14:.1f}" text-anchor="middle">'
                     f"{html.escape(steps[x].partition(' ')[0])}</text>")  # fmt: skip
    column = "one record" if len(steps) == len(run.steps) else "several records"
    marks.append(f'<text x="{left}" y="{height - 4:.1f}">step, {column} a column; the input is at the top</text>')
    words = f"{label}: {len(names)} rows, {len(steps)} columns; the numbers are in the table below"
    return (
        f'<svg role="img" aria-label="{html.escape(words)}" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}">{"".join(marks)}</svg>'
    )


def _rects(line: list[_Cell], top: float, left: float, size: tuple[float, float], scale: Scale, sure: bool) -> str:
    marks = []
    for x, cell in enumerate(line):
        state = scale.state(cell.value, sure=sure)
        marks.append(
            f'<rect x="{left + x * size[0]:.1f}" y="{top:.1f}" width="{size[0]:.1f}" height="{size[1]:.1f}" '
            f"{_fill(state, cell.value, scale)}><title>{html.escape(cell.layer)}, step {cell.step}: "
            f"{number(cell.value, sure=sure)}</title></rect>"
        )
    return "".join(marks)


def _fill(state: str, value: float | None, scale: Scale) -> str:
    if state == "number" and value is not None:
        return f'fill="{color(scale.at(value))}"'
    if state == "absent":
        return 'class="absent"'
    return f'fill="url(#gf-{"inf" if state == "minus" else state})"'


def _hatched(kinds: set[str]) -> set[str]:
    return {"inf" if kind == "minus" else kind for kind in kinds}


def _swatch(kind: str) -> str:
    fill = 'class="absent"' if kind == "absent" else f'fill="url(#gf-{kind})" stroke="#888"'
    return f'<svg width="18" height="14" aria-hidden="true"><rect x="1" y="1" width="16" height="12" {fill}/></svg>'


def _bar(scale: Scale) -> str:
    """Return the colour bar."""
    cells = "".join(f'<rect x="{30 + 4 * k}" y="0" width="4.5" height="12" fill="{color(k / 59)}"/>' for k in range(60))
    texts = "".join(
        f'<text x="{30 + 240 * place:.1f}" y="26" text-anchor="middle">{text}</text>' for place, text in ticks(scale)
    )
    words = "colours, logarithmic" if scale.log else "colours, linear"
    ends = ticks(scale)
    return (
        f'<svg role="img" aria-label="{words}, from {ends[0][1]} to {ends[-1][1]}" width="300" height="30" '
        f'viewBox="0 0 300 30">{cells}{texts}</svg><span class="note">{words}</span>'
    )
