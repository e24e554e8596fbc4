"""A ledger as a waterfall: each stage's gain as a bar that begins where the one above it ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from gradflow.plots.style import COLORS, styled

if TYPE_CHECKING:
    from gradflow.diagnosis.book import Book, Entry

__all__ = ["waterfall"]

_CAUSES = ("weights", "activation", "normalization", "skip", "time", "other")
_COLORS = dict(zip(_CAUSES, (*COLORS[1:6], "#8A8A8A"), strict=True))
_MOST_BARS = 60


@styled
def waterfall(book: Book, *, title: str = "") -> Figure:
    """Show where the backward signal is lost or gained, from the last layer at the top down to the first.

    A bar is the gain of one entry in decades, and begins where the one above it ends; a thin line is the band that
    theory expects. An entry at which the signal becomes 0, or is not finite, is a mark and its remark. Of a long ledger
    the entries that change most are shown one by one, runs of others as one grey bar.

    Args:
        book: what `gradflow.ledger` returned.
        title: title of the figure; by default the ledger's summary.

    Returns:
        The figure.
    """
    entries = [e for e in book.entries if e.cause != "loss"]
    groups = _grouped(entries)
    figure = Figure(figsize=(7.2, 1.2 + 0.24 * max(4, len(groups))), layout="constrained")
    axes = figure.subplots()
    total, labels = 0.0, []
    for row, group in enumerate(groups):
        gain = math.fsum(e.log10_gain for e in group)
        first = group[0]
        labels.append(f"{first.where}: {first.operation}" if len(group) == 1 else f"{len(group)} more")
        if not math.isfinite(gain):
            axes.plot([total], [row], "x", color="#C00000")
            axes.annotate(first.remark, (total, row), xytext=(6, 0), textcoords="offset points", va="center")
            continue
        color = _COLORS[first.cause] if len(group) == 1 else "#BBBBBB"
        axes.barh(row, gain, left=total, height=0.72, color=color)
        if len(group) == 1 and first.expected is not None:
            axes.plot([total + first.expected.low, total + first.expected.high], [row, row], color="#000000", lw=0.8)
        total += gain
    axes.set_yticks(range(len(groups)), labels)
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.axvline(0, color="#000000", lw=0.8)
    axes.set(xlabel=r"$\log_{10}$ of $|\partial L/\partial$value$|$, relative to the last layer's output")
    axes.use_sticky_edges = False  # bars at the edge would look cut off
    axes.margins(x=0.03)
    axes.autoscale_view(scaley=False)
    handles: list[Artist] = [Patch(color=_COLORS[c], label=c) for c in _CAUSES if any(e.cause == c for e in entries)]
    if any(e.expected is not None for e in entries):
        handles.append(Line2D([], [], color="#000000", lw=0.8, label="expected by theory"))
    if handles:
        axes.legend(handles=handles, loc="best")
    figure.suptitle(title or book.summary, x=0.01, ha="left", fontsize=10)
    return figure


def _grouped(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Return the entries one by one, in a long ledger runs of those that change little together."""
    if len(entries) <= _MOST_BARS:
        return [[e] for e in entries]
    size = {e: abs(e.log10_gain) if math.isfinite(e.log10_gain) else math.inf for e in entries}
    kept = set(sorted(entries, key=lambda e: -size[e])[: _MOST_BARS // 2])
    groups: list[list[Entry]] = []
    for entry in entries:
        if entry in kept or not groups or groups[-1][0] in kept:
            groups.append([entry])
        else:
            groups[-1].append(entry)
    return groups
