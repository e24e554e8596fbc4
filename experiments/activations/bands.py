"""Bands of the claims of `activations`, with what each rests on."""

from __future__ import annotations

import functools

import gradflow as gf
from experiments.framework.bands import Spread, product_spread, worst_of
from experiments.framework.claims import Band, goal, paper, theory

HE, LU = "He et al. 2015", "Lu et al. 2019"
LEARNING = 500  # steps, with fewer of which nothing is claimed about training


def born_dead(comparisons: int) -> Band:
    """The worst of many binomial shares, in standard errors beyond the bounds that `born_dead` derives.

    Args:
        comparisons: shares times bounds.
    """
    return theory(f"{LU}: bounds on the probability; binomial errors", high=worst_of(comparisons))


def exact(comparisons: int) -> Band:
    """The worst of many binomial shares, in standard errors from the exact probability.

    Args:
        comparisons: shares.
    """
    return theory("1 - (1 - 2^-N)^(L-1) and `three_layers`, exact; binomial errors", high=worst_of(comparisons))


def rates(count: int) -> Band:
    """The worst of the rates of several activations, in standard deviations.

    Args:
        count: of the activations.
    """
    return theory("mean field: chi_1; spread at this width derived", high=worst_of(count))


def rate_spread(name: str, gain: float, width: int, layers: int, networks: int) -> Spread:
    """Spread of the mean over networks of ln of the squared gradient's factor a layer.

    The squared gradient of one network changes by a product of random layers over `layers` of them.

    Args:
        name: activation.
        gain: sigma_w, so that all pre-activations have variance 1.
        width: units of each layer.
        layers: that the factor is the mean of.
        networks: that the mean is over.
    """
    spread = product_spread(name, layers, width, q=1.0, weight_variance=gain**2)
    return Spread(spread.shift / layers, spread.variance / layers**2 / networks)


@functools.lru_cache
def selu_variance(depth: int, width: int, networks: int) -> Band:
    """Variance of SELU's pre-activations in the last layer at sigma_w^2 = 1: the fixed point 1.

    ln of the mean square strays over networks as `gf.theory.width_profile` says, whose mean is lower by up to half of
    the variance, the less so the more examples stray on their own.

    Args:
        depth: hidden layers.
        width: units of each.
        networks: that the mean of the logarithm is over.
    """
    law = gf.theory.width_profile("selu", [width] * depth, 1.0, weight_variance=1.0, bias_variance=0.0)
    variance = float(law.signal_variance[-1])
    low, high = Spread(-variance / 2, variance / networks).limits()
    source = "Klambauer et al. 2017, eq. 14: lambda and alpha for the fixed point of mean 0 and variance 1"
    return paper(source, 1.0, low=low**2, high=high**2)


SHALLOW = goal("learns: half of the test images", low=0.5)
DEEP = goal(f"{HE}: rectifiers train at depth; half of the test images", low=0.5)
KILLED = goal(f"{LU}: dying ReLU; a whole layer", 1.0, low=1.0, high=1.0)
LEAKY = goal("learns: half of the test images", low=0.5)
SLOPES = goal(f"{HE}, Table 1: conv1, with .681 and .596, has the largest slopes", low=1.0)
