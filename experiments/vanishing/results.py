"""Results of `vanishing`."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, Shaped

from experiments.vanishing import tanh, training


@dataclasses.dataclass(frozen=True)
class Results:
    """What a run gives.

    Attributes:
        arms: names of the networks, the sick one first.
        groups: of remedies, that they belong to.
        depth: hidden layers.
        width: units of each.
        theory_rate: chi_1 of the sick network.
        theory_profile: gradient relative to the last hidden layer, as theory predicts it.
        theory_variance: variance of what the activation of each hidden layer is applied to, by theory.
        tanh: the table of tanh networks.
        training: of all arms.
    """

    arms: Shaped[np.ndarray, " arms"]
    groups: Shaped[np.ndarray, " arms"]
    depth: int
    width: int
    theory_rate: float
    theory_profile: Float[np.ndarray, "arms depth"]
    theory_variance: Float[np.ndarray, "arms depth"]
    tanh: tanh.Table
    training: training.History
