"""Where a training step went non-finite: that step once more, through the instrument."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from gradflow.instrument import value_grad_and_flow
from gradflow.instrument.errors import FlowError
from gradflow.monitor import first_nonfinite
from gradflow.training.step import LossFn, TrainState, Tree, draw, step_key

if TYPE_CHECKING:
    import optax


def locate(loss_fn: LossFn, optimizer: optax.GradientTransformation, state: TrainState, window: Any) -> str:
    """Take the step from a good state once more and say in words where it first went non-finite.

    In the order of computation: the batch, layers forward, the loss, layers backward, gradients, running averages, the
    update.

    Args:
        loss_fn: as for `make_step`.
        optimizer: as for `make_step`.
        state: before that step.
        window: holds its batch.
    """
    flow, bad = jax.jit(_looked_at, static_argnums=(0, 1))(loss_fn, optimizer, state, window)
    bad = {what: [path for path, n in counts.items() if n] for what, counts in jax.device_get(bad).items()}
    place = None if flow is None else first_nonfinite(flow)
    if bad["batch"]:
        return "the batch itself holds NaN or Inf, before any layer"
    if place is not None and place.direction == "forward":
        return f"forward, the output of layer {place.layer} is the first to hold NaN or Inf"
    if bad["loss"]:
        return "forward, in the loss, behind the last layer"
    if place is not None:
        return f"backward, the gradient at the output of layer {place.layer} is the first to hold NaN or Inf"
    for what, words in (
        ("gradient", "backward, in the gradient of {}"),
        ("model_state", "in the running average {}"),
        ("params", "in the optimizer's update of {}; the gradient was finite"),
    ):
        if bad[what]:
            return words.format(", ".join(bad[what][:3]))
    return "taken once more by itself that step stays finite, so that the layer is not known"


def _looked_at(
    loss_fn: LossFn, optimizer: optax.GradientTransformation, state: TrainState, window: Any
) -> tuple[Any, dict[str, dict[str, jax.Array]]]:
    batch, key = draw(window, state), step_key(state)
    flow = None
    try:
        measure = value_grad_and_flow(loss_fn, has_aux=True, statistics="nonfinite", data_gradients=False)
        (loss, (_, model_state)), grads, flow = measure(state.params, state.model_state, batch, key)
    except FlowError:  # a model without layers in the instrument's sense
        plain = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, (_, model_state)), grads = plain(state.params, state.model_state, batch, key)
    updates, _ = optimizer.update(grads, state.opt_state, state.params)
    params = jax.tree.map(jnp.add, state.params, updates)
    trees = {"batch": batch, "loss": loss, "gradient": grads, "model_state": model_state, "params": params}
    return flow, {what: _counts(tree) for what, tree in trees.items()}


def _counts(tree: Tree) -> dict[str, jax.Array]:
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): jnp.sum(~jnp.isfinite(leaf))
        for path, leaf in flat
        if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
    }
