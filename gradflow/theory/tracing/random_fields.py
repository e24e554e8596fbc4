"""Values of a network as mean-field theory sees them: sums of functions of independent Gaussians.

Over random weights and wide layers the entries of a layer's output are Gaussian, independent over units, with one
correlation between examples. What is computed from them elementwise is kept as values and slopes on the nodes of a
quadrature, so that any activation is covered without knowing its name.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from gradflow.theory.tracing.centring import through_share
from gradflow.theory.tracing.likeness import Carry, Correlations, through_slopes

__all__ = [
    "MOST_UNEVEN",
    "NODES",
    "WEIGHTS",
    "Component",
    "Gaussian",
    "Signal",
    "correlation_of",
    "gaussian_signal",
    "measured_share",
    "merged_gaussian",
    "uneven_spread",
]

_BREAKS = np.unique(np.concatenate([s * 10.0 * 0.5 ** np.arange(9) for s in (-1, 1)] + [np.array([0.0, 3.5, -3.5])]))
_GAUSS, _GAUSS_WEIGHTS = np.polynomial.legendre.leggauss(10)
_HALVES = np.diff(_BREAKS) / 2
NODES = ((_BREAKS[1:] + _BREAKS[:-1])[:, None] / 2 + _HALVES[:, None] * _GAUSS).ravel()
_UNSCALED = (_HALVES[:, None] * _GAUSS_WEIGHTS).ravel() * np.exp(-(NODES**2) / 2)
WEIGHTS = _UNSCALED / _UNSCALED.sum()
MOST_UNEVEN = 0.5  # relative variance over examples of the mean square, beyond which one Gaussian is no description
_HERMITE = 24  # degree up to which correlations between examples are followed; the rest is taken together


def _hermite() -> Float[np.ndarray, "degrees nodes"]:
    rows = [np.ones_like(NODES), NODES]
    for k in range(1, _HERMITE):
        rows.append((NODES * rows[k] - math.sqrt(k) * rows[k - 1]) / math.sqrt(k + 1))
    return np.stack(rows)


_POLYNOMIALS = _hermite()


@dataclasses.dataclass(eq=False)
class Gaussian:
    """One Gaussian of mean 0: a layer's output, a bias over units, or a sum of such.

    Attributes:
        variance: q.
        shared: correlation between its values for two examples.
        edges: the Gaussians that it is made of: (Gaussian, factor of the mean square gradient on the way down).
        log_variance: variance of ln q over random weights, from finite width.
        layer: (name, steps of the scans around it), None for what is no layer's output.
        units: width of the layer, 0 for no layer.
        kurtosis: E[d^4] / E[d^2]^2 of each edge's slope d.
        carries: what each edge makes of how alike gradients are; where there are none, that is not known.
        spatial: correlation between two positions of one example, by their distance along each axis of positions; one
            number where it is the same for all; None where it is not known.
        part: whether it stands for some units of the Gaussian that it is made of, and so is independent of others.
        nodes: covariance between every two examples over q, where they are the nodes of a graph; one number where it is
            the same for all; None where it is not followed.
        alike: bound on the root mean square correlation between two examples; 1 where none is known.
        examples: how many examples that is about.
        measured: share of the variance that was measured, because it comes from outside the theory.
        unevenness: what it adds to the variance of ln q that its mean square is not the same for all examples.
        few_weights: 1 - 1 / (E[S] E[1/S]) over units, of the sum of squares S of a unit's weights.
    """

    variance: float
    shared: float
    edges: list[tuple[Gaussian, float]] = dataclasses.field(default_factory=list)
    log_variance: float = 0.0
    layer: tuple[str, tuple[int, ...]] | None = None
    units: int = 0
    kurtosis: list[float] = dataclasses.field(default_factory=list)
    carries: list[Carry] = dataclasses.field(default_factory=list)
    spatial: Float[np.ndarray, "*distances"] | None = None
    part: bool = False
    nodes: Float[np.ndarray, "..."] | None = None
    alike: float = 1.0
    examples: int = 0
    measured: float = 0.0
    unevenness: float = 0.0
    few_weights: float = 0.0

    @property
    def correlations(self) -> Correlations:
        """Of its values at different places."""
        return Correlations(self.spatial, self.nodes, self.shared)

    @property
    def is_uneven(self) -> bool:
        """Whether the mean square differs so much between nodes that one Gaussian is no description of it."""
        squares = np.ones(1) if self.nodes is None or not self.nodes.ndim else np.diag(self.nodes)
        return bool(squares.var() > MOST_UNEVEN * squares.mean() ** 2)


@dataclasses.dataclass(frozen=True)
class Component:
    """f(u) and f'(u) at u = sqrt(q) times the nodes."""

    value: Any
    slope: Float[np.ndarray, " nodes"]

    @property
    def mean(self) -> float:
        """E[f(u)]."""
        return float(WEIGHTS @ self.value)

    @property
    def variance(self) -> float:
        """Var[f(u)]; never negative, also where rounding is all that is left of it."""
        return float(WEIGHTS @ np.square(self.value - self.mean))

    @property
    def linear(self) -> bool:
        """Whether f' is the same everywhere."""
        return bool(np.ptp(self.slope) <= 1e-9 * np.abs(self.slope).max())

    @functools.cached_property
    def spectrum(self) -> Float[np.ndarray, " degrees"]:
        """Squared Hermite coefficients of degree 1, 2, ...; all that is beyond the last degree stands at the end."""
        squares = (_POLYNOMIALS @ (WEIGHTS * self.value)) ** 2
        rest = max(float(WEIGHTS @ self.value**2) - float(squares.sum()), 0.0)
        return np.append(squares[1:], rest)

    @functools.cached_property
    def slope_spectrum(self) -> Float[np.ndarray, " degrees"]:
        """Squared Hermite coefficients of f' of degree 0, 1, ...; all that is beyond the last stands at the end."""
        squares = (_POLYNOMIALS @ (WEIGHTS * self.slope)) ** 2
        return np.append(squares, max(float(WEIGHTS @ self.slope**2) - float(squares.sum()), 0.0))

    @functools.cached_property
    def along_spectrum(self) -> Float[np.ndarray, " degrees"]:
        """The same of u f'(u), for u of variance 1."""
        along = self.slope * NODES
        squares = (_POLYNOMIALS @ (WEIGHTS * along)) ** 2
        return np.append(squares, max(float(WEIGHTS @ along**2) - float(squares.sum()), 0.0))

    def covariance(self, correlation: Any) -> Any:
        """Cov[f(u), f(v)] = sum_k a_k^2 c^k, of two Gaussians of this correlation.

        Args:
            correlation: c, one number or several.
        """
        return np.polynomial.polynomial.polyval(correlation, np.concatenate([[0.0], self.spectrum]))

    def between_nodes(self, nodes: Float[np.ndarray, "..."]) -> Any:
        """Cov[f(u), f(v)] of every two nodes; f is taken to scale with its input where their variances differ.

        Args:
            nodes: covariances over q.
        """
        if not nodes.ndim:
            return self.covariance(nodes)
        if self.linear:
            return self.variance * nodes  # also below 0, where the mean differs between nodes
        scale = np.sqrt(np.maximum(np.diag(nodes), 1e-30))
        both = np.outer(scale, scale)
        return both * self.covariance(np.clip(nodes / both, -1.0, 1.0))


