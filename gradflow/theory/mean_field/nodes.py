"""An activation and its derivative on the nodes of a Gaussian quadrature, as NumPy arrays in double precision.

For what needs more than averages: the distribution of phi'(z)^2, whose resolvent is integrated close to its poles.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from gradflow import activations
from gradflow.theory.mean_field.moments import LARGEST, Phi, in_range

__all__ = ["Nodes", "nodes", "off_centre_nodes"]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(10)
_REACH = 10.0  # standard deviations; the mass beyond is 1.5e-23
# Panels close in on z = 0, where phi' of a sigmoid has its peak and the resolvent its edge.
_BREAKS = np.concatenate([-_REACH * 0.5 ** np.arange(16), [0.0], _REACH * 0.5 ** np.arange(16)])
_OF_DENSITY = np.linspace(-_REACH, _REACH, 21)  # in standard deviations
_BENDS = np.array([-32.0, -16.0, -8.0, -4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0])  # in pre-activations


class Nodes(NamedTuple):
    """phi and phi' at the nodes of a quadrature over z ~ N(0, q).

    Attributes:
        standard: z / sqrt(q).
        value: phi(z).
        slope: phi'(z).
        weights: of the nodes; they add up to 1.
    """

    standard: Float[np.ndarray, " nodes"]
    value: Float[np.ndarray, " nodes"]
    slope: Float[np.ndarray, " nodes"]
    weights: Float[np.ndarray, " nodes"]

    def mean(self, values: Float[np.ndarray, " nodes"]) -> float:
        """E of what has `values` at the nodes."""
        return float(self.weights @ values)


def nodes(activation: Phi, q: float) -> Nodes:
    """Evaluate an activation for quadrature over z ~ N(0, q).

    Args:
        activation: name, record or function.
        q: variance of the pre-activations, positive.

    Raises:
        ValueError: for a variance that is not positive, or an unknown name.
        ArithmeticError: where phi or phi' is not finite.
    """
    in_range("a variance q", q, 0.0, LARGEST)
    if q == 0:
        raise ValueError("expected a positive variance q, got 0: there is no signal. Fix: a q* above 0, or q_l itself")
    return _cached(activations.get(activation), float(q))


def off_centre_nodes(mean: float, variance: float) -> tuple[Float[np.ndarray, " nodes"], Float[np.ndarray, " nodes"]]:
    """Nodes z and weights of a quadrature over N(mean, variance), on panels that close in on z = 0, where phi bends.

    Args:
        mean: of the pre-activations.
        variance: of the pre-activations, positive.

    Returns:
        As many nodes whatever the arguments; the weights add up to 1.
    """
    deviation = math.sqrt(max(variance, 1e-30))
    edges = np.sort(np.concatenate([_OF_DENSITY, np.clip((_BENDS - mean) / deviation, -_REACH, _REACH)]))
    centres, halves = (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 2
    x = (centres[:, None] + halves[:, None] * _NODES).ravel()
    weights = (halves[:, None] * _WEIGHTS).ravel() * np.exp(-(x**2) / 2)
    return mean + deviation * x, weights / weights.sum()


@functools.lru_cache(maxsize=256)
def _cached(record: activations.Activation, q: float) -> Nodes:
    marks = np.asarray([-8.0, -4.0, -2.0, -1.0, 1.0, 2.0, 4.0, 8.0, *record.kinks]) / math.sqrt(q)
    edges = np.unique(np.concatenate([_BREAKS, np.clip(marks, -_REACH, _REACH)]))
    centres, halves = (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 2
    x = (centres[:, None] + halves[:, None] * _NODES).ravel()
    weights = (halves[:, None] * _WEIGHTS).ravel() * np.exp(-(x**2) / 2)
    with (
        jax.ensure_compile_time_eval(),
        jax.enable_x64(True),
        jax.numpy_dtype_promotion("standard"),
        jax.debug_nans(False),  # the error below says more
    ):
        z = jnp.asarray(math.sqrt(q) * x, jnp.float64)
        value, slope = np.asarray(record(z)), np.asarray(record.derivative(z))
    if not (np.isfinite(value).all() and np.isfinite(slope).all()):
        raise ArithmeticError(
            f"{record.name} or its derivative is not finite on N(0, {q:g}). Likely cause: an activation that overflows "
            "or is not defined everywhere. Fix: a smaller variance"
        )
    return Nodes(x, value, slope, weights / weights.sum())
