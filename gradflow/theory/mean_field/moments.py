"""Gaussian averages of an activation in double precision, as plain functions of floats, for theory done on the host."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from gradflow import activations, gaussian

__all__ = ["LARGEST", "SMALLEST", "ActivationMoments", "Phi", "activation_moments", "in_range"]

Phi = activations.Phi

SMALLEST = 1e-24  # stands for q -> 0
LARGEST = 1e16  # stands for q -> infinity


class ActivationMoments(NamedTuple):
    """Gaussian averages of one activation, in double precision on the host, as functions of floats.

    Attributes:
        name: of the activation.
        single: q -> E[phi], E[phi^2], E[phi'^2], E[x phi phi'], E[phi'], E[x phi], x ~ N(0, q).
        pair: c, q -> E[phi(x) phi(y)], x and y of variance q and correlation c.
        slope_pair: the same of phi'.
    """

    name: str
    single: Callable[[float], tuple[float, ...]]
    pair: Callable[[float, float], float]
    slope_pair: Callable[[float, float], float]

    def mean(self, q: float) -> float:
        """E[phi]."""
        return self.single(q)[0]

    def square(self, q: float) -> float:
        """E[phi^2]."""
        return self.single(q)[1]

    def slope_square(self, q: float) -> float:
        """E[phi'^2]; at q = 0 its limit from above, where a kinked phi' still has both its sides."""
        return self.single(max(q, SMALLEST))[2]

    def square_derivative(self, q: float) -> float:
        """Derivative of E[phi^2] by q, E[x phi phi'] / q, which needs no second derivative of phi."""
        q = max(q, SMALLEST)
        return self.single(q)[3] / q

    def jump(self, q: float) -> float:
        """|E[x phi] / q - E[phi']|: 0 if phi is continuous and phi' its derivative (Stein's lemma)."""
        return abs(self.single(q)[5] / q - self.single(q)[4])


def activation_moments(activation: Phi) -> ActivationMoments:
    """The averages of an activation, compiled once.

    Args:
        activation: name, record or function.

    Raises:
        ValueError: for an unknown name or a function that is not elementwise.
    """
    return _compiled(activations.get(activation))


@functools.lru_cache(maxsize=128)
def _compiled(record: activations.Activation) -> ActivationMoments:
    def single(q: Array) -> Array:
        def values(x: Array) -> Array:
            phi, slope = record(x), record.derivative(x)
            return jnp.stack([phi, phi**2, slope**2, x * phi * slope, slope, x * phi])

        return gaussian.expectation(values, q, kinks=record.kinks)

    def pair(c: Array, q: Array) -> Array:
        return gaussian.pair_expectation(record, c, (q, q), kinks=record.kinks)

    def slope_pair(c: Array, q: Array) -> Array:
        return gaussian.pair_expectation(record.derivative, c, (q, q), kinks=record.kinks)

    return ActivationMoments(record.name, *(gaussian.on_host(record.name, fn) for fn in (single, pair, slope_pair)))


def in_range(name: str, values: ArrayLike, low: float, high: float) -> Float[np.ndarray, "..."]:
    """Values as an array, or an error that names them if one lies outside [low, high] or is NaN."""
    array = np.asarray(values, np.float64)
    if not ((array >= low) & (array <= high)).all():
        raise ValueError(f"expected {name} in [{low:g}, {high:g}], got {values!r}")
    return array
