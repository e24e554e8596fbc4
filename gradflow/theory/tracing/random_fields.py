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

from gradflow.theory.tracing.centring import through_share
from gradflow.theory.tracing.components import Component, evened
from gradflow.theory.tracing.correlations import Correlations
from gradflow.theory.tracing.likeness import Carry, in_turn, through_slopes
from gradflow.theory.tracing.quadrature import NODES, SHARES, by_bin, nodes_of, weights_of
from gradflow.theory.tracing.sizes import Sizes, at_places, sizes_of, weighted

__all__ = [
    "MOST_UNEVEN",
    "Gaussian",
    "Signal",
    "correlation_of",
    "gaussian_signal",
    "measured_share",
    "merged_gaussian",
    "uneven_spread",
]

MOST_UNEVEN = 0.5  # relative variance over examples of the mean square, beyond which one Gaussian is no description


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
        sizes: mean square at each place over q; None where it is the same at all.
        pairs: quantiles of the correlation between two places of different examples; None where it is not known.
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
    sizes: Sizes | None = None
    pairs: Float[np.ndarray, " quantiles"] | None = None

    @property
    def grid(self) -> Float[np.ndarray, " nodes"]:
        """The nodes, as u / sqrt(q)."""
        return NODES if self.sizes is None else self.sizes.grid

    @property
    def correlations(self) -> Correlations:
        """Of its values at different places."""
        mean_square = None if self.pairs is None else float(np.mean(self.pairs**2))
        at = Correlations(self.spatial, self.nodes, self.shared, mean_square=mean_square)
        return at if self.sizes is None else self.sizes.correlations(at)

    @property
    def is_uneven(self) -> bool:
        """Whether the mean square differs so much between nodes that one Gaussian is no description of it."""
        squares = np.ones(1) if self.nodes is None or not self.nodes.ndim else np.diag(self.nodes)
        return bool(squares.var() > MOST_UNEVEN * squares.mean() ** 2)


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
        return sum(float(p.covariance(g.correlations.angle)) for g, p in self.components.items())

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
            at = gaussian.correlations
            total = total + component.covariance(at.angles, at.near)
        return total

    def pairs(self, less: float = 0.0) -> Float[np.ndarray, " quantiles"] | None:
        """Return quantiles of the correlation between two places of different examples; None where it is not known.

        Args:
            less: a constant that is taken away before.
        """
        if not self.components or any(g.pairs is None for g in self.components):
            return None
        between, whole = np.full((), (self.mean - less) ** 2), (self.mean - less) ** 2
        for gaussian, component in self.components.items():
            between = between + component.covariance(gaussian.pairs)
            whole += float(component.covariance(1.0))
        return np.clip(between / whole, -1.0, 1.0) if whole > 0 else None

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
        return [(gaussian, component.mean_square_slope) for gaussian, component in self.components.items()]

    @property
    def carries(self) -> list[Carry]:
        """What each edge makes of how alike gradients are."""
        return [self._carry(gaussian, component) for gaussian, component in self.components.items()]

    def _carry(self, gaussian: Gaussian, component: Component) -> Carry:
        at = gaussian.correlations
        if component.linear:
            carry = through_share(component.variance / max(self.variance, 1e-300), at)
        else:
            carry = through_slopes(component.slope_spectrum, component.along_spectrum(gaussian.grid), at)
        slopes = by_bin(component.slope**2)
        if gaussian.sizes is None or gaussian.sizes.places is None or np.ptp(slopes) <= 1e-9 * slopes.max():
            return carry
        return in_turn(carry, weighted(np.maximum(at_places(slopes, gaussian.sizes), 0.0)))

    @property
    def kurtosis(self) -> list[float]:
        """E[d^4] / E[d^2]^2 of the slope d in places of one size, by Gaussian."""
        slopes = [evened(p.slope) for p in self.components.values()]
        return [float(weights_of(d) @ d**4) / max(float(weights_of(d) @ d**2) ** 2, 1e-300) for d in slopes]

    @property
    def log_variance(self) -> float:
        """Variance of ln of the mean square, inherited from the Gaussians', to first order."""
        total, square = 0.0, max(self.square, 1e-300)
        for gaussian, component in self.components.items():
            rest = self.mean - component.mean
            changes = (component.value**2 + 2 * rest * component.value) * (nodes_of(component.value) ** 2 - 1)
            change = float(weights_of(changes) @ changes) / 2
            total += (change / square) ** 2 * gaussian.log_variance
        return total

    @property
    def sampling(self) -> float:
        """E[x^4] / E[x^2]^2 - 1 in places of one size: variance of the mean of x^2 over units, times their number.

        Of the sum over independent components, fourth cumulants add.
        """
        second = fourth = third = 0.0
        for component in self.components.values():
            centred = evened(component.value - component.mean)
            m2, m3, m4 = (float(weights_of(centred) @ centred**k) for k in (2, 3, 4))
            second, third, fourth = second + m2, third + m3, fourth + m4 - 3 * m2**2
        mean = self.mean
        whole = fourth + 3 * second**2 + 4 * mean * third + 6 * mean**2 * second + mean**4
        return max(whole / self.square**2 - 1, 0.0) if self.square > 1e-150 else 0.0

    @property
    def _is_placed(self) -> bool | None:
        """Whether the sizes are known at each of the same places; None where all places are alike."""
        known = [gaussian.sizes for gaussian in self.components if gaussian.sizes is not None]
        shapes = {None if s.places is None else np.shape(s.places) for s in known}
        return len(shapes) == 1 and None not in shapes if known else None

    def sizes(self, less: float = 0.0) -> Sizes | None:
        """Return how the mean square differs between places.

        Args:
            less: a constant that is taken away before.
        """
        placed = self._is_placed
        if placed is None:
            return None
        moments = [component.moments(gaussian.sizes, placed=placed) for gaussian, component in self.components.items()]
        squares = (self.constant - less + sum(mean for mean, _ in moments)) ** 2 + sum(v for _, v in moments)
        if placed:
            return sizes_of(squares)
        whole = float(SHARES @ squares)
        return Sizes(squares / whole) if whole > 0 else None

    def means_at_places(self) -> Float[np.ndarray, "examples *positions"] | None:
        """Return E over units at each place; None where it is the same at all, or places cannot be told apart."""
        if not self._is_placed:
            return None
        return self.constant + sum(c.moments(g.sizes, placed=True)[0] for g, c in self.components.items())

    def scaled_at_places(self, factors: Float[np.ndarray, "examples *positions"]) -> Signal:
        """Return the signal times a factor for each place.

        Args:
            factors: one a place.
        """
        components = {}
        typical = math.copysign(math.sqrt(float(np.mean(factors**2))), float(factors.mean()))
        for gaussian, component in self.components.items():
            sizes = gaussian.sizes
            value = slope = typical
            if sizes is not None and np.shape(sizes.places) == factors.shape:
                squares = sizes.mean_by_bin(sizes.places * factors**2) / np.maximum(sizes.bins, 1e-300)
                value = np.repeat(np.sqrt(np.where(sizes.bins > 0, squares, 0.0)), len(NODES)) * np.sign(typical)
                slope = np.repeat(np.sqrt(sizes.mean_by_bin(factors**2)), len(NODES)) * np.sign(typical)
            components[gaussian] = Component(value * component.value, slope * component.slope)
        return Signal(typical * self.constant, components, self.axes)

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
    value = math.sqrt(gaussian.variance) * gaussian.grid
    return Signal(mean, {gaussian: Component(value, np.ones_like(value))}, axes)


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
        sizes=signal.sizes(less=signal.mean),
        pairs=signal.pairs(less=signal.mean),
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
