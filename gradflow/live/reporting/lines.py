"""Numbers over steps, or over layers, as lines."""

from __future__ import annotations

import dataclasses
import html
import itertools
import math
from collections.abc import Sequence

from gradflow.live.reporting.marks import SIGNS, Scale, figure_box, legend, number, span, table, ticks

__all__ = ["Line", "line_chart", "log_fits"]

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 680, 230, 64, 16, 18, 36
_MOST_POINTS, _MOST_ROWS, _LETTERS = 400, 400, 24
_DASHES = ("", "7 3", "2 3", "8 3 2 3")
_COLORS = 6
_WORDS = {"nan": "NaN", "inf": "infinite", "minus": "minus infinite", "zero": "0: no logarithm", "absent": "no number",
          "unsure": "NaN or no number: a history does not say which"}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        name: for the legend.
        places: where its numbers are.
        labels: what these places are called, as "step 20".
        numbers: None where there is none.
        sure: whether NaN means NaN.
    """

    name: str
    places: Sequence[float]
    labels: Sequence[str]
    numbers: Sequence[float | None]
    sure: bool = True


def log_fits(lines: Sequence[Line]) -> bool:
    """Return whether a logarithmic axis fits: nothing is negative, something positive.

    Args:
        lines: of one chart.
    """
    known = [x for line in lines for x in line.numbers if x is not None and math.isfinite(x)]
    return all(x >= 0 for x in known) and any(x > 0 for x in known)


def line_chart(
    label: str,
    lines: Sequence[Line],
    *,
    below: str,
    scale: Scale | None = None,
    events: Sequence[tuple[float, str]] = (),
) -> str:
    """Draw a chart with its legend and the table of its numbers.

    Args:
        label: plain text of the caption.
        lines: at least one.
        below: what the horizontal axis is.
        scale: vertical; by default that of the numbers.
        events: places on the horizontal axis, and what was there.
    """
    if scale is None:
        scale = span([x for line in lines for x in line.numbers], log=log_fits(lines))
    ends = [p for line in lines for p in line.places] + [p for p, _ in events]
    first, last = min(ends), max(ends)
    first, last = (first, last) if last > first else (first - 0.5, last + 0.5)
    marks, states = [_axes(lines, scale, (first, last), below)], set()
    for place, words in events:
        x = _across(place, first, last)
        marks.append(
            f'<path class="event" d="M{x:.1f} {_TOP}V{_HEIGHT - _BOTTOM}"><title>{html.escape(words)}</title></path>'
        )
    for k, line in enumerate(lines):
        drawn, found = _drawn(line, scale, (first, last), k)
        marks.append(drawn)
        states |= found
    axis = "logarithmic" if scale.log else "linear"
    words = f"{label}, {axis}; {len(lines)} lines; the numbers are in the table below"
    svg = (
        f'<svg role="img" aria-label="{html.escape(words)}" width="{_WIDTH}" height="{_HEIGHT}" '
        f'viewBox="0 0 {_WIDTH} {_HEIGHT}">{"".join(marks)}</svg>'
    )
    entries = [(_line_swatch(k), line.name) for k, line in enumerate(lines)]
    entries += [(f"<b>{SIGNS.get(s, 'gap')}</b>", words) for s, words in _WORDS.items() if s in states]
    entries += [('<b class="event-sign">┆</b>', "spike or other event")] if events else []
    return figure_box(svg, f"{label} ({axis})", legend(entries) + _tables(label, lines))


def _across(place: float, first: float, last: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (place - first) / (last - first)


def _up(share: float) -> float:
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def _axes(lines: Sequence[Line], scale: Scale, ends: tuple[float, float], below: str) -> str:
    marks = []
    known = any(scale.state(x) == "number" for line in lines for x in line.numbers)
    for place, text in ticks(scale) if known else ():  # otherwise they would be invented
        y = _up(place)
        marks.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
        marks.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    longest = max(lines, key=lambda line: len(line.places))
    for k, anchor in ((0, "start"), (-1, "end")) if len(longest.places) > 1 else ((0, "start"),):
        text = longest.labels[k] if len(longest.labels[k]) <= _LETTERS else longest.labels[k][: _LETTERS - 1] + "…"
        x = _across(longest.places[k], *ends)
        marks.append(f'<text x="{x:.1f}" y="{_HEIGHT - 20}" text-anchor="{anchor}">{html.escape(text)}</text>')
    marks.append(f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 4}" text-anchor="middle">{html.escape(below)}</text>')
    return "".join(marks)


def _drawn(line: Line, scale: Scale, ends: tuple[float, float], index: int) -> tuple[str, set[str]]:
    """Return the marks of a line, and what its points are that are no numbers."""
    states = [scale.state(x, sure=line.sure) for x in line.numbers]
    every, pen = max(1, math.ceil(len(states) / _MOST_POINTS)), f"s{index % _COLORS}"
    path, marks, before = [], [], ""
    for k, (place, value, state) in enumerate(zip(line.places, line.numbers, states, strict=True)):
        x, title = _across(place, *ends), ""
        if state != "absent":
            words = f"{line.name}, {line.labels[k]}: {number(value, sure=line.sure)}"
            title = f"<title>{html.escape(words)}</title>"
        if state == "number" and value is not None:
            y = _up(scale.at(value))
            path.append(f"{'L' if before == 'number' else 'M'}{x:.1f} {y:.1f}")
            alone = before != "number" or states[k + 1 : k + 2] != ["number"]
            if alone or k % every == 0:
                marks.append(f'<circle class="{pen}" cx="{x:.1f}" cy="{y:.1f}" r="3">{title}</circle>')
        elif state in SIGNS:
            y = _up(1.0) - 4 if state in ("nan", "inf") else _up(0.0) + 4
            marks.append(
                f'<text class="sign {pen}" x="{x:.1f}" y="{y:.1f}" text-anchor="middle">{SIGNS[state]}{title}</text>'
            )
        before = state
    drawn = f'<path class="line {pen}" stroke-dasharray="{_dashes(index)}" d="{"".join(path)}"/>' if path else ""
    return drawn + "".join(marks), set(states) - {"number"}


def _dashes(index: int) -> str:
    return _DASHES[index % len(_DASHES)]


def _line_swatch(index: int) -> str:
    return (
        f'<svg width="28" height="10" aria-hidden="true"><path class="line s{index % _COLORS}" d="M0 5H28" '
        f'stroke-dasharray="{_dashes(index)}"/></svg>'
    )


def _tables(label: str, lines: Sequence[Line]) -> str:
    """Return one table if all lines have the same places, otherwise one a line."""
    groups = [lines] if len({tuple(line.labels) for line in lines}) == 1 else [[line] for line in lines]
    found = []
    for group in groups:
        count = len(group[0].labels)
        every = max(1, math.ceil(count / _MOST_ROWS))
        chosen = sorted({*range(0, count, every), *(k for line in group for k in _odd(line)), max(count - 1, 0)})
        thinned = f", every {every}th and those that are not finite" if every > 1 else ""
        rows = [[group[0].labels[k], *(number(g.numbers[k], sure=g.sure) for g in group)] for k in chosen if count]
        name = label if len(groups) == 1 else f"{label}, {group[0].name}"
        found.append(table(f"{name}{thinned}", ["", *(line.name for line in group)], rows))
    return "".join(found)


def _odd(line: Line) -> itertools.islice[int]:
    """Return the first places whose number is not finite."""
    bad = (k for k, x in enumerate(line.numbers) if x is not None and not math.isfinite(x))
    return itertools.islice(bad, _MOST_ROWS)
