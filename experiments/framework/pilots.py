"""A band from pilot runs, by the rule of `experiments.framework.bands.pilot_limits`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from experiments.framework.bands import PILOT_SEEDS, pilot_limits
from experiments.framework.claims import Band, pilot


def around(
    phenomenon: str,
    values: Sequence[float],
    *,
    log: bool = False,
    floor: float = 0.0,
    possible: tuple[float, float] = (-math.inf, math.inf),
) -> Band:
    """Return the band around what the pilot runs gave, with their numbers in its source.

    Args:
        phenomenon: what the number shows.
        values: of the pilot runs, in the order of `PILOT_SEEDS`.
        log: whether limits are formed of logarithms, as for ratios.
        floor: least standard deviation, on the scale that is used: what the measurement itself is uncertain by.
        possible: numbers beyond which nothing can be measured, or the phenomenon is not there.
    """
    low, high = pilot_limits(values, log=log, floor=floor, possible=possible)
    gave = ", ".join(f"{value:.3g}" for value in values)
    return pilot(f"{phenomenon}; pilots gave {gave}", PILOT_SEEDS[: len(values)], low=low, high=high)
