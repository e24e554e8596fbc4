"""What the bands of several experiments rest on: the spread of random networks, of shares, of fitted rates, of pilots.

Three rules hold for every experiment.

    theory   limits lie as far out as makes a miss as rare as three standard deviations do for one normal number
    worst    of several such numbers the worst is claimed, and its limit is `worst_of(count)`
    pilot    limits are `PILOT_DEVIATIONS` standard deviations of the pilot runs from their mean (`pilot_limits`)
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import gradflow as gf
from experiments.framework.claims import Band, theory
from gradflow import gaussian

PILOT_SEEDS = (10, 11, 12)
PILOT_DEVIATIONS = 4.0
DEVIATIONS = 3.0


def gradient_rate(profiles: Float[np.ndarray, "*networks layers"], ends: int = 0) -> Float[np.ndarray, "*networks"]:
    """Fit the factor of the squared gradient from a layer to the one below, in each network.

    Args:
        profiles: rms of the gradient by layer, the layer nearest the input first.
        ends: layers at either end that the fit leaves out.
    """
    logs = 2 * np.log(profiles[..., ends : profiles.shape[-1] - ends].astype(np.float64))
    layers = np.arange(logs.shape[-1])
    return np.exp(-np.polyfit(layers, logs.reshape(-1, layers.size).T, 1)[0]).reshape(logs.shape[:-1])


@functools.lru_cache(maxsize=256)
def gain_variance(activation: str, q: float = 1.0) -> float:
    """Variance of ln |J u|^2 that one layer adds over random weights, times its width.

    With J = D W, W of independent entries N(0, sigma_w^2 / n), D = diag(phi'(z)), z ~ N(0, q), and u fixed,

        |J u|^2 = (sigma_w^2 / n) sum_i phi'(z_i)^2 g_i^2,   g_i ~ N(0, 1) independent of z_i.

    E[g^4] = 3, so a summand has mean mu_1 = E[phi'^2] and variance 3 E[phi'^4] - mu_1^2. The logarithm of a mean of n
    has variance (3 E[phi'^4] / mu_1^2 - 1) / n to first order in 1/n, and its mean is lower by half of that. Linear: 2;
    ReLU: 5 (Hanin & Nica 2018); a sigmoid at small q: 2. Uniform weights add terms of order 1/n^2 only, as g_i is then
    a sum of n small parts. A mean square over examples in place of one u has at most this variance.

    Args:
        activation: name in `gf.activations`.
        q: variance of the pre-activations.
    """
    record = gf.activations.get(activation)

    def powers(x: Array) -> Array:
        return jnp.stack([record.derivative(x) ** 2, record.derivative(x) ** 4])

    square, fourth = gaussian.expectation(powers, q, kinks=record.kinks)
    return float(3 * fourth / square**2 - 1)


class Spread(NamedTuple):
    """How ln of a mean square lies about its value at infinite width over random networks: shift of its mean, variance.

    The shift holds for one example, and for many that stray together. A mean over examples that each stray on their
    own has none.
    """

    shift: float
    variance: float

    @property
    def deviation(self) -> float:
        """Standard deviation."""
        return math.sqrt(self.variance)

    def outside(self, log: float) -> float:
        """Standard deviations by which ln of a mean square over examples lies beyond what theory allows.

        Its mean lies between `shift` and 0.

        Args:
            log: measured, less the value at infinite width.
        """
        return max(self.shift - log, log) / self.deviation

    def limits(self) -> tuple[float, float]:
        """Limits of the rms over its value at infinite width, `DEVIATIONS` standard deviations out."""
        half = DEVIATIONS * self.deviation
        return math.exp((self.shift - half) / 2), math.exp(half / 2)


@functools.lru_cache(maxsize=256)
def product_spread(
    activation: str, depth: int, width: int, *, q: float, weight_variance: float, bias_variance: float = 0.0
) -> Spread:
    """Spread of ln |J u|^2 over random networks of equal layers, the signal's own fluctuations among its causes.

    The layers' own parts (`gain_variance`) add up, and the variance of the pre-activations, which strays too, moves
    E[phi'^2] in all layers above. `gf.theory.width_profile` follows both.

    Args:
        activation: name in `gf.activations`.
        depth: layers.
        width: units of each.
        q: variance of the first layer's pre-activations.
        weight_variance: sigma_w^2.
        bias_variance: sigma_b^2.
    """
    q0 = (q - bias_variance) / weight_variance
    law = gf.theory.width_profile(
        activation, [width] * depth, q0, weight_variance=weight_variance, bias_variance=bias_variance
    )
    rates = gf.theory.backward_rates(activation, law.variances, weight_variance=weight_variance)
    return Spread(float(law.jacobian_mean[-1] - np.log(rates).sum()), float(law.jacobian_variance[-1]))


@functools.lru_cache(maxsize=256)
def signal_spread(activation: str, layers: int, width: int, *, q: float, weight_variance: float) -> Spread:
    """Spread of ln of the mean square of the last of some layers' activations over random networks without bias.

    With A_l = mean phi(z_l)^2 over units, z_(l+1) has variance sigma_w^2 A_l, whose walk `gf.theory.width_profile`
    follows. Of its variance for the pre-activations of the layer above, 2 / width is taken off, which is what the units
    of that layer add to their own mean square. Nearly linear activations: 2 layers / width.

    Args:
        activation: name in `gf.activations`.
        layers: as many.
        width: units of each.
        q: variance of the first layer's pre-activations.
        weight_variance: sigma_w^2.
    """
    law = gf.theory.width_profile(
        activation, [width] * (layers + 1), q / weight_variance, weight_variance=weight_variance, bias_variance=0.0
    )
    variance = float(law.signal_variance[-1]) - 2 / width
    return Spread(-variance / 2, variance)


def product_variance(depth: int, width: int) -> float:
    """Variance of ln |J u|^2 over random ReLU networks of equal layers (Hanin & Nica 2018).

    Args:
        depth: layers.
        width: units of each.
    """
    return 5.0 * depth / width


def slope_variance(steps: int) -> float:
    """Variance of a line's slope through a random walk of independent steps of variance 1, by least squares.

    With w_l the weights of the fit, slope = sum_l w_l x_l, a step from l to l + 1 counts with sum_(k > l) w_k. About
    6 / (5 steps); the walk's two ends alone give 1 / steps.

    Args:
        steps: between the first and the last point.
    """
    points = np.arange(steps + 1) - steps / 2
    counts = np.cumsum((points / np.sum(points**2))[::-1])[:-1]
    return float(np.sum(counts**2))


def share_error(share: Float[np.ndarray, "..."] | float, draws: int) -> np.ndarray:
    """Standard error of a share of independent draws; at least that of a share of one draw.

    Args:
        share: expected.
        draws: how many.
    """
    return np.sqrt(np.maximum(share * (1 - share), 1 / draws) / draws)


def constant_answer(images: int, classes: int = 10) -> Band:
    """Accuracy of a network whose answer does not depend on the image: the share of one class.

    Of images of balanced classes, the share of any class strays by `share_error`; the answer may be the likeliest one.

    Args:
        images: that the accuracy is measured on.
        classes: as many.
    """
    half = worst_of(classes) * float(share_error(1 / classes, images))
    return theory("an answer that does not depend on the image: the share of one class", 1 / classes, absolute=half)


def mean_limit(values: Float[np.ndarray, " networks"], count: int = 1) -> float:
    """How far the mean over independent networks may lie from its expectation, the worst of several such means.

    By Student's t distribution with as many degrees of freedom as networks less one, at the chance of a miss of
    `DEVIATIONS` standard deviations of a normal number, shared by the union bound.

    Args:
        values: of the networks, at least two.
        count: of the means.
    """
    from scipy import stats  # a second to import

    rare = statistics.NormalDist().cdf(-DEVIATIONS) / count
    error = np.std(values, ddof=1) / math.sqrt(len(values))
    return float(stats.t.isf(rare, len(values) - 1) * error)


def worst_of(count: int) -> float:
    """Standard deviations that the worst of several normal numbers passes as rarely as one number passes three.

    By the union bound, which holds for dependent numbers too.

    Args:
        count: of the numbers.
    """
    normal = statistics.NormalDist()
    return -normal.inv_cdf(normal.cdf(-DEVIATIONS) / count)


def pilot_limits(
    values: Sequence[float],
    *,
    log: bool = False,
    floor: float = 0.0,
    possible: tuple[float, float] = (-math.inf, math.inf),
) -> tuple[float, float]:
    """Limits that pilot runs set: their mean and `PILOT_DEVIATIONS` standard deviations to both sides.

    Args:
        values: that the pilot runs gave.
        log: whether mean and deviation are those of logarithms, as for ratios.
        floor: least standard deviation, on the scale that is used: what the measurement itself is uncertain by.
        possible: numbers beyond which nothing can be measured.
    """
    scaled = [math.log(value) for value in values] if log else list(values)
    middle, half = statistics.mean(scaled), PILOT_DEVIATIONS * max(statistics.stdev(scaled), floor)
    low, high = ((math.exp(end) if log else end) for end in (middle - half, middle + half))
    return max(low, possible[0]), min(high, possible[1])
