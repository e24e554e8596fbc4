"""Bands of the claims of `batchnorm`, with what each rests on."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from experiments.framework.bands import (
    DEVIATIONS,
    gain_variance,
    mean_limit,
    product_variance,
)
from experiments.framework.claims import Band, goal, paper, theory
from experiments.framework.pilots import at_least

LEARNED = WORKS = 0.7  # test accuracy that counts as learned, and a rate as one that works
SWEEP = 3  # rates, with fewer of which nothing is claimed about the largest that works
TRAINED = 500  # steps of pilot runs in the landscape, with fewer of which nothing is claimed about it
EARLY = 500  # steps

# Limits from the early pilot runs (`framework/pilots.py`).
NORMALIZED_ACCURACY = 0.7
SMOOTHER = 1.5
# Thresholds of ours, of which no pilot run is on record.
PLAIN_ACCURACY = 0.6
WOBBLE = 0.1
NOISE_GAIN = -0.03


def normalized_accuracy() -> Band:
    """Least accuracy of three layers of sigmoids with batch norm."""
    return at_least(NORMALIZED_ACCURACY, "Ioffe & Szegedy 2015, Fig. 1a: learns at once")


def plain_accuracy() -> Band:
    """Most accuracy of the same network without."""
    return goal("Ioffe & Szegedy 2015, Fig. 1a: stands still; a threshold of ours", high=PLAIN_ACCURACY)


def speedup() -> Band:
    """Fewer steps with batch norm: Inception needs 31.0 million to 72.2 %, with batch norm 13.3 million."""
    least = 31.0 / 13.3
    return paper("Ioffe & Szegedy 2015, Fig. 3: 31.0 / 13.3 million steps", least, low=least)


def largest_rate() -> Band:
    """Ioffe & Szegedy's BN-x5 and BN-x30 train at 5 and 30 times the rate of Inception."""
    return paper("Ioffe & Szegedy 2015, section 4.2.2: 5 and 30 times the rate", low=5.0)


def smoother() -> Band:
    """Change along the gradient, plain over batch norm: above 1 by Santurkar et al., from pilot runs here."""
    return at_least(SMOOTHER, "Santurkar et al. 2018, Fig. 4: smoother")


def wobble() -> Band:
    """Deviation of a unit's mean between draws of the noise, over the unit's own.

    Of 8 draws from +-.5 over a deviation of about 1.1 it is .25 before training; training may outgrow it.
    """
    return goal("Santurkar et al. 2018, Fig. 2: unstable distributions; a threshold of ours", low=WOBBLE)


def noise_gain() -> Band:
    """Accuracy of noisy batch norm less that without noise."""
    return goal("Santurkar et al. 2018, Fig. 2: trains as well; a threshold of ours", low=NOISE_GAIN)


def rate_allowance(rates: Float[np.ndarray, " networks"], activation: str, width: int, count: int = 1) -> float:
    """How far the mean over networks of ln of a fitted rate may lie from theory at this batch and infinite width.

    What the mean of so many networks is uncertain by, and a shift: a width n moves the mean of a layer's ln |g|^2 by
    terms of order 1 / n, half of its variance downward, and as much again, up or down, by what a layer's own statistics
    stray. With one example the variance is `gain_variance` / n; a batch has no more.

    Args:
        rates: fitted in each network.
        activation: name.
        width: n.
        count: rates of which this may be the worst.
    """
    return mean_limit(np.log(rates), count) + gain_variance(activation) / width


def relu_rate(rates: Float[np.ndarray, " networks"], expected: float, width: int) -> Band:
    """Yang et al.'s rate for ReLU, pi / (pi - 1), as it is at a finite batch (`gf.theory.batchnorm_rate`).

    Args:
        rates: fitted in each network.
        expected: at this batch.
        width: of the network.
    """
    allowed = rate_allowance(rates, "relu", width)
    source = "Yang et al. 2019: pi / (pi - 1) = 1.467, here at a finite batch"
    return paper(source, expected, low=expected * math.exp(-allowed), high=expected * math.exp(allowed))


