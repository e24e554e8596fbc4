"""Pieces of a traced program: run one equation, transpose one, cut a long program into short ones."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from gradflow.instrument import jaxprs

__all__ = ["CALLS", "Derivative", "Piece", "Programs", "evaluate", "is_step_of_call", "reaching", "read", "struct"]

_SHORT = 48  # equations that are kept as they are; of longer programs only values at cuts are held
# Equations whose inner program has the operands and the outputs of the equation, and is differentiated as it stands.
CALLS = jaxprs.INLINED | jaxprs.REMAT


@dataclasses.dataclass(frozen=True, eq=False)
class Piece:
    """Consecutive equations in place of one.

    Attributes:
        jaxpr: of these equations alone.
        invars: what they read.
        outvars: what is read behind them.
    """

    jaxpr: core.Jaxpr
    invars: list[Any]
    outvars: list[Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Derivative:
    """The transposed derivative of an equation as a program: (operands, cotangents) -> cotangents of operands.

    Attributes:
        closed: the program; its inputs are the operands that are variables, then the cotangents of `live`.
        live: numbers of the outputs with a cotangent.
        wanted: numbers of the operands whose cotangent it returns.
    """

    closed: Any
    live: tuple[int, ...]
    wanted: tuple[int, ...]


def read(atom: Any, env: dict[Any, Any]) -> Any:
    """Return the value of a variable or literal.

    Args:
        atom: the variable or literal.
        env: values of variables.
    """
    return env[atom] if jaxprs.is_var(atom) else jaxprs.literal_value(atom)


def struct(atom: Any) -> jax.ShapeDtypeStruct:
    """Return shape and type of a variable.

    Args:
        atom: the variable.
    """
    return jax.ShapeDtypeStruct(atom.aval.shape, atom.aval.dtype)


def is_step_of_call(step: Any) -> bool:
    """Tell whether a step is a piece, or an equation that stands for the program inside it.

    Args:
        step: an equation or a piece.
    """
    return isinstance(step, Piece) or step.primitive.name in CALLS


def reaching(jaxpr: core.Jaxpr, starts: Sequence[Any]) -> set[Any]:
    """Return all variables of floating-point type that depend on some of them through a derivative.

    Args:
        jaxpr: the program, whose inner programs are not looked into.
        starts: variables to start from.
    """
    found = set(starts)
    for eqn in jaxpr.eqns:
        if eqn.primitive.name != "stop_gradient" and any(jaxprs.is_var(v) and v in found for v in eqn.invars):
            found.update(v for v in eqn.outvars if jaxprs.is_inexact(v))
    return found


def evaluate(jaxpr: core.Jaxpr, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    """Run a program equation by equation, and drop each value behind its last use.

    Args:
        jaxpr: the program.
        consts: its constants.
        args: its inputs.
    """
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
    last = {v: number for number, eqn in enumerate(jaxpr.eqns) for v in eqn.invars if jaxprs.is_var(v)}
    kept = {v for v in jaxpr.outvars if jaxprs.is_var(v)}
    for number, eqn in enumerate(jaxpr.eqns):
        run_equation(jaxpr, eqn, env)
        for v in [*eqn.invars, *eqn.outvars]:
            if jaxprs.is_var(v) and v not in kept and last.get(v, -1) <= number:
                env.pop(v, None)  # type: ignore[arg-type]
    return [read(v, env) for v in jaxpr.outvars]


def run_equation(jaxpr: core.Jaxpr, eqn: core.JaxprEqn, env: dict[Any, Any]) -> None:
    """Run one equation, unless nobody reads what it gives (prints and checks among these).

    Args:
        jaxpr: the program that it stands in.
        eqn: the equation.
        env: values of variables, to which its outputs are added.
    """
    outs = [v for v in eqn.outvars if not isinstance(v, core.DropVar)]
    if outs:
        jaxprs.evaluate(jaxpr, [eqn], outs, env)


class Programs:
    """What is worked out once for each program and equation, however often it runs."""

    def __init__(self) -> None:
        self._steps: dict[int, tuple[Any, list[Any]]] = {}
        self._derivatives: dict[Any, tuple[Any, Derivative]] = {}
        self._compiled: dict[int, tuple[Any, Any]] = {}

    def steps(self, jaxpr: core.Jaxpr) -> list[Any]:
        """Return the equations of a program, or of a long one pieces.

        Args:
            jaxpr: the program.
        """
        if id(jaxpr) not in self._steps:
            count = len(jaxpr.eqns)
            size = 1 if count <= _SHORT else math.isqrt(count - 1) + 1
            steps = list(jaxpr.eqns) if size == 1 else _cut(jaxpr, size)
            self._steps[id(jaxpr)] = jaxpr, steps
        return self._steps[id(jaxpr)][1]

    def compiled(self, closed: Any) -> Any:
        """Return a program as a compiled function, for the steps of a loop.

        Args:
            closed: the program.
        """
        if id(closed) not in self._compiled:
            self._compiled[id(closed)] = closed, jax.jit(core.jaxpr_as_fun(closed))
        return self._compiled[id(closed)][1]

    def derivative(self, jaxpr: core.Jaxpr, eqn: Any, live: tuple[int, ...], wanted: tuple[int, ...]) -> Derivative:
        """Return the transposed derivative of an equation.

        Args:
            jaxpr: the program that it stands in.
            eqn: the equation.
            live: numbers of the outputs with a cotangent.
            wanted: numbers of the operands that ask for one.
        """
        key = _signature(eqn), live, wanted
        if key not in self._derivatives:
            self._derivatives[key] = eqn, _derivative(jaxpr, eqn, live, wanted)
        return self._derivatives[key][1]

    def body_derivative(self, closed: Any, live: tuple[int, ...], wanted: tuple[int, ...]) -> Any:
        """Return the transposed derivative of a loop's body as a compiled function (inputs, cotangents) -> cotangents.

        Args:
            closed: the body.
            live: numbers of the outputs with a cotangent.
            wanted: numbers of the inputs that ask for one.
        """
        key = id(closed), live, wanted
        if key not in self._derivatives:
            run = core.jaxpr_as_fun(closed)

            def transposed(ins: Sequence[Any], cotangents: Sequence[Any]) -> Any:
                def active(*some: Any) -> list[Any]:
                    both = dict(zip(wanted, some, strict=True))
                    outs = run(*(both.get(k, x) for k, x in enumerate(ins)))
                    return [outs[q] for q in live]

                return jax.vjp(active, *(ins[k] for k in wanted))[1](list(cotangents))

            self._derivatives[key] = closed, jax.jit(transposed)  # type: ignore[assignment]
        return self._derivatives[key][1]


def _signature(eqn: Any) -> Any:
    """Return what the derivative of an equation depends on; of one with a program inside, the equation itself."""
    params = tuple(sorted(eqn.params.items()))
    try:
        hash(params)
    except TypeError:
        return id(eqn)
    if jaxprs.subjaxprs(eqn) or eqn.primitive.name in jaxprs.CUSTOM_RULES:
        return id(eqn)
    numbers: dict[Any, int] = {}
    operands = tuple(
        (numbers.setdefault(v, len(numbers)), str(v.aval), v in numbers) if jaxprs.is_var(v) else repr(v)
        for v in eqn.invars
    )
    return eqn.primitive.name, params, operands


def _cut(jaxpr: core.Jaxpr, size: int) -> list[Any]:
    """Cut a program into pieces of equal length."""
    wanted = {v for v in jaxpr.outvars if jaxprs.is_var(v)}
    pieces: list[Any] = []
    for start in reversed(range(0, len(jaxpr.eqns), size)):
        eqns = jaxpr.eqns[start : start + size]
        made = [v for eqn in eqns for v in eqn.outvars]
        outs = [v for v in made if v in wanted]
        inside = set(made)
        read_here: dict[Any, None] = {v: None for eqn in eqns for v in eqn.invars if jaxprs.is_var(v)}
        used = [v for v in read_here if v not in inside]
        wanted.update(used)
        info = jaxpr.debug_info._replace(arg_names=None, result_paths=None)
        pieces.append(Piece(core.Jaxpr((), used, outs, list(eqns), debug_info=info), used, outs))
    return pieces[::-1]


def _derivative(jaxpr: core.Jaxpr, eqn: Any, live: tuple[int, ...], wanted: tuple[int, ...]) -> Derivative:
    variables = list(dict.fromkeys(v for v in eqn.invars if jaxprs.is_var(v)))
    first = {v: k for k, v in reversed(list(enumerate(eqn.invars))) if jaxprs.is_var(v)}
    active = [v for v in variables if first[v] in wanted]
    outs = [eqn.outvars[q] for q in live]

    def transposed(ins: Sequence[Any], cotangents: Sequence[Any]) -> Any:
        env = dict(zip(variables, ins, strict=True))

        def run(*some: Any) -> list[Any]:
            inside = env | dict(zip(active, some, strict=True))
            jaxprs.evaluate(jaxpr, [eqn], outs, inside)
            return [inside[v] for v in outs]

        return jax.vjp(run, *(env[v] for v in active))[1](list(cotangents))

    closed = jax.make_jaxpr(transposed)([struct(v) for v in variables], [struct(v) for v in outs])
    program = closed.jaxpr
    reached = _dependent(program, program.invars[len(variables) :])
    kept = [k for k, v in enumerate(program.outvars) if jaxprs.is_var(v) and v in reached]
    info = program.debug_info._replace(arg_names=None, result_paths=None)
    outputs: list[Any] = [program.outvars[k] for k in kept]
    program = core.Jaxpr(program.constvars, program.invars, outputs, program.eqns, debug_info=info)
    closed = core.ClosedJaxpr(program, closed.consts)
    return Derivative(closed, live, tuple(first[active[k]] for k in kept))


def _dependent(jaxpr: core.Jaxpr, starts: Sequence[Any]) -> set[Any]:
    """Return all variables that depend on some: what depends on no cotangent is a 0 that JAX never multiplies."""
    found = set(starts)
    for eqn in jaxpr.eqns:
        if any(jaxprs.is_var(v) and v in found for v in eqn.invars):
            found.update(eqn.outvars)
    return found


def zeros(atom: Any) -> jax.Array:
    """Return a cotangent of 0.

    Args:
        atom: the variable whose cotangent it is.
    """
    return jnp.zeros(atom.aval.shape, atom.aval.dtype)
