"""What `speed` makes of its timings."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def ratios(results: Mapping[str, np.ndarray], name: str, over: str) -> dict[str, np.ndarray]:
    """Step times of a network over those of one side, round by round.

    Args:
        results: from `run`.
        name: of the network.
        over: the side to divide by.

    Returns:
        Side to ratios (rounds,), without `over` itself.
    """
    sides = {key.removeprefix(f"{name} "): value for key, value in results.items() if key.startswith(f"{name} ")}
    return {side: seconds / sides[over] for side, seconds in sides.items() if side != over}
