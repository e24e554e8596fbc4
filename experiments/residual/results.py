"""Results of `residual`."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from experiments.residual import cifar, normfree, paths, profile, shattering


@dataclasses.dataclass(frozen=True)
class Training:
    """Networks of several depths, plain ones first.

    Attributes:
        loss: of the training images.
        training_error: part of them, at the end.
        test_accuracy: at the end.
        responses: deviation of what every block adds, by depth.
        deleted: test accuracy without each block, by depth.
    """

    loss: Float[np.ndarray, "depths 2 records"]
    training_error: Float[np.ndarray, "depths 2"]
    test_accuracy: Float[np.ndarray, "depths 2"]
    responses: dict[int, Float[np.ndarray, "2 blocks"]]
    deleted: dict[int, Float[np.ndarray, "2 blocks"]]


@dataclasses.dataclass(frozen=True)
class Results:
    """What a run gives.

    Attributes:
        depths: blocks of the networks that are trained.
        training: of them.
        paths: through the deepest residual one.
        profile: gradients at initialization.
        along: gradients along a line of inputs.
        over_depth: correlation of gradients.
        normfree_depth: layers of the networks without normalization.
        normfree: these, by name.
        cifar: networks for CIFAR-10, where asked for.
    """

    depths: Int[np.ndarray, " depths"]
    training: Training
    paths: paths.Paths
    profile: profile.Profile
    along: shattering.Lines
    over_depth: shattering.Correlation
    normfree_depth: int
    normfree: dict[str, normfree.Network]
    cifar: cifar.Training | None
