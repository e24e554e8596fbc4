"""Settings of `diagnosis` and its presets."""

from __future__ import annotations

import dataclasses

from experiments.diagnosis.public_programs import PROGRAMS
from experiments.diagnosis.zoo import FAMILIES
from experiments.framework.commandline import unknown


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of one run."""

    families: tuple[str, ...] = tuple(FAMILIES)
    """Families of the zoo."""
    specimens: int = 10
    """Networks drawn from each family that was held out."""
    tuned: int = 1
    """Networks drawn from each other family."""
    budget: int = 200
    """Training steps of a network and of its treatments."""
    orders: int = 3
    """Orders of the batches, over which training is repeated."""
    relabelled: int = 3
    """Networks, drawn by chance, that are trained although their label is committed, to see that it comes out the same.
    """
    treated: int = 24
    """Sick networks of the held-out families, drawn by chance among those that a treatment helps, that are treated."""
    programs: int = len(PROGRAMS)
    """Public programs that are judged, each with its repaired form."""
    steps: int = 20
    """Steps that the verdict may take."""
    workers: int = 0
    """Processes that judge networks side by side; 0 for one a core, at most eight. The results are the same."""
    seed: int = 0
    """Of everything."""

    def __post_init__(self) -> None:
        """Reject settings that cannot be run."""
        for name in self.families:
            if name not in FAMILIES:
                raise ValueError(unknown("family", name, FAMILIES))
        for field in ("relabelled", "treated", "programs", "tuned", "workers"):
            if getattr(self, field) < 0:
                raise ValueError(f"{field} must be at least 0, got {getattr(self, field)}")
        for field in ("specimens", "budget", "orders", "steps"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, got {getattr(self, field)}")


PRESETS = {
    "smoke": Config(
        families=("MLP, ReLU", "rates, tanh", "fault: zero weights"),
        specimens=2,
        tuned=2,
        budget=60,
        orders=2,
        treated=1,
        programs=0,
        workers=1,
    ),
    "laptop": Config(),
    "paper": Config(specimens=20, tuned=10, relabelled=20, treated=100),
}
