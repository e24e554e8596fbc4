"""Results of `saturation`."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from experiments.saturation import training


@dataclasses.dataclass(frozen=True)
class Results:
    """What a run gives.

    Attributes:
        width: units of every hidden layer.
        test_images: that accuracy is measured on.
        arms: training of each of `ARMS`.
        predicted: rms of the activations of tanh and softsign networks before training, by layer and theory.
    """

    width: int
    test_images: int
    arms: dict[str, training.History]
    predicted: dict[str, Float[np.ndarray, " depth"]]
