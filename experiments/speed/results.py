"""Results of `speed`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

OVER_DEVICES = "gradflow, a device a core"
Seconds = Mapping[str, Float[np.ndarray, " rounds"]]


@dataclasses.dataclass(frozen=True)
class Results:
    """What a run gives, all in seconds.

    Attributes:
        shrink: what the networks' sizes are divided by.
        networks: a step, by network and side: "gradflow", "flax", "torch" where it is installed, `OVER_DEVICES` where
            there are several devices.
        convolutions: a step, by side and form, such as "gradflow, scanned".
        grid: many small runs, by form, compiled before.
        cold: many small runs, compilation included.
        compilation: of a training gradient, by depth; nothing where networks are shrunk.
    """

    shrink: int
    networks: Mapping[str, Seconds]
    convolutions: Seconds
    grid: Seconds
    cold: dict[str, float]
    compilation: dict[int, Float[np.ndarray, " rounds"]]


def ratios(sides: Seconds, over: str) -> dict[str, np.ndarray]:
    """Return step times over those of one side, round by round.

    Args:
        sides: of one network.
        over: the side to divide by.

    Returns:
        Side to ratios (rounds,), without `over` itself.
    """
    return {side: seconds / sides[over] for side, seconds in sides.items() if side != over}
