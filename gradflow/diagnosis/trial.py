"""What a few steps of the user's optimizer do: to the loss, to each leaf, and beyond the size that they have."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gradflow.diagnosis.objective import Objective

if TYPE_CHECKING:
    import optax

__all__ = ["MULTIPLES", "Trial", "take_steps"]

MULTIPLES = tuple(4.0**k for k in range(-6, 7))  # of an update at which the loss is looked at


@dataclasses.dataclass(frozen=True, eq=False)
class Trial:
    """Some steps of training.

    Attributes:
        losses: on the batch of each step, before it; one more, after the last, on the batch of the first step.
        before, after: losses on the same few batches at the start and in the end.
        update_ratios: per step and leaf, norm of the update over norm of the leaf; NaN for a leaf of zeros.
        movements: per leaf, norm of (end - start) over norm of the start; inf for a leaf that left zero.
        probe: loss on the first batch after `MULTIPLES` times the largest of the updates, taken from where it was.
        probe_start: loss on the first batch from where the probe starts.
        leaves: the parameters in the end.
    """

    losses: Float[np.ndarray, " steps+1"]
    before: Float[np.ndarray, " batches"]
    after: Float[np.ndarray, " batches"]
    update_ratios: Float[np.ndarray, "steps leaves"]
    movements: Float[np.ndarray, " leaves"]
    probe: Float[np.ndarray, " multiples"]
    probe_start: float
    leaves: list[Any]


_COMPARED = 4  # batches on which the loss is compared before and after


def take_steps(
    objective: Objective, optimizer: optax.GradientTransformation, batches: Sequence[list[Any]], steps: int
) -> Trial:
    """Train for some steps.

    Args:
        objective: the loss.
        optimizer: of the user.
        batches: arrays of each batch; taken in turn.
        steps: how many.
    """
    import optax

    first = batches[0]

    @jax.jit
    def step(leaves: list[Any], state: Any, arrays: list[Any]) -> tuple[Any, ...]:
        loss, grads = jax.value_and_grad(objective.value)(leaves, arrays)
        params = objective.rebuild(leaves)
        updates, state = optimizer.update(objective.rebuild(grads), state, params)
        new = jax.tree.leaves(optax.apply_updates(params, updates))
        moved = [n - o for n, o in zip(new, leaves, strict=True)]
        ratios = jnp.stack([_norm(m) / _norm(o) for m, o in zip(moved, leaves, strict=True)])
        return loss, new, state, moved, ratios

    @jax.jit
    def probe(leaves: list[Any], moved: list[Any], arrays: list[Any]) -> Float[Array, " multiples"]:
        def at(multiple: Any) -> Any:
            there = [o + (multiple * m).astype(o.dtype) for o, m in zip(leaves, moved, strict=True)]
            return objective.value(there, arrays).astype(jnp.float32)

        return jax.lax.map(at, jnp.asarray((0.0, *MULTIPLES), jnp.float32))

    value = jax.jit(objective.value)
    compared = batches[:_COMPARED]
    start = leaves = objective.leaves
    state = optimizer.init(objective.rebuild(leaves))
    losses, ratios = [], []
    before = [value(leaves, arrays) for arrays in compared]
    largest: tuple[float, Any, Any] = (-1.0, leaves, None)
    for number in range(steps):
        old = leaves
        loss, leaves, state, moved, ratio = step(leaves, state, batches[number % len(batches)])
        losses.append(loss)
        ratios.append(np.asarray(ratio, np.float64))
        size = float(np.nansum(np.square(ratios[-1])))
        if size > largest[0]:
            largest = (size, old, moved)
        if not np.isfinite(np.asarray(loss, np.float64)):
            break
    probed = np.asarray(probe(largest[1], largest[2], first), np.float64)
    moved = [float(_norm(e - s) / _norm(s)) for e, s in zip(leaves, start, strict=True)]
    return Trial(
        np.asarray([*losses, value(leaves, first)], np.float64),
        np.asarray(before, np.float64),
        np.asarray([value(leaves, arrays) for arrays in compared], np.float64),
        np.stack(ratios),
        np.asarray(moved),
        probed[1:],
        float(probed[0]),
        leaves,
    )


def _norm(x: Any) -> Float[Array, ""]:
    """Return the norm in float32, with the largest entry taken out, so that no square leaves the range."""
    wide = jnp.abs(x).astype(jnp.float32)
    largest = jnp.max(wide, initial=0.0)
    safe = jnp.where(largest > 0, largest, 1.0)
    return largest * jnp.sqrt(jnp.sum(jnp.square(wide / safe)))
