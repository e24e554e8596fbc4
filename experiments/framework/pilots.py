"""Bands from pilot runs, by one rule: the mean of the pilots and four of their standard deviations to either side."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from experiments.framework.claims import Band, pilot

SEEDS = (10, 11, 12)
DEVIATIONS = 4.0


def around(
    phenomenon: str,
    values: Sequence[float],
    *,
    logarithmic: bool = False,
    least: float = 0.0,
    low: float = -math.inf,
    high: float = math.inf,
) -> Band:
    """Return the band around what the pilot runs gave: mean +- 4 s, s their standard deviation or `least`.

    With three pilots a fourth run of the same law falls outside with probability .07 (Student's t, 2 degrees of
    freedom) where s is all that is known; `least` is for numbers whose spread is known to be larger than the pilots'.

    Args:
        phenomenon: what the number shows.
        values: of the pilot runs, in the order of `SEEDS`.
        logarithmic: whether mean and deviation are those of the logarithm, as for ratios.
        least: smallest standard deviation, on the scale that is used, such as that of one step of a count.
        low: least number that is possible, or that still shows the phenomenon.
        high: largest number that is possible, or that still shows it.
    """
    scaled = np.log(values) if logarithmic else np.asarray(values, float)
    reach = DEVIATIONS * max(float(scaled.std(ddof=1)), least)
    ends = [scaled.mean() - reach, scaled.mean() + reach]
    lower, upper = np.exp(ends) if logarithmic else ends
    gave = ", ".join(f"{value:.3g}" for value in values)
    return pilot(f"{phenomenon}; pilots gave {gave}", SEEDS[: len(values)], low=max(lower, low), high=min(upper, high))