@dataclasses.dataclass(frozen=True, eq=False)
class Signal:
    """constant + sum_s f_s(u_s), u_s ~ N(0, q_s) independent, over units and random weights.

    Attributes:
        constant: the part that no Gaussian moves.
        components: f_s by Gaussian.
        axes: what each axis of the array holds: "u" units, "e" examples (batch, positions), "1" nothing.
    """

    constant: float
    components: Mapping[Gaussian, Component]
    axes: tuple[str, ...]

    @property
    def mean(self) -> float:
        """E over units."""
        return self.constant + sum(p.mean for p in self.components.values())

    @property
    def variance(self) -> float:
        """Var over units, for one example."""
        return sum(p.variance for p in self.components.values())

    @property
    def square(self) -> float:
        """E of the square."""
        return self.mean**2 + self.variance

    @property
    def shared(self) -> float:
        """Covariance over units between two examples: sum_k a_k^2 c^k with Hermite coefficients a_k."""
        return sum(float(p.covariance(gaussian.shared)) for gaussian, p in self.components.items())

    @property
    def alike(self) -> float:
        """Bound on the root mean square correlation between two examples, relative to the mean square."""
        total = self.mean**2 + sum(p.variance * gaussian.alike for gaussian, p in self.components.items())
        return min(total / max(self.square, 1e-300), 1.0)

    @property
    def spatial(self) -> Float[np.ndarray, "*distances"] | None:
        """Covariance over units between two positions of one example, by distance; None where it is not known."""
        total = np.zeros(())
        for gaussian, component in self.components.items():
            if gaussian.spatial is None or not {total.shape, gaussian.spatial.shape} <= {(), gaussian.spatial.shape}:
                return None
            total = total + component.covariance(gaussian.spatial)
        return total

    @property
    def nodes(self) -> Float[np.ndarray, "..."] | None:
        """Covariance over units between every two examples; None where it is not followed."""
        total = np.zeros(())
        for gaussian, component in self.components.items():
            if gaussian.nodes is None:
                return None
            total = total + component.between_nodes(gaussian.nodes)
        return total

    @property
    def linear(self) -> bool:
        """Whether it is itself Gaussian."""
        return all(p.linear for p in self.components.values())

    @property
    def edges(self) -> list[tuple[Gaussian, float]]:
        """Mean square slope by Gaussian."""
        return [(gaussian, float(WEIGHTS @ component.slope**2)) for gaussian, component in self.components.items()]

    @property
    def carries(self) -> list[Carry]:
        """What each edge makes of how alike gradients are."""
        whole = max(self.variance, 1e-300)
        return [
            through_share(p.variance / whole, g.correlations)
            if p.linear
            else through_slopes(p.slope_spectrum, p.along_spectrum, g.correlations)
            for g, p in self.components.items()
        ]

    @property
    def kurtosis(self) -> list[float]:
        """E[d^4] / E[d^2]^2 of the slope d, by Gaussian."""
        return [
            float(WEIGHTS @ p.slope**4) / max(float(WEIGHTS @ p.slope**2) ** 2, 1e-300)
            for p in self.components.values()
        ]

    @property
    def log_variance(self) -> float:
        """Variance of ln of the mean square, inherited from the Gaussians', to first order."""
        total, square = 0.0, max(self.square, 1e-300)
        for gaussian, component in self.components.items():
            rest = self.mean - component.mean
            change = float(WEIGHTS @ ((component.value**2 + 2 * rest * component.value) * (NODES**2 - 1))) / 2
            total += (change / square) ** 2 * gaussian.log_variance
        return total

    @property
    def sampling(self) -> float:
        """E[x^4] / E[x^2]^2 - 1: variance of the mean of x^2 over units, times their number, relative.

        Of the sum over independent components, fourth cumulants add.
        """
        second = fourth = third = 0.0
        for component in self.components.values():
            centred = component.value - component.mean
            m2, m3, m4 = (float(WEIGHTS @ centred**k) for k in (2, 3, 4))
            second, third, fourth = second + m2, third + m3, fourth + m4 - 3 * m2**2
        mean = self.mean
        whole = fourth + 3 * second**2 + 4 * mean * third + 6 * mean**2 * second + mean**4
        return max(whole / self.square**2 - 1, 0.0) if self.square > 1e-150 else 0.0

    def scaled(self, factor: float) -> Signal:
        """Times a number."""
        components = {s: Component(factor * p.value, factor * p.slope) for s, p in self.components.items()}
        return Signal(factor * self.constant, components, self.axes)

    def plus(self, other: Signal, sign: float = 1.0) -> Signal:
        """Sum; what stems from the same Gaussian adds up before it is squared."""
        components = dict(self.components)
        for gaussian, component in other.components.items():
            if gaussian in components:
                old = components[gaussian]
                components[gaussian] = Component(old.value + sign * component.value, old.slope + sign * component.slope)
            else:
                components[gaussian] = Component(sign * component.value, sign * component.slope)
        return Signal(self.constant + sign * other.constant, components, self.axes)


