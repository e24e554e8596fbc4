"""Results of `recurrent`."""

from __future__ import annotations

import dataclasses

from experiments.recurrent import theory
from experiments.recurrent.training import Trained


@dataclasses.dataclass(frozen=True)
class Results:
    """What a run gives.

    Attributes:
        steps: that gradients go back before training.
        width: units of the networks there.
        every: training steps of a record.
        hidden: units of trained networks.
        batch: sequences of a training step.
        theory: gradients before training.
        adding: the adding problem, by length.
        original: the adding problem of 1997, by length.
        copy: copy memory, by pause.
        images: images, by reading.
    """

    steps: int
    width: int
    every: int
    hidden: int
    batch: int
    theory: theory.Theory
    adding: dict[int, Trained]
    original: dict[int, Trained]
    copy: dict[int, Trained]
    images: dict[str, Trained]
