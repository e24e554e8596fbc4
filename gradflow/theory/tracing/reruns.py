"""What the measurements on the batch share: running a call or a scan again, and reading the moments that leave it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.extend import core

from gradflow.instrument import jaxprs

__all__ = ["Moments", "at_step", "run_inside"]

Moments: TypeAlias = dict[str, Any]
# (jaxpr, its inputs, what is handed to this step) -> outputs, and what is found
Walk: TypeAlias = Callable[[Any, Sequence[Any], Any], tuple[Sequence[Any], Any]]


def at_step(moments: Moments, steps: Sequence[int]) -> Moments | None:
    """Return moments at one step of the scans around a place, in float64; None if they are not finite.

    Args:
        moments: in units of the square of "scale", but for "unevenness", which has no unit.
        steps: of the scans around it.
    """
    now = {name: np.asarray(value, np.float64)[tuple(steps)] for name, value in moments.items()}
    if not all(np.isfinite(value).all() for value in now.values()):
        return None
    scale = now.pop("scale") ** 2
    return {name: value if name == "unevenness" else value * scale for name, value in now.items()}


def run_inside(eqn: core.JaxprEqn, args: Sequence[Any], walk: Walk, given: Any = None) -> tuple[Sequence[Any], Any]:
    """Run a call or a scan by a walk of one's own through what is inside.

    Args:
        eqn: the equation.
        args: its inputs.
        walk: runs what is inside, once or at every step.
        given: what the walk is handed; stacked over the steps of a scan.

    Returns:
        The outputs, and what the walk found, stacked likewise.
    """
    inner = jaxprs.inner_jaxpr(eqn)
    if eqn.primitive.name != "scan":
        return walk(inner, args[: len(jaxprs.opened(inner)[0].invars)], given)
    count, carries = jaxprs.scan_arity(eqn)
    constants, carry, rows = args[:count], args[count : count + carries], args[count + carries :]

    def body(carry: Any, now: Any) -> Any:
        rows, given = now
        outs, found = walk(inner, [*constants, *carry, *rows], given)
        return outs[:carries], (outs[carries:], found)

    params = eqn.params
    stacked = (list(rows), given)
    last, (outs, found) = jax.lax.scan(body, list(carry), stacked, params["length"], reverse=params["reverse"])
    return [*last, *outs], found
