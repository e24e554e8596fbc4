"""Moments of gradients inside a traced program, measured on the batch where theory has no description.

A value is handed on as two copies, one for the equations that are asked about and one for all others. On the way back
the moments of the two gradients that arrive leave the program as the gradient of an argument that nothing reads.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.extend import core
from jaxtyping import Array, Float

from gradflow.instrument import jaxprs
from gradflow.theory.tracing.abstract_values import Axes
from gradflow.theory.tracing.likeness import MOST_NODES
from gradflow.theory.tracing.measured_fields import between_examples, between_positions
from gradflow.theory.tracing.reruns import Moments, at_step, run_inside

__all__ = ["MeasuredCotangents", "Reading"]

Path: TypeAlias = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Reading:
    """A value in the program, and who reads it.

    Attributes:
        path: leads to an equation that makes or reads the value.
        operand: which operand the value is; None for an output.
        out: which output.
        readers: numbers of the equations, beside that one, whose gradient is asked for; none for all.
        axes: what its axes hold, where it is asked how alike the gradients of positions and of examples are.
        nodes: whether the second moments of every two examples are asked for.
        first: whether all other readings of the value are among the others.
    """

    path: Path
    operand: int | None
    out: int = 0
    readers: frozenset[int] = frozenset()
    axes: Axes = ()
    nodes: bool = False
    first: bool = False


class MeasuredCotangents:
    """What was asked for, and what was measured.

    Attributes:
        missing: asked for in vain.
        final: whether nothing more will be measured.
    """

    def __init__(self, *, final: bool = False) -> None:
        self.missing: set[Reading] = set()
        self.final = final
        self._found: dict[Reading, Moments] = {}

    def get(self, reading: Reading, steps: Sequence[int]) -> Moments | None:
        """Return mean squares and mean product of both gradients; None if not yet measured, or not finite.

        Args:
            reading: the value and its readers.
            steps: of the scans around it.
        """
        moments = self._found.get(reading)
        if moments is None:
            if not self.final:
                self.missing.add(reading)
            return None
        return at_step(moments, steps)

    def measure(self, closed: Any, args: Sequence[Any]) -> None:
        """Run the program backwards, and keep the moments of all that is missing; nothing where it does not run.

        Args:
            closed: the traced program, whose output is the loss.
            args: its inputs.
        """
        wanted, self.missing = [r for r in self.missing if _reachable(closed, r.path)], set()
        try:
            sinks = {reading: _sink(closed, reading) for reading in wanted}

            def loss(values: list[Any], xs: list[Any]) -> Any:
                return _walk(closed, xs, dict(zip(sinks, values, strict=True)), ())[0]

            with jax.debug_nans(False), jax.debug_infs(False), jax.numpy_dtype_promotion("standard"):
                found = jax.jit(jax.grad(loss))(list(sinks.values()), list(args))
        except Exception:  # what is not measured stays outside
            self.final = True
            return
        self._found.update(dict(zip(wanted, found, strict=True)))


def _equation(closed: Any, path: Path) -> tuple[core.JaxprEqn, list[core.JaxprEqn]]:
    """The equation at a path, and those around it."""
    around: list[core.JaxprEqn] = []
    eqn = jaxprs.opened(closed)[0].eqns[path[0]]
    for index in path[2::2]:
        around.append(eqn)
        eqn = jaxprs.opened(jaxprs.inner_jaxpr(eqn))[0].eqns[index]
    return eqn, around


def _reachable(closed: Any, path: Path) -> bool:
    """Whether no rule of the user's own for the derivative lies around a place; it would be lost."""
    return not any(eqn.primitive.name in jaxprs.CUSTOM_RULES for eqn in _equation(closed, path)[1])


def _sink(closed: Any, reading: Reading) -> Moments:
    """Zeros of the shape of what is measured, one for each step of the scans around it."""
    eqn, around = _equation(closed, reading.path)
    lengths = [e.params["length"] for e in around if e.primitive.name == "scan"]
    atom = eqn.outvars[reading.out] if reading.operand is None else eqn.invars[reading.operand]
    like = jax.ShapeDtypeStruct(jaxprs.shape_of(atom), jnp.float32)
    moments = jax.eval_shape(functools.partial(_moments, reading=reading), like, like)
    return jax.tree.map(lambda m: jnp.zeros((*lengths, *m.shape), jnp.float32), moments)


