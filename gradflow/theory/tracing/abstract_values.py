"""What a value of a traced program can be to mean-field theory."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from gradflow.theory.tracing.random_fields import Gaussian, Signal

__all__ = [
    "Axes",
    "BatchMean",
    "Data",
    "Known",
    "Outside",
    "Piece",
    "Series",
    "Signal",
    "Value",
    "axes_of",
    "broadcast_axes",
    "gaussians_of",
    "identity_of",
    "layers_below",
    "outside",
    "ratio_of",
]

Axes: TypeAlias = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Known:
    """Numbers known beforehand: parameters, constants of the program, and what is computed from them.

    Attributes:
        value: the numbers.
        exact: whether `value` has the shape that the program gives it (a mean over units has not).
        reads: the Gaussians that a mean over units is made of.
    """

    value: Any
    exact: bool = True
    reads: frozenset[Gaussian] = frozenset()

    @property
    def is_numeric(self) -> bool:
        """Whether it holds real numbers or truth values; random keys, for one, are neither."""
        if isinstance(self.value, jax.Array) and jnp.issubdtype(self.value.dtype, jax.dtypes.extended):
            return False
        dtype = jnp.result_type(self.value)
        return dtype == jnp.bool_ or jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.floating)

    def array(self) -> Float[np.ndarray, "..."]:
        """The numbers in double precision."""
        return np.asarray(self.value, np.float64)

    def number(self) -> float | None:
        """The one number that it holds, None if there are several or none."""
        if not self.is_numeric:
            return None
        array = self.array()
        return float(array.flat[0]) if array.size and bool((array == array.flat[0]).all()) else None


@dataclasses.dataclass(frozen=True)
class Data:
    """Depends on the batch, and on no layer."""


@dataclasses.dataclass(frozen=True)
class Outside:
    """What theory has no description for.

    Attributes:
        reason: why.
        reads: the Gaussians that it is made of; their gradient cannot be predicted.
    """

    reason: str
    reads: frozenset[Gaussian] = frozenset()


@dataclasses.dataclass(frozen=True, eq=False)
class BatchMean:
    """A statistic of the batch: `scale` times the mean of a signal over all examples, by unit.

    Attributes:
        signal: what is averaged.
        scale: factor, the number of examples included.
        power: 2 for the square of the mean.
        plus: what was added.
    """

    signal: Signal
    scale: float
    power: int = 1
    plus: Known | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Piece:
    """Some examples or positions of a signal, of use only where they are put together again.

    Attributes:
        signal: the whole signal.
        size: number of its entries.
    """

    signal: Signal
    size: int


@dataclasses.dataclass(frozen=True, eq=False)
class Series:
    """What a scan returns, stacked.

    Attributes:
        signals: one a step.
        axes: of the stacked array; the axis of the steps is marked "t".
    """

    signals: tuple[Signal, ...]
    axes: Axes


Value: TypeAlias = Known | Data | Outside | BatchMean | Piece | Series | Signal


def outside(values: Sequence[Value], reason: str) -> Outside:
    """Return what nothing is known of, made of `values`, for this reason."""
    return Outside(reason, frozenset().union(*(gaussians_of(v) for v in values)))


def gaussians_of(value: Value) -> frozenset[Gaussian]:
    """Return the Gaussians that a value is made of."""
    if isinstance(value, (Known, Outside)):
        return value.reads
    if isinstance(value, (BatchMean, Piece)):
        value = value.signal
    if isinstance(value, Series):
        return frozenset().union(*(gaussians_of(v) for v in value.signals))
    return frozenset(value.components) if isinstance(value, Signal) else frozenset()


def layers_below(signal: Signal) -> list[Gaussian]:
    """Return the layers that a signal's Gaussians are made of."""
    found, todo, seen = [], list(signal.components), set[Gaussian]()
    while todo:
        gaussian = todo.pop()
        if gaussian in seen:
            continue
        seen.add(gaussian)
        if gaussian.layer is not None:
            found.append(gaussian)
        else:
            todo.extend(parent for parent, _ in gaussian.edges)
    return found


def identity_of(signal: Signal) -> Any:
    """Return a key that is equal for signals that are the same random variable."""
    components = sorted((id(s), np.asarray(p.value).tobytes()) for s, p in signal.components.items())
    return (round(signal.constant, 12), *components)


def ratio_of(signal: Signal, other: Signal) -> float | None:
    """Return the k for which signal = k other, None if there is none."""
    if set(signal.components) != set(other.components) or not other.components:
        return None
    own, base = (np.stack([s.components[g].value for g in other.components]) for s in (signal, other))
    k = float((own * base).sum() / max((base**2).sum(), 1e-300))
    close = np.abs(own - k * base).max() <= 1e-4 * np.abs(own).max()
    return k if close and math.isclose(signal.constant, k * other.constant, rel_tol=1e-4, abs_tol=1e-9) else None


def axes_of(value: Value) -> Axes:
    """Return what the axes hold, () where that is of no account."""
    return value.axes if isinstance(value, (Signal, Series)) else ()


def broadcast_axes(left: Axes, right: Axes) -> Axes:
    """Return the axes of a result of two operands: those of the operand that was not broadcast."""
    return left if left.count("u") + left.count("e") >= right.count("u") + right.count("e") else right
