"""Bands of the claims of `saturation`, with what each rests on."""

from __future__ import annotations

from experiments.framework.bands import PILOT_SEEDS, Spread, pilot_limits, signal_spread, worst_of
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


def start_spread(activation: str, square: float, layers: int, width: int, networks: int) -> Spread:
    """Spread of ln of a layer's mean square over that of an earlier one, before training, mean over networks.

    Given the mean square of the earlier layer, the one after it has pre-activations of a third of that variance, as
    n Var[W] = 1/3; from there on it is `signal_spread`.

    Args:
        activation: name.
        square: mean square of the earlier layer's activations.
        layers: from the earlier to the later one.
        width: units of each.
        networks: that the mean is over.
    """
    spread = signal_spread(activation, layers, width, q=square / 3, weight_variance=1 / 3)
    return Spread(spread.shift, spread.variance / networks)


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