def _walk(closed: Any, args: Sequence[Any], sinks: Mapping[Reading, Any], path: Path) -> list[Any]:
    """Run a jaxpr, with the values that are asked about in two copies."""
    jaxpr, consts = jaxprs.opened(closed)
    depth = len(path)
    here = [(r, sink) for r, sink in sinks.items() if len(r.path) == depth + 1]
    asked: dict[Any, list[tuple[Reading, Any]]] = {}
    for reading, sink in sorted(here, key=lambda pair: (bool(pair[0].readers), not pair[0].first)):
        eqn = jaxpr.eqns[reading.path[depth]]
        atom = eqn.outvars[reading.out] if reading.operand is None else eqn.invars[reading.operand]
        asked.setdefault(atom, []).append((reading, sink))
    env: dict[Any, Any] = {}
    copies: dict[tuple[Any, int], Any] = {}  # what one equation reads of a value

    def define(var: Any, value: Any) -> None:
        for reading, sink in asked.get(var, ()):
            first, rest = _fork(value, sink, reading)
            copies.update({(var, index): first for index in reading.readers})
            value = rest if reading.readers else first
        env[var] = value

    for var, value in zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True):
        define(var, value)
    for index, eqn in enumerate(jaxpr.eqns):
        now = {v: copies.get((v, index), env[v]) for v in eqn.invars if jaxprs.is_var(v)}
        inside = {r: s for r, s in sinks.items() if len(r.path) > depth + 1 and r.path[: depth + 1] == (*path, index)}
        if inside:
            values = [now[v] if jaxprs.is_var(v) else jaxprs.literal_value(v) for v in eqn.invars]
            now.update(zip(eqn.outvars, _call(eqn, values, inside, (*path, index, 0)), strict=True))
        else:
            jaxprs.evaluate(jaxpr, [eqn], list(eqn.outvars), now)
        for var in eqn.outvars:
            define(var, now[var])
    return [env[v] if jaxprs.is_var(v) else jaxprs.literal_value(v) for v in jaxpr.outvars]


def _call(eqn: core.JaxprEqn, args: Sequence[Any], sinks: Mapping[Reading, Any], path: Path) -> Sequence[Any]:
    """Run a call, or a scan, with values inside that are asked about."""

    def walk(inner: Any, args: Sequence[Any], values: list[Any]) -> tuple[list[Any], None]:
        return _walk(inner, args, dict(zip(sinks, values, strict=True)), path), None

    return run_inside(eqn, args, walk, list(sinks.values()))[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _fork(x: Any, sink: Moments, reading: Reading) -> tuple[Any, Any]:
    """Two copies of a value."""
    return x, x


def _fork_forward(x: Any, sink: Moments, reading: Reading) -> tuple[tuple[Any, Any], None]:
    return (x, x), None


def _fork_backward(reading: Reading, _: None, cotangents: tuple[Any, Any]) -> tuple[Any, Moments]:
    first, rest = cotangents
    return first + rest, _moments(first, rest, reading)


_fork.defvjp(_fork_forward, _fork_backward)


def _moments(first: Float[Array, "..."], rest: Float[Array, "..."], reading: Reading) -> Moments:
    """Second moments of two gradients of one value, in units of the largest entry."""
    first, rest = (jnp.asarray(x, jnp.float32) for x in (first, rest))
    largest = jnp.maximum(jnp.max(jnp.abs(first)), jnp.max(jnp.abs(rest)))
    scale = jnp.where(largest > 0, largest, 1.0)
    first, rest = first / scale, rest / scale
    found: Moments = {
        "scale": scale,
        "square": jnp.mean(first**2),
        "cross": jnp.mean(first * rest),
        "rest": jnp.mean(rest**2),
    }
    if len(reading.axes) == first.ndim and "e" in reading.axes:
        found["positions"] = between_positions(first, reading.axes)
        found["examples"] = between_examples(first, reading.axes, found["positions"])
        if reading.nodes and first.ndim == 2 and max(first.shape) <= MOST_NODES:
            rows = first if reading.axes[0] == "e" else first.T
            found["nodes"] = rows @ rows.T / math.prod(rows.shape[1:])
    return found
