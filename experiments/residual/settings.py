"""Settings of `residual` and its presets."""

from __future__ import annotations

import dataclasses

from experiments.residual import bands, cifar, network


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of one run."""

    data: str = "fashion_mnist_subset"
    """Name of the images."""
    depths: tuple[int, ...] = (5, 10, 20, 40, 54)
    """Blocks of the networks that are trained; paths are those of the deepest."""
    width: int = 64
    """Of the stream."""
    steps: int = 600
    """Training steps."""
    rate: float = 0.03
    """Learning rate, with momentum .9."""
    paths: int = 50
    """Paths drawn of each length."""
    shatter_depths: tuple[int, ...] = (1, 2, 3, 5, 10, 15, 20)
    """Blocks at which correlations of gradients are measured."""
    shatter_width: int = 200
    """Width of those networks."""
    shatter_networks: int = 256
    """How many of them are drawn."""
    shatter_lines: int = 32
    """How many networks the gradient is followed in along a line of inputs."""
    normfree_depth: int = 64
    """Layers of the networks without normalization, an even number."""
    normfree_steps: int = 180
    """Their training steps; 0 to leave their training out."""
    cifar_depths: tuple[int, ...] = ()
    """Layers of He et al.'s residual networks to train on CIFAR-10, 6n + 2."""
    cifar_plain: tuple[int, ...] = ()
    """Layers of their plain ones."""
    cifar_steps: int = cifar.STEPS
    """Training steps of these; up to 64, or a multiple of it."""
    seed: int = 0
    """Of everything."""

    def __post_init__(self) -> None:
        """Reject settings that cannot be run."""
        if len(self.depths) < 2 or list(self.depths) != sorted(set(self.depths)) or self.depths[0] < 1:
            raise ValueError(f"depths must be two or more growing numbers from 1 on, got {self.depths}")
        if self.steps % network.RECORDS:
            raise ValueError(f"steps must be a multiple of {network.RECORDS}, got {self.steps}")
        if self.normfree_depth < 2 or self.normfree_depth % 2:
            raise ValueError(f"normfree_depth must be even and positive, got {self.normfree_depth}")
        if self.cifar_steps < 1 or (self.cifar_steps > 64 and self.cifar_steps % 64):
            raise ValueError(f"cifar_steps must be at most 64 or a multiple of it, got {self.cifar_steps}")


PRESETS = {
    "smoke": Config(
        depths=(5, 40), steps=200, paths=10, shatter_depths=(1, 5), shatter_networks=128, shatter_lines=16,
        normfree_steps=0,
    ),
    "laptop": Config(),
    "paper": Config(
        data="fashion_mnist", width=256, steps=20_000, paths=1000, cifar_depths=tuple(bands.CIFAR),
        cifar_plain=(20, 56),
    ),
}  # fmt: skip
