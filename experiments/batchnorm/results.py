"""Results of `batchnorm`."""

from __future__ import annotations

import dataclasses

from experiments.batchnorm import initialization, training


@dataclasses.dataclass(frozen=True)
class Results:
    """What a run gives.

    Attributes:
        batch: examples that gradients at initialization are taken over.
        width: of the networks at initialization.
        sigmoid: training of the sigmoid network.
        landscape: training of the ReLU networks.
        explosion: gradients of plain networks at initialization.
        linear: those of the linear network.
        streams: variance of residual streams at initialization.
    """

    batch: int
    width: int
    sigmoid: training.Sigmoid
    landscape: training.Landscape
    explosion: initialization.Explosion
    linear: initialization.Linear
    streams: initialization.Streams
