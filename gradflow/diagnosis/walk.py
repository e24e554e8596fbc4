"""Training for some steps, at the user's rate and at multiples of it, with the same compiled programs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gradflow.diagnosis.look import Look
from gradflow.diagnosis.objective import Objective

if TYPE_CHECKING:
    import optax

__all__ = ["COMPARED", "Course", "Walk"]

COMPARED = 4  # batches on which the loss is compared before and after


@dataclasses.dataclass(frozen=True, eq=False)
class Course:
    """What some steps of training did.

    Attributes:
        leaves: the parameters in the end.
        losses: on the batch of each step, before it, up to the first that is not finite.
        after: losses on the first `COMPARED` batches in the end.
        update_ratios: per step and leaf, norm of the update over norm of the leaf; NaN for a leaf of zeros.
        last: parameters before the last finite update, and that update.
    """

    leaves: list[Any]
    losses: Float[np.ndarray, " steps"]
    after: Float[np.ndarray, " batches"]
    update_ratios: Float[np.ndarray, "steps leaves"]
    last: tuple[list[Any], list[Any]]


class Walk:
    """Takes steps from the start, as often as it is asked to.

    Args:
        objective: the loss.
        look: at it.
        optimizer: that makes the steps.
        batches: arrays of each batch; taken in turn.
        steps: of each course.
    """

    def __init__(
        self,
        objective: Objective,
        look: Look,
        optimizer: optax.GradientTransformation,
        batches: Sequence[list[Any]],
        steps: int,
    ) -> None:
        self._objective, self._look, self._batches, self._steps = objective, look, batches, steps
        self._init = jax.jit(lambda leaves: optimizer.init(objective.rebuild(leaves)))
        self._update = _update(objective, optimizer)

    def course(self, multiple: float = 1.0) -> Course:
        """Take the steps, stopping at a loss that is not finite.

        Args:
            multiple: of every update.
        """
        leaves: list[Any] = self._objective.leaves
        state, factor = self._init(leaves), jnp.float32(multiple)
        losses, ratios, last = [], [], (leaves, leaves)
        for number in range(self._steps):
            seen = self._look(leaves, self._batches[number % len(self._batches)])
            old, (leaves, state, moved, _, ratio) = leaves, self._update(leaves, seen.gradients, state, factor)
            losses.append(float(seen.value))
            ratios.append(np.asarray(ratio, np.float64))
            if not np.isfinite(losses[-1]):
                break
            last = (old, moved)
        return Course(leaves, np.asarray(losses), self.compared(leaves), np.stack(ratios), last)

    def growth(self) -> float:
        """Return how much updates grow while the gradient stays the same, last quarter of the steps over second."""
        leaves: list[Any] = self._objective.leaves
        gradients, state, sizes = self._look(leaves, self._batches[0]).gradients, self._init(leaves), []
        for _ in range(self._steps):
            _, state, _, norms, _ = self._update(leaves, gradients, state, jnp.float32(1.0))
            sizes.append(math.hypot(*np.asarray(norms, np.float64)))
        quarter = -(-self._steps // 4)
        late, early = sum(sizes[-quarter:]), sum(sizes[quarter : 2 * quarter])
        return late / early if early > 0 else math.inf

    def compared(self, leaves: list[Any]) -> Float[np.ndarray, " batches"]:
        """Return the losses on the first `COMPARED` batches.

        Args:
            leaves: the parameters.
        """
        return np.asarray([self.loss(leaves, leaves, 0.0, arrays) for arrays in self._batches[:COMPARED]])

    def loss(self, leaves: list[Any], direction: list[Any], multiple: float, arrays: list[Any] | None = None) -> float:
        """Return the loss at leaves + multiple * direction.

        Args:
            leaves: the parameters.
            direction: as they are.
            multiple: of the direction.
            arrays: a batch; None for the first.
        """
        return float(self._look.loss(leaves, direction, jnp.float32(multiple), arrays or self._batches[0]))


def _update(objective: Objective, optimizer: optax.GradientTransformation) -> Callable[..., tuple[Any, ...]]:
    """Return a step: (leaves, gradients, state, multiple) -> (leaves, state, moved, norms, ratios).

    What was added to each leaf, its norm, and that norm over the leaf's.
    """
    import optax

    @jax.jit
    def update(leaves: list[Any], gradients: list[Any], state: Any, multiple: Any) -> tuple[Any, ...]:
        params = objective.rebuild(leaves)
        with jax.numpy_dtype_promotion("standard"):  # optimizers are written for it
            updates, state = optimizer.update(objective.rebuild(gradients), state, params)
        updates = jax.tree.map(lambda u: u * multiple.astype(u.dtype), updates)
        new = jax.tree.leaves(optax.apply_updates(params, updates))
        moved = [n - o for n, o in zip(new, leaves, strict=True)]
        norms = jnp.stack([_norm(m) for m in moved])
        return new, state, moved, norms, norms / jnp.stack([_norm(o) for o in leaves])

    return update


def _norm(x: Any) -> Float[Array, ""]:
    """Return the norm in float32, with the largest entry taken out, so that no square leaves the range."""
    wide = jnp.abs(x).astype(jnp.float32)
    largest = jnp.max(wide, initial=0.0)
    safe = jnp.where(largest > 0, largest, 1.0)
    return largest * jnp.sqrt(jnp.sum(jnp.square(wide / safe)))
