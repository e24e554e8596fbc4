"""Where a wide network is critical: the weight variance at which the squared gradient neither shrinks nor grows.

Stands below both `initializers`, which draw such weights, and `theory`, which says what follows from them.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable

import numpy as np

from gradflow.theory.mean_field.moments import LARGEST, SMALLEST, ActivationMoments, Phi, activation_moments

__all__ = ["check_variances", "critical_weight_variance", "reject_jump", "root", "variance_fixed_point"]


def critical_weight_variance(activation: Phi, *, bias_variance: float) -> float:
    """sigma_w^2 at which chi_1 = 1 for this sigma_b^2: the edge of chaos.

    chi_1 = 1 means sigma_w^2 = 1 / E[phi'^2] at q*, and q* = V(q*) then says
    sigma_b^2 = q - E[phi^2] / E[phi'^2], one equation for q. Poole et al. 2016; Schoenholz et al. 2017.

    Args:
        activation: name, record or function.
        bias_variance: sigma_b^2.

    Returns:
        sigma_w^2. Of several, the one with the smallest q* that is reached from q = 1.

    Raises:
        ValueError: where the activation has no critical point at this bias variance (ReLU with bias), or the variance
            is negative.

    Examples:
        >>> round(critical_weight_variance("tanh", bias_variance=0.05), 3)
        1.761
    """
    check_variances(0.0, bias_variance)
    moments = activation_moments(activation)
    for q in _critical_variances(moments, bias_variance):
        weight_variance = 1 / moments.slope_square(q)
        try:
            q_star = variance_fixed_point(moments, weight_variance, bias_variance)
        except ArithmeticError:
            continue
        reject_jump(moments)
        if abs(weight_variance * moments.slope_square(min(q_star, LARGEST)) - 1) <= 1e-6:
            return weight_variance
    raise ValueError(
        f"{moments.name} has no critical weight variance at bias variance {bias_variance:g}: no finite q* that the "
        "variance map reaches from 1 has chi_1 = 1. Likely cause: a rectifier with bias, whose variance grows without "
        "bound at chi_1 = 1, or one such as GELU, whose variance is unstable there. Fix: bias_variance=0 for the ReLU "
        "family; else choose the chi_1 nearest 1 by `fixed_point`"
    )


def _critical_variances(moments: ActivationMoments, bias_variance: float) -> list[float]:
    """The q, ascending, that solve q - E[phi^2] / E[phi'^2] = sigma_b^2."""

    @functools.cache
    def excess(log_q: float) -> float:
        q = math.exp(log_q)
        slope = moments.slope_square(q)
        return 1 - (moments.square(q) / slope + bias_variance) / q if slope > 0 else -math.inf

    grid = [float(x) for x in np.linspace(math.log(1e-8), math.log(1e8), 81)]
    values = [excess(x) for x in grid]
    if max(abs(value) for value in values) < 1e-9:
        return [1.0]
    found = [0.0] if bias_variance == 0 and abs(values[0]) < 1e-6 else []
    for low, high in itertools.pairwise(grid):
        if excess(low) * excess(high) < 0 and math.isfinite(excess(low) * excess(high)):
            found.append(math.exp(root(excess, low, high)))
    return found


def variance_fixed_point(moments: ActivationMoments, weight_variance: float, bias_variance: float) -> float:
    """The q that q -> V(q) leads to from 1: the first sign change of V(q) - q in the direction it takes."""

    def excess(log_q: float) -> float:
        q = math.exp(log_q)
        return (weight_variance * moments.square(q) + bias_variance) / q - 1

    start = excess(0.0)
    if abs(start) < 1e-13 or max(abs(start), abs(excess(1.0))) < 1e-9:
        return 1.0
    step = math.copysign(0.5, start)
    end = math.log(LARGEST if start > 0 else SMALLEST)
    here = 0.0
    while abs(here) < abs(end):
        if excess(here + step) * start <= 0:
            return math.exp(root(excess, here, here + step))
        here += step
    return math.inf if start > 0 else 0.0


def reject_jump(moments: ActivationMoments) -> None:
    """Raise ValueError if phi jumps, or phi' is not its derivative."""
    if moments.jump(1.0) > 1e-6:
        raise ValueError(
            f"expected a continuous activation with its own derivative, got {moments.name}: E[x phi] is not E[phi'] "
            "over N(0, 1). Likely cause: a jump (sign, step) or a custom derivative. Fix: a smooth stand-in; "
            "`variance_map` and `correlation_map` take jumps as well"
        )


def root(fn: Callable[[float], float], low: float, high: float) -> float:
    """A sign change of fn between low and high, to 1e-13, by false position with the Illinois rule."""
    at_low, at_high = fn(low), fn(high)
    for _ in range(200):
        if at_high == 0 or abs(high - low) < 1e-13:
            break
        middle = high - at_high * (high - low) / (at_high - at_low)
        at_middle = fn(middle)
        if at_middle * at_high < 0:
            low, at_low = high, at_high
        else:
            at_low /= 2
        change, high, at_high = abs(middle - high), middle, at_middle
        if change < 1e-13:
            break
    return high


def check_variances(weight_variance: float, bias_variance: float) -> None:
    """Raise ValueError for a weight or bias variance that is negative, not finite, or above `LARGEST`."""
    for name, value in (("weight_variance (sigma_w^2)", weight_variance), ("bias_variance (sigma_b^2)", bias_variance)):
        if not 0 <= value <= LARGEST:
            raise ValueError(f"expected a finite {name} of at least 0, at most {LARGEST:g}, got {value}")
