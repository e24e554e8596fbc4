"""Settings of `clipping` and its presets."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of one run."""

    grid: int = 801
    """Points on each side of the error surface."""
    starts: int = 64
    """Of descent on the surface."""
    path_steps: int = 500
    """Steps of descent on it."""
    lengths: tuple[int, ...] = (10, 20, 30)
    """Of sequences that networks of all kinds learn, growing; empty to leave this out."""
    runs: int = 5
    """Networks of each kind."""
    updates: int = 3000
    """Training steps of each."""
    long_length: int = 50
    """Of sequences that networks with sparse weights learn for longer, clipped in every way."""
    long_updates: int = 30_000
    """Their training steps."""
    every: int = 100
    """Of these between two records."""
    smooth_runs: int = 4
    """Networks along whose training smoothness is measured."""
    smooth_updates: int = 1500
    """Their training steps."""
    smooth_every: int = 20
    """Of these between two measurements."""
    seed: int = 0
    """Of everything."""

    def __post_init__(self) -> None:
        """Reject settings that cannot be run."""
        if list(self.lengths) != sorted(set(self.lengths)) or min((*self.lengths, self.long_length)) < 10:
            raise ValueError(
                f"lengths must be growing numbers from 10 on, and so must long_length, got {self.lengths} and "
                f"{self.long_length}"
            )
        for name, step in (("long_updates", "every"), ("smooth_updates", "smooth_every")):
            count, every = getattr(self, name), getattr(self, step)
            if every < 1 or count % every or count < every:
                raise ValueError(f"{name} must be a multiple of {step}, got {count} and {every}")
        for name, least in (
            ("grid", 2), ("starts", 1), ("path_steps", 2), ("runs", 1), ("updates", 1), ("smooth_runs", 1),
        ):  # fmt: skip
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


PRESETS = {
    "smoke": Config(
        starts=32, lengths=(), runs=2, long_length=10, long_updates=100, every=10, smooth_runs=1, smooth_updates=400
    ),
    "laptop": Config(),
    "paper": Config(
        lengths=(50, 75, 100, 125, 150, 175, 200), updates=1_000_000, long_updates=1_000_000, every=1000,
        smooth_runs=10, smooth_updates=20_000,
    ),
}  # fmt: skip
