"""What a few steps of the user's optimizer do: to the loss, to each leaf, and beyond the size that they have."""

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
        probe: loss on the first batch after `MULTIPLES` times the last finite update, taken from where it was. By the
            last one, the optimizer's state has settled and a weight that started from 0 has a size.
        probe_start: loss on the first batch from where the probe starts.
        leaves: the parameters in the end.
    """

    losses: Float[np.ndarray, " losses"]
    before: Float[np.ndarray, " batches"]
    after: Float[np.ndarray, " batches"]
    update_ratios: Float[np.ndarray, "steps leaves"]
    movements: Float[np.ndarray, " leaves"]
    probe: Float[np.ndarray, " multiples"]
    probe_start: float
    leaves: list[Any]


_COMPARED = 4  # batches on which the loss is compared before and after


def take_steps(
    objective: Objective,
    look: Look,
    optimizer: optax.GradientTransformation,
    batches: Sequence[list[Any]],
    steps: int,
) -> Trial:
    """Train for some steps.

    Args:
        objective: the loss.
        look: at it.
        optimizer: of the user.
        batches: arrays of each batch; taken in turn.
        steps: how many.
    """
    update, first = _update(objective, optimizer), batches[0]
    start = leaves = objective.leaves
    direction = leaves

    def loss_at(arrays: list[Any], multiple: float = 0.0) -> Any:
        return look.loss(leaves, direction, jnp.float32(multiple), arrays)

    before = [loss_at(arrays) for arrays in batches[:_COMPARED]]
    state = jax.jit(lambda leaves: optimizer.init(objective.rebuild(leaves)))(leaves)
    losses, ratios, last = [], [], (leaves, leaves)
    for number in range(steps):
        seen = look(leaves, batches[number % len(batches)])
        old, (leaves, state, moved, ratio) = leaves, update(leaves, seen.gradients, state)
        losses.append(seen.value)
        ratios.append(np.asarray(ratio, np.float64))
        if not np.isfinite(np.asarray(seen.value, np.float64)):
            break
        last = (old, moved)
    after = [loss_at(arrays) for arrays in batches[:_COMPARED]]
    losses.append(after[0])
    end, (leaves, direction) = leaves, last
    probed = [loss_at(first, multiple) for multiple in (0.0, *MULTIPLES)]
    return Trial(
        np.asarray(losses, np.float64),
        np.asarray(before, np.float64),
        np.asarray(after, np.float64),
        np.stack(ratios),
        np.asarray([_moved(s, e) for s, e in zip(start, end, strict=True)]),
        np.asarray(probed[1:], np.float64),
        float(probed[0]),
        end,
    )


def _update(objective: Objective, optimizer: optax.GradientTransformation) -> Callable[..., tuple[Any, ...]]:
    """Return (leaves, gradients, state) -> new leaves, new state, what was added, its norm over that of the leaf."""
    import optax

    @jax.jit
    def update(leaves: list[Any], gradients: list[Any], state: Any) -> tuple[Any, ...]:
        params = objective.rebuild(leaves)
        with jax.numpy_dtype_promotion("standard"):  # optimizers are written for it
            updates, state = optimizer.update(objective.rebuild(gradients), state, params)
        new = jax.tree.leaves(optax.apply_updates(params, updates))
        moved = [n - o for n, o in zip(new, leaves, strict=True)]
        ratios = jnp.stack([_norm(m) / _norm(o) for m, o in zip(moved, leaves, strict=True)])
        return new, state, moved, ratios

    return update


def _moved(start: Any, end: Any) -> float:
    """Return norm of (end - start) over norm of the start; inf for what left zero, NaN for what stays there."""
    s, e = (np.asarray(x).astype(np.complex128 if np.iscomplexobj(x) else np.float64) for x in (start, end))
    size, way = float(np.linalg.norm(s.reshape(-1))), float(np.linalg.norm((e - s).reshape(-1)))
    return way / size if size > 0 else math.inf if way > 0 else math.nan


def _norm(x: Any) -> Float[Array, ""]:
    """Return the norm in float32, with the largest entry taken out, so that no square leaves the range."""
    wide = jnp.abs(x).astype(jnp.float32)
    largest = jnp.max(wide, initial=0.0)
    safe = jnp.where(largest > 0, largest, 1.0)
    return largest * jnp.sqrt(jnp.sum(jnp.square(wide / safe)))
