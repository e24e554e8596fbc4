"""What the statistics of a normalization take out of a gradient on the way down.

Batch normalization y = (x - m) / s takes out of the gradient d of a unit what all its entries share, and what goes with
y (Ioffe & Szegedy 2015, section 3): E[d_x^2] s^2 / E[d^2] = 1 - <G> - <R>. The means run over every two examples and
positions; G(p, p') = E[d d'] / E[d^2] and R(p, p') = E[d y d' y'] / E[d^2]. Behind a function f of y, R is G above
times E[f'(y) y f'(y') y']. Where the gradient has nothing to do with y, it is G E[y y']. Unlike gradients of N entries
lose 2 / N, those that all examples share lose most: of a mean over outputs behind one ReLU, 82 %.

The variance s^2 over N entries differs between units, by a relative variance v = 2 <C^2> where C is the correlation of
two entries. It goes like a chi square of 2 / v degrees of freedom, so that E[1 / s^2] E[s^2] = 1 / (1 - v). Units of
few weights, as those of a depthwise convolution, add to v what their own sums of squares w^2 give; below these weights
it drops out again, since E[w^2 / s^2] E[s^2] = E[w^2].
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from gradflow.theory.tracing.correlations import Correlations
from gradflow.theory.tracing.likeness import Carry, Likeness, mean_of_pairs, product

__all__ = [
    "BELOW_FEW_WEIGHTS",
    "FEW_WEIGHTS",
    "behind_mean_of_positions",
    "less_mean",
    "less_projection",
    "through_share",
]

FEW_WEIGHTS = "batch normalization behind it divides by deviations of units of few weights, which differ too much"
BELOW_FEW_WEIGHTS = "behind it are units of few weights with batch normalization, whose deviations differ too much"
_SMALL_BATCH = (
    "batch normalization behind it has fewer than seven independent entries a unit: take a larger batch, or one whose "
    "examples are less alike"
)
_LEAST = 0.02  # of the mean square gradient; what is left of one that is nearly all taken out is not predicted
_MOST_SPREAD = 0.3  # of the variance over the batch; what seven examples are normalized to is far from Gaussian
_MOST_UNEVEN = 0.5  # with what few weights add, beyond which the mean of the inverse hangs on single units


def behind_mean_of_positions(likeness: Likeness) -> tuple[float, Likeness]:
    """Know nothing of the likeness below a signal less its mean over the positions of each example.

    Args:
        likeness: of the gradient above.
    """
    return 1.0, Likeness()


def less_mean(sizes: Sequence[int]) -> Carry:
    """Return what is left of a gradient without its mean over all examples and positions.

    Args:
        sizes: number of examples, and of positions along each axis.
    """

    def carry(likeness: Likeness) -> tuple[float, Likeness] | str:
        mean = _share(likeness.positions, likeness.examples, sizes)
        if mean is None:
            return 1.0, Likeness(likeness.positions, divided=likeness.divided, sizes=likeness.sizes)
        found = _less(likeness, mean, Correlations(np.ones(()), examples=1.0))
        if isinstance(found, str):
            return found
        left, below = found
        along = likeness.along and (likeness.along[0] / left, likeness.along[1] / left)
        return left, dataclasses.replace(below, along=along, divided=likeness.divided)

    return carry


def less_projection(sizes: Sequence[int], at: Correlations, few_weights: float = 0.0) -> Carry:
    """Return what a division by the batch's deviation leaves of a gradient: nothing that goes with the signal.

    Args:
        sizes: number of examples, and of positions along each axis.
        at: correlations of that signal.
        few_weights: v of the weights that made it.
    """

    def carry(likeness: Likeness) -> tuple[float, Likeness] | str:
        spread = 0.0 if at.squares is None else 2 * mean_of_pairs(at.squares, at.mean_square, sizes)
        if spread > _MOST_SPREAD:
            return _SMALL_BATCH
        spread += few_weights
        if spread > _MOST_UNEVEN:
            return FEW_WEIGHTS
        along = likeness.along or _with_signal(likeness, at)
        mean = None if along is None else _share(along[0], along[1], sizes)
        if mean is None or product(likeness.positions, np.asarray(at.positions)) is None:
            even = 1 / (1 - few_weights)
            return even, Likeness(
                likeness.positions, examples=likeness.examples, divided=few_weights, sizes=likeness.sizes
            )
        found = _less(likeness, mean, at)
        if isinstance(found, str):
            return found
        return found[0] / (1 - spread), dataclasses.replace(found[1], divided=few_weights)

    return carry


def through_share(share: float, at: Correlations) -> Carry:
    """Return what is left of R at one of several terms of a sum, the rest of which is independent of the term.

    Args:
        share: of the sum's variance that the term has.
        at: correlations of the term.
    """

    def carry(likeness: Likeness) -> tuple[float, Likeness]:
        alone = _with_signal(likeness, at) if likeness.along is not None else None
        if likeness.along is None or alone is None or share >= 1 - 1e-9:
            return 1.0, likeness
        own, others = (share * a + (1 - share) * b for a, b in zip(likeness.along, alone, strict=True))
        return 1.0, dataclasses.replace(likeness, along=(own, others))

    return carry


def _with_signal(likeness: Likeness, at: Correlations) -> tuple[Any, Any] | None:
    """Return R of a gradient that has nothing to do with the signal, G E[y y'] / E[y^2]; None where it is not known.

    Args:
        likeness: of the gradient.
        at: correlations of the signal.
    """
    if likeness.positions is None or likeness.examples is None or at.positions is None:
        return None
    own = product(likeness.positions, np.asarray(at.positions))
    return None if own is None else (own, likeness.examples * at.examples)


def _share(own: Any, others: Any, sizes: Sequence[int]) -> float | None:
    """The mean over all pairs as a share of what is taken out; None where it is not known."""
    fits = all(x is not None and np.shape(x) in ((), tuple(sizes[1:])) for x in (own, others))
    return min(max(mean_of_pairs(own, others, sizes), 0.0), 1.0) if fits else None


def _less(likeness: Likeness, mean: float, at: Correlations) -> tuple[float, Likeness] | str:
    """The gradient without a part that has this share of its mean square and is as alike as `at` says."""
    left = 1 - mean
    if left < _LEAST:
        return "batch normalization behind it takes out nearly all of a gradient that all examples share"
    own = np.asarray(likeness.positions) - mean * np.asarray(at.positions)
    others = (np.asarray(likeness.examples) - mean * at.examples) / left
    return left, Likeness(np.clip(own / left, -1.0, 1.0), examples=others, sizes=likeness.sizes)
