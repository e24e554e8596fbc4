"""Settings of `initialization` and its presets."""

from __future__ import annotations

import dataclasses

from experiments.framework.commandline import unknown
from experiments.initialization import table, training


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of one run."""

    data: str = "fashion_mnist_subset"
    """Name of the images."""
    glorot_depth: int = 5
    """Hidden tanh layers whose flow is measured."""
    glorot_width: int = 1000
    """Their units."""
    depths: tuple[int, ...] = (22, 30)
    """Hidden ReLU layers of the networks that are trained, ascending."""
    width: int = 256
    """Their units."""
    steps: int = 800
    """Training steps."""
    test_images: int = 10_000
    """Test images that accuracy is measured on, at most."""
    rate: float = 0.003
    """Learning rate, with momentum .9."""
    hanin_depths: tuple[int, ...] = (10, 20, 40)
    """Layers after which the spread of ln |J u|^2 is measured."""
    hanin_width: int = 100
    """Width of those networks."""
    hanin_networks: int = 1000
    """How many of them are drawn."""
    table: tuple[str, ...] = ()
    """Data sets of Glorot & Bengio's Table 1 to train on: mnist, cifar10."""
    table_width: int = 1000
    """Units a hidden layer there."""
    table_steps: int = 1_000_000
    """Steps of 10 images there."""
    seed: int = 0
    """Of everything."""

    def __post_init__(self) -> None:
        """Reject settings that cannot be run."""
        for name in self.table:
            if name not in table.PAPER:
                raise ValueError(unknown("column of Table 1", name, list(table.PAPER)))
        for field in ("depths", "hanin_depths"):
            values = getattr(self, field)
            if not values or list(values) != sorted(set(values)) or values[0] < 2:
                raise ValueError(f"{field} must be growing numbers from 2 on, got {values}")
        if self.steps % (training.RECORDS - 1):
            raise ValueError(f"steps must be a multiple of {training.RECORDS - 1}, got {self.steps}")
        if self.glorot_depth < 4:
            raise ValueError(
                f"glorot_depth must be 4 or more, as claims are on layers from the third, got {self.glorot_depth}"
            )


PRESETS = {
    "smoke": Config(depths=(30,), steps=20, test_images=200, hanin_depths=(10,), hanin_networks=1000),
    "laptop": Config(),
    "paper": Config(data="mnist", steps=20_000, hanin_networks=10_000, table=("mnist", "cifar10")),
}
