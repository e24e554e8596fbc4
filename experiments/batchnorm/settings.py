"""Settings of `batchnorm` and its presets."""

from __future__ import annotations

import dataclasses

from experiments.batchnorm import initialization
from experiments.batchnorm.training import LANDSCAPE_RATE


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of one run."""

    data: str = "fashion_mnist_subset"
    """Name of the images."""
    steps: int = 5000
    """Training steps of the sigmoid network."""
    rate: float = 0.1
    """Learning rate of the sigmoid network."""
    records: int = 51
    """How often training is looked at."""
    landscape_steps: int = 500
    """Training steps of the ReLU networks."""
    rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
    """Learning rates of the ReLU networks; the landscape is that of 0.1."""
    depth: int = 30
    """Layers of the plain networks at initialization."""
    width: int = 512
    """Their width."""
    batch: int = 128
    """Their batch."""
    activations: tuple[str, ...] = ("relu", "tanh", "gelu", "sigmoid")
    """Their activations."""
    linear_batches: tuple[int, ...] = (5, 8, 16)
    """Batches of the linear network."""
    networks: int = 16
    """How many of them are drawn."""
    blocks: int = 20
    """Residual blocks."""
    seed: int = 0
    """Of everything."""

    def __post_init__(self) -> None:
        """Reject settings that cannot be run."""
        if self.depth < 2 * initialization.SETTLED + 3:
            raise ValueError(f"depth must be at least {2 * initialization.SETTLED + 3} for a fit, got {self.depth}")
        if LANDSCAPE_RATE not in self.rates:
            raise ValueError(f"rates must contain {LANDSCAPE_RATE}, at which the landscape is looked at")
        if self.records < 2 or self.steps % (self.records - 1):
            raise ValueError(f"steps must be a multiple of records - 1, got {self.steps} and {self.records}")


PRESETS = {
    "smoke": Config(
        steps=500,
        records=11,
        landscape_steps=100,
        rates=(LANDSCAPE_RATE, 1.0),
        depth=16,
        width=128,
        activations=("relu",),
        linear_batches=(8,),
        networks=4,
    ),
    "laptop": Config(),
    "paper": Config(data="mnist", steps=50_000, records=101, landscape_steps=15_000),
}
