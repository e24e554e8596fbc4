"""Rules for what moves entries and changes none: copies, casts, reshapes, slices and concatenations."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax.extend import core

from gradflow.primitives import IDENTITIES
from gradflow.theory.tracing.abstract_values import (
    Axes,
    BatchMean,
    Data,
    Known,
    Padded,
    Parts,
    Piece,
    Series,
    Signal,
    Value,
    axes_of,
    identity_of,
)
from gradflow.theory.tracing.algebra import FieldAlgebra
from gradflow.theory.tracing.likeness import lost
from gradflow.theory.tracing.rules.elementwise import elementwise
from gradflow.theory.tracing.rules.graphs import gathered_nodes, into_nodes
from gradflow.theory.tracing.rules.parts import cut_of, joined
from gradflow.theory.tracing.rules.table import random_field_rule, shape_of

__all__ = [
    "as_numbers",
    "broadcast",
    "cast",
    "concatenate",
    "copy",
    "gather",
    "move",
    "pad",
    "reshaped_axes",
    "slice_of",
    "split",
    "with_gradient_factor",
]


@random_field_rule(IDENTITIES - {"convert_element_type"})
def copy(algebra: FieldAlgebra, eqn: core.JaxprEqn, values: Sequence[Value]) -> list[Value]:
    """Hand the operands on."""
    return list(values[: len(eqn.outvars)])


@random_field_rule("convert_element_type")
def cast(algebra: FieldAlgebra, eqn: core.JaxprEqn, values: Sequence[Value]) -> Value | list[Value] | None:
    """Hand a number on in another precision; what becomes an integer or a truth value is computed anew."""
    value = values[0]
    if jnp.issubdtype(eqn.params["new_dtype"], jnp.floating):
        return as_numbers(value) if isinstance(value, Signal) else value
    return elementwise(algebra, eqn, values)


def as_numbers(signal: Signal) -> Signal:
    """Return a signal whose truth values are 0 and 1."""
    components = {
        g: dataclasses.replace(c, value=np.asarray(c.value, np.float64)) for g, c in signal.components.items()
    }
    return dataclasses.replace(signal, components=components)


@random_field_rule(["expand_dims", "reshape", "rev", "squeeze", "transpose"])
def move(algebra: FieldAlgebra, eqn: core.JaxprEqn, values: Sequence[Value]) -> Value | None:
    """Keep all entries, under another shape or in another order."""
    value = values[0]
    if isinstance(value, BatchMean) and value.pooled is not None:
        pooled = _moved(value.pooled, eqn)
        return dataclasses.replace(value, pooled=pooled) if isinstance(pooled, Signal) else None
    if isinstance(value, (Known, BatchMean)):
        return value
    return None if isinstance(value, Padded) else _moved(value, eqn)


def _moved(value: Value, eqn: core.JaxprEqn) -> Value | None:
    name = eqn.primitive.name
    axes = axes_of(value.signal if isinstance(value, Piece) else value)
    if name == "rev" and "t" in axes:
        return None
    if axes and name == "transpose":
        axes = tuple(axes[k] for k in eqn.params["permutation"])
    elif axes and name != "rev":
        moved = reshaped_axes(axes, shape_of(eqn.invars[0]), shape_of(eqn.outvars[0]))
        if moved is None:
            return None
        axes = moved
    return _with_axes(value, axes)


@random_field_rule("broadcast_in_dim")
def broadcast(algebra: FieldAlgebra, eqn: core.JaxprEqn, values: Sequence[Value]) -> Value | None:
    """Repeat entries; the gradients of the copies of a signal add up in it."""
    value = values[0]
    if isinstance(value, BatchMean) and value.pooled is not None:
        pooled = _repeated(algebra, value.pooled, eqn)
        return dataclasses.replace(value, pooled=pooled) if isinstance(pooled, Signal) else None
    if isinstance(value, (Known, BatchMean)):
        return value
    return None if isinstance(value, Padded) else _repeated(algebra, value, eqn)


def _repeated(algebra: FieldAlgebra, value: Value, eqn: core.JaxprEqn) -> Value | None:
    axes = axes_of(value.signal if isinstance(value, Piece) else value)
    shape = shape_of(eqn.outvars[0])
    if axes:
        placed = dict(zip(eqn.params["broadcast_dimensions"], axes, strict=True))
        axes = tuple(placed.get(k, "1") for k in range(len(shape)))
    old = dict(zip(eqn.params["broadcast_dimensions"], shape_of(eqn.invars[0]), strict=True))
    return algebra.repeated(_with_axes(value, axes), [old.get(k, 1) for k in range(len(shape))], shape)


def with_gradient_factor(signal: Signal, factor: float) -> Signal:
    """Return a signal whose mean square gradient is multiplied by a factor on the way down."""
    components = {g: dataclasses.replace(c, slope=math.sqrt(factor) * c.slope) for g, c in signal.components.items()}
    return dataclasses.replace(signal, components=components)


def _with_axes(value: Value, axes: Axes) -> Value | None:
    if isinstance(value, Piece):
        return dataclasses.replace(value, signal=dataclasses.replace(value.signal, axes=axes))
    return dataclasses.replace(value, axes=axes) if isinstance(value, (Signal, Series)) else None


def reshaped_axes(axes: Axes, old: Sequence[int], new: Sequence[int]) -> Axes | None:
    """Return what the axes hold after a reshape; None where units and examples would be mixed or steps be cut.

    Args:
        axes: of the array before.
        old: its shape.
        new: its shape afterwards.
    """
    labels = [(a, n) for a, n in zip(axes, old, strict=True) if n != 1]
    out, at = [], 0
    targets = [n for n in new if n != 1]
    position = 0
    while position < len(targets):
        # The shortest runs of old and new axes that hold equally many entries.
        before, after, first, start = 1, 1, at, position
        while before != after or at == first:
            if before <= after:
                if at == len(labels):
                    return None
                before, at = before * labels[at][1], at + 1
            else:
                if position == len(targets):
                    return None
                after, position = after * targets[position], position + 1
        held = {a for a, _ in labels[first:at]}
        count = position - start
        if "t" in held and (len(held) > 1 or count != 1 or at - first != 1):
            return None
        if count > 1 and len(held) > 1:
            return None
        out.extend(["u" if "u" in held else next(iter(sorted(held)))] * count)
    rest = iter(out)
    return tuple("1" if n == 1 else next(rest) for n in new)


@random_field_rule("slice")
def slice_of(algebra: FieldAlgebra, eqn: core.JaxprEqn, values: Sequence[Value]) -> Value | None:
    """Take one step of a series, or examples and positions of a signal that keeps all its units."""
    value, old, new = values[0], shape_of(eqn.invars[0]), shape_of(eqn.outvars[0])
    if isinstance(value, Series):
        return _step_of(value, eqn)
    if isinstance(value, (Parts, Signal)) and (cut := _units_of(algebra, value, eqn)) is not None:
        return cut
    if not isinstance(value, Signal) or len(value.axes) != len(old):
        return None
    if any(a != "e" and m != n for a, m, n in zip(value.axes, old, new, strict=True)):
        return None
    return Piece(value, math.prod(old))


def _units_of(algebra: FieldAlgebra, value: Signal | Parts, eqn: core.JaxprEqn) -> Value | None:
    """Some units of a signal, all of its examples; None for another slice."""
    old, starts, stops = shape_of(eqn.invars[0]), eqn.params["start_indices"], eqn.params["limit_indices"]
    axes = value.axes if isinstance(value, Signal) else _unit_axes(value)
    cut = [k for k in range(len(old)) if (starts[k], stops[k]) != (0, old[k])]
    strides = eqn.params["strides"] or (1,) * len(old)
    if len(cut) != 1 or axes[cut[0] : cut[0] + 1] != ("u",) or strides[cut[0]] != 1:
        return None
    out = cut_of(algebra, value, starts[cut[0]], stops[cut[0]], old[cut[0]])
    if isinstance(out, Signal) and stops[cut[0]] - starts[cut[0]] == 1:
        out = dataclasses.replace(out, axes=tuple("1" if k == cut[0] else a for k, a in enumerate(out.axes)))
    return out


def _unit_axes(parts: Parts) -> Axes:
    return next((p.axes for _, p in parts.signals), ())


@random_field_rule("split")
def split(algebra: FieldAlgebra, eqn: core.JaxprEqn, values: Sequence[Value]) -> list[Value] | None:
    """Cut a signal into stretches of units."""
    value, axis = values[0], eqn.params["axis"]
    axes = value.axes if isinstance(value, Signal) else _unit_axes(value) if isinstance(value, Parts) else ()
    if not isinstance(value, (Parts, Signal)) or axes[axis : axis + 1] != ("u",):
        return None
    stops = np.cumsum([int(n) for n in eqn.params["sizes"]])
    pairs = zip([0, *stops[:-1]], stops, strict=True)
    outs = [cut_of(algebra, value, int(low), int(high), int(stops[-1])) for low, high in pairs]
    return None if any(out is None for out in outs) else [out for out in outs if out is not None]


@random_field_rule("gather")
def gather(algebra: FieldAlgebra, eqn: core.JaxprEqn, values: Sequence[Value]) -> Value | None:
    """Take examples or positions, each with all of its units; the gradients of the copies add up."""
    signal, indices = values
    numbers, sizes, old = eqn.params["dimension_numbers"], eqn.params["slice_sizes"], shape_of(eqn.invars[0])
    if not isinstance(signal, Signal) or not isinstance(indices, (Data, Known)) or len(signal.axes) != len(old):
        return None
    whole = all(sizes[k] == n for k, n in enumerate(old) if signal.axes[k] == "u")
    if not whole or numbers.operand_batching_dims:
        return None
    rest = iter(a for k, a in enumerate(signal.axes) if k not in numbers.collapsed_slice_dims)
    new = shape_of(eqn.outvars[0])
    axes = tuple(next(rest) if k in numbers.offset_dims else "e" for k in range(len(new)))
    taken = with_gradient_factor(signal, math.prod(new) / max(math.prod(old), 1))
    components = {}
    for gaussian, component in taken.components.items():  # which positions stand side by side has changed
        moved = algebra.add(dataclasses.replace(gaussian, edges=[(gaussian, 1.0)], kurtosis=[1.0], spatial=None))
        moved.layer, moved.units, moved.alike, moved.carries = None, 0, 1.0, [lost]
        moved.nodes = gathered_nodes(gaussian, indices) if signal.axes == ("e", "u") == axes else None
        if moved.nodes is not None and moved.nodes.ndim:
            moved.carries = [into_nodes(indices, old[0])]
            algebra.asks_for_likeness = True
        components[moved] = component
    return dataclasses.replace(taken, components=components, axes=axes)


def _step_of(series: Series, eqn: core.JaxprEqn) -> Value | None:
    """One step of what a scan returned; the axis stays, with nothing in it."""
    at, shape = series.axes.index("t"), shape_of(eqn.invars[0])
    start, stop = eqn.params["start_indices"], eqn.params["limit_indices"]
    whole = all((start[k], stop[k]) == (0, shape[k]) for k in range(len(shape)) if k != at)
    if not whole or stop[at] - start[at] != 1:
        return None
    axes = tuple("1" if a == "t" else a for a in series.axes)
    return dataclasses.replace(series.signals[start[at]], axes=axes)


@random_field_rule("pad")
def pad(algebra: FieldAlgebra, eqn: core.JaxprEqn, values: Sequence[Value]) -> Value | None:
    """Put zeros around the positions of a signal; the next convolution or pooling reads them."""
    value, filling = values
    signal, already = (value.signal, value.padding) if isinstance(value, Padded) else (value, {})
    if not isinstance(signal, Signal) or not isinstance(filling, Known) or filling.number() != 0.0:
        return None
    padding = dict(already)
    for axis, (low, high, inner) in enumerate(eqn.params["padding_config"]):
        if (low or high) and (signal.axes[axis : axis + 1] != ("e",) or min(low, high) < 0):
            return None
        if inner:
            return None
        if low or high:
            before = padding.get(axis, (0, 0))
            padding[axis] = (before[0] + low, before[1] + high)
    return Padded(signal, padding) if padding else signal


@random_field_rule("concatenate")
def concatenate(algebra: FieldAlgebra, eqn: core.JaxprEqn, values: Sequence[Value]) -> Value | None:
    """Put pieces around their signal, as circular and reflecting padding do; their gradients add up in it."""
    along, size = eqn.params["dimension"], math.prod(shape_of(eqn.outvars[0]))
    signals = [v.signal if isinstance(v, Piece) else v for v in values]
    first = signals[0]
    if (side_by_side := joined(values, [shape_of(v)[along] for v in eqn.invars], along)) is not None:
        return side_by_side
    if not isinstance(first, Signal) or first.axes[along : along + 1] != ("e",):
        return None
    if any(not isinstance(s, Signal) or identity_of(s) != identity_of(first) for s in signals):
        return None
    before = max(v.size if isinstance(v, Piece) else 0 for v in values)
    return with_gradient_factor(first, size / before) if 0 < before < size else None
