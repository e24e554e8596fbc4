"""Numbers for the bands of several experiments: the spread of random networks and of shares, and a fitted rate."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def gradient_rate(profiles: Float[np.ndarray, "*networks layers"], ends: int = 0) -> Float[np.ndarray, "*networks"]:
    """Fit the factor of the squared gradient from a layer to the one below, in each network.

    Args:
        profiles: rms of the gradient by layer, the layer nearest the input first.
        ends: layers at either end that the fit leaves out.
    """
    logs = 2 * np.log(profiles[..., ends : profiles.shape[-1] - ends].astype(np.float64))
    layers = np.arange(logs.shape[-1])
    return np.exp(-np.polyfit(layers, logs.reshape(-1, layers.size).T, 1)[0]).reshape(logs.shape[:-1])


def product_variance(depth: int, width: int) -> float:
    """Variance of ln |J u|^2 over random ReLU networks of equal layers (Hanin & Nica 2018).

    Args:
        depth: layers.
        width: units of each.
    """
    return 5.0 * depth / width


def share_error(share: Float[np.ndarray, "..."] | float, draws: int) -> np.ndarray:
    """Standard error of a share of independent draws; at least that of a share of one draw.

    Args:
        share: expected.
        draws: how many.
    """
    return np.sqrt(np.maximum(share * (1 - share), 1 / draws) / draws)
