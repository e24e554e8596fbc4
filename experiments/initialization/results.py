"""Results of `initialization`."""

from __future__ import annotations

import dataclasses

from experiments.initialization import glorot, table, training
from experiments.initialization.glorot import Spread


@dataclasses.dataclass(frozen=True)
class Results:
    """What a run gives.

    Attributes:
        test_images: that accuracy is measured on.
        glorot: signals, gradients and Jacobians of tanh networks.
        training: of deep ReLU networks.
        hanin: of gradients over networks.
        table: Glorot & Bengio's, of those columns that were asked for.
    """

    test_images: int
    glorot: glorot.Flow
    training: training.Training
    hanin: Spread
    table: table.Table
