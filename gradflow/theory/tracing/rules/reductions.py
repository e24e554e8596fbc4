"""Rules for sums over units, which are numbers, and over examples, which are statistics of the batch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jax.extend import core

from gradflow.theory.tracing.abstract_values import BatchMean, Known, Signal, Value
from gradflow.theory.tracing.algebra import FieldAlgebra
from gradflow.theory.tracing.positions import Window
from gradflow.theory.tracing.rules.pooling import mean_over
from gradflow.theory.tracing.rules.table import random_field_rule, shape_of

__all__ = ["reduce_sum"]


@random_field_rule("reduce_sum")
def reduce_sum(algebra: FieldAlgebra, eqn: core.JaxprEqn, values: Sequence[Value]) -> Value | None:
    """Sum: over units a number, over all examples a statistic of the batch, over some examples neither."""
    signal = values[0]
    if not isinstance(signal, Signal):
        return None
    shape, axes = shape_of(eqn.invars[0]), set(eqn.params["axes"])
    if len(signal.axes) != len(shape):
        return None
    count = math.prod(shape[a] for a in axes)
    summed = {signal.axes[a] for a in axes if shape[a] > 1}
    if not summed:
        return _without(signal, axes)
    if "u" in summed:
        means = signal.means_at_places() if summed == {"u"} else None
        numbers = np.asarray(signal.mean if means is None else means.ravel(), np.float64)
        # Rounding would make a place of size 0, where no gradient passes a ReLU, one of size 1e-30.
        numbers = np.where(np.abs(numbers) < 1e-12 * math.sqrt(signal.square), 0.0, numbers)
        return Known(count * numbers, False, frozenset(signal.components))
    examples = {k for k, a in enumerate(signal.axes) if a == "e" and shape[k] > 1}
    if summed != {"e"}:
        return None
    if not examples <= axes:
        return _over_positions(algebra, signal, shape, axes)
    alike = signal.shared > 1e-9 * signal.variance and not algebra.is_of_centred(signal)
    if not alike and not signal.linear:  # such as the variance, which is the mean square of what is centred
        return Known(np.float64(count * signal.mean), False, frozenset(signal.components))
    sizes = tuple(n for n, axis in zip(shape, signal.axes, strict=True) if axis != "u")
    return BatchMean(signal, float(count), sizes=sizes)


def _over_positions(algebra: FieldAlgebra, signal: Signal, shape: tuple[int, ...], axes: set[int]) -> BatchMean | None:
    """The sum over positions of each example."""
    every = [k for k, axis in enumerate(signal.axes) if axis != "u"]
    if every[0] in axes:
        return None
    count = math.prod(shape[k] for k in axes)
    windows = [Window(shape[k], 1, shape[k]) if k in axes else Window(shape[k], shape[k], 1) for k in every[1:]]
    if signal.spatial is not None and signal.spatial.size == count and signal.spatial.ndim != len(windows):
        windows = [Window(count, 1, count)]
    pooled = mean_over(algebra, signal, windows)
    if pooled is None:
        return None
    return BatchMean(signal, float(count), pooled=_without(pooled, axes))


def _without(signal: Signal, axes: set[int]) -> Signal:
    """The signal without axes of length 1."""
    return Signal(signal.constant, signal.components, tuple(a for k, a in enumerate(signal.axes) if k not in axes))
