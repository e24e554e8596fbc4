"""Settings of `activations` and its presets."""

from __future__ import annotations

import dataclasses

from experiments.activations import born_dead, slopes

FIXED = ("sigmoid", "tanh", "relu", "leaky_relu", "elu", "selu", "gelu", "silu")

NAMES = (*FIXED, "prelu")

CLAIMED = {"sigmoid", "relu", "leaky_relu", "prelu"}  # that something is claimed about by name

KICKED, CALM = 10, 0.3  # share of the steps that the large rate lasts, as 1 / share, and the rate after them


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of one run."""

    data: str = "fashion_mnist_subset"
    """Data set, one that gradflow.data.load knows."""
    trained: tuple[str, ...] = (*FIXED, "prelu")
    """Activations of the networks that are trained."""
    depths: tuple[int, ...] = (5, 15, 30)
    """Hidden layers of the networks that are trained."""
    width: int = 64
    """Units of their hidden layers."""
    steps: int = 1000
    """Training steps."""
    rates: tuple[float, ...] = (0.01, 0.03, 0.1)
    """Learning rates, of which the best counts."""
    profile_depth: int = 30
    """Hidden layers of the networks whose gradient is measured before training; a rate is fitted to the first 2/3."""
    profile_width: int = 256
    """Their units."""
    profile_networks: int = 8
    """How many of each activation."""
    dead_widths: tuple[int, ...] = (2, 3, 4, 6)
    """Of networks that are born dead or not."""
    dead_layers: int = 40
    """Largest number of their layers."""
    dead_networks: int = 20_000
    """How many are drawn of each width."""
    kick: float = 10.0
    """Large learning rate that a living network gets for some steps."""
    slope_steps: int = 800
    """Training steps of the network with learned slopes."""
    slope_depth: int = 8
    """Its layers, 6 n + 2."""
    seed: int = 0
    """Of everything."""

    def __post_init__(self) -> None:
        """Reject settings that cannot be run."""
        if list(self.depths) != sorted(set(self.depths)) or min(self.depths, default=0) < 2:
            raise ValueError(f"depths must be growing numbers from 2 on, got {self.depths}")
        for name, unit in (
            ("steps", RECORDS), ("slope_steps", slopes.RECORDS), ("dead_networks", born_dead.CHUNK),
        ):  # fmt: skip
            if getattr(self, name) < unit or getattr(self, name) % unit:
                raise ValueError(f"{name} must be a multiple of {unit}, got {getattr(self, name)}")
        if len(set(self.trained)) < len(self.trained) or not CLAIMED <= set(self.trained) <= set(NAMES):
            raise ValueError(f"trained must have {sorted(CLAIMED)} and others of {NAMES}, got {self.trained}")
        if min(self.rates, default=0) <= 0 or self.kick <= 0:
            raise ValueError(f"rates and kick must be positive, got {self.rates} and {self.kick}")


RECORDS = 20  # moments of training at which a network is looked at, after the start

PRESETS = {
    "smoke": Config(
        trained=tuple(sorted(CLAIMED)), depths=(5,), width=16, steps=20, rates=(0.03,), profile_depth=12,
        profile_width=64, profile_networks=2, dead_widths=(2, 3), dead_layers=12, dead_networks=10_000, slope_steps=8,
    ),
    "laptop": Config(),
    "paper": Config(
        data="cifar10", depths=(5, 15, 30, 50), width=256, steps=20_000, dead_networks=1_000_000, slope_steps=64_000,
        slope_depth=14,
    ),
}  # fmt: skip
