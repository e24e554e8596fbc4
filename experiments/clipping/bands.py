"""Bands of the claims of `clipping`. Pilot bands follow the rule of `experiments.framework.bands`."""

from __future__ import annotations

import math

from experiments.clipping import order
from experiments.framework.claims import Band, goal, paper, theory
from experiments.framework.pilots import around

STEEP = 5.0  # w from which the cliff is steeper than the grid is fine
LEARNING = 10_000  # updates, with fewer of which nothing is claimed about learning
FITTED = 100  # points, with fewer of which no exponent is claimed
CHANCE = 0.75  # error of a guess among four classes


def cliff() -> Band:
    """Distance of the steepest bias in each row of the surface from the cliff, in spacings of the grid.

    The cliff is where the unit's first state x_0 = 1/2 is an unstable fixed point, b = x_0 - w s(x_0), s the logistic
    function: from either side of it the state goes to another end. At a distance d from the line the state leaves x_0
    as d l^t, l = w s'(x_0) = .235 w, so that dx_T/db, about 1/d, is largest next to the line, provided that the state
    has left within T steps: l^T d > 1. From w = 5 on, l^50 > 3000, which exceeds 1/d at half a spacing of any grid of
    fewer than 6,000 points a unit. So the steepest point is one of the two neighbours of the line.
    """
    return theory("unstable fixed point x_0 = w s(x_0) + b", 0.0, absolute=1.0)


def linear_rate(steps: int) -> Band:
    """Largest error of the fitted rate of linear units against the spectral radius r.

    dL/dh_t = W^T dL/dh_(t+1) turns towards the leading eigenvectors and then changes by r a step. A complex pair makes
    the rms over units swing around r^t between the axes of an ellipse, and others have not died out where the fit
    begins. A departure of ln |dL/dh_t| from a line by at most 1 either way moves the slope of a least-squares line
    through n steps by at most sum |t| / sum t^2 = 3/n.

    Args:
        steps: that the rate is fitted on.
    """
    return theory("largest eigenvalue; a swing of a factor e", 0.0, low=0.0, high=math.expm1(3 / steps))


def critical_radius(steps: int) -> Band:
    """Spectral radius of linear units at which the gradient neither grows nor fades over time.

    Pascanu et al. 2013, section 2.1: by power iteration, below 1 long-term components vanish, and above 1 is necessary
    for them to explode. Each fitted ln(rate) is off ln(radius) by at most 3/n, as in `linear_rate`. Between two radii
    both ln(radius) and the error are interpolated, so that the zero of ln(rate) lies within 3/n of ln(1), too.

    Args:
        steps: that a rate is fitted on.
    """
    source = "Pascanu et al. 2013, section 2.1, linear units: spectral radius 1 parts vanishing from exploding"
    return paper(source, 1.0, relative=math.expm1(3 / steps))


def vanishing_rate() -> Band:
    """Rate of tanh units (largest slope 1) where the spectral radius is below 1: they vanish.

    The paper has the spectral radius for linear units, and for others the largest singular value, which is never
    smaller.
    """
    return goal(
        "Pascanu et al. 2013, section 2.1, of linear units: below 1 they vanish; here of tanh", low=0.0, high=1.0
    )


def bent_rate() -> Band:
    """Rate of tanh units where the radius is above 1: a gradient need not explode.

    The paper calls a radius above 1 necessary. That it is not sufficient is ours.
    """
    return goal(
        "Pascanu et al. 2013, section 2.1: above 1 is necessary for exploding; not sufficient is ours",
        low=0.0,
        high=1.0,
    )


def thrown() -> Band:
    """Longest plain step over the longest clipped one, median over starts."""
    return around("a cliff throws plain descent off", (61.0, 137.7, 96.5), log=True, possible=(1.0, math.inf))


def ends_lower() -> Band:
    """Part of the 64 starts from which clipped descent ends lower than plain descent; known to sqrt(.93 .07 / 64)."""
    return around("clipped descent goes on", (0.969, 0.906, 0.906), floor=0.03, possible=(0.5, 1.0))


def varied() -> Band:
    """Local smoothness along training, 90 % over 10 % quantile.

    Of N = 300 points with a deviation s = 2.4 of the logarithm, a 10 % quantile is known to 1.7 s / sqrt(N) = .24, and
    the difference of two to .33.
    """
    return around("smoothness is no constant", (470, 470), log=True, floor=0.33, possible=(1.0, math.inf))


def correlated() -> Band:
    """Correlation r of ln(smoothness) and ln(gradient norm) along training; N points give it to (1 - r^2) / sqrt(N)."""
    return around("smoothness grows with the gradient", (0.87, 0.89), floor=0.014, possible=(0.0, 1.0))


def exponent() -> Band:
    """Exponent a in smoothness ~ (gradient norm)^a."""
    return around("smoothness grows about as the gradient does", (1.35, 1.73), possible=(0.0, math.inf))


def spike() -> Band:
    """Largest norm of a gradient that is not clipped, over the limit of those that are."""
    return goal("gradients explode; no pilots yet", low=10.0)


def gain() -> Band:
    """Mean error of networks without clipping minus that with it."""
    return goal("clipping helps; no pilots yet", low=0.2, high=1.0)


def learned() -> Band:
    """Networks that learn temporal order with clipping, minus those that learn it without, of the same starts."""
    return goal("only clipped networks learn it; no pilots yet", low=0.2, high=1.0)


def chance() -> Band:
    """Error of a network that gives no class away: of 10,000 sequences of four classes, a guess misses 3/4.

    The standard deviation is sqrt(3/4 1/4 / 10,000) = .0043; the band is four of it.
    """
    deviation = math.sqrt(CHANCE * (1 - CHANCE) / order.TESTED)
    return theory("Pascanu et al. 2013, Fig. 7, sigmoid; four classes", CHANCE, absolute=4 * deviation)


def easy() -> Band:
    """Part of the ten networks from tanh and smart tanh that learn the shortest sequences; one of them is a tenth."""
    return around("short sequences are learned", (1, 1), floor=0.1, possible=(0.5, 1.0))


def longer() -> Band:
    """Error of tanh networks on the longest sequences minus that on the shortest."""
    return around("the longer the harder", (0.57, 0.70), possible=(0.0, 0.75))


def smarter() -> Band:
    """Error of tanh networks minus that of smart tanh on the longest sequences."""
    return around("sparse weights of radius .95 reach further", (0.37, 0.58), possible=(0.0, 0.75))
