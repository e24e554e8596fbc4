"""Equations applied to numbers and, with their derivatives, to the nodes of the quadrature, in double precision."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from gradflow.theory.tracing.abstract_values import Known
from gradflow.theory.tracing.components import Component
from gradflow.theory.tracing.constants import numpy_outputs
from gradflow.theory.tracing.random_fields import Gaussian, Signal

__all__ = ["apply_at_nodes", "apply_to_numbers", "typical_factor", "values_at_nodes"]

_Slope: TypeAlias = Callable[[Any, Sequence[Any], Sequence[Any]], Any]  # output, operands, their slopes

# Slopes by NumPy, because JAX would compile one program for each primitive.
_SLOPES: dict[str, _Slope] = {
    "add": lambda y, x, d: d[0] + d[1],
    "add_any": lambda y, x, d: d[0] + d[1],
    "cos": lambda y, x, d: -np.sin(x[0]) * d[0],
    "div": lambda y, x, d: (d[0] - y * d[1]) / x[1],
    "erf": lambda y, x, d: 2 / math.sqrt(math.pi) * np.exp(-(x[0] ** 2)) * d[0],
    "exp": lambda y, x, d: y * d[0],
    "log": lambda y, x, d: d[0] / x[0],
    "logistic": lambda y, x, d: y * (1 - y) * d[0],
    "max": lambda y, x, d: _larger(x[0] - x[1], d),
    "min": lambda y, x, d: _larger(x[1] - x[0], d),
    "mul": lambda y, x, d: x[0] * d[1] + x[1] * d[0],
    "neg": lambda y, x, d: -d[0],
    "rsqrt": lambda y, x, d: -(y**3) / 2 * d[0],
    "sin": lambda y, x, d: np.cos(x[0]) * d[0],
    "sqrt": lambda y, x, d: d[0] / (2 * y),
    "square": lambda y, x, d: 2 * x[0] * d[0],
    "sub": lambda y, x, d: d[0] - d[1],
    "tanh": lambda y, x, d: (1 - y**2) * d[0],
}


def _larger(difference: Any, slopes: Sequence[Any]) -> Any:
    """The slope of the larger operand, and the mean of both where they are equal."""
    share = (1 + np.sign(difference)) / 2
    return share * slopes[0] + (1 - share) * slopes[1]


def typical_factor(known: Known, *, inverse: bool = False) -> float | None:
    """Return the root mean square of known factors, with the sign of their mean; None where it is not finite.

    Args:
        known: the factors.
        inverse: whether they are divided by.
    """
    if not known.is_numeric or not np.size(known.value):
        return None
    array = known.array()
    if inverse:
        if not array.all():
            return None
        array = 1 / array
    factor = math.copysign(math.sqrt(float(np.mean(array**2))), float(array.mean()))
    return factor if math.isfinite(factor) else None


def apply_to_numbers(eqn: core.JaxprEqn, values: Sequence[Known]) -> Known | None:
    """Apply an elementwise equation to known numbers whose shapes are no longer those of the program.

    Args:
        eqn: the equation.
        values: its operands; those that hold several numbers hold one a place.
    """
    if not all(v.is_numeric for v in values):
        return None
    numbers = [v.number() for v in values]
    several = [k for k, number in enumerate(numbers) if number is None]
    shapes = {np.shape(values[k].value) for k in several}
    if len(shapes) > 1 or (len(several) > 1 and any(values[k].exact for k in several)):
        return None
    shape = shapes.pop() if shapes else ()
    operands = []
    for value, number in zip(values, numbers, strict=True):
        kind = bool if _is_boolean(value.value) else np.float64
        operands.append(np.broadcast_to(np.asarray(value.value if number is None else number, kind), shape))
    with _double_precision(), np.errstate(all="ignore"):
        quick = numpy_outputs(eqn, operands)
        out = _bind(eqn, [jnp.asarray(x) for x in operands]) if quick is None else quick[0]
        if out is None or not np.isfinite(out).all():
            return None
        return Known(np.asarray(out), False, frozenset().union(*(v.reads for v in values)))


def values_at_nodes(value: Known | Signal, gaussian: Gaussian) -> tuple[Any, Any]:
    """Return value and slope at the nodes of one Gaussian.

    Args:
        value: one known number, or a function of that Gaussian.
        gaussian: the variable.
    """
    grid = gaussian.grid
    if isinstance(value, Known):
        kind = bool if _is_boolean(value.value) else np.float64
        return np.full(grid.shape, np.asarray(value.value, kind).flat[0], kind), np.zeros_like(grid)
    component = value.components.get(gaussian)
    if component is None:
        return np.full(grid.shape, value.constant), np.zeros_like(grid)
    if component.value.dtype == bool:
        return component.value, component.slope
    return value.constant + component.value, component.slope


def apply_at_nodes(
    eqn: core.JaxprEqn, operands: Sequence[tuple[Any, Any]], *, flat_ties: bool = False
) -> Component | None:
    """Apply an elementwise equation and its derivative at the nodes; None where a result is not finite.

    Args:
        eqn: the equation.
        operands: value and slope at the nodes, of each operand.
        flat_ties: whether the larger of two equal operands has the smaller slope: 0 for `jax.nn.relu` at 0, where
            `max` has the mean of both.
    """
    slope_of = _SLOPES.get(eqn.primitive.name)
    if slope_of is not None:
        numbers, slopes = [np.asarray(value) for value, _ in operands], [slope for _, slope in operands]
        with np.errstate(all="ignore"):
            outs = numpy_outputs(eqn, numbers)
            if outs is not None:
                slope = np.asarray(slope_of(outs[0], numbers, slopes), np.float64)
                if flat_ties and eqn.primitive.name in ("max", "min"):
                    least = np.where(np.abs(slopes[0]) < np.abs(slopes[1]), *slopes)
                    slope = np.where(np.equal(*numbers), least, slope)
                return _finite(outs[0], slope)
    with _double_precision():
        values = [jnp.asarray(value) for value, _ in operands]
        moving = [k for k, (_, slope) in enumerate(operands) if values[k].dtype != jnp.bool_ and slope.any()]

        def fn(*floats: Any) -> Any:
            full = list(values)
            for k, x in zip(moving, floats, strict=True):
                full[k] = x
            return eqn.primitive.bind(*full, **eqn.params)

        value = _bind(eqn, values)
        if value is None:
            return None
        change: Any = np.zeros(value.shape)
        if moving and jnp.issubdtype(value.dtype, jnp.floating):
            try:
                _, change = jax.jvp(fn, [values[k] for k in moving], [jnp.asarray(operands[k][1]) for k in moving])
            except NotImplementedError:  # a primitive that JAX does not differentiate
                return None
        kind = bool if value.dtype == jnp.bool_ else np.float64
        out, change = np.asarray(value, kind), np.asarray(change, np.float64)
    return _finite(out, change)


def _finite(value: Any, slope: Any) -> Component | None:
    return Component(value, slope) if np.isfinite(value).all() and np.isfinite(slope).all() else None


def _bind(eqn: core.JaxprEqn, operands: Sequence[Any]) -> Any:
    """The equation on other operands; None for one that is not defined on real numbers, such as a shift of bits.

    None, too, for one that the device does not have: XLA:CPU has compiled no clamp of truth values.
    """
    try:
        out = eqn.primitive.bind(*operands, **eqn.params)
    except (TypeError, ValueError, NotImplementedError, jax.errors.JaxRuntimeError):
        return None
    return None if jnp.issubdtype(out.dtype, jnp.complexfloating) else out


def _is_boolean(value: Any) -> bool:
    return bool(np.asarray(value).dtype == np.bool_)


@contextlib.contextmanager
def _double_precision() -> Iterator[None]:
    """Compute in double precision, whatever the user's, and raise no alarm for what is not finite."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"), jax.debug_nans(False), jax.debug_infs(False):
        yield
