"""Where a training step became non-finite, and the likely cause: that step is repeated under the instrument."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow.instrument import value_grad_and_flow
from gradflow.training.step import LossFn, TrainState, Tree, draw, step_key

if TYPE_CHECKING:
    import optax

    from gradflow.diagnosis.nonfinite import Origin
    from gradflow.instrument.flow import Flow
    from gradflow.training.history import FitResult

_STATISTICS = ("nonfinite", "output_rms", "output_grad_rms", "weight_rms", "weight_grad_norm")
_UNDEFINED = "0/0 or a division by 0, log or sqrt of a number that is not positive, exp of a large one"


@dataclasses.dataclass(frozen=True)
class Breakdown:
    """Where a step first held NaN or Inf, and what to do about it.

    Attributes:
        place: in words.
        cause: the likely one there.
        fix: what helps against it.
    """

    place: str
    cause: str
    fix: str


class NonFiniteError(FloatingPointError):
    """Training went non-finite.

    Attributes:
        step: number of the step that would have been the first bad one.
        place: where that began, in words: the batch, a layer and a direction, the loss, the optimizer.
        cause: the likely one for that place.
        fitted: the state before that step, all finite, and curves and flow up to it.
        origin: the operation where it began, with the line of the loss; see `gf.find_nonfinite`.
    """

    def __init__(
        self,
        step: int,
        breakdown: Breakdown,
        fitted: FitResult,
        saved: str,
        search: Callable[[], Origin | None] | None = None,
    ) -> None:
        super().__init__(
            f"training went non-finite at step {step}: {breakdown.place}. The state before that step and the flow up "
            f"to it are in `.fitted`; {saved}. Likely cause: {breakdown.cause}. Fix: {breakdown.fix}"
        )
        self.step, self.place, self.cause, self.fitted = step, breakdown.place, breakdown.cause, fitted
        self._search = search

    @functools.cached_property
    def origin(self) -> Origin | None:
        """The operation where it began, searched for when it is asked for.

        None where loss and gradients are finite outside of the compiled step, where devices share the batch, and where
        the loss cannot be run outside of it.
        """
        if self._search is None:
            return None
        try:
            return self._search()
        except Exception:  # the report of one error must not be another one
            return None


def origin_in_step(loss_fn: LossFn, state: TrainState, window: Any) -> Origin | None:
    """Return the operation in which a step's loss or gradients first went non-finite.

    Args:
        loss_fn: as for `make_step`.
        state: before that step.
        window: holds its batch.
    """
    from gradflow.diagnosis.nonfinite import find_nonfinite

    batch, key = draw(window, state), step_key(state)
    return find_nonfinite(loss_fn, state.params, state.model_state, batch, key, has_aux=True)


def locate(loss_fn: LossFn, optimizer: optax.GradientTransformation, state: TrainState, window: Any) -> Breakdown:
    """Take the step from a good state once more and say where it first went non-finite.

    In the order of computation: the batch, parameters, layers forward, the loss, layers backward, gradients, running
    averages, the update.

    Args:
        loss_fn: as for `make_step`.
        optimizer: as for `make_step`.
        state: before that step.
        window: holds its batch.
    """

    # A closure, since a loss need not be hashable, as static arguments are.
    def once_more(state: TrainState, window: Any) -> tuple[Flow, dict[str, dict[str, jax.Array]]]:
        return _looked_at(loss_fn, optimizer, state, window)

    flow, counts = jax.device_get(jax.jit(once_more)(state, window))
    bad = {what: ", ".join([path for path, n in found.items() if n][:3]) for what, found in counts.items()}
    if bad["batch"]:
        return Breakdown(
            "the batch itself holds NaN or Inf, before any layer",
            "missing values or a division by a standard deviation of 0 in the data",
            "look at the batch of that step (source and key give it again), and repair or leave out what is not finite",
        )
    place = flow.first_nonfinite
    if place is not None:
        return Breakdown(str(place), *_explained(flow, place.kind, place.direction))
    if bad["model_state"]:
        return Breakdown(
            f"in the running average {bad['model_state']}",
            "a statistic of the batch that overflows or is undefined (a variance over one example), while loss and "
            "gradients do not use it",
            "look at what the loss returns as model_state there",
        )
    if bad["params"]:
        return Breakdown(
            f"in the optimizer's update of {bad['params']}; the gradient was finite",
            "a rate or schedule that is not finite at this step, a division by a second moment of 0 (eps=0), or a "
            "gradient whose square overflows",
            "evaluate the schedule at this step; eps > 0; clip by global norm before the optimizer",
        )
    return Breakdown(
        "taken once more by itself that step stays finite, so that the layer is not known",
        "numbers at the edge of overflow, which another order of summation carries over it",
        "a smaller learning rate, clip_norm=, or a look at the flow of the steps before",
    )


def _explained(flow: Flow, kind: str, direction: str) -> tuple[str, str]:
    """Return the likely cause at a place, and what helps."""
    if kind == "leaf" and direction == "forward":
        return "parameters that held NaN or Inf before this step", "look at how they were initialized or loaded"
    if direction == "forward" and (peak := _peak(flow, forward=True)):
        return (
            f"growth, since weights or signals reach {peak:.1g}: a learning rate or an initial weight variance that is "
            "too large",
            "a smaller rate, warm-up, clip_norm=, or a look at the flow of the steps before",
        )
    if kind == "input":
        return f"preprocessing inside the loss: {_UNDEFINED}", "a floor under what is divided by or goes into log"
    if kind == "loss":
        return (
            f"the loss is undefined or overflows at finite outputs: {_UNDEFINED}, a mean over nothing (all masked)",
            "log_softmax or logsumexp in place of log and exp, a floor under what is divided by or goes into log",
        )
    if direction == "forward":
        return (
            f"an operation in or before it is undefined or overflows there: {_UNDEFINED}",
            "a floor or an epsilon in that operation; jax.debug_nans finds its line",
        )
    if peak := _peak(flow, forward=False):
        return (
            f"exploding gradients: dL/d(output) reaches {peak:.1g} on the way back",
            "a smaller initial weight variance, gates or normalization, shorter sequences; clipping comes too late",
        )
    return (
        "a derivative that is not finite where the value is: sqrt, norm, log, a power or a division at 0, also in the "
        "branch that jnp.where does not take (0 * inf)",
        "an epsilon inside the root, or jnp.where on the argument before the operation, too",
    )


def _peak(flow: Flow, *, forward: bool) -> float:
    """Return the largest rms, 0 where all are so small that no product of a few of them overflows."""
    found = 0.0
    for dtype, values in _sizes(flow, forward=forward):
        finite = np.asarray(values, np.float64)
        finite = finite[np.isfinite(finite)]
        if finite.size and finite.max() > float(jnp.finfo(dtype).max) ** 0.25:
            found = max(found, float(finite.max()))
    return found


def _sizes(flow: Flow, *, forward: bool) -> Iterator[tuple[Any, Any]]:
    for layer in flow.values():
        yield layer.dtype, layer.output_rms if forward else layer.output_grad_rms
        if forward and layer.kind != "input":
            yield layer.dtype, layer.weight_rms
    if forward:
        for leaf in flow.parameters.values():
            yield jnp.float32, leaf.rms


def _looked_at(
    loss_fn: LossFn, optimizer: optax.GradientTransformation, state: TrainState, window: Any
) -> tuple[Flow, dict[str, dict[str, jax.Array]]]:
    batch, key = draw(window, state), step_key(state)
    measure = value_grad_and_flow(loss_fn, has_aux=True, statistics=_STATISTICS, data_gradients=False)
    (_, (_, model_state)), grads, flow = measure(state.params, state.model_state, batch, key)
    updates, _ = optimizer.update(grads, state.opt_state, state.params)
    params = jax.tree.map(jnp.add, state.params, updates)
    trees = {"batch": batch, "model_state": model_state, "params": params}
    return flow, {what: _counts(tree) for what, tree in trees.items()}


def _counts(tree: Tree) -> dict[str, jax.Array]:
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): jnp.sum(~jnp.isfinite(leaf))
        for path, leaf in flat
        if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
    }
