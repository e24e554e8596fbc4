"""Results of `activations`."""

from __future__ import annotations

import dataclasses

from experiments.activations import born_dead, profile, slopes, training


@dataclasses.dataclass(frozen=True)
class Results:
    """What a run gives.

    Attributes:
        test_images: that accuracy is measured on.
        dead: shares of networks that are born dead.
        profile: gradients before training.
        kick: networks under too large a rate.
        slopes: that parametric ReLU learns.
        training: of all activations.
    """

    test_images: int
    dead: born_dead.Shares
    profile: profile.Profile
    kick: training.Kick
    slopes: slopes.Slopes
    training: training.Training
