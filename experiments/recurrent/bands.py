"""Bands of the claims of `recurrent`. Pilot bands follow the rule of `experiments.framework.bands`."""

from __future__ import annotations

import math

from experiments.framework.claims import Band, goal, paper, pilot, theory
from experiments.framework.pilots import EARLY, around
from experiments.recurrent.theory import TINY, chrono_retention

LEARNED = 0.02  # loss on the adding problem; the baseline is 1/6
LONG = 100  # T from which a tanh RNN has not learned it in 3,000 steps; at T = 50 it has begun to
SHORT = 20  # T of copy memory up to which an LSTM remembers after 1,500 steps
RECORDS = 3  # last ones, over which a loss is averaged
SEQUENCES = {100: 74_000, 500: 209_000, 1000: 853_000}  # that the LSTM of 1997 needed, by length
DEVIATIONS = 4.0
# Spread of a mean of squares weighted by the squares of a uniform read-out r: sqrt(E r^4) / E r^2.
READOUT = math.sqrt(9 / 5)


def retention(steps: int, width: int) -> Band:
    """dL/dc over the product s(b)^T of T forget gates, s the logistic function, for LSTMs of tiny weights.

    A gate is s(b + w x_t + ...), w ~ N(0, TINY^2), x_t uniform on (0, 1): the logarithm of a unit's product moves by
    (1 - s(b)) w sum x_t, with a deviation of at most TINY T / 4 for b >= 0. Its mean over n units, weighted by the
    read-out, has 1 / sqrt(n) of that times sqrt(9/5).

    The state carries credit beside the cell: a step back multiplies by s(b) + U / 4, U the recurrent matrix of the
    candidate, because input and output gate are 1/2. So T steps add e r^T U r / |r|^2 to the gradient's norm, with
    e = T / (4 s(b)) <= T / 2 and the read-out r, which has the deviation TINY e; in second order they add
    n (TINY e)^2 / 2. T products in float32 are off by T 2^-23 at most.

    Args:
        steps: T.
        width: n.
    """
    gates, states = TINY * steps / 4 * READOUT / math.sqrt(width), TINY * steps / 2
    absolute = DEVIATIONS * math.hypot(gates, states) + width * states**2 / 2 + steps * 2.0**-23
    return theory("product of forget gates s(b)^T", 1.0, absolute=absolute)


def chrono(steps: int, width: int) -> Band:
    """dL/dc over the root of the mean of f^2T, f = u / (1 + u), u uniform: see `theory.chrono_retention`.

    The mean is over n units; the root has half its relative deviation.

    Args:
        steps: T.
        width: n.
    """
    spread = chrono_retention(steps)[1] / math.sqrt(width) / 2
    return theory("Tallec & Ollivier 2018: b = ln u, f = u / (1 + u)", 1.0, absolute=DEVIATIONS * spread)


def exploding_rate() -> Band:
    """Factor of dL/dh_t a step back of tanh units, radius 1.5, small states: above 1, at most that of linear units.

    The paper calls a radius above 1 necessary, and says so of linear units. That small states come near them is ours.
    """
    return goal(
        "Pascanu et al. 2013, section 2.1: above 1 is necessary for exploding; that it explodes is ours",
        low=1.0,
        high=1.5,
    )


def bent_rate() -> Band:
    """The same with large states, which bend tanh: below 1. That the radius is not sufficient is ours."""
    return goal(
        "Pascanu et al. 2013, section 2.1: above 1 is necessary for exploding; not sufficient is ours",
        low=0.0,
        high=1.0,
    )


def chi() -> Band:
    """Squared gradient a step back of tanh RNNs against chi_1: largest |ln ratio| over sigma_w.

    Weights are shared over time, for which no law of the fluctuations is at hand.
    """
    return around("Chen et al. 2018: chi_1", (0.0144, 0.0150, 0.0258), possible=(0.0, math.inf))


def gated_chi() -> Band:
    """Squared gradient a step back of LSTMs and GRU against chi, weights drawn anew at every step: the same."""
    return around("Gilboa et al. 2019: chi, weights drawn anew", (0.0027, 0.0030, 0.0105), possible=(0.0, math.inf))


def shared() -> Band:
    """Rate of gated cells with shared weights over that with fresh ones, smallest."""
    return around("states and weights are correlated", (1.187, 1.188, 1.190), log=True, possible=(1.0, math.inf))


def adding() -> Band:
    """Mean squared error on the adding problem, of the worst network but the tanh RNN."""
    return pilot("gates and IRNN learn it; 1/6 without", EARLY, low=0.0, high=LEARNED)


def stuck() -> Band:
    """Mean squared error of the tanh RNN: 1/6, the variance of a sum of two uniform numbers."""
    return pilot("1/6: nothing is learned", EARLY, 1 / 6, low=0.13, high=0.20)


def closed() -> Band:
    """Factor of dL/ds_t a step back before training, of GRU and of an LSTM of forget bias 0, the larger."""
    return pilot("gates are half closed", EARLY, low=0.0, high=1e-8 ** (1 / 99))


def half_alive(hidden: int) -> Band:
    """dL/dh_1 over dL/dh_T of an IRNN before training: W = I, and half of the units are alive.

    The square is the alive units' share of the squared read-out: mean 1/2, variance (E r^4 / E r^2^2) / 4n, r uniform.

    Args:
        hidden: n, units.
    """
    half = math.sqrt(1 / 2)
    return theory("Le et al. 2015: W = I; half of the units are alive", half,
                  absolute=DEVIATIONS * READOUT / 2 / math.sqrt(hidden) * half)  # fmt: skip


def opened() -> Band:
    """dL/ds_1 over dL/ds_T after training, smallest of those that learned."""
    return pilot("credit reaches the first marker", EARLY, low=0.05)


def original() -> Band:
    """Part of 1,000 sequences of the adding task of 1997 that an LSTM gets right to .04.

    The paper stops when 2,000 in a row are right, which makes an error rate above 1/400 improbable (e^-5); of 1,000
    others at most 2.5 are then wrong, and 9 with four standard deviations more. (It finds 1 wrong of 2,560.)

    Its LSTM has no forget gate, and input gates that begin closed (biases -3 and -6). The nearest of ours is chrono:
    forget gates that begin open, input gates as far closed.
    """
    return paper("Hochreiter & Schmidhuber 1997, Table 7: right to .04 after 74k, 209k, 853k sequences", low=0.991)


def memoryless() -> Band:
    """Nats a step on copy memory over 10 ln 8 / (T + 20), of the tanh RNN, farthest from 1."""
    return pilot("Arjovsky et al. 2016: 10 ln 8 / (T + 20), .1733 at T = 100", EARLY, 1.0, low=0.97, high=1.08)


def remembers() -> Band:
    """The same of the worse of two LSTMs."""
    return pilot("an LSTM remembers", EARLY, low=0.0, high=0.9)


def images() -> Band:
    """Test accuracy of the worse of GRU and LSTM on images read as sequences."""
    return pilot("gated cells read images", EARLY, low=0.78, high=1.0)


def better() -> Band:
    """By how much the worse of GRU and LSTM beats the tanh RNN there."""
    return pilot("gates help", EARLY, low=0.03, high=1.0)
