"""Values of a network as mean-field theory sees them: sums of functions of independent Gaussians.

Over random weights and wide layers the entries of a layer's output are Gaussian, independent over units, with one
correlation between examples. What is computed from them elementwise is kept as values and slopes on the nodes of a
quadrature, so that any activation is covered without knowing its name.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

_BREAKS = np.unique(np.concatenate([s * 10.0 * 0.5 ** np.arange(9) for s in (-1, 1)] + [np.array([0.0, 3.5, -3.5])]))
_GAUSS, _GAUSS_WEIGHTS = np.polynomial.legendre.leggauss(10)
_HALVES = np.diff(_BREAKS) / 2
NODES = ((_BREAKS[1:] + _BREAKS[:-1])[:, None] / 2 + _HALVES[:, None] * _GAUSS).ravel()
_UNSCALED = (_HALVES[:, None] * _GAUSS_WEIGHTS).ravel() * np.exp(-(NODES**2) / 2)
WEIGHTS = _UNSCALED / _UNSCALED.sum()
_HERMITE = 24  # degree up to which correlations between examples are followed; the rest is taken together


def _hermite() -> Float[np.ndarray, "degrees nodes"]:
    rows = [np.ones_like(NODES), NODES]
    for k in range(1, _HERMITE):
        rows.append((NODES * rows[k] - math.sqrt(k) * rows[k - 1]) / math.sqrt(k + 1))
    return np.stack(rows)


_POLYNOMIALS = _hermite()


@dataclasses.dataclass(eq=False)
class Source:
    """One Gaussian of mean 0: a layer's output, a bias over units, or a sum of such.

    Attributes:
        variance: q.
        shared: correlation between its values for two examples.
        edges: what it is made of: (source, factor of the mean square gradient on the way down).
        log_variance: variance of ln q over random weights, from finite width.
        layer: (name, steps of the scans around it), None for what is no layer's output.
        units: width of the layer, 0 for no layer.
        kurtosis: E[d^4] / E[d^2]^2 of each edge's slope d.
    """

    variance: float
    shared: float
    edges: list[tuple[Source, float]] = dataclasses.field(default_factory=list)
    log_variance: float = 0.0
    layer: tuple[str, tuple[int, ...]] | None = None
    units: int = 0
    kurtosis: list[float] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Part:
    """f(u) and f'(u) at u = sqrt(q) times the nodes."""

    value: Any
    slope: Float[np.ndarray, " nodes"]


@dataclasses.dataclass(frozen=True, eq=False)
class Signal:
    """constant + sum_s f_s(u_s), u_s ~ N(0, q_s) independent, over units and random weights.

    Attributes:
        constant: the part that no Gaussian moves.
        parts: f_s by source.
        axes: what each axis of the array holds: "u" units, "e" examples (batch, positions), "1" nothing.
    """

    constant: float
    parts: Mapping[Source, Part]
    axes: tuple[str, ...]

    @property
    def mean(self) -> float:
        """E over units."""
        return self.constant + sum(float(WEIGHTS @ p.value) for p in self.parts.values())

    @property
    def variance(self) -> float:
        """Var over units, for one example."""
        return sum(float(WEIGHTS @ p.value**2 - (WEIGHTS @ p.value) ** 2) for p in self.parts.values())

    @property
    def square(self) -> float:
        """E of the square."""
        return self.mean**2 + self.variance

    @property
    def shared(self) -> float:
        """Covariance over units between two examples: sum_k a_k^2 c^k with Hermite coefficients a_k."""
        total = 0.0
        for source, part in self.parts.items():
            squares = (_POLYNOMIALS @ (WEIGHTS * part.value)) ** 2
            c = source.shared
            rest = max(float(WEIGHTS @ part.value**2) - float(squares.sum()), 0.0)
            total += float(squares[1:] @ c ** np.arange(1, _HERMITE + 1)) + rest * c ** (_HERMITE + 1)
        return total

    @property
    def linear(self) -> bool:
        """Whether it is itself Gaussian."""
        return all(np.ptp(p.slope) <= 1e-9 * np.abs(p.slope).max() for p in self.parts.values())

    @property
    def edges(self) -> list[tuple[Source, float]]:
        """Mean square slope by source."""
        return [(source, float(WEIGHTS @ part.slope**2)) for source, part in self.parts.items()]

    @property
    def kurtosis(self) -> list[float]:
        """E[d^4] / E[d^2]^2 of the slope d, by source."""
        return [
            float(WEIGHTS @ p.slope**4) / max(float(WEIGHTS @ p.slope**2) ** 2, 1e-300) for p in self.parts.values()
        ]

    @property
    def log_variance(self) -> float:
        """Variance of ln of the mean square, inherited from the sources', to first order."""
        total, square = 0.0, max(self.square, 1e-300)
        for source, part in self.parts.items():
            rest = self.mean - float(WEIGHTS @ part.value)
            moved = float(WEIGHTS @ ((part.value**2 + 2 * rest * part.value) * (NODES**2 - 1))) / 2
            total += (moved / square) ** 2 * source.log_variance
        return total

    @property
    def sampling(self) -> float:
        """E[x^4] / E[x^2]^2 - 1: variance of the mean of x^2 over units, times their number, relative.

        Of the sum over independent parts, fourth cumulants add.
        """
        second = fourth = third = 0.0
        for part in self.parts.values():
            centred = part.value - float(WEIGHTS @ part.value)
            m2, m3, m4 = (float(WEIGHTS @ centred**k) for k in (2, 3, 4))
            second, third, fourth = second + m2, third + m3, fourth + m4 - 3 * m2**2
        mean = self.mean
        whole = fourth + 3 * second**2 + 4 * mean * third + 6 * mean**2 * second + mean**4
        return whole / max(self.square**2, 1e-300) - 1

    def scaled(self, factor: float) -> Signal:
        """Times a number."""
        parts = {s: Part(factor * p.value, factor * p.slope) for s, p in self.parts.items()}
        return Signal(factor * self.constant, parts, self.axes)

    def plus(self, other: Signal, sign: float = 1.0) -> Signal:
        """Sum; what stems from the same source adds up before it is squared."""
        parts = dict(self.parts)
        for source, part in other.parts.items():
            if source in parts:
                old = parts[source]
                parts[source] = Part(old.value + sign * part.value, old.slope + sign * part.slope)
            else:
                parts[source] = Part(sign * part.value, sign * part.slope)
        return Signal(self.constant + sign * other.constant, parts, self.axes)


def gaussian(source: Source, axes: tuple[str, ...], mean: float = 0.0) -> Signal:
    """The signal that is a source itself."""
    return Signal(mean, {source: Part(math.sqrt(source.variance) * NODES, np.ones_like(NODES))}, axes)


def as_source(signal: Signal) -> Source:
    """One Gaussian for a whole signal, less its mean: exact for a linear one, for others as if terms were many."""
    return Source(
        signal.variance,
        signal.shared / max(signal.variance, 1e-300),
        signal.edges,
        _merged_log_variance(signal),
        kurtosis=signal.kurtosis,
    )


def _merged_log_variance(signal: Signal) -> float:
    """Of the variance instead of the mean square."""
    whole = max(signal.variance, 1e-300)
    parts = [(s, float(WEIGHTS @ p.value**2 - (WEIGHTS @ p.value) ** 2)) for s, p in signal.parts.items()]
    return sum((own / whole) ** 2 * source.log_variance for source, own in parts)
