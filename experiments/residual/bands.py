"""Bands of the claims of `residual`, with what each rests on."""

from __future__ import annotations

import math

import numpy as np

from experiments.framework.bands import DEVIATIONS, gain_variance, worst_of
from experiments.framework.claims import Band, paper, pilot, theory
from experiments.framework.pilots import EARLY

PILOT_BLOCKS = 54  # of the deepest networks of pilot runs, with fewer of which nothing is claimed about trained ones

# Limits from the early pilot runs (`framework/pilots.py`).
PLAIN_GROWTH = 0.2
RESIDUAL_GROWTH = 0.05
RESIDUAL_LOSS = 0.02
LINEAR_FIT = 0.95
RATE_ERROR = {"plain": 0.02 / 1.49, "residual": 0.008 / 1.04}
CORRELATION_ERROR = 0.05
NORMFREE_LOSS = 0.75
SLOWER = 2.5
BURDEN = 1.5
# Thresholds of ours, of which no pilot run is on record.
PLAIN_LOSS = 0.4
PATH_SHARE = 0.05
SHATTERED, WHOLE = 0.15, 0.8  # autocorrelation

# Test error in %, Table 6; that of ResNet-110 is the mean of five runs, the best of which had 6.43.
CIFAR = {20: 8.75, 32: 7.51, 44: 7.17, 56: 6.97, 110: 6.61}
CIFAR_DEVIATION = 0.16  # of those five runs


def responses() -> Band:
    """He et al.'s Fig. 7: residual layers have "generally smaller responses" than plain ones; here at every depth."""
    return paper("He et al. 2016, Fig. 7: residual generally below plain", high=1.0)


def path_length(blocks: int) -> Band:
    """Mean length of the paths that carry the gradient, 5 to 17 of 54 blocks in Veit et al.

    Args:
        blocks: of the network.
    """
    return paper("Veit et al. 2016, Fig. 6: 5 to 17 of 54", low=5 / 54 * blocks, high=17 / 54 * blocks)


def gradient_rate(kind: str) -> Band:
    """Logarithm of the squared gradient's factor a block over that of theory.

    Theory is that of unlike examples and great width. In a plain network it has 1 / (1 - 1/pi), and a little more at a
    batch of 64 (Yang et al. 2019), in a residual one 1 + 1 / v. Images are less unlike, and 64 units are few.

    Args:
        kind: "plain" or "residual".
    """
    source = {"plain": "Yang et al. 2019: pi / (pi - 1)", "residual": "theory: 1 + 1 / v"}[kind]
    return pilot(f"{source}; what a width of 64 adds", EARLY, 0.0, absolute=RATE_ERROR[kind])


def process_error() -> Band:
    """The worse of two autocorrelations without normalization, in standard errors of their mean over networks.

    A wide network is a draw of a Gaussian process (`shattering.predicted_autocorrelation`); draws give the deviation.
    """
    return theory("Gaussian process", high=worst_of(2))


def correlation_power(expected: float, error: float) -> Band:
    """Power p by which correlations fall as L^-p: 1/2 in Balduzzi et al., for a variance that grows by 1 a block.

    It grows by 1 - 1/pi, and from 5 to 20 blocks theory has another power (`shattering.predicted_correlation`), which
    is as far from 1/2 as the band allows on top of the error of measurement.

    Args:
        expected: the power of theory over these depths.
        error: standard error of the power that is measured.
    """
    half = abs(expected - 0.5) + DEVIATIONS * error
    return paper("Balduzzi et al. 2017, Theorem 3: L^(-1/2)", 0.5, absolute=half)


def doubling(blocks: int, width: int) -> Band:
    """log2 of the growth of the square a block in one residual network, the worse of signal and gradient.

    |u + B^T u|^2 of a branch of two He-initialized ReLU layers has mean 2 and variance (4 + 10) / n for |u| = 1: the
    product of u and B^T u has 1 / n, every layer adds 5 / n (Hanin & Nica 2018). So ln of it has variance 3.5 / n, and
    its mean lies half of that below ln 2.

    Args:
        blocks: that the growth is averaged over.
        width: n.
    """
    variance = (4 + 2 * gain_variance("relu")) / 4 / width
    half = worst_of(2) * math.sqrt(variance / blocks)
    low, high = 1 - (half + variance / 2) / math.log(2), 1 + half / math.log(2)
    return theory("De & Smith 2020: 2 a block; Hanin & Nica 2018: spread", 1.0, low=low, high=high)


def cifar(depth: int) -> Band:
    """He et al.'s test error; a difference of two runs strays by sqrt(2) of their deviation.

    Args:
        depth: of the network.
    """
    half = DEVIATIONS * CIFAR_DEVIATION * math.sqrt(2)
    return paper("He et al. 2016, Table 6", CIFAR[depth], absolute=half)


def cifar_degradation() -> Band:
    """He et al.'s Fig. 6: the deeper plain network has the higher training error."""
    return paper("He et al. 2016, Fig. 6: deeper is worse", low=0.0)


def relative_error(values: np.ndarray, errors: np.ndarray) -> float:
    """Standard error of the logarithm of a ratio of two values.

    Args:
        values: both.
        errors: standard error of each.
    """
    return float(np.sqrt(np.sum(np.square(errors / values))))
