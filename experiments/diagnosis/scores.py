"""How often a verdict is right, with the uncertainty of so many networks."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from experiments.diagnosis.labels import SICK, is_sick
from experiments.diagnosis.results import Results

__all__ = ["Rate", "cause_found", "helped", "place_found", "rate", "sick"]

_NORMAL = 1.959964  # two-sided 95 %


class Rate(NamedTuple):
    """A share with its Wilson interval.

    Attributes:
        share: observed; NaN of none.
        low: lower 95 % limit.
        high: upper 95 % limit.
        cases: of how many.
    """

    share: float
    low: float
    high: float
    cases: int

    def __str__(self) -> str:
        if not self.cases:
            return "none"
        return f"{self.share:.1%} ({self.low:.0%} to {self.high:.0%} of {self.cases})"


def rate(hits: Bool[np.ndarray, " cases"]) -> Rate:
    r"""Return a share with its 95 % interval by Wilson's score.

    (p + z^2/2n \pm z sqrt(p (1 - p)/n + z^2/4n^2)) / (1 + z^2/n). Wilson 1927.

    Args:
        hits: of the cases.
    """
    n = len(hits)
    if n == 0:
        return Rate(math.nan, 0.0, 1.0, 0)
    p, z2 = float(np.mean(hits)), _NORMAL**2
    middle, half = p + z2 / (2 * n), _NORMAL * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    low, high = (middle - half) / (1 + z2 / n), (middle + half) / (1 + z2 / n)
    return Rate(p, min(p, max(0.0, low)), max(p, min(1.0, high)), n)  # rounding must not leave the share outside


def sick(results: Results) -> Bool[np.ndarray, " networks"]:
    """Return which networks are sick by their labels.

    Args:
        results: of a run.
    """
    with np.errstate(invalid="ignore"):
        return np.asarray(is_sick(results.gains, results.twin_gains), bool)


def helped(gains: Float[np.ndarray, " networks"], results: Results) -> Bool[np.ndarray, " networks"]:
    """Return which networks are not sick with other gains than their own; NaN is no help.

    Args:
        gains: of the networks, treated.
        results: of a run.
    """
    with np.errstate(invalid="ignore"):
        return np.asarray(gains >= SICK * results.twin_gains, bool)


def cause_found(results: Results) -> Bool[np.ndarray, " networks"]:
    """Return where the first finding, or the second, is one that would be right.

    Args:
        results: of a run.
    """
    found = [kinds.split(", ")[:2] for kinds in results.kinds.tolist()]
    right = [causes.split(", ") for causes in results.causes.tolist()]
    return np.array([bool(set(f) & set(r) - {""}) for f, r in zip(found, right, strict=True)], bool)


def place_found(results: Results, among: int = 3) -> Bool[np.ndarray, " networks"]:
    """Return where one of the worst layers of the first finding is a place of the fault.

    Args:
        results: of a run.
        among: how many of the three.
    """
    layers = [", ".join(names.split(", ")[:among]) for names in results.layers.tolist()]
    pairs = zip(layers, results.places.tolist(), strict=True)
    return np.array([any(_within(place, names) for place in places.split(", ")) for names, places in pairs], bool)


def _within(place: str, layers: str) -> bool:
    """Tell whether a name is among those of layers, or a part of one: Dense_1 is not in Dense_10."""
    return bool(place) and re.search(rf"(?<!\w){re.escape(place)}(?!\w)", layers) is not None
