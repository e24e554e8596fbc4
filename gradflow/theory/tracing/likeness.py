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

from gradflow.theory.tracing.positions import Window

__all__ = [
    "MOST_NODES",
    "Carry",
    "Likeness",
    "behind_mean",
    "in_turn",
    "lost",
    "mixture",
    "summed_over_positions",
    "the_same_everywhere",
    "through_coefficients",
    "through_factor",
    "through_slopes",
    "through_windows_down",
    "unchanged",
    "unlike",
]

MOST_NODES = 2048  # every pair is measured and followed, at some 25 operations each
_NEGLIGIBLE = 0.01  # share of a gradient whose likeness may be unknown


@dataclasses.dataclass(frozen=True)
class Likeness:
    """G over the mean square of the gradient.

    Attributes:
        positions: by distance along each axis of positions, one number where it is the same for all distances; None
            where it is not known.
        nodes: of every two nodes of a graph, the mean of its diagonal is 1; None where it is not known.
    """

    positions: Float[np.ndarray, "*distances"] | None = None
    nodes: Float[np.ndarray, "nodes nodes"] | None = None


# What an edge makes of a mean square gradient beside its factor, and of its likeness; None where that is not known.
Carry: TypeAlias = Callable[[Likeness], "tuple[float, Likeness] | None"]


def unchanged(likeness: Likeness) -> tuple[float, Likeness]:
    """Keep the likeness, as a random weight and a multiple do.

    Args:
        likeness: of the gradient above.
    """
    return 1.0, likeness


def lost(likeness: Likeness) -> tuple[float, Likeness]:
    """Know nothing of the likeness below.

    Args:
        likeness: of the gradient above.
    """
    return 1.0, Likeness()


def behind_mean(carry: Carry, *, of_examples: bool) -> Carry:
    """Return what is known of the likeness below a signal less its mean, which takes the mean out of the gradient, too.

    A mean over all examples takes out what gradients of nodes share; of one over N examples with positions that is 1/N.

    Args:
        carry: of the edge.
        of_examples: whether the mean runs over all examples, and not over the positions of each.
    """

    def known(likeness: Likeness) -> tuple[float, Likeness]:
        return 1.0, Likeness(likeness.positions if of_examples else None)

    return in_turn(known, carry)


def in_turn(*carries: Carry) -> Carry:
    """Return what several edges in a row make of a gradient, the uppermost first.

    Args:
        *carries: of the edges.
    """

    def carry(likeness: Likeness) -> tuple[float, Likeness] | None:
        factor = 1.0
        for step in carries:
            found = step(likeness)
            if found is None:
                return None
            factor, likeness = factor * found[0], found[1]
        return factor, likeness

    return carry


def through_slopes(
    spectrum: Float[np.ndarray, " degrees"], spatial: Any, nodes: Float[np.ndarray, "..."] | None
) -> Carry:
    """Return what a function of entries makes of the likeness: E[f'(u) f'(u')] / E[f'^2] at each correlation of u, u'.

    Args:
        spectrum: squared Hermite coefficients of f', from degree 0.
        spatial: correlation of u between positions, by distance; None where it is not known.
        nodes: covariance of u between nodes over its variance; None where it is not known.
    """
    whole = max(float(spectrum.sum()), 1e-300)
    if spectrum[0] >= (1 - 1e-9) * whole:
        return unchanged

    def kept(correlation: Any) -> Any:
        return np.polynomial.polynomial.polyval(correlation, spectrum) / whole

    def carry(likeness: Likeness) -> tuple[float, Likeness]:
        positions = between = None
        if likeness.positions is not None and spatial is not None:
            positions = _product(likeness.positions, kept(np.asarray(spatial)))
        if likeness.nodes is not None and nodes is not None:
            scale = np.sqrt(np.maximum(np.diag(nodes), 1e-30)) if nodes.ndim else np.ones(())
            both = np.outer(scale, scale) if nodes.ndim else scale
            between = _product(likeness.nodes, kept(np.clip(nodes / both, -1.0, 1.0)))
        return 1.0, Likeness(positions, between)

    return carry


