"""What can go wrong in a long run, said so that it can be acted upon."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradflow.training.history import FitResult
    from gradflow.training.nonfinite import Breakdown

__all__ = ["CheckpointError", "NonFiniteError"]


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written, read or continued; what was saved before is left as it is."""


class NonFiniteError(FloatingPointError):
    """Training went non-finite.

    Attributes:
        step: number of the step that would have been the first bad one.
        place: where that began, in words: the batch, a layer and a direction, the loss, the optimizer.
        cause: the likely one for that place.
        fitted: the state before that step, all finite, and curves and flow up to it.
    """

    def __init__(self, step: int, breakdown: Breakdown, fitted: FitResult, saved: str) -> None:
        super().__init__(
            f"training went non-finite at step {step}: {breakdown.place}. The state before that step and the flow up "
            f"to it are in `.fitted`; {saved}. Likely cause: {breakdown.cause}. Fix: {breakdown.fix}"
        )
        self.step, self.place, self.cause, self.fitted = step, breakdown.place, breakdown.cause, fitted
