"""Settings of `recurrent` and its presets."""

from __future__ import annotations

import dataclasses

from experiments.framework.commandline import unknown
from experiments.recurrent import tasks
from experiments.recurrent.training import ARMS, LSTM, RNN


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of one run."""

    steps: int = 100
    """Steps that gradients go back at initialization."""
    width: int = 256
    """Units of the networks held against theory."""
    networks: int = 4
    """Random networks for each rate."""
    hidden: int = 64
    """Units of the networks that are trained."""
    batch: int = 50
    """Sequences a step."""
    updates: int = 3000
    """Training steps on the adding problem."""
    every: int = 100
    """Of them between two records; divides all numbers of training steps."""
    arms: tuple[str, ...] = tuple(arm.name for arm in ARMS)
    """Networks, by name, for the longest adding problem; for the other tasks a choice is made."""
    adding_lengths: tuple[int, ...] = (50, 100)
    """T of the adding problem, growing."""
    original_lengths: tuple[int, ...] = (100,)
    """T of the adding problem as first posed."""
    original_updates: int = 1500
    """Training steps on it: 75,000 sequences, where the LSTM of 1997 took 74,000 at T = 100."""
    copy_pauses: tuple[int, ...] = (20, 100)
    """T of copy memory."""
    copy_updates: int = 1500
    """Training steps on it."""
    data: str = "fashion_mnist_subset"
    """Images."""
    readings: tuple[str, ...] = ("rows",)
    """How they are read: rows, pixels, permuted pixels."""
    image_updates: int = 600
    """Training steps on them."""
    seed: int = 0
    """Of everything."""

    def __post_init__(self) -> None:
        """Reject settings that cannot be run."""
        if self.steps < 30:
            raise ValueError(f"steps must be at least 30, got {self.steps}")
        known = [arm.name for arm in ARMS]
        for name in self.arms:
            if name not in known:
                raise ValueError(unknown("network", name, known))
        if not self.adding_lengths or list(self.adding_lengths) != sorted(set(self.adding_lengths)):
            raise ValueError(f"adding_lengths must be growing numbers, at least one, got {self.adding_lengths}")
        for name in ("updates", "original_updates", "copy_updates", "image_updates"):
            if getattr(self, name) % self.every or getattr(self, name) < self.every:
                raise ValueError(f"{name} must be a multiple of every={self.every}, got {getattr(self, name)}")
        for reading in self.readings:
            if reading not in tasks.READINGS:
                raise ValueError(unknown("reading of images", reading, tasks.READINGS))

    def training(self, updates: int) -> tasks.Training:
        """Options of training on a task.

        Args:
            updates: training steps.
        """
        return tasks.Training(self.hidden, self.batch, updates, self.every, self.seed)


PRESETS = {
    "smoke": Config(
        networks=2, hidden=32, updates=400, every=20, arms=(RNN, LSTM), adding_lengths=(10,),
        original_lengths=(), copy_pauses=(), readings=(),
    ),
    "laptop": Config(),
    "paper": Config(
        hidden=128, updates=20_000, adding_lengths=(150, 200, 300, 400, 750), original_lengths=(100, 500, 1000),
        original_updates=20_000, copy_pauses=(100, 200, 500), copy_updates=20_000, data="mnist",
        readings=("pixels", "permuted pixels"), image_updates=100_000,
    ),
}  # fmt: skip
