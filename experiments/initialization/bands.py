"""Bands of the claims of `initialization`, with what each rests on."""

from __future__ import annotations

import math

import numpy as np
from scipy import special, stats

from experiments.framework.bands import (
    PILOT_SEEDS,
    Spread,
    gain_variance,
    pilot_limits,
    product_variance,
    share_error,
    worst_of,
)
from experiments.framework.claims import Band, paper, pilot, theory

GLOROT, HE, HANIN = "Glorot & Bengio 2010", "He et al. 2015", "Hanin & Nica 2018"
HALFWAY = 0.5  # accuracy whose first time orders the schemes
TRAINED = 800  # steps with fewer of which nothing is claimed about training, as the pilot runs took so many

# What the pilot runs gave, one number for each of PILOT_SEEDS.
EVEN_RATIO = (1.0210, 1.0381, 1.0286)


def worst(count: int, source: str) -> Band:
    """The worst of several numbers in units of their own standard deviations.

    Args:
        count: of the numbers.
        source: the theory.
    """
    return theory(f"{source}; spread at this width derived", high=worst_of(count))


def jacobian_deviation(q: float, width: int) -> float:
    """Relative standard deviation of the mean singular value of a tanh layer's Jacobian D W.

    It goes with the root of the mean square. That of W's entries has relative variance 2 / width^2, that of the slopes
    (E[phi'^4] / E[phi'^2]^2 - 1) / width = (gain_variance - 2) / (3 width); the root halves both deviations. The q at
    which theory is asked is that of the drawn units themselves, so this is an upper bound.

    Args:
        q: variance of the pre-activations.
        width: units of both layers.
    """
    return math.sqrt((gain_variance("tanh", q) - 2) / (3 * width) + 2 / width**2) / 2


def gradient_spread(variances: np.ndarray, width: int) -> Spread:
    """Spread of ln of the squared gradient over tanh layers whose forward signal is known: their own parts add up.

    Args:
        variances: of the pre-activations of the layers between, measured.
        width: units of each.
    """
    variance = sum(gain_variance("tanh", float(q)) for q in variances) / width
    return Spread(-variance / 2, variance)


def he_signal(layers: int, width: int) -> Band:
    """Rms of the pre-activations of the last of some ReLU layers from He over that of the first.

    A layer's mean of relu(z)^2 has relative variance 5 / width, one of z^2 2 / width, and the two of one layer the
    covariance 2 / width. So the quotient has (5 - 4 + 2) / width from the first layer, 5 / width from each layer
    between and 2 / width from the last: 5 (layers - 1) / width together.

    Args:
        layers: as many.
        width: units of each.
    """
    variance = product_variance(layers - 1, width)
    low, high = Spread(-variance / 2, variance).limits()
    return paper(f"{HE}, eq. 10: n Var[W] / 2 = 1 keeps the signal's variance", 1.0, low=low, high=high)


def log_norm_moments(depth: int, width: int) -> tuple[float, float]:
    """Mean and variance of ln |J u|^2 over random ReLU networks of equal layers, exactly.

    Given K open units of a layer, |D W u|^2 / |u|^2 = (2 / n) chi^2_K, for the sign of z_i is independent of (W u)_i^2.
    ln chi^2_K has mean ln 2 + psi(K / 2) and variance psi'(K / 2), and K is binomial (n, 1/2), here given K > 0. To
    first order -5 / (2 n) and 5 / n a layer: Hanin & Nica 2018.

    Args:
        depth: layers.
        width: n.
    """
    units = np.arange(1, width + 1)
    share = stats.binom.pmf(units, width, 0.5)
    share /= share.sum()
    means = np.log(4 / width) + special.digamma(units / 2)
    mean = float(share @ means)
    variance = float(share @ ((means - mean) ** 2 + special.polygamma(1, units / 2)))
    return depth * mean, depth * variance


def table_errors(errors: np.ndarray, reported: np.ndarray) -> np.ndarray:
    """Deviations of test errors from a paper's, in standard errors of both, each of 10,000 images.

    Args:
        errors: in %.
        reported: the paper's, in %.
    """
    return (errors - reported) / (100 * math.sqrt(2) * share_error(reported / 100, 10_000))


def table(name: str, rows: int) -> Band:
    """The worst row of a column of Table 1, in standard errors.

    Args:
        name: of the data set.
        rows: as many.
    """
    return paper(f"{GLOROT}, Table 1, {name}", low=-worst_of(rows), high=worst_of(rows))


# .5 and .8 are printed with one digit.
STANDARD_VALUE = paper(f"{GLOROT}, section 4.2.2: about .5 with the standard initialization", 0.5, absolute=0.05)
VALUE_RATIO = paper(
    f"{GLOROT}, section 4.2.2: about .8 normalized over about .5 standard, each of one digit", 1.6,
    low=0.75 / 0.55, high=0.85 / 0.45,
)  # fmt: skip
EVEN = pilot(
    f"{GLOROT}, Fig. 8 and eq. 14: weight gradients alike in all layers; pilot runs", PILOT_SEEDS,
    high=pilot_limits(EVEN_RATIO, log=True)[1],
)  # fmt: skip
EARLIER = paper(f"{HE}, Fig. 2: 22 layers converge from both, from He earlier", high=1.0)
# These three come from pilot runs on two seeds, before a third one was asked for.
LEARNT = pilot(f"{HE}, Figs 2 and 3: learns; pilot runs", (10, 11), low=0.7)
XAVIER_BEGINS = pilot(f"{HE}, Fig. 2: converges, later; pilot runs", (10, 11), low=0.3)
XAVIER_STALLS = pilot(f"{HE}, Fig. 3: stalls; pilot runs", (10, 11), high=0.35)
