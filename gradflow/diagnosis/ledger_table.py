"""A ledger as a sentence and as a table of text."""

from __future__ import annotations

import math
import shutil
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gradflow.instrument.footnotes import names_and_more
from gradflow.instrument.labels import shorten

if TYPE_CHECKING:
    from gradflow.diagnosis.book import Book, Entry

COLUMNS = ("cause", "where", "operation", "gain", "so far", "expected", "forward")
_NARROWEST = 60
_MOST_NAMES = 4
_SMALL = 0.05  # decades: below this a cause is not named
_OWNERS = {
    "weights": "the weights'",
    "activation": "the activations'",
    "normalization": "the normalizations'",
    "skip": "the skip connections'",
    "time": "the steps through time",
    "other": "other operations'",
}
_NAMES = {name: owner.removesuffix("'") for name, owner in _OWNERS.items()}


def sentence(book: Book) -> str:
    """Say how many decades are lost or gained between the last layer and the first, and by what."""
    if not book.entries or (math.isnan(book.total) and not any(e.remark for e in book.entries)):
        return f"Nothing to follow: {book.path}."
    odd = next((e for e in book.entries if e.remark), None)
    if odd is not None:
        return f"{odd.operation} ({odd.cause}) at {odd.where}: {odd.remark}."
    kind = "lost" if book.total < 0 else "gained"
    size = abs(book.total)
    sums = {c: g for c, g in sorted(book.by_cause.items(), key=lambda item: -abs(item[1])) if abs(g) >= _SMALL}
    if size < _SMALL and not sums:
        return f"Between {book.last} and {book.first} nothing is lost or gained (less than {_SMALL} decades)."
    if size >= _SMALL and all((g < 0) == (book.total < 0) for g in sums.values()):
        parts = [f"{abs(g):.1f} {'are ' if k == 0 else ''}{_OWNERS[c]}" for k, (c, g) in enumerate(sums.items())]
        return f"Of {size:.1f} decades {kind}, {', '.join(parts)}."
    parts = [f"{_NAMES[c]} {g:+.1f}" for c, g in sums.items()]
    if size < _SMALL:
        return f"In total less than {_SMALL} decades lost or gained: {', '.join(parts)}."
    return f"{size:.1f} decades {kind}: {', '.join(parts)}."


def render(book: Book, width: int | None, rows: int | None) -> str:
    """Return the table; see `Book.table`."""
    if width is None:
        width = max(_NARROWEST, shutil.get_terminal_size().columns)
    elif width < _NARROWEST:
        raise ValueError(f"Book.table(width=...): expected at least {_NARROWEST} columns, got {width}")
    if rows is not None and rows < 2:
        raise ValueError(f"Book.table(rows=...): expected at least 2 lines, or None for all, got {rows}")
    shown, hidden = chosen(book.entries, rows)
    lines = [list(COLUMNS)]
    so_far = running(book)
    for entry in shown:
        lines.append(cells(entry, so_far[entry]))
    out = _laid_out(lines, width) if shown else []
    if hidden:
        gain = math.fsum(e.log10_gain for e in hidden if math.isfinite(e.log10_gain))
        out.append(f"  … {len(hidden)} more entries, together {gain:+.2f}")
    return "\n".join([*out, *(textwrap.fill(note, width, subsequent_indent="  ") for note in notes(book))])


def chosen(entries: Sequence[Entry], rows: int | None) -> tuple[list[Entry], list[Entry]]:
    """Return the entries to show, in order, and those to leave out: the ones that change least."""
    if rows is None or len(entries) <= rows:
        return list(entries), []
    size = {e: math.inf if e.remark or math.isnan(e.log10_gain) else abs(e.log10_gain) for e in entries}
    kept = set(sorted(entries, key=lambda e: -size[e])[: rows - 1])
    return [e for e in entries if e in kept], [e for e in entries if e not in kept]


def running(book: Book) -> dict[Entry, float]:
    """Return the sum of the gains down to each entry, from the last layer's output on; NaN within the loss."""
    out, total = {}, 0.0
    for entry in book.entries:
        if entry.cause != "loss":
            total += entry.log10_gain
        out[entry] = math.nan if entry.cause == "loss" else total
    return out


def cells(entry: Entry, so_far: float) -> list[str]:
    """Write an entry."""
    band = entry.expected
    mark = " !" if entry.beyond_chance else ""
    steps = "" if entry.steps is None or len(entry.steps) < 2 else f" x{len(entry.steps)}"
    return [
        entry.cause,
        entry.where,
        entry.operation + steps,
        entry.remark if math.isnan(entry.log10_gain) else _decades(entry.log10_gain),
        "" if math.isnan(so_far) else _decades(so_far),
        "" if band is None else f"{band.low:+.2f} … {band.high:+.2f}{mark}",
        "" if math.isnan(entry.forward_log10_gain) else _decades(entry.forward_log10_gain),
    ]


def _decades(x: float) -> str:
    """Write a number of decades; what rounds to 0 has no sign of a loss."""
    return f"{x:+.2f}".replace("-0.00", "+0.00")


def notes(book: Book) -> list[str]:
    """Return the lines below a table."""
    out = [book.summary, f"Path: {book.path}. Gains are log10 of norms; ! is outside of what theory expects by chance."]
    for entry in book.entries:
        if entry.shares:
            parts = ", ".join(f"{name} {round(100 * share) + 0} %" for name, share in entry.shares.items())
            out.append(f"{entry.where}: dL/d(its input) is {parts}")
    by_reason: dict[str, list[str]] = {}
    for name, why in book.aside.items():
        by_reason.setdefault(why, []).append(name)
    for why, names in by_reason.items():
        out.append(f"not on the path ({why}): {names_and_more(names, _MOST_NAMES)}")
    return out


def _laid_out(lines: list[list[str]], width: int) -> list[str]:
    """Set columns side by side: without the last ones, then with shorter words, where there is no room."""
    order = list(range(len(lines[0])))
    for gone in (6, 5, 4):
        if _total([[line[k] for k in order] for line in lines]) <= width:
            break
        order.remove(gone)
    lines = [[line[k] for k in order] for line in lines]
    while (over := _total(lines) - width) > 0:
        widths = [max(len(line[k]) for line in lines) for k in range(3)]
        k = max(range(3), key=widths.__getitem__)
        limit = max(widths[k] - over, 6, sorted(widths)[1])
        if limit >= widths[k]:
            limit = widths[k] - 1
        distinct = list(dict.fromkeys(line[k] for line in lines))
        short = dict(zip(distinct, shorten(distinct, limit), strict=True))
        lines = [[short[text] if j == k else text for j, text in enumerate(line)] for line in lines]
    widths = [max(len(line[k]) for line in lines) for k in range(len(order))]
    out = []
    for line in lines:
        padded = [t.ljust(w) if k < 3 else t.rjust(w) for k, (t, w) in enumerate(zip(line, widths, strict=True))]
        out.append("  ".join(padded).rstrip())
    return out


def _total(lines: list[list[str]]) -> int:
    count = len(lines[0])
    return sum(max(len(line[k]) for line in lines) for k in range(count)) + 2 * (count - 1)


__all__ = ["COLUMNS", "cells", "chosen", "notes", "render", "running", "sentence"]