def other_rates() -> Band:
    """The worst of several rates, each in units of `rate_allowance`."""
    return theory("Yang et al. 2019: E[phi'^2] / Var[phi], linear (B - 2) / (B - 3)", high=1.0)


def plain_gradient(depth: int, width: int, networks: int) -> Band:
    """First over last rms gradient of ReLU networks with He's weights, geometric mean over networks.

    ln of its square has variance 5 (L - 1) / n for one example, and its mean lies between half of that below 0, where
    all examples stray together, and 0, where each strays on its own.

    Args:
        depth: L.
        width: n.
        networks: drawn.
    """
    variance = product_variance(depth - 1, width)
    away = DEVIATIONS * math.sqrt(variance / networks)
    low, high = math.exp((-variance / 2 - away) / 2), math.exp(away / 2)
    return theory("He et al. 2015: 1; Hanin & Nica 2018: spread", 1.0, low=low, high=high)


def normalized_stream(blocks: int, width: int, batch: int, networks: int) -> Band:
    """Mean square of x_l = x_(l-1) + a_l W_l, a = relu(batchnorm(x)), W of variance 2 / n: l + 1, mean over networks.

    a of B x n entries has mean square 1/2, so that a_l W_l has mean square 1. Between examples the product K of its
    rows has 1 on the diagonal and 1/pi beside it. The columns of W are independent, so that the mean square of a_l W_l
    has variance 2 tr(K^2) / (B^2 n), and that of 2 x . (a W) / (B n) is 4 tr(K X) / (B^2 n), X the stream's products:
    l on the diagonal, (l - 1) / pi beside it. The first stream, independent entries, adds 2 / (B n).

    Args:
        blocks: of the network.
        width: n.
        batch: B.
        networks: drawn.
    """
    own = 1 / batch + (1 - 1 / batch) / math.pi**2
    variance = 2 / batch
    for size in range(1, blocks + 1):
        variance += 2 * own + 4 * (size / batch + (1 - 1 / batch) * (size - 1) / math.pi**2)
    half = DEVIATIONS * math.sqrt(variance / (width * networks))
    return theory("De & Smith 2020: l + 1", blocks + 1, absolute=half)


def plain_stream_variance(blocks: int, width: int) -> float:
    """Variance over networks of ln |x_L|^2 for one example, x_l = x_(l-1) + W_l relu(x_(l-1)), W of variance 2 / n.

    Of |x|^2 = 1, a branch adds |W relu(x)|^2 = s (1 +- sqrt(2 / n)), s = 2 |relu(x)|^2, and 2 x . W relu(x), of
    variance 4 s / n: together 6 / n, over the square of their mean 2. s - 1 = sum x|x| has variance 3 / n and is much
    the same from block to block: entries of x_l and x_(l+k) have correlation r = 2^(-k/2), and x|x| of two such numbers
    the covariance 2/pi ((1 + 2 r^2) asin(r) + 3 r sqrt(1 - r^2)), 3 for r = 1.

    Args:
        blocks: L.
        width: n.
    """
    lags = np.abs(np.subtract.outer(np.arange(blocks), np.arange(blocks)))
    r = 2.0 ** (-lags / 2)
    asymmetry = 2 / np.pi * ((1 + 2 * r**2) * np.arcsin(r) + 3 * r * np.sqrt(1 - r**2))
    return float((6 * blocks + asymmetry.sum()) / (4 * width))


def plain_stream(blocks: int, width: int, networks: int) -> Band:
    """Mean square of the stream over 2^L, geometric mean over networks; shifted as `plain_gradient` is.

    Args:
        blocks: L.
        width: of the stream.
        networks: drawn.
    """
    variance = plain_stream_variance(blocks, width)
    away = DEVIATIONS * math.sqrt(variance / networks)
    return theory("De & Smith 2020: 2^l", 1.0, low=math.exp(-variance / 2 - away), high=math.exp(away))
