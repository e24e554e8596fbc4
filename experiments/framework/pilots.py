"""Bands from pilot runs, by the rule of `experiments.framework.bands.pilot_limits`, and those of the early ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

from experiments.framework.bands import PILOT_SEEDS, pilot_limits
from experiments.framework.claims import Band, pilot

EARLY = (10, 11)  # seeds of pilot runs whose numbers were not kept; `around` those of three runs replaces their limits


def at_least(limit: float, source: str) -> Band:
    """Lower limit from the early pilot runs.

    Args:
        limit: the number.
        source: what it shows.
    """
    return pilot(source, EARLY, low=limit)


def at_most(limit: float, source: str) -> Band:
    """Upper limit from the early pilot runs.

    Args:
        limit: the number.
        source: what it shows.
    """
    return pilot(source, EARLY, high=limit)


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
