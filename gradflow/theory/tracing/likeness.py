"""How alike the gradients of two positions of an example, or of two nodes of a graph, are on the way down.

G(p, p') = E[d(p) d(p')] over units, of the gradient d. A random weight keeps it: E[(W^T d)(W^T d')] = E[d d'] sum(w^2).
A function of entries multiplies it by E[f'(u) f'(u')], which depends on the correlation of u and u' forward (Poole et
al. 2016, Schoenholz et al. 2017). A sum over nodes y = A x sends back A^T d, so that G becomes A^T G A. A signal that
is repeated at all positions gets the sum of d over them, whose mean square is the sum of G over all pairs. A product
h g sends g d to h and h d to g, whose G is that of d times the second moments of the other factor.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float

from gradflow.theory.tracing.correlations import Correlations, Moments
from gradflow.theory.tracing.positions import Window

__all__ = [
    "MOST_NODES",
    "Carry",
    "Likeness",
    "in_turn",
    "lost",
    "mean_of_pairs",
    "mixture",
    "product",
    "sum_of_pairs",
    "summed_over_positions",
    "the_same_everywhere",
    "through_coefficients",
    "through_factor",
    "through_slopes",
    "through_weights",
    "through_windows_down",
    "unchanged",
    "unlike",
]

MOST_NODES = 2048  # every pair is measured and followed, at some 25 operations each
_UNKNOWN = (
    "and theory has lost how alike they are (overlapping pooling, circular padding, a loop, or a norm over nodes)"
)
_NEGLIGIBLE = 0.01  # share of a gradient whose likeness may be unknown


@dataclasses.dataclass(frozen=True)
class Likeness:
    """G over the mean square of the gradient.

    Attributes:
        positions: by distance along each axis of positions, one number where it is the same for all distances; None
            where it is not known.
        nodes: of every two nodes of a graph, the mean of its diagonal is 1; None where it is not known.
        examples: as `positions`, between two different examples.
        along: E[d y d' y'] / (E[d^2] E[y^2]) with the signal y whose gradient it is, as `positions` and as `examples`;
            None where the gradient has nothing to do with the signal.
        divided: 1 - 1 / (E[S] E[1/S]) over units, of the sum of squares S of their weights, where the gradient was
            divided by a deviation that goes with it; below these weights the division is even again.
        sizes: mean square at each place, examples first, over that of all places; None where all are alike.
    """

    positions: Float[np.ndarray, "*distances"] | None = None
    nodes: Float[np.ndarray, "nodes nodes"] | None = None
    examples: Float[np.ndarray, "*distances"] | None = None
    along: tuple[Float[np.ndarray, "*distances"], Float[np.ndarray, "*distances"]] | None = None
    divided: float = 0.0
    sizes: Float[np.ndarray, "examples *positions"] | None = None


# What an edge makes of a mean square gradient beside its factor, and of its likeness; or why that is not known.
Carry: TypeAlias = Callable[[Likeness], "tuple[float, Likeness] | str"]


def unchanged(likeness: Likeness) -> tuple[float, Likeness]:
    """Keep the likeness, as a multiple does.

    Args:
        likeness: of the gradient above.
    """
    return 1.0, likeness


def through_weights(likeness: Likeness) -> tuple[float, Likeness]:
    """Even out what was divided, and forget how a gradient goes with the signal: the weights below are random.

    Args:
        likeness: of the gradient above.
    """
    return 1 - likeness.divided, dataclasses.replace(likeness, along=None, divided=0.0)


def lost(likeness: Likeness) -> tuple[float, Likeness]:
    """Know nothing of the likeness below.

    Args:
        likeness: of the gradient above.
    """
    return 1.0, Likeness()


def in_turn(*carries: Carry) -> Carry:
    """Return what several edges in a row make of a gradient, the uppermost first.

    Args:
        *carries: of the edges.
    """

    def carry(likeness: Likeness) -> tuple[float, Likeness] | str:
        factor = 1.0
        for step in carries:
            found = step(likeness)
            if isinstance(found, str):
                return found
            factor, likeness = factor * found[0], found[1]
        return factor, likeness

    return carry


def through_slopes(spectrum: Moments, along: Moments, at: Correlations) -> Carry:
    """Return what a function of entries makes of the likeness: E[f'(u) f'(u')] / E[f'^2] at each correlation of u, u'.

    Args:
        spectrum: of f'.
        along: that of u f', for u of variance 1.
        at: correlations of u.
    """
    whole = max(spectrum.total, 1e-300)

    def kept(angle: Any, near: Any = 0.0, of: Moments = spectrum) -> Any:
        return of.at(angle, near) / whole

    def carry(likeness: Likeness) -> tuple[float, Likeness]:
        positions = between = others = with_u = None
        if likeness.positions is not None and at.positions is not None:
            positions = product(likeness.positions, kept(np.asarray(at.angles), at.near))
        if likeness.examples is not None:
            others = np.asarray(likeness.examples * kept(at.angle))
        if positions is not None and likeness.examples is not None:
            own = product(likeness.positions, kept(np.asarray(at.angles), at.near, along))
            with_u = own, likeness.examples * kept(at.angle, of=along)
        if likeness.nodes is not None and at.nodes is not None:
            scale = np.sqrt(np.maximum(np.diag(at.nodes), 1e-30)) if at.nodes.ndim else np.ones(())
            both = np.outer(scale, scale) if at.nodes.ndim else scale
            between = product(likeness.nodes, kept(np.clip(at.nodes / both, -1.0, 1.0), 1.0))
        return 1.0, Likeness(positions, between, others, with_u, sizes=likeness.sizes)

    return carry


def through_factor(at: Correlations) -> Carry:
    """Return what the other factor of a product makes of the likeness.

    Args:
        at: E[x x'] / E[x^2] of that factor.
    """

    def carry(likeness: Likeness) -> tuple[float, Likeness]:
        positions = between = others = None
        if likeness.positions is not None and at.positions is not None:
            positions = product(likeness.positions, np.asarray(at.positions))
        if likeness.nodes is not None and at.nodes is not None:
            between = product(likeness.nodes, np.asarray(at.nodes))
        if likeness.examples is not None:
            others = np.asarray(likeness.examples * at.examples)
        return 1.0, Likeness(positions, between, others, sizes=likeness.sizes)

    return carry


def through_coefficients(coefficients: Float[np.ndarray, "out nodes"]) -> Carry:
    """Return what a sum over nodes y = A x makes of the likeness: A^T G A.

    The edge's own factor is that of unlike gradients, sum(A^2) over the number of nodes below.

    Args:
        coefficients: A.
    """
    unlike_squares = float(np.sum(coefficients**2))

    def carry(likeness: Likeness) -> tuple[float, Likeness] | str:
        above = likeness.nodes
        if above is None or len(above) != len(coefficients) or unlike_squares <= 0:
            return f"gradients of nodes add up, {_UNKNOWN}"
        below = coefficients.T @ above @ coefficients
        squares = float(np.trace(below))
        if squares <= 0:
            return 0.0, Likeness()
        count = len(below)
        others = np.asarray((float(below.sum()) / squares - 1) / max(count - 1, 1))
        return squares / unlike_squares, Likeness(np.ones(()), below * (count / squares), others)

    return carry


def summed_over_positions(sizes: Sequence[int]) -> Carry:
    """Return the sum of G over all pairs of positions, for a signal that is repeated at all of them.

    Args:
        sizes: number of positions along each axis.
    """

    def carry(likeness: Likeness) -> tuple[float, Likeness] | str:
        total, others = (sum_of_pairs(x, sizes) for x in (likeness.positions, likeness.examples))
        if total is None:
            return f"gradients of all positions add up, {_UNKNOWN}"
        if others is None or total <= 0:
            return max(total, 0.0), Likeness(np.ones(()))
        return total, Likeness(np.ones(()), examples=np.asarray(others / total))

    return carry


def sum_of_pairs(moments: Any, sizes: Sequence[int]) -> float | None:
    """Return the sum of second moments over all pairs of positions; None where they are of others.

    Args:
        moments: by distance; one number where it is the same for all; None where they are not known.
        sizes: number of positions along each axis.
    """
    if moments is None or np.shape(moments) not in ((), tuple(sizes)):
        return None
    total = np.broadcast_to(moments, tuple(sizes))
    for n in reversed(sizes):
        total = total @ np.where(np.arange(n) == 0, n, 2 * (n - np.arange(n)))  # of one distance, either sign
    return float(total)


def mean_of_pairs(own: Any, others: Any, sizes: Sequence[int]) -> float:
    """Return the mean of second moments over every two entries of a unit.

    Args:
        own: of two positions of one example, by distance; where it is None, that between examples stands for it.
        others: of two examples.
        sizes: number of examples, and of positions along each axis.
    """
    places = math.prod(sizes[1:])
    between = sum_of_pairs(others, sizes[1:])
    within = sum_of_pairs(own, sizes[1:])
    between = 0.0 if between is None else between / places**2
    return between if within is None else between + (within / places**2 - between) / sizes[0]


def the_same_everywhere(likeness: Likeness) -> tuple[float, Likeness]:
    """Give all positions the same gradient, as their mean does.

    Args:
        likeness: of the gradient above.
    """
    return 1.0, Likeness(np.ones(()), examples=_one_number(likeness.examples))


def unlike(shape: Sequence[int]) -> Carry:
    """Return the likeness of positions that go through weights of their own, as behind a flattening: none.

    Args:
        shape: number of distances along each axis of positions.
    """
    alone = np.zeros(tuple(shape))
    alone[(0,) * alone.ndim] = 1.0

    def carry(likeness: Likeness) -> tuple[float, Likeness]:
        others = _one_number(likeness.examples)
        return 1.0, Likeness(alone, examples=None if others is None else others * alone)

    return carry


def through_windows_down(windows: Sequence[Window]) -> Carry:
    """Return what a convolution makes of the likeness: two positions meet where they reach outputs by the same tap.

    Args:
        windows: one an axis of positions.
    """

    def below(above: Any) -> Any:
        if above is None or above.shape not in ((), tuple(w.outputs for w in windows)):
            return None
        out = np.broadcast_to(above, tuple(w.outputs for w in windows))
        for axis, window in enumerate(windows):
            out = np.moveaxis(np.tensordot(_downward(window), out, (1, axis)), 0, axis)
        return out

    def carry(likeness: Likeness) -> tuple[float, Likeness]:
        own, others = below(likeness.positions), below(likeness.examples)
        if own is None or not own.flat[0] > 0:
            return 1.0, Likeness(sizes=likeness.sizes)
        others = None if others is None else others / own.flat[0]
        return 1.0, Likeness(np.clip(own / own.flat[0], -1.0, 1.0), examples=others, sizes=likeness.sizes)

    return carry


def _downward(window: Window) -> Float[np.ndarray, "positions outputs"]:
    """What each distance between outputs contributes to G at each distance between positions, on average."""
    at, valid = window.places
    out = np.zeros((window.positions, window.outputs))
    first, second = np.triu_indices(window.outputs)
    for tap in range(window.size):
        both = (valid[first, tap] * valid[second, tap]) > 0
        np.add.at(out, (np.abs(at[second, tap] - at[first, tap])[both], (second - first)[both]), 1.0)
    return out / (window.positions - np.arange(window.positions))[:, None]


def mixture(terms: Sequence[tuple[float, Likeness]]) -> Likeness:
    """Return the likeness of a sum of gradients that have nothing to do with each other.

    Args:
        terms: mean square of each, and its likeness.
    """
    total = sum(abs(square) for square, _ in terms)
    if math.isclose(total, 0.0, abs_tol=1e-300):
        return Likeness()
    counted = [(square, likeness) for square, likeness in terms if abs(square) > _NEGLIGIBLE * total]
    whole = sum(square for square, _ in counted)

    def mean(values: Sequence[Any]) -> Any:
        moments: Any = 0.0
        for (square, _), own in zip(counted, values, strict=True):
            if own is None or (np.ndim(moments) and own.ndim and np.shape(moments) != own.shape):
                return None
            moments = moments + square / whole * own
        return np.asarray(moments) if counted else None

    if whole <= 0:
        return Likeness()
    found = {name: mean([getattr(x, name) for _, x in counted]) for name in ("positions", "nodes", "examples")}
    along = [mean([None if x.along is None else x.along[k] for _, x in counted]) for k in (0, 1)]
    divided = sum(square / whole * likeness.divided for square, likeness in counted)
    sizes = None
    if any(likeness.sizes is not None for _, likeness in counted):
        sizes = mean([np.ones(()) if likeness.sizes is None else likeness.sizes for _, likeness in counted])
    return Likeness(
        **found,
        along=None if along[0] is None or along[1] is None else (along[0], along[1]),
        divided=divided,
        sizes=sizes,
    )


def _one_number(moments: Any) -> Any:
    """Moments without axes of positions; None where they differ between distances."""
    return None if moments is None or moments.size > 1 else moments.reshape(())


def product(left: Any, right: Any) -> Any:
    """Return the product of two likenesses; None where they are of different positions.

    Args:
        left: one of them.
        right: the other one.
    """
    fits = not np.ndim(left) or not np.ndim(right) or np.shape(left) == np.shape(right)
    return left * right if fits else None
