"""How alike a signal is at different places, on the way up."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Protocol

import numpy as np

__all__ = ["Correlations", "Moments"]


@dataclasses.dataclass(frozen=True)
class Correlations:
    """How alike a signal is at different places.

    Attributes:
        positions: of one example, by distance; None where it is not known.
        nodes: of every two nodes of a graph, covariance over the mean variance; None where it is not known.
        examples: of two different examples, on average.
        angles: as `positions`, over the root of the product of the two places' mean squares.
        angle: likewise as `examples`.
        near: correlation between the roots of these mean squares, by distance; of two examples it is 0.
        squares: mean square correlation of two positions, by distance, relative to the mean square at all places.
        mean_square: likewise of two examples.
    """

    positions: Any = None
    nodes: Any = None
    examples: float = 0.0
    angles: Any = None
    angle: float = math.nan
    near: Any = 1.0
    squares: Any = None
    mean_square: float | None = None

    def __post_init__(self) -> None:
        """Take all places for alike, where nothing else is said."""
        if self.angles is None:
            object.__setattr__(self, "angles", self.positions)
        if math.isnan(self.angle):
            object.__setattr__(self, "angle", self.examples)
        if self.squares is None and self.positions is not None:
            object.__setattr__(self, "squares", np.asarray(self.positions) ** 2)
        if self.mean_square is None:
            object.__setattr__(self, "mean_square", self.angle**2)


class Moments(Protocol):
    """E[f(u) f(v)] of a function of Gaussians, by their correlations."""

    @property
    def total(self) -> float:
        """E[f(u)^2]."""

    def at(self, angle: Any, near: Any) -> Any:
        """Return E[f(u) f(v)].

        Args:
            angle: correlation of u and v.
            near: correlation of their sizes.
        """
