"""Moments of values inside a traced program, measured on the batch where theory has no description.

The walk asks for what it needs. The program is then run once, up to the last place asked for, and the walk is repeated
with the numbers. Only moments leave the program, no activation does.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Array, Float

from gradflow.instrument import jaxprs
from gradflow.theory.tracing.abstract_values import Axes
from gradflow.theory.tracing.reruns import Moments, at_step, run_inside

__all__ = ["MeasuredFields", "Request", "between_examples", "between_positions"]


@dataclasses.dataclass(frozen=True)
class Request:
    """A place in the program, and what to measure there.

    Attributes:
        path: leads to the equation.
        operand: which operand; None for the first output.
        axes: what its axes hold.
        with_output: whether to measure the output, and how the operand goes with it, too.
    """

    path: tuple[int, ...]
    operand: int | None
    axes: Axes
    with_output: bool = False


class MeasuredFields:
    """What was asked for, and what was measured.

    Attributes:
        missing: asked for in vain, by path.
        final: whether nothing more will be measured.
    """

    def __init__(self, *, final: bool = False) -> None:
        self.missing: dict[tuple[int, ...], Request] = {}
        self.final = final
        self._found: dict[Request, Moments] = {}

    def get(self, request: Request, steps: Sequence[int]) -> Moments | None:
        """Return the moments at a place, None if they have not been measured yet, or are not finite.

        Args:
            request: the place.
            steps: of the scans around it.
        """
        moments = self._found.get(request)
        if moments is None:
            if not self.final:
                self.missing[request.path] = request
            return None
        return at_step(moments, steps)

    def measure(self, closed: Any, args: Sequence[Any]) -> None:
        """Run the program, and keep the moments of all that is missing; where it does not run, nothing is measured.

        Args:
            closed: the traced program.
            args: its inputs.
        """
        wanted, self.missing = self.missing, {}
        try:
            with jax.debug_nans(False), jax.debug_infs(False), jax.numpy_dtype_promotion("standard"):
                found = jax.jit(lambda xs: _walk(closed, xs, wanted, ())[1])(list(args))
        except Exception:  # the layers behind start anew, as they do without it
            self.final = True
            return
        self._found.update({wanted[path]: moments for path, moments in found.items()})


def _walk(
    closed: Any, args: Sequence[Any], wanted: Mapping[tuple[int, ...], Request], path: tuple[int, ...]
) -> tuple[list[Any], dict[tuple[int, ...], Moments]]:
    """Run a jaxpr; return its outputs, and the moments of the places in it."""
    jaxpr, consts = jaxprs.opened(closed)
    env: dict[Any, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
    found: dict[tuple[int, ...], Moments] = {}

    def read(atom: Any) -> Any:
        return env[atom] if jaxprs.is_var(atom) else jaxprs.literal_value(atom)

    for index, eqn in enumerate(jaxpr.eqns):
        here = (*path, index)
        inside = {p: r for p, r in wanted.items() if p[: len(here)] == here}
        if inside and here not in inside:
            outs, below = _call(eqn, [read(v) for v in eqn.invars], inside, (*here, 0))
            env.update(zip(eqn.outvars, outs, strict=True))
            found |= below
            continue
        jaxprs.evaluate(jaxpr, [eqn], list(eqn.outvars), env)
        if inside:
            request = inside[here]
            value = read(eqn.outvars[0] if request.operand is None else eqn.invars[request.operand])
            found[here] = _moments(value, read(eqn.outvars[0]) if request.with_output else None, request.axes)
    return [read(v) for v in jaxpr.outvars], found


def _call(
    eqn: core.JaxprEqn, args: Sequence[Any], wanted: Mapping[tuple[int, ...], Request], path: tuple[int, ...]
) -> tuple[Sequence[Any], dict[tuple[int, ...], Moments]]:
    """Run a call, or a scan, with places inside."""
    return run_inside(eqn, args, lambda inner, args, _: _walk(inner, args, wanted, path))


def _moments(value: Any, output: Any, axes: Axes) -> Moments:
    """Moments of a value and, if there is one, of the output that it goes into, in units of the largest entry."""
    values = [jnp.asarray(x, jnp.float32) for x in (value, output) if x is not None]
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(x)) for x in values]))
    scale = jnp.where(largest > 0, largest, 1.0)
    values = [x / scale for x in values]
    found: Moments = {"scale": scale}
    for name, x in zip(("operand", "output"), values, strict=False):
        mean = x.mean()
        found[f"{name} mean"] = mean * mean * jnp.sign(mean)  # every entry is a square, so that one scale fits all
        found[f"{name} square"] = jnp.mean(x * x)
        found[f"{name} shared"] = _between_examples(x - mean, axes)
        found[f"{name} positions"] = between_positions(x - mean, axes)
    if output is not None:
        first, second = (x - x.mean() for x in values)
        found["covariance"] = jnp.mean(first * second)
        found["unevenness"] = _unevenness(values[1], axes)
    return found


def _between_examples(x: Float[Array, "..."], axes: Axes) -> Float[Array, ""]:
    """Covariance over units between two examples, all positions taken as examples."""
    examples = tuple(k for k, axis in enumerate(axes) if axis != "u")
    count = math.prod(x.shape[k] for k in examples)
    # The mean over examples keeps 1/count of what they do not share.
    return (count * jnp.mean(x.mean(examples) ** 2) - jnp.mean(x * x)) / max(count - 1, 1)


def between_positions(x: Float[Array, "..."], axes: Axes) -> Float[Array, "*distances"]:
    """Covariance over units between two positions of one example, by distance."""
    units = [k for k, axis in enumerate(axes) if axis == "u"]
    examples = [k for k, axis in enumerate(axes) if axis != "u"]
    sizes = [x.shape[k] for k in examples[1:]]
    if not sizes:
        return jnp.mean(x * x)
    x = jnp.transpose(x, (*examples, *units)).reshape(x.shape[examples[0]], *sizes, -1)
    padded, over = [2 * n for n in sizes], tuple(range(len(sizes)))

    def power(example: Any) -> Any:
        return jnp.sum(jnp.abs(jnp.fft.rfftn(example, padded, over)) ** 2, -1)

    sums = jnp.fft.irfftn(jax.lax.map(power, x).sum(0), padded, over)
    for axis, n in enumerate(sizes):
        back = (-np.arange(n)) % (2 * n)
        sums = (jnp.take(sums, np.arange(n), axis) + jnp.take(sums, back, axis)) / 2
        pairs = np.arange(n, 0, -1, dtype=np.float32)
        sums = sums / pairs.reshape([-1 if k == axis else 1 for k in range(len(sizes))])
    return sums / (x.shape[0] * x.shape[-1])


def between_examples(x: Float[Array, "..."], axes: Axes, own: Float[Array, "*distances"]) -> Float[Array, "*distances"]:
    """Second moment over units between positions of two different examples, by distance; `own` is that of one."""
    axis = next(k for k, what in enumerate(axes) if what != "u")
    count = x.shape[axis]
    mean = between_positions(x.mean(axis, keepdims=True), axes)  # of which each example's own part is 1/count
    return (count * mean - own) / max(count - 1, 1)


def _unevenness(x: Float[Array, "..."], axes: Axes) -> Float[Array, ""]:
    """Relative variance over examples of the mean square over units, less what the number of units brings about."""
    units = tuple(k for k, axis in enumerate(axes) if axis == "u")
    squares = jnp.mean(x * x, units)
    whole = jnp.maximum(squares.mean(), 1e-30)
    chance = 2 / max(math.prod(x.shape[k] for k in units), 1)
    return jnp.maximum(squares.var() / whole**2 - chance, 0.0)
