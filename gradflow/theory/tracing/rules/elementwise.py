"""Rules for what is computed entry by entry: sums and multiples of signals as such, all else at the nodes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jax.extend import core

from gradflow.primitives import ELEMENTWISE
from gradflow.theory.tracing.abstract_values import Axes, BatchMean, Data, Known, Signal, Value, identity_of
from gradflow.theory.tracing.algebra import FieldAlgebra
from gradflow.theory.tracing.node_values import apply_at_nodes, apply_to_numbers, typical_factor, values_at_nodes
from gradflow.theory.tracing.random_fields import Gaussian, correlation_of, gaussian_signal
from gradflow.theory.tracing.rules.graphs import scaled_by_node
from gradflow.theory.tracing.rules.table import random_field_rule

__all__ = ["add", "elementwise", "multiply", "negate", "select", "square"]


@random_field_rule(ELEMENTWISE)
def elementwise(algebra: FieldAlgebra, eqn: core.JaxprEqn, values: Sequence[Value]) -> Value | None:
    """Apply a function of entries, if all operands are numbers or functions of one Gaussian."""
    if all(isinstance(v, Known) for v in values):
        return apply_to_numbers(eqn, [v for v in values if isinstance(v, Known)])
    operands: list[Known | Signal] = []
    for value in values:
        if isinstance(value, Signal):
            operands.append(algebra.as_function_of_one(value))
        elif isinstance(value, Known) and value.number() is not None:
            operands.append(value)
        else:
            return None
    signals = [v for v in operands if isinstance(v, Signal)]
    axes = max((v.axes for v in signals), key=lambda a: ("u" in a, len(a)))
    sources: set[Gaussian] = {g for v in signals for g in v.components}
    if not sources:  # constants that came to be signals
        numbers = [Known(v.constant, exact=False) if isinstance(v, Signal) else v for v in operands]
        return apply_to_numbers(eqn, numbers)
    if len(sources) > 1:
        return None
    (source,) = sources
    if source.is_uneven:
        return None
    algebra.note_nonlinearity(source)
    component = apply_at_nodes(eqn, [values_at_nodes(v, source) for v in operands], flat_ties=algebra.in_custom_rule)
    return None if component is None else Signal(0.0, {source: component}, axes)


@random_field_rule(["add", "add_any", "sub"])
def add(algebra: FieldAlgebra, eqn: core.JaxprEqn, values: Sequence[Value]) -> Value | None:
    """Add, or subtract; a signal less its mean over the batch is centred."""
    first, second = values
    sign = -1.0 if eqn.primitive.name == "sub" else 1.0
    if isinstance(first, BatchMean) and not isinstance(second, BatchMean):
        swapped = _add_statistic(algebra, second, first, 1.0)
        if sign > 0 or swapped is None:
            return swapped
        # m - x = -(x - m)
        other = _add_statistic(algebra, second, first, -1.0)
        return None if other is None else _scaled(other, -1.0)
    if isinstance(second, BatchMean):
        return _add_statistic(algebra, first, second, sign)
    if isinstance(first, Known) and isinstance(second, Known):
        return apply_to_numbers(eqn, [first, second])
    if isinstance(first, (Known, Signal)) and isinstance(second, (Known, Signal)):
        return algebra.sum_of(first, second, sign)
    return None


def _add_statistic(algebra: FieldAlgebra, value: Value, mean: BatchMean, sign: float) -> Value | None:
    """`value + sign * mean`."""
    mean = dataclasses.replace(mean, scale=sign * mean.scale, plus=_scaled_numbers(mean.plus, sign))
    if isinstance(value, Signal):
        return algebra.centred(value, mean)
    if isinstance(value, Known) and mean.plus is None and mean.power == 1:
        return dataclasses.replace(mean, plus=value)
    return _batch_variance(value, mean) if isinstance(value, (BatchMean, Known)) else None


def _scaled(value: Value, factor: float) -> Value | None:
    if isinstance(value, Signal):
        return value.scaled(factor)
    if isinstance(value, BatchMean):
        return dataclasses.replace(value, scale=factor * value.scale, plus=_scaled_numbers(value.plus, factor))
    return None


def _scaled_numbers(numbers: Known | None, factor: float) -> Known | None:
    if numbers is None or factor == 1 or not numbers.is_numeric:
        return numbers
    return dataclasses.replace(numbers, value=factor * numbers.array())


def _batch_variance(square: BatchMean | Known, mean: BatchMean) -> Known | None:
    """mean(x^2) - mean(x)^2."""
    if isinstance(square, Known):
        whole = None if square.exact else square.number()
    else:
        plain = square.power == 1 and square.plus is None
        whole = square.scale * square.signal.mean if plain else None
    if whole is None or mean.power != 2 or abs(mean.scale + 1) > 1e-4:
        return None
    if not math.isclose(whole, mean.signal.square, rel_tol=1e-3):
        return None
    return Known(np.float64(mean.signal.variance - mean.covariance), False, frozenset(mean.signal.components))


@random_field_rule("neg")
def negate(algebra: FieldAlgebra, eqn: core.JaxprEqn, values: Sequence[Value]) -> Value | None:
    """Change the sign."""
    value = values[0]
    return _scaled(value, -1.0) if isinstance(value, (Signal, BatchMean)) else elementwise(algebra, eqn, values)


@random_field_rule(["mul", "div"])
def multiply(algebra: FieldAlgebra, eqn: core.JaxprEqn, values: Sequence[Value]) -> Value | None:
    """Multiply by known factors, independent signals, or a value by itself."""
    first, second = values
    inverse = eqn.primitive.name == "div"
    if isinstance(first, Known) and isinstance(second, Known):
        return apply_to_numbers(eqn, [first, second])
    if isinstance(first, (Data, Known)) and not inverse:
        first, second = second, first
    if isinstance(first, Signal) and isinstance(second, (Data, Known)):
        by_node = scaled_by_node(algebra, first, second, inverse=inverse)
        if by_node is not None:
            return by_node
    if isinstance(second, Known):
        if isinstance(first, Signal):
            return algebra.multiple(first, second, inverse=inverse)
        factor = typical_factor(second, inverse=inverse)
        if not isinstance(first, BatchMean) or first.plus is not None or factor is None:
            return None
        return dataclasses.replace(first, scale=first.scale * factor)
    if isinstance(first, BatchMean) and isinstance(second, BatchMean):
        return None if inverse else _product_of_means(first, second)
    if isinstance(first, Signal) and isinstance(second, Signal) and not inverse:
        product = algebra.product_of(first, second)
        if product is not None:
            return product
    return elementwise(algebra, eqn, values)


def _product_of_means(first: BatchMean, second: BatchMean) -> BatchMean | None:
    """The square of a mean over the batch."""
    same = first is second or identity_of(first.signal) == identity_of(second.signal)
    if not same or first.power != 1 or second.power != 1 or first.plus is not None or second.plus is not None:
        return None
    return dataclasses.replace(first, scale=first.scale * second.scale, power=2)


@random_field_rule(["square", "integer_pow"])
def square(algebra: FieldAlgebra, eqn: core.JaxprEqn, values: Sequence[Value]) -> Value | None:
    """Raise to a power; of a mean over the batch only the square is known."""
    value = values[0]
    if not isinstance(value, BatchMean):
        return elementwise(algebra, eqn, values)
    return _product_of_means(value, value) if eqn.params.get("y", 2) == 2 else None


@random_field_rule("select_n")
def select(algebra: FieldAlgebra, eqn: core.JaxprEqn, values: Sequence[Value]) -> Value | None:
    """Choose between values; a signal where a known mask has it, and zero elsewhere, is a dropped signal."""
    mask = values[0]
    if isinstance(mask, Data) and mask.value is not None:  # of dropout, whose key came with the batch
        mask = Known(mask.value)
    if len(values) == 3 and isinstance(mask, Known) and mask.number() is None and mask.is_numeric and mask.exact:
        for at in (1, 2):
            kept, other = values[at], values[3 - at]
            if isinstance(kept, Signal) and isinstance(other, Known) and other.number() == 0.0:
                return _dropped(algebra, kept, mask.array().astype(bool) == (at == 2))
        return None
    return elementwise(algebra, eqn, values)


def _dropped(algebra: FieldAlgebra, signal: Signal, kept: np.ndarray) -> Signal | None:
    """A signal times a mask of independent entries, as in dropout, as one Gaussian of the same second moments."""
    fraction = float(kept.mean())
    if kept.ndim != len(signal.axes) or not 0 < fraction < 1:
        return None
    whole = _keeps_whole_examples(kept, signal.axes)
    if not whole and not _independent(kept, fraction):
        return None  # a pattern, such as a mask of padding, keeps whole positions or units
    mean = fraction * signal.mean
    variance = fraction * signal.square - mean**2
    edges = [(g, fraction * factor) for g, factor in signal.edges]
    shared = fraction**2 * signal.shared / max(variance, 1e-300)
    kurtosis = [k / fraction for k in signal.kurtosis]
    together = fraction if whole else fraction**2  # how often two positions of an example are kept
    spatial = None if signal.spatial is None else together * (signal.spatial + signal.mean**2) - mean**2
    spatial = correlation_of(spatial, variance)
    if spatial is not None and spatial.ndim:
        spatial[(0,) * spatial.ndim] = 1.0
    gaussian = algebra.add(Gaussian(variance, shared, edges, signal.log_variance, kurtosis=kurtosis, spatial=spatial))
    gaussian.sizes = signal.sizes(less=mean)
    algebra.not_gaussian.add(gaussian)
    if whole:
        gaussian.carries = signal.carries
        algebra.approximate.add(gaussian)  # the layer behind it is not Gaussian either: for some examples it is 0
    return gaussian_signal(gaussian, signal.axes, mean)


def _independent(kept: np.ndarray, fraction: float) -> bool:
    """Whether the means along each axis stray no more than those of independent entries."""
    spreads = [kept.mean(k).std() for k in range(kept.ndim) if kept.shape[k] > 1]
    counts = [n for n in kept.shape if n > 1]
    chance = math.sqrt(fraction * (1 - fraction))
    return all(spread <= 2 * chance / math.sqrt(n) for spread, n in zip(spreads, counts, strict=True))


def _keeps_whole_examples(kept: np.ndarray, axes: Axes) -> bool:
    """Whether a mask is the same over units and positions, as in stochastic depth (Huang et al. 2016)."""
    first = next((k for k, axis in enumerate(axes) if axis == "e"), None)
    rest = tuple(k for k in range(kept.ndim) if k != first)
    return first is not None and bool((kept.all(rest) == kept.any(rest)).all())
