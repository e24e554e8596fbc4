"""Settings of `trainability` and its presets."""

from __future__ import annotations

import dataclasses

import numpy as np

import gradflow as gf
from experiments.framework.commandline import unknown
from experiments.trainability import signal
from experiments.trainability.signal import BIAS_VARIANCE, PROFILES
from experiments.trainability.training import Network

REMEDIES = {
    "ReLU": Network("relu", 0.0, None, 0),
    "GELU": Network("gelu", 0.0, None, 0),
    "tanh + batch norm": Network("tanh", BIAS_VARIANCE, "batch", 0),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of one run."""

    data: str = "fashion_mnist_subset"
    """Data set, one of gradflow.data.DATASETS."""
    depths: tuple[int, ...] = (8, 10, 13, 17, 21, 26, 33, 41, 52, 66, 80, 96)
    """Hidden layers of the tanh networks that are trained, ascending."""
    weight_variances: tuple[float, ...] = (1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 2.75, 3.0, 3.25, 3.5, 4.0)
    """Their sigma_w^2."""
    width: int = 100
    """Units a hidden layer."""
    batch: int = 32
    """Images a step."""
    learning_rate: float = 0.002
    """Of plain gradient descent."""
    records: tuple[int, ...] = (75, 200, 600)
    """Training steps after which accuracy is measured; the last one ends training."""
    remedies: tuple[str, ...] = tuple(REMEDIES)
    """Other networks to train, by name."""
    remedy_depths: tuple[int, ...] = (8, 16, 32, 64)
    """Their hidden layers."""
    remedy_variances: tuple[float, ...] = (1.0, 1.5, 2.0, 2.5, 3.0)
    """Their sigma_w^2."""
    signal_depth: int = 60
    """Layers of the networks whose q_l and c_l are followed."""
    signal_width: int = 400
    """Their width."""
    signal_networks: int = 4
    """How many of them are drawn for each weight variance."""
    profiles: tuple[str, ...] = tuple(dict.fromkeys(profile.name for profile in PROFILES))
    """Networks whose gradient profile is measured, by name."""
    profile_depth: int = 40
    """Their layers."""
    profile_width: int = 300
    """Their width."""
    profile_networks: int = 5
    """How many of them are drawn for each profile."""
    profile_images: int = 128
    """Images that the gradient is taken over."""
    seed: int = 0
    """Of everything."""

    def __post_init__(self) -> None:
        """Reject settings that cannot be run."""
        if self.data not in gf.data.DATASETS:
            raise ValueError(unknown("data set", self.data, gf.data.DATASETS))
        known = {"remedies": list(REMEDIES), "profiles": [profile.name for profile in PROFILES]}
        for field, names in known.items():
            for name in getattr(self, field):
                if name not in names:
                    raise ValueError(unknown("network", name, names))
        for field in ("depths", "weight_variances", "records", "remedy_depths", "remedy_variances"):
            values = getattr(self, field)
            if len(values) < 2 or list(values) != sorted(set(values)) or values[0] <= 0:
                raise ValueError(f"{field} must be two or more positive numbers, ascending, got {values}")
        if self.depths[0] < 2 or self.remedy_depths[0] < 2:
            raise ValueError(f"networks need two layers or more, got {self.depths[0]} and {self.remedy_depths[0]}")
        if self.profile_depth < 4 * signal.SETTLED:
            raise ValueError(f"profile_depth must be at least {4 * signal.SETTLED}, for a fit")


PRESETS = {
    "smoke": Config(
        depths=(8, 48),
        weight_variances=(1.0, 1.75, 4.0),
        learning_rate=0.005,
        records=(50, 300),
        remedies=(),
        profiles=("tanh",),
        signal_depth=20,
        signal_width=200,
        profile_depth=20,
        profile_networks=3,
    ),
    "laptop": Config(),
    "paper": Config(
        data="mnist",
        depths=tuple(range(10, 301, 10)),
        weight_variances=tuple(float(x) for x in np.linspace(1, 4, 31).round(2)),
        width=300,
        learning_rate=0.001,
        records=(200, 2000, 14_000, 45_000),
        remedy_depths=tuple(range(10, 301, 10)),
        remedy_variances=tuple(float(x) for x in np.linspace(1, 4, 31).round(2)),
        signal_depth=100,
        signal_width=1000,
        signal_networks=10,
        profile_depth=200,
    ),
}
