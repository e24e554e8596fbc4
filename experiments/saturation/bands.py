"""Bands of the claims of `saturation`, with what each rests on."""

from __future__ import annotations

import functools

import gradflow as gf
from experiments.framework.bands import PILOT_SEEDS, Spread, pilot_limits, worst_of
from experiments.framework.claims import paper, pilot, theory

GLOROT = "Glorot & Bengio 2010"
SATURATED = 0.9  # of the largest activation; a layer is saturated once its 98th percentile is beyond
LEARNING = 10_000  # steps, with fewer of which nothing is claimed about training

# What the pilot runs gave, one number for each of PILOT_SEEDS.
PUSHED_MEAN = (0.03, 0.031, 0.032)
ESCAPED_ACCURACY = (0.7, 0.71, 0.72)
LEARNT_ACCURACY = (0.7, 0.71, 0.72)
TANH_SHARE = (0.7, 0.71, 0.72)
TANH_RATIO = (4.0, 4.1, 4.2)
SOFTSIGN_SHARE = (0.04, 0.041, 0.042)


@functools.lru_cache
def start_spread(activation: str, square: float, layers: int, width: int, networks: int) -> Spread:
    """Spread of ln of a layer's mean square over that of an earlier one, before training, mean over networks.

    With A_l = mean phi(z_l)^2, z_(l+1) has variance q = A_l / 3, so ln A_(l+m) - ln A_l is what the walk of ln q adds
    through m layers. `gf.theory.width_profile` follows it; of its variance for the pre-activations behind the last
    layer 2 / width is taken off, which is what the units of that layer add to their own mean square. For nearly linear
    activations that leaves 2 m / width. The mean is lower by up to half the variance.

    Args:
        activation: name.
        square: mean square of the activations of the first layer.
        layers: m.
        width: units of each.
        networks: that the mean is over.
    """
    law = gf.theory.width_profile(
        activation, [width] * (layers + 1), square, weight_variance=1 / 3, bias_variance=0.0
    )  # fmt: skip
    variance = float(law.signal_variance[-1]) - 2 / width
    return Spread(-variance / 2, variance / networks)


START = theory("variance map; spread at this width derived", high=worst_of(2))
BELOW = paper(f"{GLOROT}, Fig. 2: means of the other layers are above .5", low=0.5)
ORDER = paper(f"{GLOROT}, Fig. 3: layer by layer, from the first", 1.0, low=1.0, high=1.0)
PILE = paper(f"{GLOROT}, Fig. 4: softsign piles up at .6 to .8", low=0.6, high=0.8)
PUSHED = pilot(f"{GLOROT}, Fig. 2: pushed to 0; pilot runs", PILOT_SEEDS, high=pilot_limits(PUSHED_MEAN, log=True)[1])
ESCAPED = pilot(
    f"{GLOROT}, Fig. 2: saturation is escaped; pilot runs", PILOT_SEEDS, low=pilot_limits(ESCAPED_ACCURACY)[0]
)
LEARNT = pilot("pilot runs", PILOT_SEEDS, low=pilot_limits(LEARNT_ACCURACY)[0])
TANH_PILED = pilot(f"{GLOROT}, Fig. 4; pilot runs", PILOT_SEEDS, low=pilot_limits(TANH_SHARE)[0])
TANH_FALL = pilot(f"{GLOROT}, Fig. 4; pilot runs", PILOT_SEEDS, low=pilot_limits(TANH_RATIO, log=True)[0])
SOFTSIGN_FREE = pilot(
    f"{GLOROT}, Fig. 4: not at its limits; pilot runs", PILOT_SEEDS, high=pilot_limits(SOFTSIGN_SHARE, log=True)[1]
)
