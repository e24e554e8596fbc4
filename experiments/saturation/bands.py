"""Bands of the claims of `saturation`, with what each rests on."""

from __future__ import annotations

from experiments.framework.bands import Spread, signal_spread, worst_of
from experiments.framework.claims import goal, paper, pilot, theory
from experiments.framework.pilots import EARLY

GLOROT = "Glorot & Bengio 2010"
SATURATED = 0.9  # of the largest activation; a layer is saturated once its 98th percentile is beyond
LEARNING = 10_000  # steps, with fewer of which nothing is claimed about training


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
PUSHED = goal(f"{GLOROT}, Fig. 2: pushed to 0; a threshold of ours", high=0.06)
TANH_FALL = goal(f"{GLOROT}, Fig. 4: falls from layer to layer; a threshold of ours", low=2.0)
# These come from pilot runs on two seeds, before a third one was asked for.
ESCAPED = pilot(f"{GLOROT}, Fig. 2: saturation is escaped; above .7 after escape in pilot runs", EARLY, low=0.4)
LEARNT = pilot("accuracy .82 and more in pilot runs", EARLY, low=0.7)
TANH_PILED = pilot(f"{GLOROT}, Fig. 4: beyond .9; .71 in pilot runs", EARLY, low=0.5)
SOFTSIGN_FREE = pilot(f"{GLOROT}, Fig. 4: not at its limits; .04 in pilot runs", EARLY, high=0.1)