def gaussian_signal(gaussian: Gaussian, axes: tuple[str, ...], mean: float = 0.0) -> Signal:
    """The signal that is a Gaussian itself."""
    return Signal(mean, {gaussian: Component(math.sqrt(gaussian.variance) * NODES, np.ones_like(NODES))}, axes)


def merged_gaussian(signal: Signal) -> Gaussian:
    """One Gaussian for a whole signal, less its mean: exact for a linear one, for others as if terms were many."""
    return Gaussian(
        signal.variance,
        signal.shared / max(signal.variance, 1e-300),
        signal.edges,
        _merged(signal, "log_variance"),
        kurtosis=signal.kurtosis,
        carries=signal.carries,
        spatial=correlation_of(signal.spatial, signal.variance),
        nodes=None if (nodes := signal.nodes) is None else nodes / max(signal.variance, 1e-300),
        examples=max((g.examples for g in signal.components), default=0),
        alike=sum(p.variance * g.alike for g, p in signal.components.items()) / max(signal.variance, 1e-300),
        measured=measured_share(signal),
        unevenness=_merged(signal, "unevenness"),
        few_weights=_merged(signal, "few_weights"),
    )


def correlation_of(covariance: Float[np.ndarray, "*distances"] | None, variance: float) -> Any:
    """Return covariances over positions as correlations, None for what is not known.

    Args:
        covariance: by distance.
        variance: at distance 0.
    """
    return None if covariance is None else np.clip(covariance / max(variance, 1e-300), -1.0, 1.0)


def measured_share(signal: Signal) -> float:
    """Return the share of a signal's variance that was measured and not predicted.

    Args:
        signal: the signal.
    """
    measured = sum(p.variance * gaussian.measured for gaussian, p in signal.components.items() if gaussian.measured)
    return measured / max(signal.variance, 1e-300)


def uneven_spread(variance: float) -> float:
    """Return the variance of the ln of a mean square that stands for an error of 2 ln(1 + c) at three deviations.

    A normalization divides the gradient by the mean square r of each example, and E[1/r] E[r] = 1 + c to first order,
    where c is the relative variance of r. The gradient that arrives is itself uneven, from a normalization above.

    Args:
        variance: c, over examples.
    """
    return (2 * math.log1p(variance) / 3) ** 2


def _merged(signal: Signal, which: str) -> float:
    """A relative variance of the signal's variance, from those of its terms."""
    whole = max(signal.variance, 1e-300)
    return sum((p.variance / whole) ** 2 * getattr(gaussian, which) for gaussian, p in signal.components.items())
