"""Which rows of a flow's table are shown where there are more than fit: repeated blocks are folded, the worst stay."""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from gradflow.instrument.cells import Cell
from gradflow.instrument.table_rows import Row

__all__ = ["Fold", "choose"]

_NUMBER = re.compile(r"\d+")
_SMALLEST_GROUP = 3


@dataclasses.dataclass(frozen=True)
class Fold:
    """Rows that are not shown.

    Attributes:
        pattern: what their names have in common, a * for the number that differs; "" for rows of many kinds.
        rows: which.
    """

    pattern: str
    rows: tuple[Row, ...]

    def text(self, form: str, title: str) -> str:
        """Say how many there are, the range of their signal, and how many of them are not finite or not reached.

        Args:
            form: of a number of the signal.
            title: of the signal.
        """
        what = f"more like {self.pattern}" if self.pattern else "more rows"
        parts = [f"… {len(self.rows)} {what}"]
        numbers = sorted(r.signal.number for r in self.rows if not r.signal.words and np.isfinite(r.signal.number))
        if numbers:
            ends = dict.fromkeys(Cell(n, 1).text(form) for n in (numbers[0], numbers[-1]))
            parts.append(f"{title} {' … '.join(ends)}")
        for word, count in (
            ("with NaN or Inf", sum(r.is_nonfinite for r in self.rows)),
            ("not reached or not run", sum(r.is_unreached for r in self.rows)),
        ):
            if count:
                parts.append(f"{count} {word}")
        return ", ".join(parts)


def choose(rows: Sequence[Row], limit: int | None, first_bad: str, *, forward: bool) -> list[Row | Fold]:
    """Return the rows to show, in order, with a fold for those that are not.

    Args:
        rows: all of them, in the order asked for.
        limit: how many lines at most, folds included; None for all.
        first_bad: name of the row where NaN or Inf began, "" if there is none.
        forward: whether the order is that of the network; repeated blocks are then folded one by one.
    """
    if limit is None or len(rows) <= limit:
        return list(rows)
    worst = _worst(rows, first_bad)[: limit - 1]
    for pattern_of in (_one_number(rows), _all_numbers) if forward else ():
        groups = _grouped(rows, pattern_of)
        for picks in (_ends_and_extremes, _ends, _first):
            lines = _folded(groups, worst, picks)
            if len(lines) <= limit:
                return lines
    return _cut(rows, worst, limit)


def _worst(rows: Sequence[Row], first_bad: str) -> list[int]:
    """Return the positions of the rows that are shown whatever is folded, the most telling first."""
    bad = [k for k, row in enumerate(rows) if row.is_nonfinite]
    unreached = [k for k, row in enumerate(rows) if row.is_unreached]
    signal = {k: row.signal.number for k, row in enumerate(rows) if np.isfinite(row.signal.number)}
    dead = {k: row.cells["dead_fraction"].number for k, row in enumerate(rows) if "dead_fraction" in row.cells}
    dead = {k: number for k, number in dead.items() if number > 0}
    found = [k for k, row in enumerate(rows) if row.layer.name == first_bad]
    found += bad[:1]
    for numbers, end in ((signal, min), (signal, max), (dead, max)):
        if numbers:
            found.append(end(numbers, key=numbers.__getitem__))
    found += [*unreached[:1], *bad[1:2], *bad[-1:], *unreached[-1:]]
    found += [k for k, row in enumerate(rows) if row.layer.kind == "input"][:1]
    return list(dict.fromkeys(found))


def _one_number(rows: Sequence[Row]) -> Callable[[str], str]:
    """Return a function from names to patterns in which one number is free: the one that makes the largest group."""
    left, chosen = dict.fromkeys(row.layer.name for row in rows), {}
    patterns = {name: _patterns(name) for name in left}
    while left:
        sizes = collections.Counter(p for name in left for p in patterns[name])
        if not sizes:
            break
        # Of equal sizes the first: names list their outermost number first.
        best, size = max(sizes.items(), key=lambda item: item[1])
        if size < _SMALLEST_GROUP:
            break
        members = [name for name in left if best in patterns[name]]
        for name in members:
            chosen[name] = best
            del left[name]
    return lambda name: chosen.get(name, name)


def _patterns(name: str) -> list[str]:
    return [f"{name[: m.start()]}*{name[m.end() :]}" for m in _NUMBER.finditer(name)]


def _all_numbers(name: str) -> str:
    return _NUMBER.sub("*", name)


_Group = tuple[str, list[tuple[int, Row]]]


def _grouped(rows: Sequence[Row], pattern_of: Callable[[str], str]) -> list[_Group]:
    groups: dict[str, list[tuple[int, Row]]] = {}
    for k, row in enumerate(rows):
        groups.setdefault(pattern_of(row.layer.name), []).append((k, row))
    return list(groups.items())


def _folded(
    groups: Iterable[_Group], worst: Sequence[int], picks: Callable[[list[tuple[int, Row]]], set[int]]
) -> list[Row | Fold]:
    lines: list[Row | Fold] = []
    for pattern, members in groups:
        kept = picks(members) | set(worst)
        hidden = tuple(row for k, row in members if k not in kept)
        if len(hidden) < 2:
            lines += [row for _, row in members]
            continue
        lines += [row for k, row in members if k in kept]
        lines.append(Fold(pattern, hidden))
    return lines


def _first(members: list[tuple[int, Row]]) -> set[int]:
    return {members[0][0]}


def _ends(members: list[tuple[int, Row]]) -> set[int]:
    return {members[0][0], members[-1][0]}


def _ends_and_extremes(members: list[tuple[int, Row]]) -> set[int]:
    numbers = {k: row.signal.number for k, row in members if np.isfinite(row.signal.number)}
    extremes = {end(numbers, key=numbers.__getitem__) for end in (min, max)} if numbers else set()
    return _ends(members) | extremes


def _cut(rows: Sequence[Row], worst: Sequence[int], limit: int) -> list[Row | Fold]:
    """Keep the worst, then rows from both ends; one fold stands for the rest."""
    kept = set(worst)
    ends = (k for pair in zip(range(len(rows)), reversed(range(len(rows))), strict=True) for k in pair)
    for k in ends:
        if len(kept) >= limit - 1:
            break
        kept.add(k)
    hidden = tuple(row for k, row in enumerate(rows) if k not in kept)
    gap = next(k for k in range(len(rows)) if k not in kept)
    lines: list[Row | Fold] = [row for k, row in enumerate(rows) if k in kept]
    lines.insert(gap, Fold("", hidden))
    return lines
