"""Where a number stops being healthy. Each limit is scale-free, and says what it rests on."""

from __future__ import annotations

import math

__all__ = [
    "COLLAPSED",
    "EXPLODED",
    "FLAT",
    "FLUSHED",
    "GROWING",
    "HESITANT",
    "INCOHERENT",
    "LARGEST_SLOPES",
    "LEARNT",
    "LONGER",
    "OUTLYING",
    "OVERSHOT",
    "SATURATED",
    "SMALLEST",
    "STALLED",
    "TIMID",
    "TRAINED",
    "VANISHED",
    "WASTED",
    "dead_limit",
]

# A signal that shrinks by exp(-1/(2 xi)) a layer can be used over 6 xi layers (Schoenholz et al. 2017, Fig. 5: networks
# up to 6 xi_c train). That is a factor exp(-6) of the squared norm.
_USABLE = 6.0 / math.log(10)

COLLAPSED = -_USABLE
"""log10 of (1 - similarity of two examples) at the last hidden layer over that at the first: exp(-6), as `_USABLE`.
1 - c is a squared distance."""

VANISHED = -_USABLE
"""log10 of the norm of the cotangent at the first layer over that at the last: exp(-6), of the norm and not its square.
A step moves both layers by as much as their gradients, so the first one needs exp(6) = 403 times the steps."""

EXPLODED = _USABLE
"""The same, upwards: a rate that the first layer bears leaves the last one standing still."""

INCOHERENT = 0.5
"""Cosine between the gradient and that after a random change of all weights by 1 %. At 1/2, two gradients have as much
in common as not: a step along one improves the loss by half of what it promises."""

SATURATED = -1.0
"""log10 of the rms slope of a saturating activation over its largest slope. For tanh of a Gaussian of deviation s the
mean squared slope is about 4 / (3 sqrt(2 pi) s): a tenth of the rms slope is s = 53, and 1 entry in 75 that has one."""

LARGEST_SLOPES = {"tanh": 1.0, "logistic": 0.25, "erf": 2 / math.sqrt(math.pi)}
"""Of saturating activations, by the name of their primitive."""

SMALLEST = 2.0**-126
"""Normal number of float32: what is not 0 is at least that, where nothing was flushed."""

STALLED = -_USABLE
"""log10 of how far steps moved a weight relative to its norm, over the median of all weights."""

OUTLYING = 1.0
"""log10 of the gain of a layer's weights over the median layer's, above which it is named where steps carry the loss
away. Initializers differ by less in a network: LeCun gives 1, He 1.4, N(0, .02) over 768 to 12,288 inputs .55 to 2.2.
"""

OVERSHOT = 1.0
"""Multiple of the user's update from which on the loss is no lower than without it. At 1 and below, the update makes
the loss worse on the batch that it was made for."""

TIMID = 4.0**5
"""Multiple of the user's update at which the loss on its batch is lowest. 1024 updates in a straight line reach it."""

LONGER = 10.0
"""How many times as long as the trial a network is trained at least. The zoo is labelled after 200 steps, and a verdict
takes 20. A larger number finds fewer networks, and those more surely."""

LEARNT = 1 - 0.1 ** (1 / LONGER)
"""Part of the loss that the steps learned away, 0.206. At this pace `LONGER` times as many steps leave a tenth of it.
Below, other rates are tried; above, complaints about the start are withdrawn."""

TRAINED = 0.5
"""Loss at the start over that of the network with all parameters 0, below which the network knew something: half way,
in the loss, from knowing nothing to knowing all. How fast such a network learns on says nothing of its rate."""

WASTED = 1 / 0.9
"""Fall of the loss with a quarter of every update over that with all of it, from which on the rate is said to be too
large. Along the gradient g a step eta changes the loss by -eta g^2 (1 - eta l / 2), l the curvature. So a quarter of it
gives a fourth as long as steps are small, and 1/.9 where eta l = 1.64, beside 2, where the loss no longer falls. The
tenth is that which the zoo parts sick from healthy by. Equal falls say nothing: both may have learnt all there is. On
the zoo's tuned half, of networks that have not learnt half of their loss: 2 of 5 sick ones that no other rule finds are
at 1.6 and 3.1, the highest healthy one at .68."""

FLAT = LEARNT / LONGER
"""Relative change of the loss below which it stands still when all parameters are multiplied by 4: a tenth
of what the steps have to learn. Of outputs at a bound 6e-7 to 5e-3 was measured (softmax before a sigmoid loss, sigmoid
and tanh for large numbers), and .08 to 24 where soft targets leave little to learn."""

HESITANT = 16.0
"""Multiple of all updates with which the loss falls half as far as with the best multiple. As long as steps are small,
m times the update is worth m times the steps, so beyond `LONGER` the loss does not fall half as far in the end; 16 is
the first of the multiples 4^k beyond that. On the zoo, seed 10: Adam at 2e-4 on 4 rectifier layers ends at 0.76 of what
it could learn and needs 16, tanh at 3e-4 ends at 0.92 and needs 4."""

GROWING = 1.86
"""How much updates grow while the gradient stays the same, last quarter of the steps over second, from which on the
optimizer is said to warm up. A warm-up from 0 gives 7/3, the means of a line over these quarters; momentum of .9 has
settled to (1 - .9^18) / (1 - .9^8) = 1.49 in 20 steps. The limit is their geometric mean."""

FLUSHED = 0.5
"""Share of a gradient's norm that was flushed to 0 because numbers were too small for their type."""


def dead_limit(units: int, deviations: float = 4.0) -> float:
    r"""Return the largest share of dead units that chance allows.

    A unit of an initialized layer is 0 over all examples with probability at most 1/2, whatever their correlation,
    since its pre-activation is positive and negative equally often. So of n units n/2 + k sqrt(n)/2 are dead by chance.

    Args:
        units: n.
        deviations: k; 4 leaves 3 layers in 100,000.
    """
    return min(1.0, 0.5 + deviations * 0.5 / math.sqrt(max(units, 1)))
