"""To what depth a network can be trained, and which variances suit a depth."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from gradflow.theory.mean_field.layer_profile import dropout_fixed_point
from gradflow.theory.mean_field.moments import ActivationMoments, Phi, activation_moments, in_range
from gradflow.theory.mean_field.nodes import nodes

__all__ = ["Variances", "best_variances", "trainable_depth"]

_SCALES = 6  # depth scales to which Schoenholz et al. 2017 could train


class Variances(NamedTuple):
    """Where to start a network from.

    Attributes:
        weight_variance: sigma_w^2.
        bias_variance: sigma_b^2.
        q_star: the variance at which the signal then stays.
    """

    weight_variance: float
    bias_variance: float
    q_star: float


def trainable_depth(activation: Phi, *, weight_variance: float, bias_variance: float, keep: float = 1.0) -> float:
    """Number of layers, about 6 xi_c, to which information about the input reaches and training works.

    Schoenholz et al. 2017, where networks trained well up to about 6 xi_c, on MNIST and CIFAR-10.

    Args:
        activation: name, record or function.
        weight_variance: sigma_w^2.
        bias_variance: sigma_b^2.
        keep: probability with which dropout keeps a unit.

    Returns:
        6 xi_c; inf at criticality, where depth is not limited by an exponential.

    Raises:
        ValueError: for values out of range, or an activation that jumps.
        ArithmeticError: where the signal explodes faster than linearly.

    Examples:
        >>> round(trainable_depth("tanh", weight_variance=1.5, bias_variance=0.05))
        95
    """
    point = dropout_fixed_point(activation, weight_variance=weight_variance, bias_variance=bias_variance, keep=keep)
    return _SCALES * point.xi_c


def best_variances(activation: Phi, depth: int, *, spread: float = 1.0) -> Variances:
    """The critical (sigma_w^2, sigma_b^2) whose orthogonal network of this depth is as nonlinear as isometry allows.

    On the critical line, chi_1 = 1, the squared singular values of J have mean 1 and, with orthogonal weights, variance
    L (mu_2 / mu_1^2 - 1), mu_k = E[phi'(z)^(2k)]: it falls with q*, and so does the curvature that phi has to offer.
    The largest q* <= 1 at which that variance is `spread` is taken (Pennington et al. 2017: q* of order 1 / L). An
    activation for which it does not fall (ReLU) has one critical point only, which is returned.

    Args:
        activation: name, record or function.
        depth: number of layers L.
        spread: the variance aimed at.

    Returns:
        The variances.

    Raises:
        ValueError: for a depth below 1, a spread that is not positive, or an activation without a critical point that
            reaches the spread.

    Examples:
        >>> best = best_variances("tanh", 200)
        >>> round(best.weight_variance, 3), round(best.q_star, 4)
        (1.054, 0.0283)
    """
    in_range("a depth", depth, 1.0, 1e9)
    in_range("a spread above 0", spread, 1e-12, 1e12)
    moments = activation_moments(activation)
    grid = np.geomspace(1e-8, 1.0, 81)
    possible = [q for q in grid[::-1].tolist() if _bias_variance(moments, q) >= -1e-9 * q]
    if not possible:
        raise ValueError(
            f"{moments.name} has no critical point with q* <= 1 and a bias variance of at least 0. Fix: choose the "
            "chi_1 nearest 1 by `fixed_point`"
        )
    spreads = [depth * _excess(activation, q) for q in possible]
    if np.ptp(spreads) < 1e-9 * depth:
        return _at(activation, possible[0])
    below = next((k for k, value in enumerate(spreads) if value <= spread), None)
    if below is None:
        raise ValueError(
            f"no critical point of {moments.name} keeps the variance of squared singular values at {spread:g} over "
            f"{depth} layers: the least is {min(spreads):g}. Fix: fewer layers, a larger spread, or a smooth activation"
        )
    if below == 0:
        return _at(activation, possible[0])
    low, high = math.log(possible[below]), math.log(possible[below - 1])
    for _ in range(50):
        middle = (low + high) / 2
        fits = depth * _excess(activation, math.exp(middle)) <= spread
        low, high = (middle, high) if fits else (low, middle)
    return _at(activation, math.exp(low))


def _excess(activation: Phi, q: float) -> float:
    at = nodes(activation, q)
    return at.mean(at.slope**4) / at.mean(at.slope**2) ** 2 - 1


def _bias_variance(moments: ActivationMoments, q: float) -> float:
    """sigma_b^2 that makes q a critical fixed point."""
    slope = moments.slope_square(q)
    return q - moments.square(q) / slope if slope > 0 else -math.inf


def _at(activation: Phi, q: float) -> Variances:
    moments = activation_moments(activation)
    best = Variances(1 / moments.slope_square(q), max(_bias_variance(moments, q), 0.0), q)
    if moments.square_derivative(q) * best.weight_variance > 1 + 1e-6:
        raise ValueError(
            f"{moments.name} is critical at q* = {q:.3g}, but its variance does not stay there: V'(q*) is above 1. "
            "Fix: batch normalization, or another activation"
        )
    return best
