"""Settings of `isometry` and its presets."""

from __future__ import annotations

import dataclasses

from experiments.isometry import training


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of one run."""

    data: str = "fashion_mnist_subset"
    """Name of the images."""
    saxe_steps: int = 6000
    """Steps of the linear network with one hidden layer."""
    linear_depths: tuple[int, ...] = (3, 10, 30, 100)
    """Layers of deep linear networks, ascending."""
    linear_draws: int = 3
    """Networks of each kind."""
    linear_steps: int = 150
    """Their training steps."""
    spectrum_depths: tuple[int, ...] = (2, 4, 10)
    """Layers after which Jacobians are decomposed, ascending."""
    spectrum_width: int = 400
    """Their width; depth over width should stay well below .1: ReLU's moments stray by 5 times that."""
    spectrum_draws: int = 8
    """Networks of each kind."""
    depths: tuple[int, ...] = (25, 100, 200)
    """Hidden layers of the tanh networks that are trained, ascending."""
    width: int = 100
    """Their units."""
    steps: int = 200
    """Their training steps."""
    rates: tuple[float, ...] = (0.003, 0.01, 0.03)
    """Learning rates, of which the best counts."""
    cnn_depth: int = 1000
    """Convolutions of the network that is trained."""
    cnn_deepest: int = 10_000
    """Convolutions of the one that is measured."""
    cnn_channels: int = 16
    """Of every convolution; at least the pixels of a patch."""
    cnn_pooled: int = 2
    """Side of the squares of pixels that are averaged into one, before images are cut into patches."""
    cnn_steps: int = 200
    """Training steps; 0 to leave training out."""
    cnn_rate: float = 1e-3
    """Learning rate, with momentum .9 and gradients clipped to norm 1."""
    seed: int = 0
    """Of everything."""

    def __post_init__(self) -> None:
        """Reject settings that cannot be run."""
        for field in ("linear_depths", "spectrum_depths", "depths"):
            values = getattr(self, field)
            if not values or list(values) != sorted(set(values)) or values[0] < 1:
                raise ValueError(f"{field} must be growing numbers from 1 on, got {values}")
        if self.steps < training.SMOOTHED or 0 < self.cnn_steps < training.SMOOTHED:
            raise ValueError(f"training takes at least {training.SMOOTHED} steps, over which losses are averaged")
        if self.cnn_deepest < 2 or self.cnn_depth < 2:
            raise ValueError(f"expected convolutions from 2 on, got {self.cnn_depth} and {self.cnn_deepest}")


PRESETS = {
    "smoke": Config(
        linear_depths=(10, 50), linear_steps=50, spectrum_width=128, spectrum_depths=(4,), depths=(100,), width=64,
        steps=60, rates=(0.02,), cnn_deepest=300, cnn_steps=0,
    ),
    "laptop": Config(),
    "paper": Config(
        data="fashion_mnist", spectrum_width=1000, spectrum_depths=(2, 4, 16, 64), spectrum_draws=10,
        depths=(25, 50, 100, 200), width=400, steps=10_000, rates=(1e-4, 3e-4, 1e-3, 3e-3, 0.01), cnn_depth=10_000,
        cnn_channels=32, cnn_pooled=1, cnn_steps=50_000, cnn_rate=1e-4,
    ),
}  # fmt: skip
