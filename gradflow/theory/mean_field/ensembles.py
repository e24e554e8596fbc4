"""Ensembles of random weights that theory distinguishes."""

from __future__ import annotations

from typing import Literal

__all__ = ["Ensemble", "spectrum_variance"]

Ensemble = Literal["gaussian", "orthogonal"]


def spectrum_variance(ensemble: str) -> float:
    """Return -s_1 of the weights, the variance of their squared singular values over the square of their mean.

    Args:
        ensemble: of the weights.

    Raises:
        ValueError: for an unknown one.
    """
    spreads = {"gaussian": 1.0, "orthogonal": 0.0}
    if ensemble not in spreads:
        raise ValueError(f"unknown ensemble {ensemble!r} of weights. Fix: 'gaussian' or 'orthogonal'")
    return spreads[ensemble]
