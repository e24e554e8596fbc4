"""What can go wrong in a long run, said so that it can be acted upon."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradflow.training.history import Fitted

__all__ = ["CheckpointError", "NonFiniteError"]


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written, read or continued; what was saved before is left as it is."""


class NonFiniteError(FloatingPointError):
    """Training went non-finite.

    Attributes:
        step: number of the step that would have been the first bad one.
        place: where: a layer and a direction in words.
        fitted: the state before that step, all finite, and curves and flow up to it.
    """

    def __init__(self, step: int, place: str, fitted: Fitted, saved: str) -> None:
        super().__init__(
            f"training went non-finite at step {step}: {place}. The state before that step and the flow up to it are "
            f"in `.fitted`; {saved}. Likely cause: a learning rate or an initial weight variance that is too large, or "
            "exploding gradients. Fix: a smaller rate, clip_norm=, or a look at the flow of the steps before"
        )
        self.step, self.place, self.fitted = step, place, fitted
