"""The locator of non-finite values."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow.diagnosis.nonfinite.description import Call, describe
from gradflow.diagnosis.nonfinite.entries import Index, host
from gradflow.diagnosis.nonfinite.frames import End, Frame, Location, Outside, Target
from gradflow.diagnosis.nonfinite.origin import Origin
from gradflow.diagnosis.nonfinite.programs import Programs
from gradflow.diagnosis.nonfinite.search import origin_of
from gradflow.instrument import jaxprs
from gradflow.instrument.arguments import trace

__all__ = ["find_nonfinite"]


def find_nonfinite(
    loss_fn: Callable[..., Any], params: Any, *args: Any, argnums: Any = 0, has_aux: bool = False, **kwargs: Any
) -> Origin | None:
    """Return where NaN or Inf began in a loss or its gradients, None if all of them are finite.

    The loss and its gradient are run operation by operation, outside of any training step. From a non-finite entry of
    the result the search goes back, entry by entry, to the first operation that makes a non-finite number of finite
    ones. Infinities that stand in the program (masks, initial minima) are taken for meant.

    Args:
        loss_fn: the loss, as for `jax.value_and_grad`; a scalar, or (scalar, aux) with `has_aux`.
        params: its first argument.
        *args: its other positional arguments.
        argnums: which arguments are differentiated.
        has_aux: whether it returns a pair.
        **kwargs: passed on.

    Returns:
        The operation with direction, line, layer, operands and what mends it. A non-finite number that a mask keeps
        out of loss and gradients is none.

    Raises:
        FlowError: inside `jit`, `vmap` or `grad`, or for a loss that `value_grad_and_flow` refuses.

    Examples:
        >>> import jax.numpy as jnp
        >>> origin = find_nonfinite(lambda w: jnp.sum(jnp.sqrt(w)), jnp.array([1.0, 0.0]))
        >>> origin.operation, origin.direction, origin.index
        ('sqrt at 0', 'backward', (1,))
        >>> find_nonfinite(lambda w: jnp.sum(jnp.sqrt(w)), jnp.array([1.0, 2.0])) is None
        True
    """
    everything = (params, *args)
    with (
        jax.debug_nans(False),
        jax.debug_infs(False),
        trace(loss_fn, argnums, has_aux, everything, kwargs) as traced,
    ):
        traced.require_numbers(
            "gf.find_nonfinite", "call it outside, with the params and the batch of the step that went wrong"
        )
        call = Call(tuple("/".join(path) for path in traced.paths), everything, kwargs, _names(loss_fn))
        return _found(traced.jaxpr, [jnp.asarray(leaf) for leaf in traced.leaves], call)


def _names(loss_fn: Any) -> tuple[str, ...]:
    """Return the names of the positional arguments, as far as they are known."""
    try:
        parameters = inspect.signature(loss_fn).parameters.values()
    except (TypeError, ValueError):
        return ()
    return tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))


def _found(closed: Any, leaves: list[Any], call: Call) -> Origin | None:
    def enter(position: int, index: Index) -> Target:
        return End("input", position, leaves[position], index)

    def leave(position: int, index: Index) -> Target:
        raise LookupError(f"the cotangent of output {position} is given")

    outvars = jaxprs.opened(closed)[0].outvars
    loss: Any = outvars[0]
    seeds = [jnp.ones((), loss.aval.dtype), *(None for _ in outvars[1:])]
    frame = Frame(Programs(), closed, leaves, Outside(enter, leave), seeds, [True] * len(leaves))
    start = Location(frame, "value", loss, ())
    if not np.isfinite(host(frame.at(start))):
        return describe(origin_of(start), call, "forward")
    for v in frame.jaxpr.invars:
        gradient = frame.cotangent(v)
        if gradient is not None and not np.isfinite(host(gradient)).all():
            index = tuple(map(int, np.argwhere(~np.isfinite(host(gradient)))[0]))
            return describe(origin_of(Location(frame, "cotangent", v, index)), call, "backward")
    return None
