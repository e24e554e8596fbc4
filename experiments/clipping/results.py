"""Results of `clipping`."""

from __future__ import annotations

import dataclasses

from experiments.clipping import order, smoothness, surface
from experiments.clipping.surface import Descent, Quartic


@dataclasses.dataclass(frozen=True)
class Results:
    """What a run gives.

    Attributes:
        surface: error of one recurrent unit.
        path: on it.
        quartic: descent on x^4.
        smooth: along training.
        radius: gradient over time.
        by_length: temporal order.
        long: temporal order, long training.
    """

    surface: surface.Grid
    path: Descent
    quartic: Quartic
    smooth: smoothness.Smoothness
    radius: smoothness.Radii
    by_length: order.ByLength
    long: order.AtLength
