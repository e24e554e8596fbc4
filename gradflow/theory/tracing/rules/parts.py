"""Rules for parts of the units: slices of a signal, and signals put side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jax.extend import core

from gradflow.primitives import RandomFieldRule
from gradflow.theory.tracing.abstract_values import Known, Parts, Signal, Value, gaussians_of
from gradflow.theory.tracing.algebra import FieldAlgebra
from gradflow.theory.tracing.rules.table import shape_of

__all__ = ["apply_to_parts", "cut_of", "joined"]


def joined(values: Sequence[Value], sizes: Sequence[int], axis: int) -> Parts | None:
    """Return signals side by side along their units; None for what is no signal or lies along other axes.

    Args:
        values: signals, or signals side by side.
        sizes: of each along the axis.
        axis: of the units.
    """
    pieces: list[Signal] = []
    shares: list[float] = []
    for value, size in zip(values, sizes, strict=True):
        within = value.pieces if isinstance(value, Parts) else (value,)
        fractions = value.fractions if isinstance(value, Parts) else (1.0,)
        for piece, fraction in zip(within, fractions, strict=True):
            if not isinstance(piece, Signal) or piece.axes[axis : axis + 1] != ("u",):
                return None
            pieces.append(piece)
            shares.append(fraction * size / sum(sizes))
    return Parts(tuple(pieces), tuple(shares))


def cut_of(algebra: FieldAlgebra, value: Signal | Parts, start: int, stop: int, total: int) -> Signal | Parts | None:
    """Return some of the units of a signal; None for a cut across signals that stand side by side.

    Args:
        algebra: that notes their Gaussians.
        value: the signal.
        start: first unit.
        stop: behind the last one.
        total: number of units.
    """
    if isinstance(value, Signal):
        return algebra.part_of(value, start, stop, total)
    kept, sizes = [], []
    for piece, low, high in zip(value.pieces, *_edges(value.fractions, total), strict=True):
        first, last = max(low, start), min(high, stop)
        if first >= last:
            continue
        if not isinstance(piece, Signal):
            return None
        whole = (first, last) == (low, high)
        kept.append(piece if whole else algebra.part_of(piece, first - low, last - low, high - low))
        sizes.append(last - first)
    return kept[0] if len(kept) == 1 else Parts(tuple(kept), tuple(n / sum(sizes) for n in sizes))


def _edges(fractions: Sequence[float], total: int) -> tuple[list[int], list[int]]:
    stops = [round(x) for x in total * np.cumsum(fractions)]
    return [0, *stops[:-1]], stops


def apply_to_parts(
    rule: RandomFieldRule, algebra: FieldAlgebra, eqn: core.JaxprEqn, values: Sequence[Value]
) -> Value | None:
    """Apply a rule to each of the signals that stand side by side; numbers over all units are averaged.

    Args:
        rule: of the primitive.
        algebra: that it computes with.
        eqn: the equation.
        values: its operands; at least one of them stands side by side.
    """
    fractions = next(v.fractions for v in values if isinstance(v, Parts))
    columns = [
        _pieces(algebra, value, fractions, shape_of(atom)) for value, atom in zip(values, eqn.invars, strict=True)
    ]
    outs: list[Value] = []
    for k in range(len(fractions)):
        column = [c[k] for c in columns if c is not None]
        out = rule(algebra, eqn, column) if len(column) == len(columns) else None
        out = out[0] if isinstance(out, list) and len(out) == 1 else out
        if out is None or isinstance(out, list):
            return None
        outs.append(out)
    axes = next((p.axes for v in values if isinstance(v, Parts) for p in v.pieces if isinstance(p, Signal)), ())
    numbers = [o for o in outs if isinstance(o, Known)]
    if eqn.primitive.name == "reduce_sum" and len(numbers) == len(outs) and _crosses(eqn, axes, fractions):
        mean = sum(f * o.array() for f, o in zip(fractions, numbers, strict=True))
        return Known(np.asarray(mean), False, frozenset().union(*(gaussians_of(o) for o in outs)))
    return Parts(tuple(outs), fractions)


def _crosses(eqn: core.JaxprEqn, axes: Sequence[str], fractions: Sequence[float]) -> bool:
    """Whether a sum runs over units of different signals; groups of units may lie within one each."""
    shape, summed = shape_of(eqn.invars[0]), set(eqn.params["axes"])
    units = [k for k, axis in enumerate(axes) if axis == "u"]
    if not summed & set(units):
        return False
    groups = math.prod(shape[k] for k in units if k not in summed)
    return any(abs(groups * edge - round(groups * edge)) > 1e-6 for edge in np.cumsum(fractions))


def _pieces(
    algebra: FieldAlgebra, value: Value, fractions: Sequence[float], shape: Sequence[int]
) -> list[Value] | None:
    """What of an operand meets each of the signals; None where that cannot be told."""
    if isinstance(value, Parts):
        return list(value.pieces) if np.allclose(value.fractions, fractions) else None
    if isinstance(value, Signal) and "u" in value.axes:
        total = math.prod(n for n, axis in zip(shape, value.axes, strict=True) if axis == "u")
        return [algebra.part_of(value, low, high, total) for low, high in zip(*_edges(fractions, total), strict=True)]
    if isinstance(value, Known) and value.exact and value.number() is None and value.is_numeric:
        array = np.asarray(value.value)
        axis = next((k for k in reversed(range(array.ndim)) if array.shape[k] > 1), None)
        if axis is None or any(abs(array.shape[axis] * f - round(array.shape[axis] * f)) > 1e-6 for f in fractions):
            return None
        lows, highs = _edges(fractions, array.shape[axis])
        return [Known(np.take(array, np.arange(low, high), axis)) for low, high in zip(lows, highs, strict=True)]
    return [value] * len(fractions)
