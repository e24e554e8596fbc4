"""Settings of `overhead` and its presets."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of one run."""

    rounds: int = 25
    """Rounds of plain and instrumented step in turn."""
    seconds: float = 0.1
    """Time that one side of a round takes at least."""
    shrink: int = 1
    """What the networks' sizes are divided by; 1 for the targets to apply."""
    deep: int = 10_000
    """Hidden layers of the MLP written as a scan over layers."""
    seed: int = 0
    """Of the deep network's initialization."""

    def __post_init__(self) -> None:
        """Reject settings that cannot be run."""
        for field in ("rounds", "seconds", "shrink", "deep"):
            if getattr(self, field) <= 0:
                raise ValueError(f"{field} must be positive, got {getattr(self, field)}")


PRESETS = {
    "smoke": Config(rounds=3, seconds=0.01, shrink=4, deep=300),
    "laptop": Config(),
    "paper": Config(rounds=100, seconds=0.5),
}
