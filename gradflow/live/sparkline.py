"""A profile over layers, or over time, in one line of text."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

__all__ = ["LEVELS", "NOT_FINITE", "WIDTH", "sparkline"]

LEVELS = "▁▂▃▄▅▆▇█"
NOT_FINITE = "×"
WIDTH = 24  # places that a sparkline has room for; more are averaged


def sparkline(values: Float[np.ndarray, " places"], *, log: bool = True) -> str:
    """Draw a profile from its smallest to its largest entry, and say which these are.

    Args:
        values: one a layer, in forward order, or one a record. Where none of the entries of a place is finite, it is ×;
            with `log`, 0 and what is below it is drawn lowest.
        log: whether heights are logarithms.

    Examples:
        >>> sparkline(np.array([1e-7, 1e-5, 1e-3, 1e-1]))
        '▁▃▆█ 1e-07…1e-01'
        >>> sparkline(np.array([2.0, np.nan, 1.0, 3.0]), log=False)
        '▅×▁█ 1…3'
    """
    values = np.asarray(values, np.float64)
    if not values.size:
        return ""
    parts = np.array_split(values, min(WIDTH, len(values)))
    finite = [part[np.isfinite(part)] for part in parts]
    used = [np.log10(part[part > 0]) if log else part for part in finite]
    heights = [part.mean() if part.size else None for part in used]
    known = [height for height in heights if height is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    drawn = []
    for height, part in zip(heights, finite, strict=True):
        share = 0.0 if height is None else (height - low) / max(high - low, 1e-9)
        drawn.append(LEVELS[round(share * (len(LEVELS) - 1))] if part.size else NOT_FINITE)
    ends = [f"{10**end:.0e}" if log else f"{end:.3g}" for end in (low, high)]
    return "".join(drawn) + (f" {'…'.join(ends)}" if known else "")
