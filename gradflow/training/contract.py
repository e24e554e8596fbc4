"""What a loss function for training takes and returns, checked where it is first seen."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["checked", "validate_signature"]

_FORM = "loss(params, model_state, batch, key) -> (loss, (metrics, model_state))"


def validate_signature(loss_fn: Any, who: str) -> None:
    """Refuse a loss that cannot be called with four arguments.

    Args:
        loss_fn: to be checked.
        who: the function that was given it.

    Raises:
        TypeError: if it takes others.
    """
    if not callable(loss_fn):
        raise TypeError(
            f"{who}: expected {_FORM}, got {type(loss_fn).__name__}. Likely cause: the value of a loss or a setting "
            "in place of the function. Fix: training.classification(model), training.regression(model) or your own"
        )
    try:
        signature = inspect.signature(loss_fn)
    except (TypeError, ValueError):  # a built-in without one
        return
    if _takes(signature, 4):
        return
    name = getattr(loss_fn, "__name__", type(loss_fn).__name__)
    forms = {
        2: ("a loss of parameters and batch alone", f"({name}(params, batch), ({{}}, model_state))"),
        3: ("a loss without a key or without model_state", f"({name}(params, batch, key), ({{}}, model_state))"),
    }
    count = next((n for n in forms if _takes(signature, n)), None)
    cause, call = forms.get(count or 0, ("a model in place of a loss", "..."))
    fix = f"lambda params, model_state, batch, key: {call}"
    if count is None:
        fix = "training.classification(model), training.regression(model), or a function of that form"
    raise TypeError(f"{who}: expected {_FORM}, got {name}{signature}. Likely cause: {cause}. Fix: {fix}")


def checked(loss_fn: Any) -> Any:
    """Return the loss with a check of what it returns, made when it is traced.

    Args:
        loss_fn: as for `make_step`.
    """

    @functools.wraps(loss_fn)
    def loss(params: Any, model_state: Any, batch: Any, key: Any) -> Any:
        out = loss_fn(params, model_state, batch, key)
        _validate_output(out, model_state)
        return out

    return loss


def _takes(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True


def _validate_output(out: Any, model_state: Any) -> None:
    fix = "return loss, ({}, model_state)"
    if not isinstance(out, tuple) or len(out) != 2 or not isinstance(out[1], tuple) or len(out[1]) != 2:
        got = f"a tuple of {len(out)}" if isinstance(out, tuple) else type(out).__name__
        if isinstance(out, tuple) and len(out) == 2:
            got = f"(loss, {type(out[1]).__name__})"
        elif isinstance(out, jax.Array):
            got = f"an array of shape {out.shape}"
        raise TypeError(
            f"the loss: expected to return (loss, (metrics, model_state)), got {got}. "
            f"Likely cause: a loss of another form. Fix: {fix}"
        )
    loss, (metrics, new_state) = out
    if jnp.shape(loss) != () or not jnp.issubdtype(jnp.result_type(loss), jnp.floating):
        raise TypeError(
            "the loss: expected a floating-point scalar, got "
            f"{jnp.result_type(loss)} of shape {jnp.shape(loss)}. Likely cause: one loss for each example. "
            "Fix: return its mean"
        )
    if not isinstance(metrics, dict):
        raise TypeError(
            f"the loss: expected metrics to be a dict of Mean or scalars, got {type(metrics).__name__}. "
            f"Likely cause: metrics and model_state in another order. Fix: {fix}"
        )
    was: Any = jax.tree.structure(model_state)
    now: Any = jax.tree.structure(new_state)
    if was != now:
        raise TypeError(
            f"the loss: expected the new model_state to have the structure of the old one, {was}, got {now}. "
            f"Likely cause: only a part of it is returned, or None. Fix: {fix} where nothing changes"
        )
