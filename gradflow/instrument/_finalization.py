"""Form means, root mean squares and similarity from columns that were added up, in NumPy or traced JAX."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from gradflow.instrument._reductions import range_of


def root_mean_square(sums: Sequence[Any], count: Any) -> Any:
    """Form sqrt(sum x^2 / count) from the sums of squares at three scales, without leaving the range of their type.

    Args:
        sums: the columns low, sum and high, each of any shape.
        count: how many entries went into them, a number or an array of that shape; 0 gives 0.

    Returns:
        An array of that shape and type.
    """
    xp, dtype = _kind(sums[0])
    root = xp.sqrt(_count(xp, count, dtype))
    with np.errstate(all="ignore"):
        parts = [xp.sqrt(_wide(xp, s)) / root * (1 / k) for s, k in zip(sums, range_of(dtype).scales, strict=True)]
        largest = functools.reduce(xp.maximum, parts)
        unit = xp.where((largest > 0) & xp.isfinite(largest), largest, 1)
        return xp.asarray(unit * xp.sqrt(sum(xp.square(part / unit) for part in parts)), dtype=dtype)


def mean(totals: Sequence[Any], count: Any) -> Any:
    """Form the mean from sums at two scales; of four, real then imaginary parts, the modulus of the mean.

    Args:
        totals: the columns `Layout.total`, each of any shape.
        count: how many entries went into them, a number or an array of that shape; 0 gives 0.

    Returns:
        An array of that shape and type.
    """
    xp, dtype = _kind(totals[0])
    size = _count(xp, count, dtype)
    with np.errstate(all="ignore"):
        limits = range_of(dtype)
        middle = [_wide(xp, t) / size * (1 / limits.middle) for t in totals[::2]]
        high = [_wide(xp, t) / size * (1 / limits.high) for t in totals[1::2]]
        means = [xp.where(xp.isfinite(m), m, h) for m, h in zip(middle, high, strict=True)]
        return xp.asarray(means[0] if len(means) == 1 else xp.hypot(*means), dtype=dtype)


def similarity(direction: Any, alive: Any, calls: Any) -> Any:
    """Form the mean cosine between two examples, (|sum of unit vectors|^2 - n) / n (n - 1); NaN for fewer than two.

    Args:
        direction: squared norm of the sum of unit vectors; every call holds the sum over all devices.
        alive: number n of examples that are not 0, likewise.
        calls: how many calls were added up.

    Returns:
        An array of their shape and type.
    """
    xp, dtype = _kind(direction)
    direction, alive, calls = _wide(xp, direction), _wide(xp, alive), _count(xp, calls, dtype)
    number = alive / calls
    pairs = number * (number - 1)
    cosine = (direction / calls - number) / xp.where(pairs > 0, pairs, 1)
    return xp.asarray(xp.where(pairs > 0, cosine, np.nan), dtype=dtype)


def _kind(x: Any) -> tuple[Any, str]:
    """Return the namespace that computes with an array, and the type of its columns."""
    return (np if isinstance(x, (np.ndarray, np.generic)) else jnp), x.dtype.name


def _wide(xp: Any, x: Any) -> Any:
    """Return an array in the type to compute in: float64 on the host."""
    return x.astype(np.float64) if xp is np else x


def _count(xp: Any, count: Any, dtype: str) -> Any:
    return xp.maximum(_wide(xp, xp.asarray(count, dtype=dtype)), 1)
