"""What can go wrong in a long run, said so that it can be acted upon."""

from __future__ import annotations

from typing import Any


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written, read or continued; what was saved before is left as it is."""


class NonFiniteError(FloatingPointError):
    """Training went non-finite.

    Attributes:
        step: number of the step that would have been the first bad one.
        place: where: a layer and a direction in words.
        state: before that step, all finite.
    """

    def __init__(self, step: int, place: str, state: Any, saved: str) -> None:
        super().__init__(
            f"training went non-finite at step {step}: {place}. The state before that step is in `.state`; {saved}. "
            "Likely cause: a learning rate or an initial weight variance that is too large, or exploding gradients. "
            "Fix: a smaller rate, clip_norm=, or a look at the flow of the steps before"
        )
        self.step, self.place, self.state = step, place, state
