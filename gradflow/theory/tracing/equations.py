"""Single equations on random fields: what the rules make of them, and what a scan sees and returns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jax.extend import core

from gradflow.instrument import jaxprs
from gradflow.primitives import ELEMENTWISE
from gradflow.theory.tracing.abstract_values import (
    BatchMean,
    Data,
    Known,
    Outside,
    Padded,
    Parts,
    Series,
    Value,
    outside,
)
from gradflow.theory.tracing.algebra import FieldAlgebra
from gradflow.theory.tracing.constants import evaluate
from gradflow.theory.tracing.notes import reason_outside
from gradflow.theory.tracing.random_fields import Signal
from gradflow.theory.tracing.rules import rule_of
from gradflow.theory.tracing.rules.parts import apply_to_parts

__all__ = ["as_signal", "data_of", "ordinary", "stack", "step_of"]

_OF_PARTS = frozenset({"concatenate", "slice", "split"})  # their rules see the signals side by side as such


def as_signal(algebra: FieldAlgebra, value: Value) -> Value:
    """Return what enters a layer as a signal, where it is one in another form.

    Args:
        algebra: that notes its Gaussians.
        value: that enters.
    """
    if isinstance(value, Padded):
        return value.signal
    if isinstance(value, Parts):
        pieces = tuple(as_signal(algebra, p) for p in value.pieces)
        return Parts(pieces, value.fractions) if all(isinstance(p, Signal) for p in pieces) else value
    if isinstance(value, Series):
        return algebra.all_steps_of(value)
    signal = value.as_signal() if isinstance(value, BatchMean) else None
    return value if signal is None else signal


def ordinary(algebra: FieldAlgebra, jaxpr: core.Jaxpr, eqn: core.JaxprEqn, values: Sequence[Value]) -> list[Value]:
    """Return the outputs of an equation that is no layer and holds no jaxpr to walk.

    Args:
        algebra: that its rule computes with.
        jaxpr: that it stands in.
        eqn: the equation.
        values: of its operands.
    """
    count = len(eqn.outvars)
    if all(isinstance(v, Known) and v.exact for v in values) and not eqn.effects:
        return [Known(x) for x in evaluate(jaxpr, eqn, [v.value for v in values])]  # type: ignore[union-attr]
    if all(isinstance(v, (Known, Data)) for v in values) and any(isinstance(v, Data) for v in values):
        return data_of(jaxpr, eqn, values)
    if (reason := next((v.reason for v in values if isinstance(v, Outside)), None)) is not None:
        return [outside(values, reason)] * count
    rule = rule_of(eqn.primitive.name)
    if eqn.primitive.name in ELEMENTWISE:
        shape = jaxprs.shape_of(eqn.outvars[0])
        olds = [jaxprs.shape_of(v) for v in eqn.invars]
        olds = [old if len(old) == len(shape) else (1,) * len(shape) for old in olds]
        values = [algebra.repeated(v, old, shape) for v, old in zip(values, olds, strict=True)]
    if rule is not None and any(isinstance(v, Parts) for v in values) and eqn.primitive.name not in _OF_PARTS:
        out = apply_to_parts(rule, algebra, eqn, values)
    else:
        out = None if rule is None else rule(algebra, eqn, values)
    if out is None and rule is not None and any(isinstance(v, (BatchMean, Series)) for v in values):
        out = rule(algebra, eqn, [as_signal(algebra, v) if isinstance(v, (BatchMean, Series)) else v for v in values])
    outs = out if isinstance(out, list) else [out]
    if any(v is None for v in outs) or len(outs) != count:
        return [outside(values, reason_outside(eqn, values))] * count
    return [v for v in outs if v is not None]


def data_of(jaxpr: core.Jaxpr, eqn: core.JaxprEqn, values: Sequence[Value]) -> list[Value]:
    """Return what is computed from the batch, with its numbers where all of the operands have theirs.

    Args:
        jaxpr: that the equation stands in.
        eqn: the equation.
        values: of its operands, known or data.
    """
    concrete = all(v.value is not None and (not isinstance(v, Known) or v.exact) for v in values)  # type: ignore[union-attr]
    if concrete and not eqn.effects:
        try:
            return [Data(x) for x in evaluate(jaxpr, eqn, [v.value for v in values])]  # type: ignore[union-attr]
        except Exception:  # without its numbers it is data all the same
            pass
    return [Data() for _ in eqn.outvars]


def step_of(algebra: FieldAlgebra, value: Value, step: int, length: int) -> Value:
    """Return what one step of a scan sees of a value that it goes through.

    Args:
        algebra: that notes the Gaussians.
        value: with the steps on its first axis.
        step: which.
        length: number of steps.
    """
    if isinstance(value, Signal) and value.axes[:1] == ("e",) and "e" in value.axes[1:]:
        return algebra.step_of(value, step, length)
    if isinstance(value, Known) and value.exact:
        return Known(value.value[step])
    if isinstance(value, Series) and value.axes[0] == "t":
        return value.signals[step]
    if isinstance(value, Data):
        return Data(None if value.value is None else value.value[step])
    return value if isinstance(value, Outside) else outside([value], "a scan over examples or units")


def stack(column: list[Value]) -> Value:
    """Return what a scan returns of one value for all its steps.

    Args:
        column: the value at each step.
    """
    signals = [v for v in column if isinstance(v, Signal)]
    if column and len(signals) == len(column):
        return Series(tuple(signals), ("t", *signals[0].axes))
    if any(isinstance(v, Data) for v in column) and all(isinstance(v, (Data, Known)) for v in column):
        return Data()
    if column and all(isinstance(v, Known) and v.exact and v.is_numeric for v in column):
        return Known(np.stack([np.asarray(v.value) for v in column]))  # type: ignore[union-attr]
    reasons = [v.reason for v in column if isinstance(v, Outside)]
    return outside(column, reasons[0] if reasons else "what a scan stacks")
