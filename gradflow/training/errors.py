"""Errors of a long run."""

from __future__ import annotations

__all__ = ["CheckpointError"]


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written, read or continued; what was saved before is left as it is."""