def through_factor(spatial: Any, nodes: Any) -> Carry:
    """Return what the other factor of a product makes of the likeness.

    Args:
        spatial: E[x(p) x(p')] / E[x^2] of that factor by distance; None where it is not known.
        nodes: the same for every two nodes; None where it is not known.
    """

    def carry(likeness: Likeness) -> tuple[float, Likeness]:
        positions = between = None
        if likeness.positions is not None and spatial is not None:
            positions = _product(likeness.positions, np.asarray(spatial))
        if likeness.nodes is not None and nodes is not None:
            between = _product(likeness.nodes, np.asarray(nodes))
        return 1.0, Likeness(positions, between)

    return carry


def through_coefficients(coefficients: Float[np.ndarray, "out nodes"]) -> Carry:
    """Return what a sum over nodes y = A x makes of the likeness: A^T G A.

    The edge's own factor is that of unlike gradients, sum(A^2) over the number of nodes below.

    Args:
        coefficients: A.
    """
    unlike_squares = float(np.sum(coefficients**2))

    def carry(likeness: Likeness) -> tuple[float, Likeness] | None:
        above = likeness.nodes
        if above is None or len(above) != len(coefficients) or unlike_squares <= 0:
            return None
        below = coefficients.T @ above @ coefficients
        squares = float(np.trace(below))
        if squares <= 0:
            return 0.0, Likeness()
        return squares / unlike_squares, Likeness(np.ones(()), below * (len(below) / squares))

    return carry


def summed_over_positions(sizes: Sequence[int]) -> Carry:
    """Return the sum of G over all pairs of positions, for a signal that is repeated at all of them.

    Args:
        sizes: number of positions along each axis.
    """

    def carry(likeness: Likeness) -> tuple[float, Likeness] | None:
        moments = likeness.positions
        if moments is None or moments.shape not in ((), tuple(sizes)):
            return None
        total = np.broadcast_to(moments, tuple(sizes))
        for n in reversed(sizes):
            pairs = np.where(np.arange(n) == 0, n, 2 * (n - np.arange(n)))  # of one distance, either sign
            total = total @ pairs
        return max(float(total), 0.0), Likeness(np.ones(()))

    return carry


def the_same_everywhere(likeness: Likeness) -> tuple[float, Likeness]:
    """Give all positions the same gradient, as their mean does.

    Args:
        likeness: of the gradient above.
    """
    return 1.0, Likeness(np.ones(()))


def unlike(shape: Sequence[int]) -> Carry:
    """Return the likeness of positions that go through weights of their own, as behind a flattening: none.

    Args:
        shape: number of distances along each axis of positions.
    """
    alone = np.zeros(tuple(shape))
    alone[(0,) * alone.ndim] = 1.0
    return lambda likeness: (1.0, Likeness(alone))


def through_windows_down(windows: Sequence[Window]) -> Carry:
    """Return what a convolution makes of the likeness: two positions meet where they reach outputs by the same tap.

    Args:
        windows: one an axis of positions.
    """

    def carry(likeness: Likeness) -> tuple[float, Likeness]:
        above = likeness.positions
        if above is None or above.shape not in ((), tuple(w.outputs for w in windows)):
            return 1.0, Likeness()
        below = np.broadcast_to(above, tuple(w.outputs for w in windows))
        for axis, window in enumerate(windows):
            below = np.moveaxis(np.tensordot(_downward(window), below, (1, axis)), 0, axis)
        square = float(below.flat[0])
        return 1.0, Likeness(np.clip(below / square, -1.0, 1.0)) if square > 0 else Likeness()

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

    def mean(name: str) -> Any:
        moments: Any = 0.0
        for square, likeness in counted:
            own = getattr(likeness, name)
            if own is None or (np.ndim(moments) and own.ndim and np.shape(moments) != own.shape):
                return None
            moments = moments + square / whole * own
        return np.asarray(moments) if counted else None

    return Likeness(mean("positions"), mean("nodes")) if whole > 0 else Likeness()


def _product(left: Any, right: Any) -> Any:
    """The product of two likenesses; None where they are of different positions."""
    fits = not np.ndim(left) or not np.ndim(right) or np.shape(left) == np.shape(right)
    return left * right if fits else None
