"""Mean-field theory of signal and gradient in wide fully connected networks at initialization.

z_l = W_l phi(z_(l-1)) + b_l with W ~ N(0, sigma_w^2 / fan_in) and b ~ N(0, sigma_b^2), independent. As the width grows,
the pre-activations z_l become Gaussian with variance q_l, those of two inputs with correlation c_l (Poole et al. 2016),
and the backward signal's mean square changes by chi_l a layer (Schoenholz et al. 2017).

The same holds for convolutions with W ~ N(0, sigma_w^2 / (k^2 c_in)) over a window of k x k, as their channels grow:
q_l, c_l and the mean square gradient are then averages over positions. Every position takes the mean of E[phi^2] over
its window, which evens out what differs between positions and, where the padding is circular, leaves their average as
it is; zero padding loses what the window sees beyond the edge. chi_1 and xi_c are those of the fully connected network
(Xiao et al. 2018, "Dynamical Isometry and a Mean Field Theory of CNNs"), so that every function here serves for both.

`weight_variance` is sigma_w^2 and `bias_variance` sigma_b^2 throughout; `activation` is a name in
`gradflow.activations`, a record of it, or any elementwise function.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import Float

from gradflow.theory.mean_field.criticality import (
    check_variances,
    critical_weight_variance,
    reject_jump,
    root,
    variance_fixed_point,
)
from gradflow.theory.mean_field.moments import (
    LARGEST,
    SMALLEST,
    ActivationMoments,
    Numbers,
    Phi,
    activation_moments,
    in_range,
)

__all__ = [
    "FixedPoint",
    "backward_rates",
    "correlation_map",
    "critical_weight_variance",
    "fixed_point",
    "variance_map",
    "variance_profile",
]

Phase = Literal["ordered", "critical", "chaotic"]

_CLOSEST = -18.0  # ln(1 - c) below which rounding hides where c* is
_CRITICAL = 1e-8  # |chi_1 - 1| below this is critical: what quadrature can tell


@dataclasses.dataclass(frozen=True)
class FixedPoint:
    """Where the signal of a deep network settles, and how fast.

    Attributes:
        q_star: the variance that q_l approaches from 1; 0 if the signal dies, inf if it grows without bound. Where
            V(q) = q to rounding on a whole interval, the first such q (He-initialized ReLU: 1).
        c_star: what the correlation of two inputs approaches: 1, or in the chaotic phase a value below it.
        chi_1: sigma_w^2 E[phi'(z)^2] at q_star, the factor of the squared gradient a layer; at q_star = inf, its limit.
        slope_at_c_star: derivative of the correlation map at c_star; chi_1 where c_star = 1 and q_star is finite.
        xi_q: layers in which |q_l - q_star| falls by e; inf where it does not fall exponentially.
        xi_c: layers in which |c_l - c_star| falls by e, -1 / ln(slope_at_c_star); inf where it does not. Networks train
            to a depth of about 6 xi_c (Schoenholz et al. 2017).
        phase: by chi_1: below 1 "ordered" (gradients vanish), above 1 "chaotic" (they explode), else "critical".
    """

    q_star: float
    c_star: float
    chi_1: float
    slope_at_c_star: float
    xi_q: float
    xi_c: float
    phase: Phase


def variance_map(activation: Phi, q: Numbers, weight_variance: float, bias_variance: float) -> Float[np.ndarray, "..."]:
    """V(q) = sigma_w^2 E[phi(sqrt(q) z)^2] + sigma_b^2: variance of the next layer's pre-activations.

    Poole et al. 2016.

    Args:
        activation: name, record or function.
        q: variances of the pre-activations, of any shape.
        weight_variance: sigma_w^2.
        bias_variance: sigma_b^2.

    Returns:
        V(q), of the shape of q.

    Raises:
        ValueError: for a negative variance or an unknown name.
        ArithmeticError: where the expectation is not finite.

    Examples:
        >>> float(variance_map("relu", 3.0, 2.0, 0.5).round(9))
        3.5
    """
    check_variances(weight_variance, bias_variance)
    moments = activation_moments(activation)
    q = in_range("variances q", q, 0.0, LARGEST)
    return _each(lambda x: weight_variance * moments.square(x) + bias_variance, q)


def correlation_map(
    activation: Phi,
    q: float,
    c: Numbers,
    weight_variance: float,
    bias_variance: float,
) -> Float[np.ndarray, "..."]:
    """C(c) = (sigma_w^2 E[phi(x) phi(y)] + sigma_b^2) / V(q): the next layer's correlation of two inputs.

    x and y are Gaussian with variance q and correlation c. Poole et al. 2016; there q = q*.

    Args:
        activation: name, record or function.
        q: variance of the pre-activations, the same for both inputs.
        c: correlations in [-1, 1], of any shape.
        weight_variance: sigma_w^2.
        bias_variance: sigma_b^2.

    Returns:
        C(c), of the shape of c.

    Raises:
        ValueError: for variances or correlations out of range, or where the next layer's variance is 0.
        ArithmeticError: where the expectation is not finite.

    Examples:
        >>> float(correlation_map("relu", 1.0, 0.0, 2.0, 0.0).round(6))  # 1 / pi
        0.31831
    """
    check_variances(weight_variance, bias_variance)
    moments = activation_moments(activation)
    q, c = float(in_range("a variance q", q, 0.0, LARGEST)), in_range("correlations c", c, -1.0, 1.0)
    variance = weight_variance * moments.square(q) + bias_variance
    if variance <= SMALLEST:
        raise ValueError(
            f"expected a signal, got pre-activations of variance 0 after {moments.name} at q = {q:g}; a "
            "correlation is not defined there. Fix: a positive q, weight variance or bias variance"
        )
    return _each(lambda x: (weight_variance * moments.pair(x, q) + bias_variance) / variance, c)


def variance_profile(
    activation: Phi,
    depth: int,
    q0: float,
    *,
    weight_variance: float,
    bias_variance: float,
) -> Float[np.ndarray, " depth"]:
    """Pre-activation variances q_1 = sigma_w^2 q0 + sigma_b^2 and q_l = V(q_(l-1)), l = 2..depth.

    Args:
        activation: name, record or function.
        depth: number of layers L.
        q0: second moment of the network's input, mean over its entries and examples.
        weight_variance: sigma_w^2.
        bias_variance: sigma_b^2.

    Returns:
        q_1..q_L.

    Raises:
        ValueError: for a depth below 1 or a negative variance.
        ArithmeticError: where the variance passes 1e16.

    Examples:
        >>> variance_profile("relu", 3, 1.0, weight_variance=1.0, bias_variance=0.0).round(6).tolist()
        [1.0, 0.5, 0.25]
    """
    check_variances(weight_variance, bias_variance)
    in_range("a second moment q0", q0, 0.0, LARGEST)
    if depth < 1:
        raise ValueError(f"expected a depth of at least 1, got {depth}")
    moments = activation_moments(activation)
    variances = [weight_variance * q0 + bias_variance]
    while len(variances) < depth and variances[-1] <= LARGEST:
        variances.append(weight_variance * moments.square(variances[-1]) + bias_variance)
    if variances[-1] > LARGEST:
        raise ArithmeticError(
            f"the variance passes {LARGEST:g} at layer {len(variances)}: the signal explodes. Likely cause: a weight "
            "variance above critical for an unbounded activation. Fix: a smaller one (`critical_weight_variance`), or "
            f"fewer than {len(variances)} layers"
        )
    return np.array(variances)


def backward_rates(activation: Phi, variances: Numbers, *, weight_variance: float) -> Float[np.ndarray, "..."]:
    """chi_l = sigma_w^2 E[phi'(sqrt(q_l) z)^2]: factor of the mean square gradient from z_(l+1) back to z_l.

    Widths are taken as equal; where they are not, multiply by fan_out / fan_in of W_(l+1). Schoenholz et al. 2017.

    Args:
        activation: name, record or function.
        variances: q_l, of any shape, as from `variance_profile`.
        weight_variance: sigma_w^2 of the layer above, W_(l+1).

    Returns:
        chi_l, of the shape of `variances`.

    Raises:
        ValueError: for a negative variance.

    Examples:
        >>> backward_rates("relu", [0.5, 2.0], weight_variance=2.0).round(9).tolist()
        [1.0, 1.0]
    """
    check_variances(weight_variance, 0.0)
    moments = activation_moments(activation)
    variances = in_range("variances", variances, 0.0, LARGEST)
    return _each(lambda q: weight_variance * moments.slope_square(q), variances)


def fixed_point(activation: Phi, *, weight_variance: float, bias_variance: float) -> FixedPoint:
    """Fixed points of the variance and correlation maps, and the depth scales around them.

    q* = V(q*), the first in the direction that V takes from q = 1; c* = C(c*); chi_1 = sigma_w^2 E[phi'(z)^2] at q*,
    the slope of C at 1; 1/xi_q = -ln |V'(q*)|, 1/xi_c = -ln C'(c*). Poole et al. 2016; Schoenholz et al. 2017.

    d ln E[phi^2] / d ln q >= -1/2 for every activation, so V'(q*) >= -1/2: q_l does not oscillate around q*.

    Args:
        activation: name, record or function.
        weight_variance: sigma_w^2.
        bias_variance: sigma_b^2.

    Returns:
        The fixed point. A signal that dies or grows without bound shows as q_star 0 or inf; then the other fields are
        the limits on the way there.

    Raises:
        ValueError: for a negative variance, or an activation that jumps.
        ArithmeticError: where the variance grows without bound faster than linearly, or averages overflow.

    Examples:
        >>> point = fixed_point("tanh", weight_variance=2.5, bias_variance=0.05)
        >>> point.phase, round(point.chi_1, 3), round(6 * point.xi_c)
        ('chaotic', 1.134, 71)
    """
    check_variances(weight_variance, bias_variance)
    moments = activation_moments(activation)
    q_star = variance_fixed_point(moments, weight_variance, bias_variance)
    reject_jump(moments)
    q = min(max(q_star, SMALLEST), LARGEST)
    chi_1 = weight_variance * moments.slope_square(q)
    pace = abs(weight_variance * moments.square_derivative(q))
    if math.isinf(q_star) and moments.slope_square(q) > 1.01 * moments.slope_square(1e-4 * q):
        raise ArithmeticError(
            f"the variance map of {moments.name} grows faster than linearly: chi_1 has no limit as q_l goes to "
            "infinity. Likely cause: a polynomial or exponential activation. Fix: a weight variance so small that the "
            "signal stays finite"
        )
    # Below infinity V(q) = q; towards it the correlation map has the limit's own slope.
    next_variance = weight_variance * moments.square(q) + bias_variance if math.isinf(q_star) else q
    distance, slope = _correlation_fixed_point(moments, q, weight_variance, next_variance, chi_1 * q / next_variance)
    xi_q = math.inf if math.isinf(q_star) else _depth_scale(pace)
    phase: Phase = "critical" if abs(chi_1 - 1) <= _CRITICAL else "ordered" if chi_1 < 1 else "chaotic"
    return FixedPoint(q_star, 1 - distance, chi_1, slope, xi_q, _depth_scale(slope), phase)


def _correlation_fixed_point(
    moments: ActivationMoments, q: float, weight_variance: float, next_variance: float, slope_at_1: float
) -> tuple[float, float]:
    """1 - c* and C'(c*). C is a power series with coefficients >= 0: c* = 1 if C'(1) <= 1, else the one below 1."""
    if slope_at_1 <= 1 + _CRITICAL:
        return 0.0, slope_at_1

    def excess(log_distance: float) -> float:
        distance = math.exp(log_distance)
        fallen = moments.square(q) - moments.pair(1 - distance, q)
        return weight_variance * fallen / (next_variance * distance) - 1

    high, distance = 0.0, 1.0
    if excess(high) < -1e-12:
        low = -1.0
        while excess(low) <= 0:
            if low < _CLOSEST:
                return 0.0, slope_at_1
            low, high = 1.5 * low, low
        distance = math.exp(root(excess, low, high))
    return distance, weight_variance * q / next_variance * moments.slope_pair(1 - distance, q)


def _depth_scale(slope: float) -> float:
    """-1 / ln(slope); 0 for a slope of 0, inf where nothing falls exponentially."""
    if slope <= 0:
        return 0.0
    return math.inf if slope >= 1 - _CRITICAL else -1 / math.log(slope)


def _each(fn: Callable[[float], float], values: Numbers) -> Float[np.ndarray, "..."]:
    """Apply fn to every entry, one by one."""
    array = np.asarray(values, np.float64)
    return np.array([fn(float(value)) for value in array.ravel()]).reshape(array.shape)
