"""Bands of the claims of `trainability`. Pilot bands follow the rule of `experiments.framework.bands`."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

import gradflow as gf
from experiments.framework.bands import gain_variance, worst_of
from experiments.framework.claims import Band, goal, paper, pilot, theory
from experiments.framework.pilots import EARLY, around
from experiments.trainability.signal import SETTLED, Profile

LEARNT = 0.4  # test accuracy; chance is 0.1
SHALLOW, DEEP = 0.7, 2.0  # in units of 6 xi_c
DRAWN = 40  # layers that the law of rates is worked out for; deeper ones change as the last of them does
CLASSES = 10
GRID = 100  # networks, with fewer of which nothing is claimed about accuracies


def six_xi(depths: Float[np.ndarray, " depths"]) -> Band:
    """Depth over xi_c that parts the networks that learn from those that do not: about 6.

    Later papers quote 6 xi_c from Schoenholz et al. 2017. The number was not found in a text of that paper itself, so
    the limit is one of ours. Depths are those of a grid, so that it is known to one step of it.

    Args:
        depths: of the grid.
    """
    step = float(np.max(depths[1:] / depths[:-1]))
    source = "about 6 xi_c, as later papers quote Schoenholz et al. 2017; one step of the grid"
    return goal(source, 6.0, low=6 / step, high=6 * step)


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

    From layer to layer ln |J u|^2 makes steps of mean ln chi_j - v_j / 2 and variance v_j. For one u the layer's own
    part of v_j is (3 k - 1) / n, k = E[phi'^4] / E[phi'^2]^2, and the fluctuations of q_l add to it: see
    `gradflow.theory.width_profile`. The gradient that is fitted is a mean over images, whose logits' gradients, softmax
    minus label, span 9 of the 10 dimensions of the logits. With G the matrix of products of such directions,
    r = tr G^2 / (tr G)^2, and g ~ N(0, G) a unit's gradients, E[(g^T g)^2] = (1 + 2 r) (tr G)^2, so that the own part
    is (k (1 + 2 r) - 1) / n. From r = 1/9 at the top it grows by k (1 + 2 r) (1 - r) / n a layer, to first order: the
    directions turn towards one. Where images also differ in phi', as in the chaotic phase, v_j is smaller still.

    A least-squares line has the slope sum_i w_i ln g_i^2, w_i = t_i / sum t^2, and ln g_i^2 is the sum of the steps
    from i up. So step j enters with a_j = -sum of w_i over fitted i <= j,

        mean sum a_j (ln chi_j - v_j / 2), variance sum a_j^2 v_j, for N layers with equal steps 6 v / (5 N).

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
    kurtosis = np.array([gain_variance(profile.activation, float(q)) + 1 for q in law.variances]) / 3
    fewer = 2 * kurtosis * (1 - _overlaps(kurtosis, width)) / width
    means, variances = (np.diff(x, prepend=0.0) for x in (law.jacobian_mean, law.jacobian_variance))
    means, variances = (np.pad(x, (0, depth - drawn), mode="edge")[:-1] for x in (means + fewer / 2, variances - fewer))
    time = np.arange(fitted) - (fitted - 1) / 2
    entering = -np.cumsum(np.pad(time / np.sum(time**2), SETTLED))[:-1]
    return float(entering @ means), float(np.sqrt(entering**2 @ variances))


def _overlaps(kurtosis: Float[np.ndarray, " depth"], width: int) -> Float[np.ndarray, " depth"]:
    """Return r of `rate_law` in every layer."""
    found = [1 / (CLASSES - 1)]
    for k in kurtosis[:0:-1]:
        r = found[-1]
        found.append(min(1.0, r + k * (1 + 2 * r) * (1 - r) / width))
    return np.array(found[::-1])


def rate_deviation(profile: Profile, rates: Float[np.ndarray, " networks"], depth: int, width: int) -> float:
    """Distance of the mean fitted rate from the mean of `rate_law`, in standard deviations of a mean over networks.

    Args:
        profile: the network.
        rates: fitted factor of the squared gradient a layer.
        depth: hidden layers.
        width: units of each.
    """
    mean, spread = rate_law(profile, depth, width)
    return abs(float(np.log(rates).mean()) - mean) / (spread / math.sqrt(rates.size))


def batchnorm_rate(activation: str) -> Band:
    """Squared gradient a layer with batch norm over that of infinite width and batch, E[phi'^2] / Var[phi].

    For ReLU that is pi / (pi - 1) = 1.467 (Yang et al. 2019). A batch of B adds a part of order 1/B, which
    `gradflow.theory.batchnorm_rate` knows, and a width n one of order B/n of unknown size.

    Args:
        activation: name.
    """
    return around("Yang et al. 2019, infinite width and batch", {
        "relu": (0.9945, 0.9974, 0.9998), "tanh": (1.0207, 1.0177, 1.0178),
    }[activation], possible=(0.0, math.inf))  # fmt: skip
