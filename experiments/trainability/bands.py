"""Bands of the claims of `trainability`. Pilot bands follow the rule of `experiments.framework.pilots`."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

import gradflow as gf
from experiments.framework import deviations
from experiments.framework.claims import Band, paper, theory
from experiments.framework.pilots import around
from experiments.trainability.signal import SETTLED, Profile

LEARNT = 0.4  # test accuracy; chance is 0.1
SHALLOW, DEEP = 0.7, 2.0  # in units of 6 xi_c
GRID = 100  # networks, with fewer of which nothing is claimed about accuracies


def six_xi(depths: Float[np.ndarray, " depths"]) -> Band:
    """Depth over xi_c that parts the networks that learn from those that do not: 6.

    The paper draws 6 xi_c over its figure. Depths are those of a grid, so that the limit is known to one step of it.

    Args:
        depths: of the grid.
    """
    step = float(np.max(depths[1:] / depths[:-1]))
    return paper("Schoenholz et al. 2017, Fig. 5: 6 xi_c; one step of the grid", 6.0, low=6 / step, high=6 * step)


def trained() -> Band:
    """Lowest test accuracy where the depth is at most `SHALLOW` times 6 xi_c."""
    return around("networks shallower than 6 xi_c learn", (0.5, 0.5), least=0.03, low=LEARNT, high=1.0)


def untrained() -> Band:
    """Highest test accuracy where the depth is at least `DEEP` times 6 xi_c."""
    return around("networks far deeper stay at chance", (0.15, 0.15), least=0.02, low=0.0, high=0.3)


def ordering() -> Band:
    """Part of the pairs of one network that learnt and one that did not in which the former is relatively less deep."""
    return around("depth over xi_c orders the networks", (0.98, 0.98), least=0.005, low=0.5, high=1.0)


def best_relu(variances: Float[np.ndarray, " variances"]) -> Band:
    """Weight variance that trains ReLU best: that which keeps the signal, to the nearest of the grid.

    Args:
        variances: sigma_w^2 of the grid.
    """
    half = float(np.max(np.diff(variances))) / 2
    return paper("He et al. 2015, eq. 10: n Var[w] / 2 = 1", 2.0, absolute=half)


def deviation(numbers: int) -> Band:
    """Largest of some deviations from theory, each in its own standard deviation.

    Args:
        numbers: of deviations.
    """
    limit = deviations.largest(numbers)
    return theory(f"law of finite widths; the largest of {numbers} normal deviations", low=0.0, high=limit)


def rate_deviation(profile: Profile, rates: Float[np.ndarray, " networks"], depth: int, width: int) -> float:
    """Distance of the mean fitted rate from where theory has it, in standard deviations of that mean.

    Theory has its logarithm between that of one image's gradient, lower by half the variance of a step, and that of
    infinitely many: see `deviations.rate_law`.

    Args:
        profile: the network.
        rates: fitted factor of the squared gradient a layer.
        depth: hidden layers.
        width: units of each.
    """
    options = {"weight_variance": profile.weight_variance, "bias_variance": profile.bias_variance}
    one, many = (deviations.rate_law(profile.activation, depth, n, 1.0, SETTLED, **options) for n in (width, 10**9))
    mean = float(np.log(rates).mean())
    outside = max(one.mean - mean, mean - many.mean, 0.0)
    return outside / (one.deviation / np.sqrt(rates.size))


def batchnorm_rate() -> Band:
    """Factor of the squared gradient a layer of ReLU with batch norm: Yang et al. 2019 give pi / (pi - 1)."""
    return paper("Yang et al. 2019: pi / (pi - 1)", gf.theory.batchnorm_rate("relu"), relative=0.023)
