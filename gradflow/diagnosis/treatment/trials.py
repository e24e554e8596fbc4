"""Short trainings of plans: one compiled step serves all plans of a loss, whose numbers are data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from gradflow.diagnosis.objective import Objective
from gradflow.diagnosis.treatment.plan import ADAM_RATE, Plan
from gradflow.diagnosis.trial import loss_of_ignorance

if TYPE_CHECKING:
    import optax

__all__ = ["Outcome", "Trials"]

EVALUATED = 8  # batches on which the loss is compared at most


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """What a plan reached.

    Attributes:
        start: mean loss on the same few batches before the first step.
        ends: the same after the last step, one for each seed; inf where it is not finite.
        norms: of the whole gradient, by seed and step.
        blank: mean loss on the same few batches with all parameters 0: of a network that knows nothing of its input.
    """

    start: float
    ends: Float[np.ndarray, " seeds"]
    norms: Float[np.ndarray, "seeds steps"]
    blank: float

    @property
    def ignorance(self) -> float:
        """Loss that counts as nothing learned."""
        return loss_of_ignorance(self.start, self.blank)

    @property
    def gains(self) -> Float[np.ndarray, " seeds"]:
        """How far the loss fell; -inf where it left its range."""
        return self.start - self.ends

    def and_then(self, more: Outcome) -> Outcome:
        """Return the outcome over these seeds and others of the same plan.

        Args:
            more: over the seeds that follow.
        """
        return dataclasses.replace(
            self, ends=np.append(self.ends, more.ends), norms=np.concatenate([self.norms, more.norms])
        )


class Trials:
    """Trains plans on the same batches.

    Args:
        optimizer: the user's.
        batches: arrays of each batch.
        budget: steps.
        seeds: orders of the batches.
    """

    def __init__(
        self, optimizer: optax.GradientTransformation, batches: Sequence[list[Any]], budget: int, seeds: int
    ) -> None:
        self._optimizer, self._batches, self._budget = optimizer, batches, budget
        # One batch has one order.
        self.seeds = seeds if len(batches) > 1 else 1
        self._programs: dict[tuple[Objective, bool], tuple[Callable[..., Any], ...]] = {}

    def run(self, plan: Plan, seeds: Sequence[int] | None = None) -> Outcome:
        """Train a plan from its start, once for each seed.

        Args:
            plan: to be tried.
            seeds: of the orders; None for all.
        """
        starts, ends, norms = [], [], []
        with jax.debug_nans(False):
            for seed in range(self.seeds) if seeds is None else seeds:
                started, ended, norm = self._run(plan, self._order(seed))
                starts.append(started)
                ends.append(ended if np.isfinite(ended) else np.inf)
                norms.append(norm)
            blank = self._compare(plan, [jnp.zeros_like(leaf) for leaf in plan.leaves])
        return Outcome(starts[0], np.asarray(ends), np.asarray(norms, np.float64), blank)

    def _compare(self, plan: Plan, leaves: list[Any]) -> float:
        """Return the mean loss on the batches that are compared."""
        _, _, loss = self._compiled(plan)
        return float(np.mean([loss(leaves, arrays) for arrays in self._batches[:EVALUATED]]))

    def _order(self, seed: int) -> list[int]:
        """Return which batch each step takes: every epoch is a permutation of its own."""
        rng, count = np.random.default_rng(seed), len(self._batches)
        epochs = -(-self._budget // count)
        return [int(k) for _ in range(epochs) for k in rng.permutation(count)][: self._budget]

    def _run(self, plan: Plan, order: list[int]) -> tuple[float, float, Float[np.ndarray, " steps"]]:
        start, step, _ = self._compiled(plan)
        leaves, state, norms = plan.leaves, start(plan.leaves), []
        begun = self._compare(plan, leaves)
        numbers = jnp.asarray((plan.clip, plan.loss_scale), jnp.float32)
        for number, batch in enumerate(order):
            leaves, state, norm = step(leaves, state, self._batches[batch], numbers, plan.scale(np.float32(number)))
            norms.append(norm)
        return begun, self._compare(plan, leaves), np.asarray(norms)

    def _compiled(self, plan: Plan) -> tuple[Callable[..., Any], ...]:
        key = (plan.objective, plan.adam)
        if key not in self._programs:
            import optax

            optimizer = optax.adam(ADAM_RATE) if plan.adam else self._optimizer
            self._programs[key] = _programs(plan.objective, optimizer)
        return self._programs[key]


def _programs(objective: Objective, optimizer: optax.GradientTransformation) -> tuple[Callable[..., Any], ...]:
    """Return compiled functions: leaves -> state; a step; (leaves, arrays) -> loss in float32."""
    import optax

    @jax.jit
    def step(leaves: list[Any], state: Any, arrays: list[Any], numbers: Any, rate: Any) -> tuple[Any, ...]:
        clip, scale = numbers

        def scaled(leaves: list[Any]) -> Any:
            value = objective.value(leaves, arrays)
            return value * scale.astype(value.dtype)

        gradients = [g / scale.astype(g.dtype) for g in jax.grad(scaled)(leaves)]
        norm = optax.tree.norm(gradients)
        factor = jnp.where(norm > clip, clip / norm, jnp.ones_like(norm))
        gradients = [g * factor.astype(g.dtype) for g in gradients]
        params = objective.rebuild(leaves)
        with jax.numpy_dtype_promotion("standard"):  # optimizers are written for it
            updates, state = optimizer.update(objective.rebuild(gradients), state, params)
        updates = jax.tree.map(lambda u: u * rate.astype(u.dtype), updates)
        return jax.tree.leaves(optax.apply_updates(params, updates)), state, norm

    start = jax.jit(lambda leaves: optimizer.init(objective.rebuild(leaves)))
    loss = jax.jit(lambda leaves, arrays: objective.value(leaves, arrays).astype(jnp.float32))
    return start, step, loss
