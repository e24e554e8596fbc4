"""Results of `isometry`."""

from __future__ import annotations

import dataclasses

from experiments.isometry import cnn, linear, spectrum, training


@dataclasses.dataclass(frozen=True)
class Results:
    """What a run gives.

    Attributes:
        saxe: the course of modes.
        linear: learning time of deep linear networks.
        spectrum: of Jacobians at initialization.
        learning: of deep tanh networks.
        cnn: plain convolutional networks.
    """

    saxe: linear.Saxe
    linear: linear.Deep
    spectrum: spectrum.Spectra
    learning: training.Learning
    cnn: cnn.Convolutions
