"""A profile over layers in one line of text."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

__all__ = ["LEVELS", "WIDTH", "sparkline"]

LEVELS = "▁▂▃▄▅▆▇█"
WIDTH = 24  # layers that a sparkline has room for; more are averaged


def sparkline(values: Float[np.ndarray, " layers"]) -> str:
    """Draw a profile over layers, logarithmically from its smallest to its largest entry, and say which these are.

    Args:
        values: one a layer, in forward order; entries that are 0 or not finite are drawn lowest.

    Examples:
        >>> sparkline(np.array([1e-7, 1e-5, 1e-3, 1e-1]))
        '▁▃▆█ 1e-07…1e-01'
    """
    parts = np.array_split(np.asarray(values, np.float64), min(WIDTH, len(values)))
    usable = [part[np.isfinite(part) & (part > 0)] for part in parts]
    logs = np.array([np.log10(part).mean() if part.size else -np.inf for part in usable])
    known = logs[np.isfinite(logs)]
    if not known.size:
        return LEVELS[0] * len(parts)
    low, high = known.min(), known.max()
    heights = np.clip((logs - low) / max(high - low, 1e-9), 0, 1)
    return "".join(LEVELS[round(h * (len(LEVELS) - 1))] for h in heights) + f" {10**low:.0e}…{10**high:.0e}"
