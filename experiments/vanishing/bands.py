"""Bands of the claims of `vanishing`, with what each rests on."""

from __future__ import annotations

import functools
import math

import numpy as np
from jaxtyping import Float

import gradflow as gf
from experiments.framework.bands import (
    DEVIATIONS,
    PILOT_SEEDS,
    Spread,
    gain_variance,
    pilot_limits,
    product_spread,
    slope_variance,
    worst_of,
)
from experiments.framework.claims import Band, goal, paper, pilot, theory
from experiments.vanishing.arms import Arm

CURED = 0.1  # predicted first/last gradient from which a network is called cured
TRAINED = 1000  # steps with fewer of which nothing is claimed about movement and what cured networks learn

# What the pilot runs gave, one number for each of PILOT_SEEDS.
BATCH_NORM_FACTOR = (1.596, 1.590, 1.542)


def ratio_spread(arm: Arm, variances: Float[np.ndarray, " depth"], width: int) -> Spread:
    """Spread of ln (|dL/dz_1|^2 / |dL/dz_L|^2) of an arm without batch norm about its predicted value.

    Without skips, dL/dz_l = D_l W_(l+1)^T dL/dz_(l+1): a product of L - 1 random layers (`product_spread`).

    With skips, dL/dx_(l-1) = g + W_l^T D_l g, of which the branch has the squared length chi_l |g|^2 and the relative
    variance gain_variance / n; the cross term 2 g . W_l^T D_l g / |g|^2 has variance 4 chi_l / n, as W_l is
    independent of g. So a layer adds

        (chi_l^2 gain_variance + 4 chi_l) / ((1 + chi_l)^2 n),

    and at either end |D_l g|^2 strays from E[phi'^2] |g|^2 by the relative variance 3 (E[phi'^4] / E[phi'^2]^2 - 1) / n
    = (gain_variance - 2) / n.

    Args:
        arm: the network.
        variances: of its pre-activations, by theory.
        width: units a layer.
    """
    depth, sigma = len(variances), arm.weight_variance
    if not arm.residual:
        return product_spread(arm.activation, depth - 1, width, q=float(variances[0]), weight_variance=sigma)
    gains = np.array([gain_variance(arm.activation, float(q)) for q in variances])
    chi = sigma * np.array([_slope_square(arm.activation, float(q)) for q in variances[1:]])
    steps = (chi**2 * gains[1:] + 4 * chi) / (1 + chi) ** 2
    variance = (steps.sum() + gains[0] + gains[-1] - 4) / width
    return Spread(-variance / 2, variance)


@functools.lru_cache(maxsize=256)
def _slope_square(activation: str, q: float) -> float:
    return float(gf.theory.moments(activation, q).slope_square)


def worst(count: int, source: str) -> Band:
    """The worst of several numbers in units of their own standard deviations.

    Args:
        count: of the numbers.
        source: the theory.
    """
    return theory(f"{source}; spread at this width derived", high=worst_of(count))


def sick_rate(chi: float, variance: float, width: int, depth: int) -> Band:
    """Factor of the squared gradient a layer, fitted to the sick network's layers from the second on.

    ln of the squared gradient is a random walk whose steps have variance gain_variance / n and mean ln chi_1 less up to
    half of that. A line through its L - 1 points has a slope of variance `slope_variance(L - 2)` times that of a step.

    Args:
        chi: chi_1 of the sick network.
        variance: of its pre-activations.
        width: units a layer.
        depth: hidden layers.
    """
    step = gain_variance("sigmoid", variance) / width
    half = DEVIATIONS * math.sqrt(step * slope_variance(depth - 2))
    return theory(
        "mean field: chi_1 = sigma_w^2 E[phi'^2]", chi,
        low=chi * math.exp(-step / 2 - half), high=chi * math.exp(half),
    )  # fmt: skip


def he_gradient(width: int, depth: int) -> Band:
    """First over last gradient of ReLU layers from He: 1, and ln of its square strays by 5 (L - 1) / n.

    Hanin & Nica 2018, see `gain_variance`; the mean of the logarithm is lower by up to half of the variance.

    Args:
        width: units a layer.
        depth: hidden layers.
    """
    low, high = product_spread("relu", depth - 1, width, q=2.0, weight_variance=2.0).limits()
    return paper("He et al. 2015, eq. 14: n Var[W] / 2 = 1 keeps the gradient's variance", 1.0, low=low, high=high)


@functools.lru_cache
def tanh_step(weight_variance: float, bias_variance: float, width: int, depth: int) -> Spread:
    """What one layer of a deep tanh network adds to ln of the squared gradient: shift and variance.

    The last of L layers, where the signal's own fluctuations have come to their stationary share in it.

    Args:
        weight_variance: sigma_w^2.
        bias_variance: sigma_b^2.
        width: units a layer.
        depth: L.
    """
    q = float(gf.theory.fixed_point("tanh", weight_variance=weight_variance, bias_variance=bias_variance).q_star)
    last, before = (
        product_spread("tanh", layers, width, q=q, weight_variance=weight_variance, bias_variance=bias_variance)
        for layers in (depth, depth - 1)
    )
    return Spread(last.shift - before.shift, last.variance - before.variance)


def sick_movement(ratio: float) -> Band:
    """Relative movement of the sick network's first layer over that of its last: as much as its gradient at most.

    In float32 it is exactly 0 once an update, rate times gradient, is less than half the spacing of floats near a
    weight, 2^-25 |w|. At 20 layers of 100 the gradient is 10^-16 of the last layer's, nine orders below.

    Args:
        ratio: first over last gradient, by theory.
    """
    return theory("chain rule: at most first over last gradient; 0 below float32's spacing", 0.0, low=0.0, high=ratio)


def tanh_rate(step: Spread, layers: int, networks: int) -> Spread:
    """Spread of the mean over networks of ln of the fitted factor of the squared gradient.

    Args:
        step: of one layer, from `tanh_step`.
        layers: that the line is fitted to.
        networks: that the mean is over.
    """
    return Spread(step.shift, step.variance * slope_variance(layers - 1) / networks)


BATCH_NORM = pilot(
    "mean field with batch norm; factor between prediction and pilot runs", PILOT_SEEDS,
    high=pilot_limits(BATCH_NORM_FACTOR, log=True)[1],
)  # fmt: skip
CURED_LEARN = goal("what theory calls cured learns: half of the test images", low=0.5)
CURED_MOVES = goal("its first layer moves: by a hundredth", low=1e-2)
