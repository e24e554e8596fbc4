"""How alike two places of different examples are: not on average alone, but from pair to pair.

Batch normalization divides a unit by a deviation over N places that differs between units: v = 2 E[c^2] over pairs of
places, where c is the correlation of two. Natural images are of few colours, and a batch may hold a row twice: then
the mean of c says little of the mean of c^2. So quantiles of c are followed, over pairs weighted by their mean squares.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from gradflow.theory.tracing.positions import Window

__all__ = ["pairs_of", "patches", "through_taps"]

_SAMPLED = 256  # places, of which every two are compared
_QUANTILES = (np.arange(64) + 0.5) / 64


def pairs_of(x: Float[np.ndarray, "places units"], examples: Any) -> Float[np.ndarray, " quantiles"] | None:
    """Return quantiles of the correlation between two places of different examples; None where there are no two.

    What unlike entries have in common by chance, c^2 = 1 / n of n, is taken out: it makes deviations differ as the
    units' sums of squared weights do, which are counted where they are few.

    Args:
        x: what is found at some places.
        examples: which example each is of.
    """
    squares = np.einsum("pu,pu->p", x, x)
    if not np.isfinite(squares).all() or not squares.any():
        return None
    x, squares = x / np.sqrt(squares.max()), squares / squares.max()
    first, second = np.triu_indices(len(x), 1)
    weights = np.where(np.equal(*np.asarray(examples)[[first, second]]), 0.0, squares[first] * squares[second])
    if not weights.sum() > 0:
        return None
    angles = (x @ x.T)[first, second] / np.sqrt(np.maximum(squares[first] * squares[second], 1e-300))
    order = np.argsort(angles)
    reached = np.cumsum(weights[order]) / weights.sum()
    at = np.searchsorted(reached, _QUANTILES).clip(max=len(order) - 1)
    pairs = np.clip(angles[order][at], -1.0, 1.0)
    mean, variance = float(pairs.mean()), float(pairs.var())
    kept = max(1 - 1 / (x.shape[1] * variance), 0.0) if variance > 0 else 0.0
    return mean + (pairs - mean) * np.sqrt(kept)


def patches(
    x: Float[np.ndarray, "examples *positions units"], windows: Sequence[Window]
) -> tuple[Float[np.ndarray, "places units"], Any]:
    """Return what a window reads at some of its places, and the examples that these are of.

    Args:
        x: data.
        windows: one an axis of positions; none for a dense layer.
    """
    shape = (x.shape[0], *(w.outputs for w in windows)) if windows else x.shape[:-1]
    total = int(np.prod(shape))
    # A stride that shares no factor with the lengths of the axes, so that all of them are sampled alike.
    chosen = np.unique((np.arange(min(_SAMPLED, total)) * 0.6180339887 % 1 * total).astype(int))
    places = np.unravel_index(chosen, shape)
    read = x[places[0]] if windows else x[places]
    for number, window in enumerate(windows):
        at, valid = window.places
        rows = at[places[number + 1]].clip(0, window.positions - 1)
        inside = valid[places[number + 1]]
        # Axes so far: place, taps of the windows before, this axis of positions.
        axis = 1 + number
        index = rows.reshape(len(rows), *[1] * (axis - 1), -1, *[1] * (read.ndim - axis - 1))
        read = np.take_along_axis(read, index, axis) * inside.reshape(index.shape)
    return read.reshape(len(chosen), -1), places[0]


def through_taps(
    pairs: Float[np.ndarray, " quantiles"], spatial: Any, windows: Sequence[Window]
) -> Float[np.ndarray, " quantiles"] | None:
    """Return the correlations of sums over windows: means over taps, which stray less where positions are unlike.

    Args:
        pairs: of two places of different examples.
        spatial: correlation between two positions of one example, by distance; None where it is not known.
        windows: one an axis of positions.
    """
    if spatial is None or np.shape(spatial) not in ((), tuple(w.positions for w in windows)):
        return None
    kept = np.broadcast_to(np.asarray(spatial) ** 2, tuple(w.positions for w in windows))
    for window in windows:
        distances = np.abs(np.subtract.outer(np.arange(window.size), np.arange(window.size))) * window.dilation
        kept = kept[distances.clip(max=window.positions - 1).ravel()].mean(0)
    mean = float(pairs.mean())
    return mean + (pairs - mean) * float(np.sqrt(np.clip(kept, 0.0, 1.0)))
