"""One run of one program: its values, its cotangents, and what lies outside of it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from gradflow.diagnosis.nonfinite.entries import Index
from gradflow.diagnosis.nonfinite.programs import (
    Piece,
    Programs,
    evaluate,
    reaching,
    read,
    run_equation,
)
from gradflow.instrument import jaxprs

__all__ = ["Born", "End", "Frame", "Location", "Next", "Outside", "Target", "call_frame"]


class Location(NamedTuple):
    """An entry of a value, or of the cotangent of one.

    Attributes:
        frame: in which run.
        kind: "value", or "cotangent".
        atom: the variable, or for a value a literal.
        at: index of the entry.
    """

    frame: Frame
    kind: Literal["value", "cotangent"]
    atom: Any
    at: Index


class End(NamedTuple):
    """Where the search leaves the program: an input of the whole.

    Attributes:
        place: "input" or "constant".
        number: of the input or constant.
        value: of the array.
        at: index of the entry.
    """

    place: Literal["input", "constant"]
    number: int
    value: Any
    at: Index


class Born(NamedTuple):
    """An operation that makes something non-finite.

    Attributes:
        frame: the run in which it does.
        eqn: the operation.
        operands: values of its operands.
        value: of the output.
        at: index of the non-finite entry.
        note: what has to be said about it: "" for nothing.
    """

    frame: Frame
    eqn: Any
    operands: list[Any]
    value: Any
    at: Index
    note: str = ""


Target: TypeAlias = Location | End | Born


class Next(NamedTuple):
    """One step of the search.

    Attributes:
        targets: where to go on.
        born: the operation that made it if none of these leads to an origin; None if it only passes it on.
    """

    targets: list[Target]
    born: Born | None = None


class Outside(NamedTuple):
    """How a frame lies in what surrounds it.

    Attributes:
        enter: (number of an input, index) -> where its value comes from.
        leave: (number of an output, index) -> where its cotangent comes from.
        path: equations around it, the outermost first.
        steps: of the loops around it, the outermost first.
        rule: the equation whose derivative is run here, and the frame that it stands in; None on the way forward.
    """

    enter: Callable[[int, Index], Target]
    leave: Callable[[int, Index], Target]
    path: tuple[Any, ...] = ()
    steps: tuple[int, ...] = ()
    rule: tuple[Frame, Any] | None = None


class Frame:
    """A run of a program.

    Args:
        programs: what is known of all programs.
        closed: the program.
        args: its inputs.
        outside: what surrounds it.
        cotangents: of its outputs, None where none arrives.
        active: which inputs are differentiated.
        key: tells it from other frames.
    """

    def __init__(
        self,
        programs: Programs,
        closed: Any,
        args: Sequence[Any],
        outside: Outside,
        cotangents: Sequence[Any] = (),
        active: Sequence[bool] = (),
        key: tuple[Any, ...] = (),
    ) -> None:
        self.programs, self.args, self.outside, self.key = programs, list(args), outside, key
        self.jaxpr, self.consts = jaxprs.opened(closed)
        self.steps = programs.steps(self.jaxpr)
        self.seeds = list(cotangents)
        self.active = reaching(self.jaxpr, [v for v, a in zip(self.jaxpr.invars, active, strict=False) if a])
        self.inputs = {v: k for k, v in enumerate(self.jaxpr.invars)}
        self.constants = {v: k for k, v in enumerate(self.jaxpr.constvars)}
        self.makers = {v: number for number, step in enumerate(self.steps) for v in step.outvars}
        self.inside: tuple[Any, Any] = (None, None)  # the last frame below this one, so that it is not run again

    @functools.cached_property
    def values(self) -> dict[Any, Any]:
        """The value of every variable."""
        env = dict(zip(self.jaxpr.constvars, self.consts, strict=True))
        env.update(zip(self.jaxpr.invars, self.args, strict=True))
        for step in self.steps:
            if isinstance(step, Piece):
                env.update(zip(step.outvars, evaluate(step.jaxpr, (), self.operands(step, env)), strict=True))
            else:
                run_equation(self.jaxpr, step, env)
        return env

    @functools.cached_property
    def contributions(self) -> dict[Any, list[tuple[Any, Any]]]:
        """What each differentiated variable's cotangent is the sum of: (source, array).

        A source is ("out", number of an output), or the numbers of a step and of its operand.
        """
        sums: dict[Any, list[tuple[Any, Any]]] = {}
        for q, (v, seed) in enumerate(zip(self.jaxpr.outvars, self.seeds, strict=True)):
            if seed is not None and jaxprs.is_var(v) and v in self.active:
                sums.setdefault(v, []).append((("out", q), seed))
        for number in reversed(range(len(self.steps))):
            step = self.steps[number]
            cotangents = [_total(sums.get(v, [])) for v in step.outvars]
            wanted = [k for k, v in enumerate(step.invars) if jaxprs.is_var(v) and v in self.active]
            if not wanted or all(c is None for c in cotangents):
                continue
            for k, array in self.transposed(number, cotangents, wanted).items():
                sums.setdefault(step.invars[k], []).append(((number, k), array))
        return sums

    def cotangent(self, v: Any) -> Any:
        """Return the cotangent of a variable, None where none arrives.

        Args:
            v: the variable.
        """
        return _total(self.contributions.get(v, [])) if jaxprs.is_var(v) else None

    def at(self, location: Location) -> Any:
        """Return the array that a location points into.

        Args:
            location: in this frame.
        """
        return read(location.atom, self.values) if location.kind == "value" else self.cotangent(location.atom)

    def operands(self, step: Any, env: dict[Any, Any] | None = None) -> list[Any]:
        """Return values of the operands of a step.

        Args:
            step: an equation or a piece.
            env: values, by default those of this frame.
        """
        return [read(v, self.values if env is None else env) for v in step.invars]

    def transposed(self, number: int, cotangents: Sequence[Any], wanted: Sequence[int]) -> dict[int, Any]:
        """Return cotangents of the operands of a step.

        Args:
            number: of the step.
            cotangents: of its outputs, None where none arrives.
            wanted: numbers of the differentiated operands.
        """
        step = self.steps[number]
        if isinstance(step, Piece):
            inner = call_frame(self, number, cotangents)
            found = {k: inner.cotangent(inner.jaxpr.invars[k]) for k in wanted}
            return {k: c for k, c in found.items() if c is not None}
        if step.primitive.name == "while":  # it has no reverse mode, so that nothing differentiable goes through it
            return {}
        live = tuple(q for q, c in enumerate(cotangents) if c is not None)
        derivative = self.programs.derivative(self.jaxpr, step, live, tuple(wanted))
        jaxpr, consts = jaxprs.opened(derivative.closed)
        outs = evaluate(jaxpr, consts, [*self.rule_operands(step), *(cotangents[q] for q in live)])
        return dict(zip(derivative.wanted, outs, strict=True))

    def rule_operands(self, step: Any) -> list[Any]:
        """Return values of the distinct variables that a step reads.

        Args:
            step: an equation.
        """
        return [self.values[v] for v in dict.fromkeys(v for v in step.invars if jaxprs.is_var(v))]

    def outside_of(self, step: Any, rule: tuple[Frame, Any] | None = None) -> Outside:
        """Return how the program inside a step lies in this frame: operand by operand, output by output.

        Args:
            step: an equation or a piece.
            rule: as `Outside.rule`.
        """

        def enter(position: int, index: Index) -> Target:
            return Location(self, "value", step.invars[position], index)

        def leave(position: int, index: Index) -> Target:
            return Location(self, "cotangent", step.outvars[position], index)

        path = self.outside.path if isinstance(step, Piece) else (*self.outside.path, step)
        return Outside(enter, leave, path, self.outside.steps, rule or self.outside.rule)


def call_frame(frame: Frame, number: int, cotangents: Sequence[Any] = ()) -> Frame:
    """Return the run of the program inside a call or a piece.

    Args:
        frame: that it stands in.
        number: of the step.
        cotangents: of its outputs, None where none arrives; empty on the way forward.
    """
    step = frame.steps[number]
    if not cotangents and frame.inside[0] == number:
        return frame.inside[1]
    closed = step.jaxpr if isinstance(step, Piece) else jaxprs.inner_jaxpr(step)
    active = [jaxprs.is_var(v) and v in frame.active for v in step.invars] if cotangents else ()
    key = (*frame.key, number, bool(cotangents))
    inner = Frame(frame.programs, closed, frame.operands(step), frame.outside_of(step), cotangents, active, key)
    if not cotangents:
        frame.inside = number, inner
    return inner


def _total(parts: Sequence[tuple[Any, Any]]) -> Any:
    """Add up cotangents in the order in which they arrive."""
    arrays = [array for _, array in parts]
    return functools.reduce(lambda a, b: a + b, arrays) if arrays else None
