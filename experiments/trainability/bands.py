"""Bands of the claims of `trainability`. Pilot bands follow the rule of `experiments.framework.bands`."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

import gradflow as gf
from experiments.framework.bands import worst_of
from experiments.framework.claims import Band, paper, pilot, theory
from experiments.trainability.signal import SETTLED, Profile

EARLY = (10, 11)  # seeds of pilots whose numbers were not kept
LEARNT = 0.4  # test accuracy; chance is 0.1
SHALLOW, DEEP = 0.7, 2.0  # in units of 6 xi_c
DRAWN = 40  # layers that the law of rates is worked out for; deeper ones change as the last of them does
INFINITE = 10**9  # units
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
    return pilot("networks shallower than 6 xi_c learn", EARLY, low=LEARNT, high=1.0)


def untrained() -> Band:
    """Highest test accuracy where the depth is at least `DEEP` times 6 xi_c."""
    return pilot("networks far deeper stay at chance", EARLY, low=0.0, high=0.3)


def ordering() -> Band:
    """Part of the pairs of one network that learnt and one that did not in which the former is relatively less deep."""
    return pilot("depth over xi_c orders the networks", EARLY, low=0.95, high=1.0)


def best_relu(variances: Float[np.ndarray, " variances"]) -> Band:
    """Weight variance that trains ReLU best: that which keeps the signal, to the nearest of the grid.

    Args:
        variances: sigma_w^2 of the grid.
    """
    half = float(np.max(np.diff(variances))) / 2
    return paper("He et al. 2015, eq. 10: n Var[w] / 2 = 1", 2.0, absolute=half)


def deviation(numbers: int) -> Band:
    """Largest of some deviations from theory, each in its own standard deviation.

    An rms of deviations counts as one of them: it is never above the largest, and is |x| where all are the same.

    Args:
        numbers: of deviations.
    """
    return theory(f"law of finite widths; the largest of {numbers} normal deviations", low=0.0, high=worst_of(numbers))


def rate_law(profile: Profile, depth: int, width: int) -> tuple[float, float]:
    """Mean and standard deviation, over random networks, of ln of the fitted factor of the squared gradient a layer.

    From layer to layer ln |gradient|^2 makes steps of mean m_j and variance v_j, those of ln |J u|^2 in
    `gradflow.theory.width_profile`: m_j = ln chi_j - v_j / 2, and v_j = (3 E[phi'^4] / E[phi'^2]^2 - 1) / n plus what
    the fluctuations of q_l add. A least-squares line has the slope sum_k w_k ln g_k^2, w_k = t_k / sum t^2, and
    ln g_k^2 is the sum of the steps from k up. So step j enters with a_j = -sum of w_k over fitted k <= j,

        mean sum a_j m_j, variance sum a_j^2 v_j, which for equal steps and N layers is 6 v / (5 N).

    Args:
        profile: the network.
        depth: hidden layers.
        width: n, units of each.
    """
    drawn, fitted = min(depth, DRAWN), depth - 2 * SETTLED
    law = gf.theory.width_profile(
        profile.activation, [width] * drawn, 1.0,
        weight_variance=profile.weight_variance, bias_variance=profile.bias_variance,
    )  # fmt: skip
    steps = (np.diff(x, prepend=0.0) for x in (law.jacobian_mean, law.jacobian_variance))
    means, variances = (np.pad(x, (0, depth - drawn), mode="edge")[:-1] for x in steps)
    time = np.arange(fitted) - (fitted - 1) / 2
    entering = -np.cumsum(np.pad(time / np.sum(time**2), SETTLED))[:-1]
    return float(entering @ means), float(np.sqrt(entering**2 @ variances))


def rate_deviation(profile: Profile, rates: Float[np.ndarray, " networks"], depth: int, width: int) -> float:
    """Distance of the mean fitted rate from where theory has it, in standard deviations of that mean.

    The gradient that is fitted is a mean over images. As far as these have different gradients their mean strays less,
    and its logarithm lies nearer that of infinite width. So theory has it between the law of one image and ln chi.

    Args:
        profile: the network.
        rates: fitted factor of the squared gradient a layer.
        depth: hidden layers.
        width: units of each.
    """
    (one, spread), (many, _) = (rate_law(profile, depth, n) for n in (width, INFINITE))
    mean = float(np.log(rates).mean())
    return max(one - mean, mean - many, 0.0) / (spread / np.sqrt(rates.size))


def batchnorm_rate() -> Band:
    """Factor of the squared gradient a layer of ReLU with batch norm: Yang et al. 2019 give pi / (pi - 1)."""
    return paper("Yang et al. 2019: pi / (pi - 1)", gf.theory.batchnorm_rate("relu"), relative=0.023)
