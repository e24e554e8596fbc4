"""Results of `trainability`."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, Int, Shaped

from experiments.trainability.signal import Compared, Curves, Gradients


@dataclasses.dataclass(frozen=True)
class Grid:
    """Test accuracy of the tanh networks; `xi` is theory's depth scale of correlations at each weight variance."""

    depths: Int[np.ndarray, " depths"]
    variances: Float[np.ndarray, " variances"]
    records: Int[np.ndarray, " records"]
    accuracy: Float[np.ndarray, "depths variances records"]
    xi: Float[np.ndarray, " variances"]


@dataclasses.dataclass(frozen=True)
class Remedies:
    """Accuracy of smaller grids; `limit` is the depth over which theory has the squared gradient change by e^6."""

    names: Shaped[np.ndarray, " remedies"]
    depths: Int[np.ndarray, " depths"]
    variances: Float[np.ndarray, " variances"]
    accuracy: Float[np.ndarray, "remedies depths variances"]
    limit: Float[np.ndarray, "remedies variances"]


@dataclasses.dataclass(frozen=True)
class Results:
    """What a run gives.

    Attributes:
        width: units a layer of the trained networks.
        profile_width: of the networks whose gradient profile is measured.
        profile_images: that gradients at initialization are taken over.
        grid: of tanh networks.
        remedies: other activations, and batch norm.
        curves: fixed points over sigma_w.
        signal: variance q and correlation c in every layer.
        end: the same in the last layer.
        profile: gradients at initialization.
    """

    width: int
    profile_width: int
    profile_images: int
    grid: Grid
    remedies: Remedies
    curves: Curves
    signal: dict[str, Compared]
    end: dict[str, Compared]
    profile: Gradients
