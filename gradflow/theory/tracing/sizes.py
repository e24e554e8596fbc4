"""How the mean square over units differs between places, that is examples and positions.

In an image the background is dark, in a table one row is a hundred times another. Relative to the mean over all places
a place has the size r. A random contraction keeps r, or adds it up over the taps of its window; a function f makes
E_z[f(sqrt(q r) z)^2] of it; a division by the deviation over the units of each place evens it out, and hands the
gradient on by 1 / r. A mean of f(u)^2 over all places is one over r, too.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from gradflow.theory.tracing.correlations import Correlations
from gradflow.theory.tracing.likeness import Carry, Likeness
from gradflow.theory.tracing.positions import Window, autocorrelation
from gradflow.theory.tracing.quadrature import EDGES, NODES, SHARES

__all__ = [
    "Sizes",
    "at_places",
    "divided_by_epsilon",
    "fitted",
    "less_what_is_shared",
    "raises_few",
    "sizes_down",
    "sizes_of",
    "sums_over_windows",
    "weighted",
    "without_places",
]

_EVEN = 0.01  # relative variance below which all places count as alike: it moves an rms by half as much
_NOTHING = 1e-20  # of the mean: rounding, and not a size
_FAR, _RARE = 10.0, 100.0  # squared factor beside that of other places, and beside the median
_RUN = 0.01  # between two bins whose slope is followed beyond them, relative to where they lie
_MOST_PLACES = 2**21  # beyond which sizes are not followed, for their memory


@dataclasses.dataclass(frozen=True, eq=False)
class Sizes:
    """The sizes of all places, of mean 1.

    Attributes:
        bins: mean size of the places of each bin, from the smallest to the largest.
        places: of shape (examples, *positions), the size of each place; None where places can no longer be told apart.
    """

    bins: Float[np.ndarray, " bins"]
    places: Any = None

    @property
    def grid(self) -> Float[np.ndarray, " nodes"]:
        """The nodes of all bins, as u / sqrt(q)."""
        return np.outer(np.sqrt(self.bins), NODES).ravel()

    @property
    def variance(self) -> float:
        """Of the sizes, over places."""
        return float(SHARES @ self.bins**2) - 1

    @functools.cached_property
    def _roots_and_sizes(self) -> tuple[Any, Any]:
        """E[sqrt(r) sqrt(r')] and E[r r'] by distance between two positions; None where places are not told apart."""
        if self.places is None or self.places.ndim < 2:
            return None, None
        roots = autocorrelation(np.sqrt(self.places)[..., None])
        squares = autocorrelation(self.places[..., None])
        return roots, None if squares is None else squares * float(np.mean(self.places**2))

    def correlations(self, at: Correlations) -> Correlations:
        """Return the correlations at places of these sizes.

        Args:
            at: of second moments relative to the mean of all places.
        """
        mean = float(SHARES @ np.sqrt(self.bins)) ** 2
        angle = float(np.clip(at.examples / mean, -1.0, 1.0))
        roots, squares = self._roots_and_sizes
        if at.positions is None or roots is None or np.shape(at.positions) != roots.shape:
            flat = None if at.positions is None else np.asarray(at.positions) ** 2 * (1 + self.variance)
            return dataclasses.replace(at, angle=angle, squares=flat)
        angles = np.clip(at.positions / np.maximum(roots, 1e-9), -1.0, 1.0)
        near = np.clip((roots - mean) / max(1 - mean, 1e-9), -1.0, 1.0)
        return dataclasses.replace(at, angle=angle, angles=angles, near=near, squares=angles**2 * squares)

    def mean_by_bin(self, values: Any) -> Float[np.ndarray, " bins"]:
        """Return the means over the places of each bin.

        Args:
            values: one a place.
        """
        places = np.asarray(self.places).ravel()
        order = np.argsort(places, kind="stable")
        return _binned(np.asarray(values).ravel()[order], int(np.count_nonzero(places == 0)))


def _binned(ordered: Float[np.ndarray, " places"], zeros: int) -> Float[np.ndarray, " bins"]:
    """Means of the bins, of numbers in the order of the bins, the first of which belong to places of size 0.

    No bin holds both kinds, whose gradients may differ by any factor: the fewer ones are left out of it.
    """
    count = len(ordered)
    limits = EDGES * count
    split = int(np.clip(np.searchsorted(limits, zeros, side="right") - 1, 0, len(SHARES) - 1))
    kept = np.ones(count)
    first, last = limits[split], limits[split + 1]
    if 0 < zeros < count and first < zeros < last:
        begin, end = (0, zeros) if zeros - first < last - zeros else (zeros, count)
        kept[max(begin, math.floor(first)) : min(end, math.ceil(last))] = 0.0
    sums = [np.concatenate([[0.0], np.cumsum(x)]) for x in (ordered * kept, kept)]
    total, counted = (np.diff(np.interp(limits, np.arange(count + 1), x)) for x in sums)
    return np.divide(total, counted, out=np.zeros_like(total), where=counted > 1e-9)


def sizes_of(squares: Any) -> Sizes | None:
    """Return the sizes of places of these mean squares; None where all are alike, or nothing can be said.

    Args:
        squares: one a place, examples first.
    """
    squares = np.asarray(squares, np.float64)
    whole = float(squares.mean()) if squares.size else 0.0
    if not 1 < squares.size <= _MOST_PLACES or not whole > 0 or not math.isfinite(whole):
        return None
    places = squares / whole
    places = np.where(places > _NOTHING, places, 0.0)
    if float(places.var()) <= _EVEN:
        return None
    bins = _binned(np.sort(places, axis=None), int(np.count_nonzero(places == 0)))
    return Sizes(bins / float(SHARES @ bins), places)


def without_places(sizes: Sizes | None) -> Sizes | None:
    """Return the sizes where places can no longer be told apart.

    Args:
        sizes: those before.
    """
    return None if sizes is None else Sizes(sizes.bins)


def less_what_is_shared(sizes: Sizes, gone: float) -> Sizes | None:
    """Return the sizes of a signal less its mean over all places.

    Where any two places have the correlation c, the mean m has E[x_p m] = q c sqrt(r_p) s and E[m^2] = q c s^2, with s
    the mean of sqrt(r) over places.

    Args:
        sizes: before that.
        gone: E[m^2] / q.
    """

    def less(r: Any) -> Any:
        return np.maximum(r - 2 * gone * np.sqrt(r) / root + gone, 0.0)

    root = float(SHARES @ np.sqrt(sizes.bins))
    gone = min(gone, root**2)
    if sizes.places is not None:
        return sizes_of(less(sizes.places))
    bins = less(sizes.bins)
    whole = float(SHARES @ bins)
    return Sizes(bins / whole) if whole > 0 else None


def at_places(by_bin: Float[np.ndarray, " bins"], sizes: Sizes) -> Float[np.ndarray, "examples *positions"]:
    """Return numbers that are known by bin for each place: between bins, and beyond them, as a power of the size.

    Numbers of either sign go in straight lines. Places of size 0 have the numbers of their own bins.

    Args:
        by_bin: the numbers.
        sizes: with places.
    """
    places = np.asarray(sizes.places)
    known, first = np.unique(sizes.bins, return_index=True)
    numbers = by_bin[first]
    at_zero = float(numbers[0])
    if known[0] == 0:
        known, numbers = known[1:], numbers[1:]
    if not len(known):
        return np.full(places.shape, at_zero)
    powers = bool((numbers > 0).all())
    there = np.log(np.maximum(places, known[0] * 1e-3)) if powers else places
    at, values = (np.log(known), np.log(numbers)) if powers else (known, numbers)
    out = np.interp(there, at, values)
    if len(known) > 1:
        for inner, outer, beyond in ((1, 0, there < at[0]), (-2, -1, there > at[-1])):
            run = abs(at[outer] - at[inner])
            slope = (values[outer] - values[inner]) * np.sign(outer - inner) / max(run, _RUN * abs(at[outer]), 1e-300)
            out[beyond] += max(slope, 0.0) * (there[beyond] - at[outer])
    return np.where(places > 0, np.exp(out) if powers else out, at_zero)


def divided_by_epsilon(likeness: Likeness) -> str:
    """Say that nothing can be told of a gradient below a division of places of size 0, or nearly so.

    Args:
        likeness: of the gradient above.
    """
    del likeness
    return (
        "a norm over units divides examples or positions that are nearly 0 everywhere, whose gradients outweigh all "
        "others"
    )


def raises_few(signal: Any, factors: Float[np.ndarray, "examples *positions"]) -> bool:
    """Tell whether factors are far larger at few places, or at those of size 0, than elsewhere.

    Args:
        signal: that they multiply.
        factors: one a place.
    """
    squares, sizes = factors**2, signal.sizes()
    if squares[squares > _RARE * np.median(squares)].sum() > squares.sum() / 2:
        return True
    if sizes is None or np.shape(sizes.places) != factors.shape:
        return False
    zero = sizes.places == 0
    if not zero.any() or zero.all():
        return False
    return float(np.mean(squares[zero])) > _FAR * float(np.mean(squares[~zero]))


def fitted(places: Any, shape: Sequence[int]) -> Any:
    """Return what belongs to places in another shape: positions flattened, or averaged over; None for other places.

    Args:
        places: one number a place, examples first; None if it is not known.
        shape: number of examples, and of positions along each axis.
    """
    if places is None or not shape:
        return None
    if places.shape[1:] == tuple(shape[1:]) and places.shape[0] == 1:
        return np.broadcast_to(places, tuple(shape))
    if places.size == math.prod(shape):
        return places.reshape(tuple(shape))
    if len(shape) == 1 and places.shape[0] == shape[0]:
        return places.reshape(shape[0], -1).mean(1)
    return None


def sums_over_windows(places: Any, windows: Sequence[Window]) -> tuple[float, Any]:
    """Return the mean over places of sums over windows, over that of even places, and the sums; 1 and None if unknown.

    Args:
        places: one number a place; None for even ones, which padding makes uneven.
        windows: one an axis of positions.
    """
    shape = tuple(w.positions for w in windows)
    if places is None and _border(windows):
        places = np.ones((1, *shape))
    if places is None or places.shape[1:] != shape:
        return 1.0, None
    return _filtered(places, [_taps(w) for w in windows])


def sizes_down(windows: Sequence[Window]) -> Carry:
    """Return what a convolution makes of a gradient that differs between places.

    Args:
        windows: one an axis of positions.
    """

    def carry(likeness: Likeness) -> tuple[float, Likeness]:
        above, shape = likeness.sizes, tuple(w.outputs for w in windows)
        if above is None and _border(windows):
            above = np.ones((1, *shape))
        if above is None or above.shape[1:] != shape:
            return 1.0, dataclasses.replace(likeness, sizes=None)
        factor, sizes = _filtered(above, [_taps(w).T for w in windows])
        return factor, dataclasses.replace(likeness, sizes=sizes)

    return carry


def _border(windows: Sequence[Window]) -> bool:
    """Whether some places read zeros of padding."""
    return any(not w.places[1].all() for w in windows)


def _filtered(places: Any, operators: Sequence[Float[np.ndarray, "out positions"]]) -> tuple[float, Any]:
    out, even = places, 1.0
    for axis, operator in enumerate(operators, 1):
        out = np.moveaxis(np.tensordot(operator, out, (1, axis)), 0, axis)
        even *= float(operator.sum(1).mean())
    whole = float(out.mean())
    return (whole / even / float(places.mean()), out / whole) if whole > 0 and even > 0 else (1.0, None)


def _taps(window: Window) -> Float[np.ndarray, "outputs positions"]:
    """How often a place of the window reads a position."""
    at, valid = window.places
    out = np.zeros((window.outputs, window.positions))
    rows = np.broadcast_to(np.arange(window.outputs)[:, None], at.shape)
    np.add.at(out, (rows[valid > 0], at[valid > 0]), 1.0)
    return out


def _same_places(above: Any, factors: Any) -> bool:
    """Whether both are of the same positions, and of the same examples or of every one alike."""
    one = 1 in (above.shape[0], factors.shape[0]) or above.shape[0] == factors.shape[0]
    return bool(one and above.shape[1:] == factors.shape[1:])


def weighted(factors: Float[np.ndarray, "examples *positions"]) -> Carry:
    """Return what factors that differ between places make of a gradient that differs, too.

    The edge's own factor is their mean.

    Args:
        factors: of the mean square gradient.
    """
    mean = max(float(factors.mean()), 1e-300)

    def carry(likeness: Likeness) -> tuple[float, Likeness]:
        above = likeness.sizes
        if above is None or not _same_places(above, factors):
            return 1.0, dataclasses.replace(likeness, sizes=factors / mean)
        both = above * factors / mean
        whole = float(both.mean())
        return (whole, dataclasses.replace(likeness, sizes=both / whole)) if whole > 0 else (0.0, Likeness())

    return carry
