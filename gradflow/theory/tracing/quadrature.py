"""Nodes and weights for means over a standard Gaussian z, also where its scale differs between places.

A function of u = sqrt(q r) z, where r is the size of a place, is held at every node once for each bin of r, the bins
one behind the other. So an array has as many entries as there are nodes, or `BINS` times as many.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from jaxtyping import Float

__all__ = ["BINS", "EDGES", "NODES", "SHARES", "WEIGHTS", "by_bin", "coefficients_of", "nodes_of", "weights_of"]

_BREAKS = np.unique(np.concatenate([s * 10.0 * 0.5 ** np.arange(9) for s in (-1, 1)] + [np.array([0.0, 3.5, -3.5])]))
_GAUSS, _GAUSS_WEIGHTS = np.polynomial.legendre.leggauss(10)
_HALVES = np.diff(_BREAKS) / 2
NODES = ((_BREAKS[1:] + _BREAKS[:-1])[:, None] / 2 + _HALVES[:, None] * _GAUSS).ravel()
_UNSCALED = (_HALVES[:, None] * _GAUSS_WEIGHTS).ravel() * np.exp(-(NODES**2) / 2)
WEIGHTS = _UNSCALED / _UNSCALED.sum()
# Where the bins begin and end, as shares of the places from the smallest size to the largest: finer at both ends.
EDGES = np.array([0, 0.01, 0.03, 0.07, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.93, 0.97, 0.99, 0.997, 1.0])
SHARES = np.diff(EDGES)
BINS = len(SHARES)
_HERMITE = 24  # degree up to which correlations between examples are followed; the rest is taken together


def weights_of(values: Any) -> Float[np.ndarray, " nodes"]:
    """Return the weights for an array at the nodes of one size, or of all bins.

    Args:
        values: the array.
    """
    return _tables(len(values) // len(NODES))[0]


def nodes_of(values: Any) -> Float[np.ndarray, " nodes"]:
    """Return z for an array at the nodes of one size, or of all bins.

    Args:
        values: the array.
    """
    return _tables(len(values) // len(NODES))[1]


def coefficients_of(values: Any) -> Float[np.ndarray, "degrees bins"]:
    """Return the Hermite coefficients E[f(z) He_k(z)] / sqrt(k!) in each bin.

    Args:
        values: f at the nodes.
    """
    return _polynomials() @ (np.reshape(values, (-1, len(NODES))) * WEIGHTS).T


def by_bin(values: Any) -> Float[np.ndarray, " bins"]:
    """Return the mean over z in each bin; the same for all where the array has one size.

    Args:
        values: at the nodes.
    """
    means = np.reshape(values, (-1, len(NODES))) @ WEIGHTS
    return means if len(means) == BINS else np.repeat(means, BINS)


@functools.cache
def _tables(bins: int) -> tuple[Any, Any]:
    shares = SHARES if bins == BINS else np.ones(1)
    return np.outer(shares, WEIGHTS).ravel(), np.tile(NODES, len(shares))


@functools.cache
def _polynomials() -> Float[np.ndarray, "degrees nodes"]:
    rows = [np.ones_like(NODES), NODES]
    for k in range(1, _HERMITE):
        rows.append((NODES * rows[k] - math.sqrt(k) * rows[k - 1]) / math.sqrt(k + 1))
    return np.stack(rows)
