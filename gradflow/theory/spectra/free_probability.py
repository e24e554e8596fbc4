"""Predicted singular values of the input-output Jacobian of a wide network, by free probability.

J = D_L W_L ... D_1 W_1, D_l = diag(phi'(z_l)), z_l ~ N(0, q), square and wide. Factors are asymptotically free, so the
S-transforms of their squares multiply (Pennington, Schoenholz & Ganguli 2017, 2018). With w the point at which the
moment generating function of D^2, M(w) = E[phi'^2 / (w - phi'^2)], takes the value M that the one of J J^T has at z:

    z = (1 + M) / M * (sigma_w^2 M w)^L                for Gaussian weights, W ~ N(0, sigma_w^2 / n)
    z = (1 + M) / M * (sigma_w^2 M w / (1 + M))^L      for orthogonal weights, W = sigma_w O

Both are explicit in w, so one complex equation in w gives the density of J J^T at every point.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Complex, Float

from gradflow.theory.mean_field.ensembles import Ensemble, spectrum_variance
from gradflow.theory.mean_field.moments import LARGEST, Numbers, Phi, in_range
from gradflow.theory.mean_field.nodes import nodes

__all__ = ["SpectrumMoments", "largest_singular_value", "spectrum_density", "spectrum_moments", "zero_fraction"]

_ANGLES = np.concatenate([np.linspace(math.pi, 0.1, 24)[1:], np.geomspace(0.1, 1e-7, 13)[1:]])
_NEWTON = 30  # steps of Newton an angle, at most


class SpectrumMoments(NamedTuple):
    """Moments of the squared singular values s^2 of J.

    Attributes:
        mean: of s^2, m_1; the mean over units of the squared gradient's growth.
        variance: of s^2, m_2 - m_1^2; 0 means dynamical isometry if mean is 1.
    """

    mean: float
    variance: float

    @property
    def second(self) -> float:
        """Mean of s^4, m_2."""
        return self.variance + self.mean**2


def spectrum_moments(
    activation: Phi,
    variances: Numbers,
    *,
    weight_variance: float,
    ensemble: Ensemble = "gaussian",
) -> SpectrumMoments:
    """Mean and variance of the squared singular values of J, layer by layer.

        m_1 = prod_l sigma_w^2 mu_1(q_l),  m_2 / m_1^2 - 1 = sum_l (mu_2(q_l) / mu_1(q_l)^2 - 1 - s_1)

    with mu_k = E[phi'(z)^(2k)], s_1 = -1 for Gaussian and 0 for orthogonal weights. Pennington et al. 2017, eq. for
    sigma_JJ^2, here with a q_l of its own for every layer.

    Args:
        activation: name, record or function.
        variances: q_l, l = 1..L, as from `variance_profile`; L times q* at the fixed point.
        weight_variance: sigma_w^2.
        ensemble: of the weights, "gaussian" or "orthogonal".

    Returns:
        The moments.

    Raises:
        ValueError: for an unknown ensemble, a variance that is not positive, or an activation that is flat everywhere.
        ArithmeticError: where the moments leave the range of doubles.

    Examples:
        >>> spectrum_moments("identity", [1.0] * 10, weight_variance=1.0)  # L + 1 is the second moment
        SpectrumMoments(mean=1.0, variance=10.0)
    """
    spread = spectrum_variance(ensemble)
    in_range("a weight variance", weight_variance, 0.0, LARGEST)
    log_mean, excess = 0.0, 0.0
    for q in np.atleast_1d(np.asarray(variances, np.float64)):
        square, fourth = _slope_moments(activation, float(q))
        log_mean += math.log(max(weight_variance * square, 1e-300))
        excess += fourth / square**2 - 1 + spread
    if abs(log_mean) > 300:
        raise ArithmeticError(
            f"the mean of the squared singular values is e^{log_mean:.0f}: the gradient "
            f"{'explodes' if log_mean > 0 else 'vanishes'} beyond double precision. Fix: fewer layers, or a weight "
            "variance nearer critical (`critical_weight_variance`)"
        )
    # Rounding alone would leave 1e-16 where D is the identity.
    mean = math.exp(log_mean)
    return SpectrumMoments(round(mean, 14) if abs(mean - 1) < 1e-13 else mean, max(excess, 0.0) * mean**2)


def spectrum_density(
    activation: Phi,
    depth: int,
    singular_values: Numbers,
    *,
    q: float,
    weight_variance: float,
    ensemble: Ensemble = "gaussian",
) -> Float[np.ndarray, "..."]:
    """Density of the singular values s of J at given points, all layers at the same q.

    rho(s) = -(2 s / pi) Im G(s^2 + i0), G = (1 + M) / z, and M from the equation in this module's head, followed by
    Newton's method from the negative half-axis, where everything is real, along a half-circle to z = s^2. Atoms are
    left out: at 0 (`zero_fraction`), and for orthogonal weights at the largest value, which holds the fraction
    1 - L (1 - p) of all where phi'^2 is at its largest with probability p (hard tanh). Pennington, Schoenholz & Ganguli
    2018, "The Emergence of Spectral Universality in Deep Networks".

    Args:
        activation: name, record or function.
        depth: number of layers L.
        singular_values: s, positive, of any shape.
        q: variance of the pre-activations, as `fixed_point(...).q_star`.
        weight_variance: sigma_w^2.
        ensemble: of the weights, "gaussian" or "orthogonal".

    Returns:
        The density, 0 outside the support (there it comes out below about 1e-6).

    Raises:
        ValueError: for a depth below 1, points or variances that are not positive, or where J is a multiple of an
            orthogonal matrix, whose singular values are all the same and have no density.

    Examples:
        >>> float(spectrum_density("identity", 1, 1.0, q=1.0, weight_variance=1.0).round(6))  # sqrt(4 - s^2) / pi
        0.551329
    """
    squares, weights = _squared_slopes(activation, depth, q)
    spectrum_variance(ensemble)
    in_range("a weight variance above 0", weight_variance, 1e-300, LARGEST)
    points = in_range("singular values above 0", singular_values, 1e-100, 1e100)
    if ensemble == "orthogonal" and np.ptp(squares) < 1e-12:
        s = (weight_variance * squares[0]) ** (depth / 2)
        raise ValueError(
            f"orthogonal weights and a linear activation have no density of singular values: all are {s:g}. Fix: "
            "another activation, or ensemble='gaussian'"
        )
    equation = _Equation(squares, weights, depth, weight_variance, ensemble)
    flat = points.ravel()
    targets = 2 * np.log(flat)
    log_w = equation.start(targets) + 1j * math.pi
    for angle in _ANGLES:
        for _ in range(_NEWTON):
            value, slope = equation(log_w)
            step = (value - targets - 1j * angle) / slope
            size = np.abs(step)
            log_w = log_w - step * np.minimum(1, 0.5 / np.maximum(size, 1e-300))
            log_w = log_w.real + 1j * np.clip(log_w.imag, 1e-12, math.pi)
            if size.max() < 1e-9:
                break
    green = (1 + equation.generating(np.exp(log_w))[0]) / flat**2
    return np.maximum(-2 * flat / math.pi * green.imag, 0).reshape(points.shape)


def largest_singular_value(
    activation: Phi,
    depth: int,
    *,
    q: float,
    weight_variance: float,
    ensemble: Ensemble = "gaussian",
) -> float:
    """Upper edge of the spectrum of J: the root of the smallest z(w) over real w above the largest phi'^2.

    Gaussian linear networks: sqrt((L + 1)^(L + 1) / L^L). Pennington et al. 2018.

    Args:
        activation: name, record or function.
        depth: number of layers L.
        q: variance of the pre-activations.
        weight_variance: sigma_w^2.
        ensemble: of the weights, "gaussian" or "orthogonal".

    Returns:
        The edge, which a finite J passes by a part of order n^(-2/3).

    Raises:
        ValueError: for a depth below 1, an unknown ensemble, or a variance that is not positive.

    Examples:
        >>> round(largest_singular_value("identity", 10, q=1.0, weight_variance=1.0), 4)  # sqrt(11^11 / 10^10)
        5.3415
    """
    squares, weights = _squared_slopes(activation, depth, q)
    spectrum_variance(ensemble)
    in_range("a weight variance above 0", weight_variance, 1e-300, LARGEST)
    equation = _Equation(squares, weights, depth, weight_variance, ensemble)
    if squares.max() == 0:  # a flat activation: J is 0
        return 0.0
    top = math.log(squares.max())
    if ensemble == "orthogonal" and np.ptp(squares) < 1e-12:
        return (weight_variance * math.exp(top)) ** (depth / 2)
    offsets = np.geomspace(1e-12, 1e4, 2001)
    for _ in range(3):
        values = equation(top + np.log1p(offsets) + 0j)[0].real
        at = int(np.argmin(values))
        offsets = np.geomspace(offsets[max(at - 1, 0)], offsets[min(at + 1, len(offsets) - 1)], 201)
    return math.exp(float(values.min()) / 2)


def zero_fraction(activation: Phi, *, q: float) -> float:
    """Fraction of the singular values of J that are 0: P(phi'(z) = 0), at every depth. 1/2 for ReLU.

    Args:
        activation: name, record or function.
        q: variance of the pre-activations.

    Raises:
        ValueError: for a variance that is not positive.

    Examples:
        >>> round(zero_fraction("relu", q=1.0), 6)
        0.5
    """
    at = nodes(activation, q)
    return at.mean((at.slope == 0).astype(np.float64))


class _Equation:
    """ln z as a function of ln w, with its derivative."""

    def __init__(
        self,
        squares: Float[np.ndarray, " nodes"],
        weights: Float[np.ndarray, " nodes"],
        depth: int,
        weight_variance: float,
        ensemble: Ensemble,
    ) -> None:
        self.squares, self.depth = squares, depth
        self.weights = np.stack([weights * squares, weights], axis=1).astype(np.complex128)
        self.log_scale = math.log(weight_variance)
        # The power of 1 + M, of M and of w.
        self.powers = (1 - (depth if ensemble == "orthogonal" else 0), depth - 1, depth)

    def generating(
        self, w: Complex[np.ndarray, " points"]
    ) -> tuple[Complex[np.ndarray, " points"], Complex[np.ndarray, " points"], Complex[np.ndarray, " points"]]:
        """M(w), 1 + M(w), computed without cancellation, and M'(w)."""
        resolvent = 1 / (w[:, None] - self.squares)
        m, mean = (resolvent @ self.weights).T
        return m, w * mean, -(resolvent * resolvent) @ self.weights[:, 0]

    def __call__(
        self, log_w: Complex[np.ndarray, " points"]
    ) -> tuple[Complex[np.ndarray, " points"], Complex[np.ndarray, " points"]]:
        w = np.exp(log_w)
        m, above, slope = self.generating(w)
        p, r, s = self.powers
        # For w in the upper half plane arg M is in (-pi, 0], so principal logarithms are continuous.
        log_m = np.log(np.abs(m)) + 1j * np.where(m.imag == 0, np.where(m.real < 0, -math.pi, 0.0), np.angle(m))
        value = p * np.log(above) + r * log_m + s * log_w + self.depth * self.log_scale
        return value, w * slope * (p / above + r / m) + s

    def start(self, targets: Float[np.ndarray, " points"]) -> Float[np.ndarray, " points"]:
        """Ln |w| at z = -exp(targets), by bisection: there ln |z| grows with ln |w|."""
        low, high = np.full(targets.shape, -300.0), np.full(targets.shape, 300.0)
        for _ in range(80):
            middle = (low + high) / 2
            above = self(middle + 1j * math.pi)[0].real > targets
            low, high = np.where(above, low, middle), np.where(above, middle, high)
        return (low + high) / 2


def _squared_slopes(
    activation: Phi, depth: int, q: float
) -> tuple[Float[np.ndarray, " nodes"], Float[np.ndarray, " nodes"]]:
    """phi'(z)^2 and its weights."""
    if depth < 1:
        raise ValueError(f"expected a depth of at least 1, got {depth}")
    at = nodes(activation, q)
    squares, where = np.unique(at.slope**2, return_inverse=True)
    return squares, np.bincount(where, at.weights)


def _slope_moments(activation: Phi, q: float) -> tuple[float, float]:
    """mu_1 and mu_2."""
    at = nodes(activation, q)
    square, fourth = at.mean(at.slope**2), at.mean(at.slope**4)
    if square <= 0:
        raise ValueError(
            f"expected an activation with a slope on N(0, {q:g}), got one that is flat there, so that J is 0"
        )
    return square, fourth
