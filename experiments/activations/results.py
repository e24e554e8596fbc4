"""Results of `activations`."""

from __future__ import annotations

import dataclasses

from experiments.activations import born_dead, profile, slopes, training
from experiments.activations.profile import Moments


@dataclasses.dataclass(frozen=True)
class Results:
    """What a run gives.

    Attributes:
        dead: shares of networks that are born dead.
        profile: gradients before training.
        moments: of the activations.
        kick: networks under too large a rate.
        slopes: that parametric ReLU learns.
        training: of all activations.
    """

    dead: born_dead.Shares
    profile: profile.Profile
    moments: Moments
    kick: training.Kick
    slopes: slopes.Slopes
    training: training.Training
