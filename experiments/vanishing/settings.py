"""Settings of `vanishing` and its presets."""

from __future__ import annotations

import dataclasses

import gradflow as gf
from experiments.framework.commandline import unknown
from experiments.vanishing import training
from experiments.vanishing.arms import ARMS, SICK, Arm

SMOKE_ARMS = (SICK.name, "ReLU", "ReLU + He")


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of one run."""

    data: str = "fashion_mnist_subset"
    """Data set, one of gradflow.data.DATASETS."""
    arms: tuple[str, ...] = tuple(arm.name for arm in ARMS)
    """Networks to train, by name; the sick one is always among them."""
    depth: int = 20
    """Hidden layers."""
    width: int = 100
    """Units a hidden layer."""
    batch: int = 128
    """Images a step."""
    learning_rate: float = 0.02
    """Of plain gradient descent, the same for every network."""
    steps: int = 1000
    """Training steps."""
    record_every: int = 50
    """Steps between two records of flow, accuracy and movement; divides steps."""
    tanh_depth: int = 60
    """Hidden layers of the tanh table."""
    tanh_width: int = 300
    """Units a layer of the tanh table."""
    tanh_seeds: int = 5
    """Networks for each weight variance of the tanh table."""
    seed: int = 0
    """Of initialization and of the order of images."""

    def __post_init__(self) -> None:
        """Reject settings that cannot be run."""
        known = [arm.name for arm in ARMS]
        for name in self.arms:
            if name not in known:
                raise ValueError(unknown("network", name, known))
        if self.data not in gf.data.DATASETS:
            raise ValueError(unknown("data set", self.data, gf.data.DATASETS))
        for field, least in (("depth", 3), ("width", 2), ("batch", 2), ("tanh_depth", 3), ("tanh_width", 2)):
            if getattr(self, field) < least:
                raise ValueError(f"{field} must be at least {least}, got {getattr(self, field)}")
        for field in ("steps", "record_every", "tanh_seeds", "learning_rate"):
            if getattr(self, field) <= 0:
                raise ValueError(f"{field} must be positive, got {getattr(self, field)}")
        if self.steps % self.record_every:
            raise ValueError(f"record_every must divide steps; got {self.record_every} and {self.steps}")

    @property
    def chosen(self) -> tuple[Arm, ...]:
        """The networks, the sick one first."""
        return tuple(arm for arm in ARMS if arm is SICK or arm.name in self.arms)

    @property
    def setup(self) -> training.Setup:
        """What training reads of this."""
        fields = training.Setup._fields
        return training.Setup(**{field: getattr(self, field) for field in fields})


PRESETS = {
    "smoke": Config(arms=SMOKE_ARMS, depth=10, steps=300, record_every=30, tanh_seeds=2),
    "laptop": Config(),
    "paper": Config(width=256, steps=10_000, record_every=100, tanh_seeds=20),
}
