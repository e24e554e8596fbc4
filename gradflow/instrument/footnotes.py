"""Lines under a flow's table: what its numbers do not say."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gradflow.instrument.cells import COLUMNS, NOT_KNOWN
from gradflow.instrument.recorder import ELEMENTWISE_USE
from gradflow.instrument.table_rows import Row

if TYPE_CHECKING:
    from gradflow.instrument.nonfinite import NonfinitePlace
    from gradflow.instrument.views import FlowView

__all__ = ["first_place", "footnotes", "names_and_more"]

_MOST_NAMES = 3
_MANY_ZEROS = 0.1


def footnotes(flow: FlowView, rows: Sequence[Row], began: NonfinitePlace | None) -> list[str]:
    """Return the lines.

    Args:
        flow: of which.
        rows: all rows, those not shown among them.
        began: where NaN or Inf began.
    """
    lines = [_nonfinite(flow, rows, began), _empty(flow), _half(rows), _no_row(flow), _stacked(flow)]
    return [line for line in lines if line]


def first_place(flow: FlowView) -> NonfinitePlace | None:
    """Return where NaN or Inf began, as far as the flow can tell."""
    return flow.first_nonfinite if "nonfinite" in flow.statistics else None


def names_and_more(names: Sequence[str], most: int = _MOST_NAMES) -> str:
    """List the first `most` names, and say how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _nonfinite(flow: FlowView, rows: Sequence[Row], began: NonfinitePlace | None) -> str:
    if began is not None:
        return f"NaN or Inf began: {began}"
    bad = [row.layer.name for row in rows if row.is_nonfinite]
    loss = bool(np.any(np.asarray(flow.loss_nonfinite) > 0))
    if "nonfinite" in flow.statistics or not (bad or loss):
        return ""
    where = names_and_more([*bad, *(["the loss"] if loss else [])])
    return f'NaN or Inf in {where}; statistics="nonfinite" tells where it began'


def _empty(flow: FlowView) -> str:
    if flow.layers:
        return ""
    count = len(flow.parameters)
    return f"no layers: the loss has no contraction with a weight; flow.parameters has {_leaves(count)} with gradients"


def _half(rows: Sequence[Row]) -> str:
    """Say what zeros of float16 may be, what is not known, and what to do about it."""
    flushing = [row for row in rows if row.layer.flushes]
    unknown = [c.title for c in COLUMNS if any(_is_unknown(row, c.field) for row in flushing)]
    zeros = {r.layer.name: r.cells["zero_grad_fraction"].number for r in flushing if "zero_grad_fraction" in r.cells}
    zeros = {name: zero for name, zero in zeros.items() if zero >= _MANY_ZEROS}
    parts = [f"{' and '.join(unknown)} not known"] if unknown else []
    if zeros:
        name = max(zeros, key=zeros.__getitem__)
        parts.append(
            f"zeros are zero or flushed (up to {zeros[name]:.0%}, {name}); scale the loss, by 2^10 say, and look "
            "again: zeros that stay are zeros"
        )
    return f"float16: {'; '.join(parts)}" if parts else ""


def _is_unknown(row: Row, field: str) -> bool:
    return field in row.cells and row.cells[field].words == NOT_KNOWN


def _no_row(flow: FlowView) -> str:
    """List the uses of leaves that have no row, by reason."""
    reasons: dict[str, list[str]] = collections.defaultdict(list)
    for path, why in flow.unseen:
        reasons[why].append(path)
    if not reasons:
        return ""
    parts = []
    for why, paths in reasons.items():
        if why == ELEMENTWISE_USE:
            parts.append(
                f"{_leaves(len(paths))} added to or multiplied with data (biases, scales; see flow.parameters)"
            )
        elif len(paths) <= _MOST_NAMES:
            parts.append(f"{', '.join(paths)}: {why}")
        else:
            parts.append(f"{_leaves(len(paths))} ({names_and_more(paths)}): {why}")
    return f"no row: {'; '.join(parts)}"


def _stacked(flow: FlowView) -> str:
    shape = np.shape(flow.loss_nonfinite)
    if not shape:
        return ""
    return f"{int(np.prod(shape))} stacked flows, of shape {shape}, are averaged; NaN and Inf are counted over all"


def _leaves(count: int) -> str:
    return f"{count} {'leaf' if count == 1 else 'leaves'}"
