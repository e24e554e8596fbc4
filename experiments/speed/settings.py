"""Settings of `speed` and its presets."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of one run."""

    rounds: int = 15
    """Rounds in which all sides have their turn."""
    seconds: float = 0.2
    """Time that one side of a round takes at least."""
    shrink: int = 1
    """What the networks' sizes are divided by; 1 for the targets to apply."""
    seed: int = 0
    """Of the many runs' initialization."""

    def __post_init__(self) -> None:
        """Reject settings that cannot be run."""
        for field in ("rounds", "seconds", "shrink"):
            if getattr(self, field) <= 0:
                raise ValueError(f"{field} must be positive, got {getattr(self, field)}")


PRESETS = {
    "smoke": Config(rounds=2, seconds=0.01, shrink=8),
    "laptop": Config(),
    "paper": Config(rounds=50, seconds=0.5),
}
