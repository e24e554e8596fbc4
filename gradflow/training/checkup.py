"""A word when a run goes wrong: losses that are read anyway say when to look, and `gf.diagnose` says what it is."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow.training.progress import say
from gradflow.training.step import LossFn, TrainState, as_mean, draw, step_key

if TYPE_CHECKING:
    import optax

    from gradflow.diagnosis import Diagnosis

__all__ = ["Checkup"]

STEPS = 20  # of a diagnosis, and batches for it at most
FIRST = 2  # record at which a run is looked at first; one record may hold little more than the start
LITTLE = 0.1  # of the loss at the start: the tenth that `gf.treat` asks of a remedy, too
LOST = 0.5  # of the whole fall, when the loss rises again


class Checkup:
    """Looks at the losses of a run, and diagnoses it where they have not fallen, rise again, or are not finite.

    A diagnosis compiles programs of its own. After one at record n the next comes at record 2 n at the earliest, so
    that a run of n records is diagnosed log2(n) times at most. A healthy verdict is not said, nor one whose first
    finding is of a kind that has been said.

    Attributes:
        diagnosis: the latest one that was said; None before.
    """

    def __init__(self, loss_fn: LossFn, optimizer: optax.GradientTransformation, state: TrainState) -> None:
        """See `fit`."""
        self._loss_fn, self._optimizer, self._state = loss_fn, optimizer, state
        self.diagnosis: Diagnosis | None = None
        self._start = self._lowest = math.nan
        self._begun, self._said = False, set[str]()
        self._records, self._next = 0, FIRST

    def begin(self, state: TrainState, window: Any, steps: int, recorded: Mapping[str, float]) -> None:
        """Note the loss at the start, the first time that this is called.

        Args:
            state: before the first step.
            window: holds the batches of the first steps.
            steps: how many of them it holds.
            recorded: metrics of the first record, of a run that goes on.
        """
        if self._begun:
            return
        self._begun = True
        if recorded:
            self._start = recorded.get("loss", math.nan)
            return

        # A closure, since a loss need not be hashable, as static arguments are.
        def metrics(state: TrainState, window: Any) -> Any:
            def of_step(ahead: Any) -> Any:
                there = state._replace(step=state.step + ahead)
                found = self._loss_fn(state.params, state.model_state, draw(window, there), step_key(there))[1][0]
                return {name: as_mean(metric) for name, metric in found.items()}

            # One batch may have another loss than most.
            return jax.tree.map(lambda x: x.sum(0), jax.lax.map(of_step, jnp.arange(min(steps, STEPS))))

        found = jax.jit(metrics)(state, window)
        self._start = float(found["loss"].value) if "loss" in found else math.nan

    def due(self, metrics: Mapping[str, float]) -> bool:
        """Tell whether the run has to be diagnosed after a record.

        Args:
            metrics: of the record.
        """
        self._records += 1
        loss = metrics.get("loss", math.nan)
        self._lowest = loss if math.isnan(self._lowest) else min(self._lowest, loss)
        stands = loss > self._start - LITTLE * abs(self._start)
        rises = loss - self._lowest > LOST * (self._start - self._lowest)
        return self._records >= self._next and (stands or rises)

    def look(self, state: TrainState, window: Any, steps: int, end: int, metrics: Mapping[str, float]) -> None:
        """Diagnose a run between two steps, and say what is found.

        Args:
            state: after the latest step.
            window: holds the batches of the steps before it.
            steps: how many of them it holds.
            end: step at which the latest record ends, which may lie before that state.
            metrics: of that record.
        """
        if not bool(state.finite):  # the dispatch that stopped is read next
            return
        self._next = 2 * self._records
        loss, start = metrics["loss"], self._start
        head = f"step {end}: the loss is {loss:.4g}, at the start it was {start:.4g}."
        before = [state._replace(step=state.step - k) for k in range(min(steps, STEPS), 0, -1)]
        batches = [(state.model_state, draw(window, s), step_key(s)) for s in before]
        # What drove the loss up is seen from where it was not up yet. From there on the damage hides it.
        if loss > start + LITTLE * abs(start) and self._say(f"{head} From its start:", self._state, batches):
            return
        self._say(head, state, batches)

    def look_at_stop(self, state: TrainState, window: Any) -> None:
        """Diagnose a run that went non-finite, and say what is found.

        Args:
            state: before the bad step.
            window: holds the batch of that step.
        """
        batch = (state.model_state, draw(window, state), step_key(state))
        self._say(f"step {int(state.step)}: the run went non-finite.", state, [batch])

    def _say(self, head: str, state: TrainState, batches: list[tuple[Any, ...]]) -> bool:
        """Diagnose, say what is new, and return whether something was found."""
        import optax

        from gradflow.diagnosis import diagnose

        # Moments and schedules go on from where they are.
        optimizer = optax.GradientTransformation(lambda params: state.opt_state, self._optimizer.update)
        options: dict[str, Any] = {"has_aux": True, "progress": False, "steps": STEPS, "batches": batches}
        try:
            with np.errstate(all="ignore"):  # of numbers near the end of their range
                found = diagnose(self._loss_fn, state.params, *batches[-1], optimizer=optimizer, **options)
        except Exception as error:  # a run goes on, and an error of the run is reported, whatever comes of a look at it
            say(f"gradflow: {head} It could not be diagnosed: {str(error).splitlines()[0]}")
            return False
        if not found.healthy and found.findings[0].kind not in self._said:
            self.diagnosis = found
            self._said.add(found.findings[0].kind)
            say("\n".join([f"gradflow: {head}", *_first_lines(found), "   The whole letter: print(fitted.diagnosis)"]))
        return not found.healthy


def _first_lines(diagnosis: Diagnosis) -> list[str]:
    """Return the first finding with its cause and its first remedy."""
    from gradflow.diagnosis.letter import letter

    finding = diagnosis.findings[0]
    first = dataclasses.replace(finding, remedies=finding.remedies[:1], evidence=())
    return letter(dataclasses.replace(diagnosis, findings=(first,))).split("\n\n")[0].splitlines()
