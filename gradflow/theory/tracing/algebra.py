"""Sums, multiples and mergers of signals, and what is remembered of how each Gaussian was made."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gradflow.theory.tracing.abstract_values import (
    Axes,
    BatchMean,
    Known,
    Series,
    broadcast_axes,
    identity_of,
    independent,
    ratio_of,
)
from gradflow.theory.tracing.centring import behind_mean_of_positions, less_mean, less_projection
from gradflow.theory.tracing.correlations import Correlations
from gradflow.theory.tracing.likeness import (
    Carry,
    in_turn,
    lost,
    mean_of_pairs,
    summed_over_positions,
    through_factor,
    unchanged,
)
from gradflow.theory.tracing.node_values import typical_factor
from gradflow.theory.tracing.random_fields import (
    Gaussian,
    Signal,
    correlation_of,
    gaussian_signal,
    merged_gaussian,
    uneven_spread,
)
from gradflow.theory.tracing.sizes import divided_by_epsilon, less_what_is_shared, raises_few, without_places

__all__ = ["FieldAlgebra"]


class FieldAlgebra:
    """What rules compute with.

    Attributes:
        gaussians: all Gaussians of the program, those made of others after them.
        not_gaussian: those that stand for a signal of the same second moments that is not Gaussian.
        repeated_gaussians: those of signals that are repeated over examples, units, or some axes of positions; the
            gradients of these add up, and how far they agree is not followed.
        approximate: those of which nonlinear functions were taken although they are not Gaussian, and what is made of
            them.
        in_custom_rule: whether what is walked has a derivative of its own.
        nodes_wanted: whether a sum over the nodes of a graph was met, which needs the covariances of every pair.
        asks_for_likeness: whether gradients of positions or nodes add up, so that it counts how alike they are.
        sums: those of sums over nodes, as a signal, with what is summed and its coefficients.
        branches: those of what was added to a signal as measured, with the reason why theory does not follow it.
    """

    def __init__(self) -> None:
        self.gaussians: list[Gaussian] = []
        self.not_gaussian: set[Gaussian] = set()
        self.repeated_gaussians: set[Gaussian] = set()
        self.approximate: set[Gaussian] = set()
        self.branches: dict[Gaussian, str] = {}
        self.nodes_wanted = self.asks_for_likeness = self.in_custom_rule = False
        self.sums: dict[Gaussian, tuple[Signal, Signal, np.ndarray]] = {}
        self._merged: dict[Any, Signal] = {}
        self._parts: dict[Any, Gaussian] = {}
        self._multiples: dict[Gaussian, tuple[Signal, float]] = {}
        self._centred: dict[Gaussian, tuple[int, ...]] = {}  # less their mean over so many examples and positions

    def add(self, gaussian: Gaussian) -> Gaussian:
        """Note a Gaussian, and return it."""
        self.gaussians.append(gaussian)
        if gaussian.layer is None and any(parent in self.approximate for parent, _ in gaussian.edges):
            self.approximate.add(gaussian)
        return gaussian

    def signal_of(self, value: Known | Signal, axes: Axes = ()) -> Signal | None:
        """Return known numbers as a signal: their mean, and their spread over units as a Gaussian.

        Args:
            value: the numbers; a signal comes back as it is.
            axes: what the axes of the result hold, which tell units from examples.
        """
        if isinstance(value, Signal):
            return value
        if not value.is_numeric or not np.size(value.value) or not np.isfinite(value.array()).all():
            return None
        array = value.array()
        variance, mean = float(array.var()) if value.exact else 0.0, float(array.mean())
        if variance <= 1e-14 * mean**2 or variance < 1e-30:
            return Signal(mean, {}, ())
        shared = _correlation(array, axes)
        same = np.ones(()) if shared == 1.0 else None
        return gaussian_signal(self.add(Gaussian(variance, shared, spatial=same, nodes=same)), (), mean)

    def sum_of(self, left: Known | Signal, right: Known | Signal, sign: float = 1.0) -> Signal | None:
        """Return left + sign * right; what stems from the same Gaussian adds up before it is squared."""
        axes = max((v.axes for v in (left, right) if isinstance(v, Signal)), key=len, default=())
        first, second = self.signal_of(left, axes), self.signal_of(right, axes)
        if first is None or second is None:
            return None
        first, second = self._related(first, second)
        return dataclasses.replace(first.plus(second, sign), axes=broadcast_axes(first.axes, second.axes))

    def multiple(self, signal: Signal, by: Known, *, inverse: bool = False) -> Signal | None:
        """Return a signal times a known factor, or divided by it.

        A factor that is computed from the batch or from the units themselves leaves nothing of the width's chance.

        Args:
            signal: the signal.
            by: the factor; of several numbers their root mean square counts.
            inverse: whether to divide.
        """
        factor = typical_factor(by, inverse=inverse)
        if factor is None:
            return None
        places = _factors_at_places(signal, by, inverse=inverse)
        scaled = signal.scaled(factor) if places is None else signal.scaled_at_places(places)
        if by.exact or not scaled.linear or not scaled.components:
            return scaled
        gaussian = self.add(dataclasses.replace(merged_gaussian(scaled), log_variance=0.0, measured=0.0))
        if len(scaled.components) == 1 and (sizes := self._centred.get(next(iter(scaled.components)))) is not None:
            gaussian.carries = [
                in_turn(less_projection(sizes, gaussian.correlations, gaussian.few_weights), gaussian.carries[0])
            ]
        if places is not None and raises_few(signal, places):
            gaussian.carries = [divided_by_epsilon] * len(gaussian.edges)
        if gaussian.is_uneven:
            return None
        self._multiples[gaussian] = (signal, factor)
        return gaussian_signal(gaussian, scaled.axes, scaled.mean)

    def part_of(self, signal: Signal, start: int, stop: int, total: int) -> Signal:
        """Return some of the units of a signal: as many Gaussians of the same law, independent of those of the rest.

        Args:
            signal: the signal.
            start: first unit.
            stop: behind the last one.
            total: number of units.
        """
        components = {}
        for gaussian, component in signal.components.items():
            key = (gaussian, start, stop, total)
            if key not in self._parts:
                part = dataclasses.replace(gaussian, edges=[(gaussian, (stop - start) / total)], kurtosis=[1.0])
                part.layer, part.units, part.part, part.carries = None, 0, True, [unchanged]
                self._parts[key] = self.add(part)
                if gaussian in self.not_gaussian:
                    self.not_gaussian.add(part)
            components[self._parts[key]] = component
        return dataclasses.replace(signal, components=components)

    def step_of(self, signal: Signal, step: int, length: int) -> Signal:
        """Return what one step of a scan sees of a signal that it goes through: a position, independent of the others.

        Args:
            signal: with the steps on its first axis.
            step: which.
            length: number of steps.
        """
        components = {}
        for gaussian, component in signal.components.items():
            key = (gaussian, "step", step)
            if key not in self._parts:
                now = dataclasses.replace(gaussian, edges=[(gaussian, 1 / length)], kurtosis=[1.0])
                now.layer, now.units, now.part, now.nodes, now.carries = None, 0, True, None, [lost]
                now.sizes = without_places(now.sizes)
                if now.spatial is not None:
                    now.spatial = np.ones(()) if now.spatial.ndim < 2 else None
                self._parts[key] = self.add(now)
                if gaussian in self.not_gaussian:
                    self.not_gaussian.add(now)
            components[self._parts[key]] = component
        return dataclasses.replace(signal, components=components, axes=signal.axes[1:])

    def all_steps_of(self, series: Series) -> Signal:
        """Return what a scan returned as one signal: the mean law of its steps, which are alike but for the first ones.

        Args:
            series: one signal a step.
        """
        steps, axes = series.signals, tuple("e" if axis == "t" else axis for axis in series.axes)
        key = ("series", *(identity_of(signal) for signal in steps))
        if key not in self._merged:
            count, squares = len(steps), [signal.square for signal in steps]
            mean = sum(signal.mean for signal in steps) / count
            variance = max(sum(squares) / count - mean**2, 0.0)
            shared = sum(signal.shared + signal.mean**2 for signal in steps) / count - mean**2
            gaussian = Gaussian(
                variance,
                min(max(shared / max(variance, 1e-300), -1.0), 1.0),
                [edge for signal in steps for edge in signal.edges],
                max(signal.log_variance for signal in steps),
                kurtosis=[k for signal in steps for k in signal.kurtosis],
                unevenness=uneven_spread(float(np.var(squares)) / max(float(np.mean(squares)) ** 2, 1e-300)),
            )
            self.not_gaussian.add(self.add(gaussian))
            self._merged[key] = gaussian_signal(gaussian, axes, mean)
        return dataclasses.replace(self._merged[key], axes=axes)

    def repeated(self, value: Any, old: Sequence[int], new: Sequence[int]) -> Any:
        """Return a value that is repeated; a signal at all positions of an example gets the sum of their gradients.

        Where a signal is repeated otherwise, its gradient cannot be told.

        Args:
            value: the value, with the axes that it has afterwards.
            old: its shape before, with axes of length 1 where it is repeated.
            new: its shape afterwards.
        """
        if not isinstance(value, Signal) or math.prod(new) <= math.prod(old):
            return value
        along = [k for k, (m, n) in enumerate(zip(old, new, strict=True)) if m != n]
        axes = value.axes if len(value.axes) == len(new) else ()
        positions = [k for k, axis in enumerate(axes) if axis != "u"][1:]
        sizes = tuple(new[k] for k in positions)
        self.asks_for_likeness = True
        if "u" not in axes or not set(along) <= set(positions) or any(old[k] != 1 for k in positions):
            self.repeated_gaussians |= set(value.components)
            return value
        components = {}
        for gaussian, component in value.components.items():
            key = (gaussian, "repeated", sizes)
            if key not in self._parts:
                copy = dataclasses.replace(gaussian, edges=[(gaussian, 1.0)], kurtosis=[1.0], spatial=np.ones(()))
                copy.layer, copy.units, copy.nodes, copy.carries = None, 0, None, [summed_over_positions(sizes)]
                copy.sizes = without_places(copy.sizes)
                self._parts[key] = self.add(copy)
                if gaussian in self.not_gaussian:
                    self.not_gaussian.add(copy)
            components[self._parts[key]] = component
        return dataclasses.replace(value, components=components)

    def as_function_of_one(self, signal: Signal) -> Signal:
        """Return the signal as a function of one Gaussian: of several it takes their sum as one."""
        if len(signal.components) <= 1:
            return signal
        key = identity_of(signal)
        if key not in self._merged:
            gaussian = self.add(merged_gaussian(signal))
            if not signal.linear:
                self.not_gaussian.add(gaussian)
            self._merged[key] = gaussian_signal(gaussian, signal.axes, signal.mean)
        return dataclasses.replace(self._merged[key], axes=signal.axes)

    def product_of(self, left: Signal, right: Signal) -> Signal | None:
        """Return the product of two independent signals, such as a gate and what it lets through; None for others.

        E[f^2 g^2] = E[f^2] E[g^2], likewise between two examples, and the gradient of f is multiplied by g.

        Args:
            left: f.
            right: g, of the same axes.
        """
        same = all(a == b or "1" in (a, b) for a, b in zip(left.axes, right.axes, strict=False))
        if len(left.axes) != len(right.axes) or not same or not independent(left, right):
            return None
        mean = left.mean * right.mean
        variance = max(left.square * right.square - mean**2, 0.0)
        covariance = (left.shared + left.mean**2) * (right.shared + right.mean**2) - mean**2
        edges, kurtosis, carries = [], [], []
        for own, other in ((left, right), (right, left)):
            edges += [(gaussian, factor * other.square) for gaussian, factor in own.edges]
            kurtosis += [k * (1 + other.sampling) for k in own.kurtosis]
            carries += [in_turn(_factor_of(other), carry) for carry in own.carries]
        shared = min(max(covariance / max(variance, 1e-300), -1.0), 1.0)
        spread = left.log_variance + right.log_variance
        spatial = None
        if left.spatial is not None and right.spatial is not None:
            spatial = (left.spatial + left.mean**2) * (right.spatial + right.mean**2) - mean**2
        spatial = correlation_of(spatial, variance)
        gaussian = self.add(Gaussian(variance, shared, edges, spread, kurtosis=kurtosis, spatial=spatial))
        gaussian.carries = carries
        self.not_gaussian.add(gaussian)
        return gaussian_signal(gaussian, broadcast_axes(left.axes, right.axes), mean)

    def note_nonlinearity(self, gaussian: Gaussian) -> None:
        """Note that a nonlinear function is taken of a Gaussian."""
        if gaussian in self.not_gaussian:
            self.approximate.add(gaussian)

    def centred(self, signal: Signal, mean: BatchMean, sign: float = 1.0) -> Signal | None:
        """Return a signal less its own mean over the batch, with what was added to that mean; None for another mean.

        Args:
            signal: k times what `mean` is the mean of.
            mean: with a scale of -k.
            sign: of what was added to the mean.
        """
        within, factor = self._undivided(signal)
        ratio = ratio_of(within, mean.signal)
        if mean.power != 1 or ratio is None or not math.isclose(ratio * factor, -mean.scale, rel_tol=1e-3):
            return None
        gaussian = self.add(_without_mean(signal, mean, mean.covariance * (factor * ratio) ** 2))
        if mean.pooled is not None:
            down: Carry = behind_mean_of_positions
        elif within is signal:
            down, self._centred[gaussian] = less_mean(mean.sizes), mean.sizes
        else:  # divided by its deviation before
            down = in_turn(
                less_projection(mean.sizes, gaussian.correlations, gaussian.few_weights), less_mean(mean.sizes)
            )
        self.asks_for_likeness |= mean.pooled is None
        gaussian.carries = [in_turn(down, carry) for carry in gaussian.carries]
        out = gaussian_signal(gaussian, signal.axes)
        if mean.plus is None:
            return out
        plus = self.signal_of(mean.plus, signal.axes)
        return None if plus is None else out.plus(plus, sign)

    def _undivided(self, signal: Signal) -> tuple[Signal, float]:
        """The signal before it was divided by a statistic of its own, and what it was multiplied by."""
        factor, within = 1.0, signal
        while len(within.components) == 1 and (made := self._multiples.get(next(iter(within.components)))) is not None:
            if (k := ratio_of(within, gaussian_signal(next(iter(within.components)), ()))) is None:
                break
            within, factor = made[0], factor * k * made[1]
        return within, factor

    def is_of_centred(self, signal: Signal) -> bool:
        """Whether a signal is made of nothing but what its mean over the batch was taken from."""
        return all(gaussian in self._centred for gaussian in signal.components)

    def _related(self, left: Signal, right: Signal) -> tuple[Signal, Signal]:
        """Replace a sum by the one Gaussian made of it where the other side is a function of that."""
        pair = [left, right]
        for k, (own, other) in enumerate(((left, right), (right, left))):
            merged = self._merged.get(identity_of(own))
            if merged is not None and set(merged.components) & set(other.components):
                pair[k] = dataclasses.replace(merged, axes=own.axes)
        return pair[0], pair[1]


def _without_mean(signal: Signal, mean: BatchMean, gone: float) -> Gaussian:
    """A signal less a mean of its own, whose variance over units is `gone`."""
    gaussian = merged_gaussian(signal)
    # Zeros of padding make the mean smaller at the border, so that more is taken away than is shared between far
    # positions; what is left of two of them is correlated by no less than 0.
    spatial = None if signal.spatial is None or mean.pooled is not None else np.maximum(signal.spatial - gone, 0.0)
    gaussian.variance, gaussian.shared = max(gaussian.variance - gone, 0.0), 0.0
    gaussian.spatial = correlation_of(spatial, gaussian.variance)
    count = mean.sizes[0]
    if mean.pooled is None and count > 1:  # the values of a unit add up to 0
        gaussian.shared = -mean_of_pairs(gaussian.spatial, 0.0, mean.sizes) * count / (count - 1)
    gaussian.nodes, gaussian.alike = None, 1.0
    if gaussian.sizes is not None and mean.pooled is None:
        gaussian.sizes = less_what_is_shared(gaussian.sizes, gone / max(gaussian.variance + gone, 1e-300))
    if gaussian.pairs is not None:
        share = float(np.clip(gaussian.pairs.mean(), 0.0, 0.99))
        gaussian.pairs = None if mean.pooled is not None else (gaussian.pairs - share) / (1 - share)
    return gaussian


def _factors_at_places(signal: Signal, by: Known, *, inverse: bool) -> Any:
    """Factors that differ between the places of a signal; None where they do not."""
    factors = np.zeros(0) if by.exact or not by.is_numeric else by.array()
    shapes = {np.shape(g.sizes.places) for g in signal.components if g.sizes is not None and g.sizes.places is not None}
    shape = next((s for s in shapes if math.prod(s) == factors.size), None)
    if factors.size < 2 or shape is None or not np.ptp(factors):
        return None
    return (1 / factors if inverse else factors).reshape(shape)


def _factor_of(signal: Signal) -> Carry:
    """What a product by a signal makes of how alike the gradients of the other factor are."""
    square, spatial, nodes = max(signal.square, 1e-300), signal.spatial, signal.nodes
    return through_factor(
        Correlations(
            None if spatial is None else (spatial + signal.mean**2) / square,
            None if nodes is None else (nodes + signal.mean**2) / square,
            (signal.shared + signal.mean**2) / square,
        )
    )


def _correlation(array: np.ndarray, axes: Axes) -> float:
    """Correlation between examples: 1 for what is the same for all, such as a bias."""
    examples = tuple(k for k, (axis, n) in enumerate(zip(axes, array.shape, strict=False)) if axis == "e" and n > 1)
    if len(axes) != array.ndim or not examples:
        return 1.0
    count = math.prod(array.shape[k] for k in examples)
    shared = float(array.mean(examples).var())
    # The mean over examples keeps 1/count of what they do not share.
    return min(max((count * shared / float(array.var()) - 1) / (count - 1), 0.0), 1.0)
