"""Functions of one Gaussian, at the nodes of a quadrature."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from gradflow.theory.tracing.quadrature import NODES, SHARES, by_bin, coefficients_of, weights_of
from gradflow.theory.tracing.sizes import Sizes, at_places

__all__ = ["Component", "Spectrum", "evened"]


class Spectrum(NamedTuple):
    """Squared Hermite coefficients a_k(r)^2 of degree 0, 1, ..., where a_k may differ with the size r of a place.

    All that is beyond the last degree stands at the end.

    Attributes:
        between: E[a_k]^2 over places.
        within: Var[a_k] over places; 0 where all have one size.
    """

    between: Float[np.ndarray, " degrees"]
    within: Float[np.ndarray, " degrees"]

    @classmethod
    def of(cls, values: Float[np.ndarray, " nodes"]) -> Spectrum:
        """Return that of a function at the nodes.

        Args:
            values: the function.
        """
        by_degree = coefficients_of(values)
        shares = SHARES if by_degree.shape[1] == len(SHARES) else np.ones(1)
        between, whole = (by_degree @ shares) ** 2, by_degree**2 @ shares
        rest = max(float(weights_of(values) @ values**2) - float(whole.sum()), 0.0)
        return cls(np.append(between, rest), np.append(np.maximum(whole - between, 0.0), 0.0))

    def at(self, angle: Any, near: Any) -> Any:
        """Return E[f(u) f(v)] = sum_k (E[a_k]^2 + n Var[a_k]) c^k.

        Args:
            angle: correlation c of u and v.
            near: correlation n of their sizes.
        """
        found = np.polynomial.polynomial.polyval(angle, self.between)
        return found + near * np.polynomial.polynomial.polyval(angle, self.within) if self.within.any() else found

    @property
    def total(self) -> float:
        """E[f^2]."""
        return float(self.between.sum() + self.within.sum())


@dataclasses.dataclass(frozen=True)
class Component:
    """f(u) and f'(u) at u = sqrt(q) times the Gaussian's grid."""

    value: Any
    slope: Float[np.ndarray, " nodes"]

    @property
    def mean(self) -> float:
        """E[f(u)]."""
        return float(weights_of(self.value) @ self.value)

    @property
    def variance(self) -> float:
        """Var[f(u)]; never negative, also where rounding is all that is left of it."""
        return float(weights_of(self.value) @ np.square(self.value - self.mean))

    @property
    def mean_square_slope(self) -> float:
        """E[f'(u)^2]."""
        return float(weights_of(self.slope) @ self.slope**2)

    @property
    def linear(self) -> bool:
        """Whether f' is the same everywhere, or at least everywhere in places of one size."""
        slopes = self.slope.reshape(-1, len(NODES))
        return bool(np.ptp(slopes, 1).max() <= 1e-9 * np.abs(slopes).max())

    @functools.cached_property
    def spectrum(self) -> Spectrum:
        """Squared Hermite coefficients of f of degree 0, 1, ..."""
        return Spectrum.of(self.value)

    @functools.cached_property
    def slope_spectrum(self) -> Spectrum:
        """Those of f'."""
        return Spectrum.of(self.slope)

    def along_spectrum(self, grid: Float[np.ndarray, " nodes"]) -> Spectrum:
        """Return those of u f'(u), for u of variance 1.

        Args:
            grid: u.
        """
        return Spectrum.of(self.slope * grid)

    def moments(self, sizes: Sizes | None, *, placed: bool) -> tuple[Any, Any]:
        """Return E_z[f] and Var_z[f] at each place, or in each bin.

        Args:
            sizes: of the Gaussian.
            placed: whether at each place.
        """
        if sizes is None:
            return self.mean, self.variance
        mean = by_bin(self.value)
        variance = np.maximum(by_bin(self.value**2) - mean**2, 0.0)
        if placed:
            return at_places(mean, sizes), np.maximum(at_places(variance, sizes), 0.0)
        return mean, variance

    def covariance(self, angle: Any, near: Any = 0.0) -> Any:
        """Return Cov[f(u), f(v)] of two Gaussians.

        Args:
            angle: correlation of u and v, one number or several.
            near: correlation of their sizes.
        """
        return self.spectrum.at(angle, near) - self.spectrum.between[0]

    def between_nodes(self, nodes: Float[np.ndarray, "..."]) -> Any:
        """Cov[f(u), f(v)] of every two nodes; f is taken to scale with its input where their variances differ.

        Args:
            nodes: covariances over q.
        """
        if not nodes.ndim:
            return self.covariance(nodes, 1.0)
        if self.linear:
            return self.variance * nodes  # also below 0, where the mean differs between nodes
        scale = np.sqrt(np.maximum(np.diag(nodes), 1e-30))
        both = np.outer(scale, scale)
        return both * self.covariance(np.clip(nodes / both, -1.0, 1.0), 1.0)


def evened(values: Float[np.ndarray, " nodes"]) -> Float[np.ndarray, " nodes"]:
    """Return values with the same mean square in all bins.

    Args:
        values: at the nodes.
    """
    if len(values) == len(NODES):
        return values
    squares = by_bin(values**2)
    whole = float(SHARES @ squares)
    factors = np.sqrt(np.divide(whole, squares, out=np.zeros_like(squares), where=squares > 1e-12 * whole))
    return values * np.repeat(factors, len(NODES))
