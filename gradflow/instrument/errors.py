"""The one form every error of the instrument takes: expected, got, likely cause, fix."""

from __future__ import annotations


class FlowError(ValueError):
    """A function or an argument that the instrument cannot work with.

    Args:
        expected: what would have been right.
        got: what came.
        cause: why that usually happens.
        fix: what to do about it.
    """

    def __init__(self, expected: str, got: str, cause: str, fix: str) -> None:
        super().__init__(f"expected {expected}, got {got}. Likely cause: {cause}. Fix: {fix}.")
