"""Settings of `saturation` and its presets."""

from __future__ import annotations

import dataclasses

ARMS = {
    "sigmoid_3": ("sigmoid", 3),
    "sigmoid_4": ("sigmoid", 4),
    "sigmoid_5": ("sigmoid", 5),
    "tanh_5": ("tanh", 5),
    "softsign_5": ("softsign", 5),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of one run."""

    data: str = "fashion_mnist_subset"
    """Data set, one that gradflow.data.load knows."""
    width: int = 256
    """Units of every hidden layer."""
    batch: int = 10
    """Images a step."""
    rate: float = 0.1
    """Learning rate."""
    sigmoid_steps: int = 20_000
    """Training steps of sigmoid networks."""
    steps: int = 10_000
    """Training steps of the others."""
    records: int = 40
    """Moments at which activations are looked at, after the start; divides both numbers of steps."""
    networks: int = 2
    """Of each kind."""
    seed: int = 0
    """Of initialization and of the order of images."""

    def __post_init__(self) -> None:
        """Reject settings that cannot be run."""
        for field in ("width", "batch", "rate", "sigmoid_steps", "steps", "records", "networks"):
            if getattr(self, field) <= 0:
                raise ValueError(f"{field} must be positive, got {getattr(self, field)}")
        for field in ("sigmoid_steps", "steps"):
            if getattr(self, field) % self.records:
                raise ValueError(f"records must divide {field}, got {self.records} and {getattr(self, field)}")


PRESETS = {
    "smoke": Config(width=64, sigmoid_steps=200, steps=200, records=10, networks=1),
    "laptop": Config(),
    "paper": Config(
        data="fashion_mnist", width=1000, sigmoid_steps=1_000_000, steps=1_000_000, records=200, networks=1
    ),
}
