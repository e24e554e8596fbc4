"""How a network is trained, as data: where it starts, and what is done to gradients and updates."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp

from gradflow.diagnosis.objective import Objective

if TYPE_CHECKING:
    import optax

__all__ = ["ADAM_RATE", "Plan"]

ADAM_RATE = 1e-3  # Kingma & Ba 2015, algorithm 1


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """A start and a way to train from it.

    Attributes:
        objective: the loss.
        leaves: the parameters to start from.
        rate: factor on every update.
        clip: norm of the whole gradient beyond which it is shortened.
        warm_up: steps over which the factor on updates grows from 0 to `rate`.
        loss_scale: factor on the loss, taken out of the gradients.
        adam: whether Adam takes the place of the user's optimizer.
        model: the configuration whose loss this is; None where none was given.
    """

    objective: Objective
    leaves: list[Any]
    rate: float = 1.0
    clip: float = math.inf
    warm_up: int = 0
    loss_scale: float = 1.0
    adam: bool = False
    model: Any = None

    @property
    def params(self) -> Any:
        """The parameters to start from, in the user's structure."""
        return self.objective.rebuild(self.leaves)

    def scale(self, step: Any) -> Any:
        """Return the factor on the update of a step.

        Args:
            step: its number, from 0; may be traced.
        """
        return self.rate * jnp.minimum(1.0, (step + 1.0) / max(self.warm_up, 1))

    def optimizer(self, optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
        """Return an optimizer that trains as the plan says, the loss scale left out.

        Args:
            optimizer: the user's.
        """
        import optax

        parts = [optax.clip_by_global_norm(self.clip)] if math.isfinite(self.clip) else []
        parts.append(optax.adam(ADAM_RATE) if self.adam else optimizer)
        if self.warm_up:
            parts.append(optax.scale_by_schedule(self.scale))
        elif self.rate != 1:
            parts.append(optax.scale(self.rate))
        return parts[0] if len(parts) == 1 else optax.chain(*parts)
