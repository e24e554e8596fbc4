"""Bands of the claims of `isometry`, with what each rests on."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from experiments.framework.bands import DEVIATIONS, gain_variance, mean_limit
from experiments.framework.claims import Band, paper, theory
from experiments.isometry.linear import RATE, START, course

PILOT_DEPTHS = {"linear": 100, "tanh": 200, "cnn": 10_000}  # below which nothing is claimed that pilot runs showed

# Limits from the early pilot runs (`framework/pilots.py`).
LINEAR_TIME = 1.5
LINEAR_LEFT = 0.3
LOSS_RATIO = 0.75
SLOWED = 2.0
STEADY = 2.0
CNN_RANGE = 30.0
CNN_LEARNT = 2.2
CNN_STUCK = 2.25

_RARE = 2 * statistics.NormalDist().cdf(-DEVIATIONS)  # chance of a miss


def saxe(strengths: Sequence[float], time: Float[np.ndarray, " records"]) -> Band:
    """Largest error of u(t) over modes: that of finite steps, which float32 blurs.

    Saxe et al.'s u(t) is the course of infinitely small steps. With steps of `RATE` r and both layers alike, u = w^2,
    w <- w + r (s - w^2) w, followed here in double precision. About r s^2 ln(s / u_0) / 8 behind. Float32 rounds w by
    at most 6e-8 of it a step, at random: u by less than 2 s 6e-8 sqrt(steps) in one standard deviation.

    Args:
        strengths: s of every mode.
        time: of the records, in units of 1 / r steps.
    """
    steps = np.rint(time / RATE).astype(int)
    worst = 0.0
    for strength in strengths:
        w = [math.sqrt(START)]
        for _ in range(steps[-1]):
            w.append(w[-1] + RATE * (strength - w[-1] ** 2) * w[-1])
        u = np.square(w)[steps]
        worst = max(worst, float(np.abs(u - course(strength, START, time)).max()))
    rounding = DEVIATIONS * 2 * max(strengths) * 6e-8 * math.sqrt(steps[-1])
    return paper("Saxe et al. 2014, eq. 12, less what finite steps lag", worst, absolute=rounding)


def allowance(draws: Float[np.ndarray, " draws"], activation: str, depth: int, width: int, count: int) -> float:
    """How far ln of a mean of E[s^4] / E[s^2]^2 over networks may lie from free probability's, the worst of several.

    What the mean of so many networks is uncertain by, and a shift of order L / N that a width N makes. For linear
    Gaussian networks, with A = J J^T, a = E[tr A^2] / N and b = E[(tr A)^2] / N^2, a layer makes (1 + 1/N) a + b of a
    and b + 2 a / N^2 of b, so that the shift is L / (2 N). Twice that is allowed, times what the activation adds to the
    variance of ln |J u|^2: `gain_variance` L / (2 N), 2 for linear networks.

    Args:
        draws: the number in each network.
        activation: name.
        depth: L.
        width: N.
        count: numbers of which this may be the worst.
    """
    return mean_limit(draws / draws.mean(), count) + gain_variance(activation) * depth / (2 * width)


def moments() -> Band:
    """The worst of several second moments, each in units of `allowance`."""
    return theory("Pennington et al. 2018: free probability; Gaussian L + 1", high=1.0)


def edges() -> Band:
    """The worst of several largest singular values, each in units of half the `allowance`; s grows as half of s^2.

    The mean lies 1.2065 Airy lengths below the edge (Tracy & Widom, beta = 1; `spectrum.tracy_widom`).
    """
    return theory("Pennington et al. 2018: edge; Tracy & Widom 1996: finite width", high=1.0)


def even_gradient() -> Band:
    """Ln of largest over smallest gradient of a layer, in standard deviations of the first layer's.

    ln of the gradient walks at random over the layers. The range of a walk passes r deviations of its end with a chance
    of at most 8 (1 - Phi(r)) (Feller 1951).
    """
    return theory(
        "Hanin & Nica 2018, orthogonal; Feller 1951: range", high=statistics.NormalDist().inv_cdf(1 - _RARE / 8)
    )


def steady_signal() -> Band:
    """Ln of the last layer's signal over theory and the shift of `cnn.spreads`, in deviations of finite width."""
    return theory("gf.theory.width_profile, orthogonal; a sphere in place of a Gaussian", 0.0, absolute=DEVIATIONS)
