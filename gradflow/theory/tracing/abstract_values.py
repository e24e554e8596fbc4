"""What a value of a traced program can be to mean-field theory."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from gradflow.theory.tracing.likeness import Carry, mean_of_pairs
from gradflow.theory.tracing.random_fields import Gaussian, Signal
from gradflow.theory.tracing.sizes import Sizes, sizes_of

__all__ = [
    "Axes",
    "BatchMean",
    "Data",
    "Known",
    "Outside",
    "Padded",
    "Padding",
    "Parts",
    "Piece",
    "Series",
    "Signal",
    "Value",
    "axes_of",
    "broadcast_axes",
    "gaussians_below",
    "gaussians_of",
    "identity_of",
    "independent",
    "layers_below",
    "outside",
    "ratio_of",
    "sources_of",
    "unmeasured_of",
]

Axes: TypeAlias = tuple[str, ...]
Padding: TypeAlias = Mapping[int, tuple[int, int]]


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
        same = array.size > 0 and bool((array == array.flat[0]).all() or np.isnan(array).all())
        return float(array.flat[0]) if same else None


@dataclasses.dataclass(frozen=True)
class Data:
    """Depends on the batch, and on no layer.

    Attributes:
        value: the numbers, of which only masks are read; None where they were not computed.
    """

    value: Any = None


@dataclasses.dataclass(frozen=True)
class Outside:
    """What theory has no description for.

    Attributes:
        reason: why.
        reads: the Gaussians that it is made of.
        measured: those of them that get back what is measured where theory is left; the gradient of the others cannot
            be predicted.
    """

    reason: str
    reads: frozenset[Gaussian] = frozenset()
    measured: frozenset[Gaussian] = frozenset()


@dataclasses.dataclass(frozen=True, eq=False)
class BatchMean:
    """A statistic of the batch: `scale` times the mean of a signal over examples, by unit.

    Attributes:
        signal: what is averaged.
        scale: factor, the number of examples included.
        power: 2 for the square of the mean.
        plus: what was added.
        pooled: the mean as a signal, where it is one over the positions of each example; None for one over all
            examples.
        sizes: number of examples, and of positions along each axis.
    """

    signal: Signal
    scale: float
    power: int = 1
    plus: Known | None = None
    pooled: Signal | None = None
    sizes: tuple[int, ...] = (1,)

    @property
    def covariance(self) -> float:
        """Variance over units of the mean: mean covariance of every two examples and positions."""
        if self.pooled is not None:
            return self.pooled.variance
        return mean_of_pairs(self.signal.spatial, self.signal.shared, self.sizes)

    def as_signal(self) -> Signal | None:
        """The mean over positions as a signal, None for what is not one."""
        added = 0.0 if self.plus is None else self.plus.number()
        if self.pooled is None or self.power != 1 or added is None:
            return None
        scaled = self.pooled.scaled(self.scale)
        return dataclasses.replace(scaled, constant=scaled.constant + added)


@dataclasses.dataclass(frozen=True, eq=False)
class Piece:
    """Some examples or positions of a signal, of use only where they are put together again.

    Attributes:
        signal: the whole signal.
        size: number of its entries.
        cut: the variable that it was cut from, path of the equation that did, and which operand; None if not noted.
    """

    signal: Signal
    size: int
    cut: tuple[Any, tuple[int, ...], int] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Series:
    """What a scan returns, stacked.

    Attributes:
        signals: one a step.
        axes: of the stacked array; the axis of the steps is marked "t".
    """

    signals: tuple[Signal, ...]
    axes: Axes


@dataclasses.dataclass(frozen=True, eq=False)
class Padded:
    """A signal with zeros around its positions.

    Attributes:
        signal: without them.
        padding: zeros before and behind, by axis.
    """

    signal: Signal
    padding: Padding


@dataclasses.dataclass(frozen=True, eq=False)
class Parts:
    """Values side by side along the units, as a concatenation leaves them; what enters a layer are signals.

    Attributes:
        pieces: one a stretch of units.
        fractions: share of the units that each has.
    """

    pieces: tuple[Value, ...]
    fractions: tuple[float, ...]

    @property
    def signals(self) -> list[tuple[float, Signal]]:
        """The signals among them, with their share of the units."""
        return [(f, p) for f, p in zip(self.fractions, self.pieces, strict=True) if isinstance(p, Signal)]

    @property
    def mean(self) -> float:
        """E over all units."""
        return sum(f * p.mean for f, p in self.signals)

    @property
    def square(self) -> float:
        """E of the square over all units."""
        return sum(f * p.square for f, p in self.signals)

    @property
    def shared(self) -> float:
        """Covariance over all units between two examples."""
        return sum(f * (p.shared + p.mean**2) for f, p in self.signals) - self.mean**2

    @property
    def spatial(self) -> Any:
        """Covariance over all units between two positions, by distance; None where it is not known."""
        total: Any = np.zeros(())
        for fraction, piece in self.signals:
            moments = piece.spatial
            if moments is None or not {total.shape, moments.shape} <= {(), moments.shape}:
                return None
            total = total + fraction * (moments + piece.mean**2)
        return total - self.mean**2

    def sizes(self) -> Sizes | None:
        """How the mean square over all units differs between places."""
        found = [(f * p.square, p.sizes()) for f, p in self.signals]
        shapes = {np.shape(s.places) for _, s in found if s is not None}
        if len(shapes) != 1 or any(s is not None and s.places is None for _, s in found):
            return None
        total: Any = sum(square if s is None else square * s.places for square, s in found)
        return sizes_of(total)

    @property
    def edges(self) -> list[tuple[Gaussian, float]]:
        """Mean square slope by Gaussian."""
        return [edge for _, p in self.signals for edge in p.edges]

    @property
    def kurtosis(self) -> list[float]:
        """E[d^4] / E[d^2]^2 of the slope d, by Gaussian."""
        return [k for _, p in self.signals for k in p.kurtosis]

    @property
    def carries(self) -> list[Carry]:
        """What each edge makes of how alike gradients are."""
        return [c for _, p in self.signals for c in p.carries]

    @property
    def components(self) -> frozenset[Gaussian]:
        """All Gaussians."""
        return frozenset().union(*(p.components for _, p in self.signals))

    @property
    def log_variance(self) -> float:
        """Variance of ln of the mean square, inherited."""
        whole = max(self.square, 1e-300)
        return sum((f * p.square / whole) ** 2 * p.log_variance for f, p in self.signals)

    @property
    def sampling(self) -> float:
        """E[x^4] / E[x^2]^2 - 1."""
        whole = self.square
        if whole <= 1e-150:
            return 0.0
        return sum(f * (p.sampling + 1) * p.square**2 for f, p in self.signals) / whole**2 - 1


Value: TypeAlias = "Known | Data | Outside | BatchMean | Piece | Padded | Parts | Series | Signal"


def outside(values: Sequence[Value], reason: str) -> Outside:
    """Return what nothing is known of, made of `values`, for this reason."""
    measured = frozenset().union(*(v.measured for v in values if isinstance(v, Outside)))
    return Outside(reason, frozenset().union(*(gaussians_of(v) for v in values)), measured - unmeasured_of(values))


def unmeasured_of(values: Sequence[Value]) -> frozenset[Gaussian]:
    """Return the Gaussians that values are made of, and of which it is not measured what they get back.

    Args:
        values: the values.
    """
    return frozenset().union(*(gaussians_of(v) - (v.measured if isinstance(v, Outside) else set()) for v in values))


def gaussians_of(value: Value) -> frozenset[Gaussian]:
    """Return the Gaussians that a value is made of."""
    if isinstance(value, (Known, Outside)):
        return value.reads
    if isinstance(value, (BatchMean, Padded, Piece)):
        value = value.signal
    if isinstance(value, (Parts, Series)):
        several = value.pieces if isinstance(value, Parts) else value.signals
        return frozenset().union(*(gaussians_of(v) for v in several))
    return frozenset(value.components) if isinstance(value, Signal) else frozenset()


def sources_of(signal: Signal | Parts, *, through_parts: bool = True) -> set[Gaussian]:
    """Return what a signal's Gaussians are made of in the end: layers, and what is made of nothing.

    Args:
        signal: the signal.
        through_parts: whether some units of a layer count as that layer.
    """
    seen = gaussians_below(signal, through_parts=through_parts)
    return {g for g in seen if _is_source(g, through_parts)}


def gaussians_below(signal: Signal | Parts, *, through_parts: bool = True) -> set[Gaussian]:
    """Return all Gaussians between a signal and the next layers below, and those layers.

    Args:
        signal: the signal.
        through_parts: whether to go on to the layer behind some of its units.
    """
    todo, seen = list(signal.components), set[Gaussian]()
    while todo:
        gaussian = todo.pop()
        if gaussian in seen:
            continue
        seen.add(gaussian)
        if not _is_source(gaussian, through_parts):
            todo.extend(parent for parent, _ in gaussian.edges)
    return seen


def _is_source(gaussian: Gaussian, through_parts: bool) -> bool:
    return gaussian.layer is not None or not gaussian.edges or (gaussian.part and not through_parts)


def independent(left: Signal, right: Signal) -> bool:
    """Tell whether two signals are made of different layers, or of different units of the same.

    Args:
        left: one signal.
        right: another one.
    """
    first, second = sources_of(left, through_parts=False), sources_of(right, through_parts=False)
    if first & second:
        return False
    wholes = [{g for g in sources if not g.part} for sources in (first, second)]
    return not (wholes[0] & sources_of(right) or wholes[1] & sources_of(left))


def layers_below(signal: Signal | Parts) -> list[Gaussian]:
    """Return the layers that a signal's Gaussians are made of."""
    return [gaussian for gaussian in sources_of(signal) if gaussian.layer is not None]


def identity_of(signal: Signal) -> Any:
    """Return a key that is equal for signals that are the same random variable."""
    components = sorted((id(s), np.asarray(p.value).tobytes()) for s, p in signal.components.items())
    return (round(signal.constant, 12), *components)


def ratio_of(signal: Signal, other: Signal) -> float | None:
    """Return the k for which signal = k other, None if there is none."""
    if set(signal.components) != set(other.components) or not other.components:
        return None
    own, base = (np.concatenate([s.components[g].value for g in other.components]) for s in (signal, other))
    k = float((own * base).sum() / max((base**2).sum(), 1e-300))
    close = np.abs(own - k * base).max() <= 1e-4 * np.abs(own).max()
    return k if close and math.isclose(signal.constant, k * other.constant, rel_tol=1e-4, abs_tol=1e-9) else None


def axes_of(value: Value) -> Axes:
    """Return what the axes hold, () where that is of no account."""
    return value.axes if isinstance(value, (Signal, Series)) else ()


def broadcast_axes(left: Axes, right: Axes) -> Axes:
    """Return the axes of a result of two operands: those of the operand that was not broadcast."""
    return left if left.count("u") + left.count("e") >= right.count("u") + right.count("e") else right
