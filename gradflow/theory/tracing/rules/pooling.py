"""Rules for means and maxima over positions of each example, in windows or over all of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend import core

from gradflow.theory.tracing.abstract_values import Padded, Signal, Value
from gradflow.theory.tracing.algebra import FieldAlgebra
from gradflow.theory.tracing.likeness import in_turn, the_same_everywhere
from gradflow.theory.tracing.positions import Window, through_windows
from gradflow.theory.tracing.quadrature import NODES, weights_of
from gradflow.theory.tracing.random_fields import Gaussian, correlation_of, gaussian_signal
from gradflow.theory.tracing.rules.table import random_field_rule, shape_of
from gradflow.theory.tracing.sizes import Sizes, sizes_of, sums_over_windows

__all__ = ["average_pool", "global_max_pool", "max_pool", "maximum_over", "mean_over"]

_DIPS = 0.15  # slope of a function that counts as rising, such as GELU, over its largest slope


def mean_over(algebra: FieldAlgebra, signal: Signal, windows: Sequence[Window]) -> Signal | None:
    """Return the mean over windows of positions as a signal; None where correlations between positions are not known.

    Args:
        algebra: that notes the Gaussian.
        signal: what is averaged.
        windows: one an axis of positions.
    """
    moments = signal.spatial
    if moments is None:
        return None
    if moments.shape not in ((), tuple(w.positions for w in windows)):
        # Flattened positions: all of them are averaged, whatever their order.
        if len(windows) != 1 or windows[0].outputs != 1 or moments.size != windows[0].positions:
            return None
        windows = [Window(n, 1, n) for n in moments.shape]
    taps = math.prod(w.size for w in windows)
    summed = through_windows(moments, windows, same_tap=False)
    if summed is None:
        return None
    covariance = summed / taps**2
    read = math.prod(w.taps for w in windows) / taps
    variance = max(float(covariance.flat[0]), 0.0)
    places = math.prod(w.outputs for w in windows) / math.prod(w.positions for w in windows)
    down = read * places / taps
    edges = [(g, down * factor) for g, factor in signal.edges]
    shared = min(read**2 * signal.shared / max(variance, 1e-300), 1.0)
    gaussian = Gaussian(variance, shared, edges, signal.log_variance, kurtosis=signal.kurtosis)
    gaussian.spatial = correlation_of(covariance, variance)
    gaussian.sizes = _sizes_over(signal, windows)
    if all(w.outputs == 1 and w.size == w.positions for w in windows):
        gaussian.carries = [in_turn(the_same_everywhere, carry) for carry in signal.carries]
    algebra.not_gaussian.add(algebra.add(gaussian))
    return gaussian_signal(gaussian, signal.axes, read * signal.mean)


def maximum_over(algebra: FieldAlgebra, signal: Signal, windows: Sequence[Window]) -> Signal | None:
    """Return the maximum over windows of positions of a rising function of one Gaussian; None for other signals.

    The entries of a window are taken as equally correlated: u = sqrt(q) (sqrt(c) z + sqrt(1 - c) e), so that the
    largest one is f at the largest e.

    Args:
        algebra: that notes the Gaussian.
        signal: f(u).
        windows: one an axis of positions.
    """
    signal = algebra.as_function_of_one(signal)
    moments = signal.spatial
    if moments is None or len(signal.components) != 1:
        return None
    ((source, component),) = signal.components.items()
    slope = component.slope
    summed = through_windows(np.asarray(source.spatial), windows, same_tap=False)
    averaged = through_windows(moments, windows, same_tap=False)
    if summed is None or averaged is None or slope.min() < -_DIPS * slope.max():
        return None
    taps = math.prod(w.taps for w in windows)
    within = (float(summed.flat[0]) - taps) / max(taps * (taps - 1), 1e-9)
    top = _largest(min(max(within, 0.0), 1.0), taps)
    weights = weights_of(slope)
    values = _at(top, component.value)
    mean = float(weights @ values.mean(1))
    variance = max(float(weights @ (values**2).mean(1)) - mean**2, 0.0)
    algebra.note_nonlinearity(source)
    squares = _at(top, slope) ** 2
    square, fourth = float(weights @ squares.mean(1)), float(weights @ (squares**2).mean(1))
    places = math.prod(w.outputs for w in windows) / math.prod(w.positions for w in windows)
    kurtosis = [fourth / max(square**2, 1e-300) / min(places, 1.0)]
    shared = min(signal.shared / max(variance, 1e-300), 1.0)
    gaussian = Gaussian(variance, shared, [(source, square * places)], signal.log_variance, kurtosis=kurtosis)
    gaussian.spatial = _with_itself(correlation_of(averaged / taps**2, variance))
    gaussian.sizes = _sizes_over(signal, windows)
    algebra.not_gaussian.add(algebra.add(gaussian))
    return gaussian_signal(gaussian, signal.axes, signal.constant + mean)


def _largest(correlation: float, taps: float) -> Any:
    """The largest of a window over its standard deviation: nodes of the common part by quantiles of the rest."""
    quantiles = (np.arange(64) + 0.5) / 64
    rest = np.array([statistics.NormalDist().inv_cdf(p ** (1 / max(taps, 1.0))) for p in quantiles])
    return math.sqrt(correlation) * NODES[:, None] + math.sqrt(1 - correlation) * rest


def _at(top: Any, values: Any) -> Any:
    """A function of z at other numbers, where it is known at the nodes, in every bin of sizes."""
    return np.concatenate([np.interp(top, NODES, row) for row in np.reshape(values, (-1, len(NODES)))])


def _sizes_over(signal: Signal, windows: Sequence[Window]) -> Sizes | None:
    """The sizes of means over windows, as if these kept of each place the same share."""
    sizes = signal.sizes(less=signal.mean)
    if sizes is None or sizes.places is None:
        return None
    _, places = sums_over_windows(sizes.places, windows)
    return None if places is None else sizes_of(places)


def _with_itself(correlation: Any) -> Any:
    if correlation is not None and np.ndim(correlation):
        correlation[(0,) * correlation.ndim] = 1.0
    return correlation


def _pooled(algebra: FieldAlgebra, eqn: core.JaxprEqn, value: Value, *, largest: bool) -> Signal | None:
    """Pool in the windows of an equation; zeros of padding count as any others, but are never the largest."""
    padding, signal = (value.padding, value.signal) if isinstance(value, Padded) else ({}, value)
    params, old, new = eqn.params, shape_of(eqn.invars[0]), shape_of(eqn.outvars[0])
    if not isinstance(signal, Signal) or len(signal.axes) != len(old):
        return None
    if any(n != 1 for n in params["base_dilation"]):
        return None
    examples = [k for k, axis in enumerate(signal.axes) if axis != "u"]
    windows = []
    for k, size in enumerate(params["window_dimensions"]):
        low, high = padding.get(k, (0, 0))
        window = Window(
            old[k] - low - high, new[k], size, params["window_strides"][k], params["window_dilation"][k],
            params["padding"][k][0] + low,
        )  # fmt: skip
        if k in examples[1:]:
            windows.append(window)
        elif size != 1 or old[k] != new[k]:
            return None
    pooled = (maximum_over if largest else mean_over)(algebra, signal, windows)
    return pooled if largest or pooled is None else pooled.scaled(float(math.prod(w.size for w in windows)))


@random_field_rule("reduce_window_sum")
def average_pool(algebra: FieldAlgebra, eqn: core.JaxprEqn, values: Sequence[Value]) -> Value | None:
    """Sum over windows."""
    return _pooled(algebra, eqn, values[0], largest=False)


@random_field_rule("reduce_window_max")
def max_pool(algebra: FieldAlgebra, eqn: core.JaxprEqn, values: Sequence[Value]) -> Value | None:
    """Maximum over windows."""
    return _pooled(algebra, eqn, values[0], largest=True)


@random_field_rule("reduce_max")
def global_max_pool(algebra: FieldAlgebra, eqn: core.JaxprEqn, values: Sequence[Value]) -> Value | None:
    """Maximum over all positions of each example."""
    signal, axes, shape = values[0], set(eqn.params["axes"]), shape_of(eqn.invars[0])
    if not isinstance(signal, Signal) or len(signal.axes) != len(shape):
        return None
    positions = [k for k, axis in enumerate(signal.axes) if axis != "u"][1:]
    if axes != set(positions):
        return None
    pooled = maximum_over(algebra, signal, [Window(shape[k], 1, shape[k]) for k in positions])
    kept = tuple(a for k, a in enumerate(signal.axes) if k not in axes)
    return None if pooled is None else Signal(pooled.constant, pooled.components, kept)
