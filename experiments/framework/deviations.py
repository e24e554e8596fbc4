"""How far random networks stray from theory: the law of a fitted gradient rate, and the largest of many deviations."""

from __future__ import annotations

import statistics
from typing import NamedTuple

import numpy as np

import gradflow as gf

MISSES = 1e-3  # probability that the largest of normal deviations passes its limit
DRAWN = 40  # layers that the law is worked out for; deeper ones change as the last of them does


class Law(NamedTuple):
    """Mean and standard deviation of a number over random networks."""

    mean: float
    deviation: float


def largest(count: int) -> float:
    """Limit that the largest of `count` standard normal deviations passes with probability .001 at most.

    P(max |x_i| > t) <= sum P(|x_i| > t) = 2 count (1 - Phi(t)), whatever their correlations. An rms of standard normal
    deviations counts as one: it is never above the largest of them, and is |x| if they are all the same.

    Args:
        count: of deviations.
    """
    return statistics.NormalDist().inv_cdf(1 - MISSES / (2 * count))


def rate_law(
    activation: str, depth: int, width: int, q0: float, ends: int = 0, *, weight_variance: float, bias_variance: float
) -> Law:
    """Law of the logarithm of the fitted factor of the squared gradient a layer, over random networks.

    From layer to layer ln |gradient|^2 makes steps of mean m_j and variance v_j, those of ln |J u|^2 in
    `gradflow.theory.width_profile`: m_j = ln chi_j - v_j / 2, and v_j = (3 E[phi'^4] / E[phi'^2]^2 - 1) / n plus what
    the fluctuations of q_l add. A least-squares line has the slope sum_k w_k ln g_k^2, w_k = t_k / sum t^2, and
    ln g_k^2 is the sum of the steps from k up. So step j enters with a_j = -sum of w_k over fitted k <= j,

        mean sum a_j m_j, variance sum a_j^2 v_j, which for equal steps and N layers is 6 v / (5 N).

    The gradient that is fitted is a mean over images. As far as these have different gradients, their mean strays less,
    and its logarithm is the mean's: between m_j and ln chi_j.

    Args:
        activation: name.
        depth: hidden layers.
        width: n, units of each.
        q0: mean square of the inputs.
        ends: layers at either end that the fit leaves out.
        weight_variance: sigma_w^2.
        bias_variance: sigma_b^2.
    """
    drawn = min(depth, DRAWN)
    law = gf.theory.width_profile(
        activation, [width] * drawn, q0, weight_variance=weight_variance, bias_variance=bias_variance
    )
    means, variances = (np.diff(x, prepend=0.0) for x in (law.jacobian_mean, law.jacobian_variance))
    means, variances = (np.pad(x, (0, depth - drawn), mode="edge")[:-1] for x in (means, variances))
    time = np.arange(depth - 2 * ends) - (depth - 2 * ends - 1) / 2
    weights = np.zeros(depth)
    weights[ends : depth - ends] = time / np.sum(time**2)
    entering = -np.cumsum(weights)[:-1]
    return Law(float(entering @ means), float(np.sqrt(entering**2 @ variances)))
