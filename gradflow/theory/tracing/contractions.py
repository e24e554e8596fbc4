"""What a random contraction makes of second moments: its mean square gain, and its windows over positions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Float

from gradflow.instrument import jaxprs
from gradflow.theory.tracing.abstract_values import Axes, Data, Known, Padding, Parts, Signal, Value
from gradflow.theory.tracing.likeness import (
    Carry,
    in_turn,
    lost,
    through_weights,
    through_windows_down,
    unchanged,
    unlike,
)
from gradflow.theory.tracing.pairs import pairs_of, patches, through_taps
from gradflow.theory.tracing.positions import Window, autocorrelation
from gradflow.theory.tracing.sizes import Sizes, fitted, sizes_down, sizes_of, sums_over_windows

__all__ = [
    "carries_down",
    "contraction_of",
    "data_correlation",
    "input_axes",
    "laid_out",
    "mean_square_gain",
    "node_moments",
    "pairs_of_output",
    "sizes_of_output",
    "unevenness_of_weights",
    "windows_of",
]

_MANY = 64  # weights of a unit, whose sum of squares is nearly the same for all units


def contraction_of(eqn: core.JaxprEqn) -> core.JaxprEqn | None:
    """Return the contraction that an equation is, or that a custom rule with the same operands wraps.

    Args:
        eqn: the equation.
    """
    if eqn.primitive.name in ("dot_general", "conv_general_dilated"):
        return eqn
    if eqn.primitive.name not in jaxprs.CUSTOM_RULES | jaxprs.INLINED:
        return None
    inner = jaxprs.opened(jaxprs.inner_jaxpr(eqn))[0]
    if len(inner.eqns) != 1 or list(inner.eqns[0].invars) != list(inner.invars):
        return None
    return contraction_of(inner.eqns[0])


def mean_square_gain(eqn: core.JaxprEqn, source: int, weight: Any, padding: Padding) -> float:
    """Return the mean square output for an input of ones with random signs: counts padding and groups as they are.

    Args:
        eqn: a contraction.
        source: which operand is the input.
        weight: the numbers of the other one.
        padding: zeros around the input, by axis.
    """
    squares = np.square(np.asarray(weight, np.float64))
    if eqn.primitive.name == "dot_general":
        contracted = eqn.params["dimension_numbers"][0][1 - source]
        return float(squares.sum()) * math.prod(squares.shape[k] for k in contracted) / max(squares.size, 1)
    windows = windows_of(eqn, source, padding)
    if windows is None:
        return _gain_of_ones(eqn, source, squares, padding)
    spec = eqn.params["dimension_numbers"].rhs_spec
    taps = squares.sum(tuple(spec[:2]))
    order = np.argsort(np.argsort(spec[2:]))  # taps by the convolution's own order of axes
    taps = np.transpose(taps, order) if taps.ndim > 1 else taps
    for window in windows:
        taps = np.tensordot(window.places[1].mean(0), taps, (0, 0))
    return float(taps) / squares.shape[spec[0]]


def unevenness_of_weights(eqn: core.JaxprEqn, weight: Any, windows: Sequence[Window]) -> float:
    """Return 1 - 1 / (E[S] E[1/S]) over the units of a convolution, of the sum of squares S of a unit's weights.

    Taps count as often as they read no padding. 0 where a unit has so many weights that S is the same for all.

    Args:
        eqn: a contraction.
        weight: its weights.
        windows: of a convolution.
    """
    if not windows or not np.size(weight):
        return 0.0
    spec, shape = eqn.params["dimension_numbers"].rhs_spec, np.shape(weight)
    if math.prod(shape) > _MANY * shape[spec[0]]:
        return 0.0
    sums = np.transpose(np.square(np.asarray(weight, np.float64)), spec).sum(1)
    for window in windows:
        sums = np.tensordot(sums, window.places[1].mean(0), (1, 0))
    if not np.min(sums) > 0:
        return 1.0
    return 1 - 1 / float(np.mean(sums) * np.mean(1 / sums))


def _gain_of_ones(eqn: core.JaxprEqn, source: int, squares: Float[np.ndarray, "..."], padding: Padding) -> float:
    shape = jaxprs.shape_of(eqn.invars[source])
    ones = np.ones(shape, np.float32)
    for axis, (low, high) in padding.items():
        at = np.arange(shape[axis]).reshape([-1 if k == axis else 1 for k in range(len(shape))])
        ones = ones * ((at >= low) & (at < shape[axis] - high))
    first, second = jnp.asarray(ones), jnp.asarray(squares, jnp.float32)
    pair = (first, second) if source == 0 else (second, first)
    params = {**eqn.params, "preferred_element_type": None}
    return float(jax.jit(lambda a, b: jnp.mean(eqn.primitive.bind(a, b, **params)))(*pair))


def windows_of(eqn: core.JaxprEqn, source: int, padding: Padding) -> list[Window] | None:
    """Return the windows of a convolution over its input, one an axis of positions; None for another contraction.

    Args:
        eqn: a contraction.
        source: which operand is the input.
        padding: zeros around the input, by axis.
    """
    params = eqn.params
    if eqn.primitive.name != "conv_general_dilated" or source != 0 or params["batch_group_count"] != 1:
        return None
    if any(n != 1 for n in params["lhs_dilation"]):
        return None
    numbers, (lhs, rhs) = params["dimension_numbers"], (jaxprs.shape_of(v) for v in eqn.invars)
    out, windows = jaxprs.shape_of(eqn.outvars[0]), []
    for k, axis in enumerate(numbers.lhs_spec[2:]):
        low, high = padding.get(axis, (0, 0))
        windows.append(
            Window(
                lhs[axis] - low - high,
                out[numbers.out_spec[2 + k]],
                rhs[numbers.rhs_spec[2 + k]],
                params["window_strides"][k],
                params["rhs_dilation"][k],
                params["padding"][k][0] + low,
            )
        )
    return windows


def carries_down(eqn: core.JaxprEqn, source: int, entering: Value, padding: Padding, positions: int) -> list[Carry]:
    """Return what a layer makes of how alike gradients are, by what enters it.

    Args:
        eqn: a contraction with random weights.
        source: which operand enters.
        entering: what enters.
        padding: zeros around the input, by axis.
        positions: number of axes of positions of the output.
    """
    if not isinstance(entering, (Parts, Signal)):
        return []
    parents, windows = [gaussian for gaussian, _ in entering.edges], windows_of(eqn, source, padding)
    own: list[Carry] = [lost] * len(parents)
    if windows is not None and len(windows) == positions:
        own = [in_turn(sizes_down(windows), through_windows_down(windows))] * len(parents)
    elif eqn.primitive.name == "dot_general":
        contracted = eqn.params["dimension_numbers"][0][source]
        units = [k for k, axis in enumerate(entering.axes) if axis == "u"] if isinstance(entering, Signal) else None
        if units is None or sorted(contracted) == units:
            # Positions that are contracted with the units have weights of their own.
            flat = [not positions and (g.spatial is None or g.spatial.ndim > 0) for g in parents]
            own = [
                unchanged if not alone else lost if g.spatial is None else unlike(g.spatial.shape)
                for g, alone in zip(parents, flat, strict=True)
            ]
    return [in_turn(through_weights, step, carry) for step, carry in zip(own, entering.carries, strict=True)]


def sizes_of_output(
    eqn: core.JaxprEqn, source: int, entering: Value, padding: Padding, shape: Sequence[int]
) -> tuple[float, Sizes | None]:
    """Return what a layer makes of the mean square of what enters it, over that of even places; and its sizes.

    Args:
        eqn: a contraction with random weights.
        source: which operand enters.
        entering: what enters.
        padding: zeros around the input, by axis.
        shape: number of examples, and of positions along each axis, of the output.
    """
    windows = windows_of(eqn, source, padding)
    places: Any = None
    if isinstance(entering, (Parts, Signal)):
        sizes = entering.sizes()
        if sizes is not None and sizes.places is None:
            return 1.0, sizes if windows is None else None
        places = None if sizes is None else sizes.places
    elif isinstance(entering, (Data, Known)) and (x := laid_out(eqn, source, entering.value)) is not None and x.ndim:
        places = np.mean(np.square(x), -1)
    factor = 1.0
    if windows is not None:
        factor, places = sums_over_windows(places, windows)
    placed = fitted(places, shape)
    return factor, None if placed is None else sizes_of(placed)


def pairs_of_output(eqn: core.JaxprEqn, source: int, entering: Value, padding: Padding) -> Any:
    """Return quantiles of the correlation between two places of two examples of a layer's output; None if unknown.

    Args:
        eqn: a contraction with random weights.
        source: which operand enters.
        entering: what enters.
        padding: zeros around the input, by axis.
    """
    windows = windows_of(eqn, source, padding)
    if isinstance(entering, Signal):
        pairs = entering.pairs()
        if pairs is None or not windows:
            return pairs
        spatial = entering.spatial
        return through_taps(
            pairs, None if spatial is None else (spatial + entering.mean**2) / max(entering.square, 1e-300), windows
        )
    x = laid_out(eqn, source, entering.value) if isinstance(entering, (Data, Known)) else None
    if x is None or x.ndim < 2 or not x.size or (windows is None and eqn.primitive.name != "dot_general"):
        return None
    return pairs_of(*patches(x, windows or ()))


def input_axes(eqn: core.JaxprEqn, source: int) -> Axes:
    """Return what the axes of a contraction's input hold.

    Args:
        eqn: a contraction.
        source: which operand the input is.
    """
    rank = len(jaxprs.shape_of(eqn.invars[source]))
    if eqn.primitive.name == "dot_general":
        units = set(eqn.params["dimension_numbers"][0][source])
    else:
        spec = eqn.params["dimension_numbers"].lhs_spec
        units = {spec[1]} if source == 0 else set(range(rank))
    return tuple("u" if k in units else "e" for k in range(rank))


def data_correlation(eqn: core.JaxprEqn, source: int, value: Any) -> Any:
    """Return the correlation between positions of the data that enters a contraction, by distance; None if unknown.

    Args:
        eqn: a contraction.
        source: which operand the data is.
        value: its numbers, None where they are not known.
    """
    x = laid_out(eqn, source, value)
    return autocorrelation(x) if x is not None and x.ndim >= 2 and x.size else None


def node_moments(eqn: core.JaxprEqn, source: int, value: Any) -> Any:
    """Return E[x_i x_j] / E[x^2] over units, of every two examples of the data that enters; None if unknown.

    Args:
        eqn: a contraction.
        source: which operand the data is.
        value: its numbers, None where they are not known.
    """
    x = laid_out(eqn, source, value)
    if x is None or x.ndim != 2 or not x.size:
        return None
    square = float(np.mean(x**2))
    return x @ x.T / (x.shape[1] * square) if square > 0 and np.isfinite(square) else None


def laid_out(eqn: core.JaxprEqn, source: int, value: Any) -> Any:
    """Return the numbers that enter a contraction, examples first and units last; None if unknown.

    Args:
        eqn: a contraction.
        source: which operand they are.
        value: the numbers, None where they are not known.
    """
    if value is None or np.shape(value) != jaxprs.shape_of(eqn.invars[source]):
        return None
    x = np.asarray(value, np.float64)
    if eqn.primitive.name == "dot_general":
        (contracted, _) = eqn.params["dimension_numbers"]
        units = tuple(contracted[source])
        x = np.moveaxis(x, units, range(-len(units), 0))
        x = x.reshape(*x.shape[: x.ndim - len(units)], -1)
    elif source == 0:
        batch, feature, *spatial = eqn.params["dimension_numbers"].lhs_spec
        x = np.transpose(x, (batch, *spatial, feature))
    else:
        return None
    return x
