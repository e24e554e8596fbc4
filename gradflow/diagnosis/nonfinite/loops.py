"""Loops, step by step: `scan` forward and backward, `while` forward. Only some of the states are held."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from gradflow.diagnosis.nonfinite.entries import Index, is_bad
from gradflow.diagnosis.nonfinite.frames import Born, Frame, Location, Outside, Target
from gradflow.diagnosis.nonfinite.programs import zeros
from gradflow.instrument import jaxprs

__all__ = ["Scan", "States", "While"]

_BETWEEN = 32  # steps between two states that are held


class States:
    """States of a loop by number; few are held, the others are computed again from the last one before.

    Args:
        first: the state before step 0.
        advance: (state, step) -> the next state.
    """

    def __init__(self, first: Any, advance: Callable[[Any, int], Any]) -> None:
        self._held = [first]
        self._advance = advance
        self._block: tuple[int, list[Any]] = (0, [first])

    def __getitem__(self, number: int) -> Any:
        """Return the state before a step."""
        block, offset = divmod(number, _BETWEEN)
        while len(self._held) <= block:
            start = (len(self._held) - 1) * _BETWEEN
            state = self._held[-1]
            for step in range(start, start + _BETWEEN):
                state = self._advance(state, step)
            self._held.append(state)
        if self._block[0] != block or not self._block[1]:
            self._block = block, [self._held[block]]
        states = self._block[1]
        while len(states) <= offset:
            states.append(self._advance(states[-1], block * _BETWEEN + len(states) - 1))
        return states[offset]


class Scan:
    """A scan inside a frame.

    Args:
        frame: that it stands in.
        number: of its step there.
    """

    def __init__(self, frame: Frame, number: int) -> None:
        self.frame, self.number, self.eqn = frame, number, frame.steps[number]
        self.closed = jaxprs.inner_jaxpr(self.eqn)
        self.body, _ = jaxprs.opened(self.closed)
        self.length, self.reverse = int(self.eqn.params["length"]), bool(self.eqn.params["reverse"])
        self.fixed, self.carried = jaxprs.scan_arity(self.eqn)
        self.operands = frame.operands(self.eqn)
        run = frame.programs.compiled(self.closed)
        self.carries = States(
            self.operands[self.fixed : self.fixed + self.carried],
            lambda state, s: run(*self.inputs(state, s))[: self.carried],
        )

    def row(self, s: int) -> int:
        """Return the row of the scanned arrays that the s-th executed step reads.

        Args:
            s: number of the step in the order of execution.
        """
        return self.length - 1 - s if self.reverse else s

    def inputs(self, carry: Sequence[Any], s: int) -> list[Any]:
        """Return what the body is called with.

        Args:
            carry: before the step.
            s: number of the step in the order of execution.
        """
        rows = [x[self.row(s)] for x in self.operands[self.fixed + self.carried :]]
        return [*self.operands[: self.fixed], *carry, *rows]

    def frame_of(self, s: int, cotangents: Sequence[Any] | None = None) -> Frame:
        """Return the run of the body at a step.

        Args:
            s: number of the step in the order of execution.
            cotangents: of the body's outputs, None on the way forward.
        """
        around = self.frame.outside

        def enter(position: int, index: Index) -> Target:
            if self.fixed <= position < self.fixed + self.carried and s > 0:
                return Location(self.frame_of(s - 1), "value", self.body.outvars[position - self.fixed], index)
            full = (self.row(s), *index) if position >= self.fixed + self.carried else index
            return Location(self.frame, "value", self.eqn.invars[position], full)

        def leave(position: int, index: Index) -> Target:
            if position < self.carried and s < self.length - 1:
                after = self.frame_of(s + 1, self.seeds(s + 1))
                return Location(after, "cotangent", self.body.invars[self.fixed + position], index)
            full = (self.row(s), *index) if position >= self.carried else index
            return Location(self.frame, "cotangent", self.eqn.outvars[position], full)

        outside = Outside(enter, leave, (*around.path, self.eqn), (*around.steps, self.row(s)), around.rule)
        key = (*self.frame.key, self.number, s, cotangents is not None)
        inputs = self.inputs(self.carries[s], s)
        active = self.active if cotangents is not None else ()
        return Frame(self.frame.programs, self.closed, inputs, outside, cotangents or (), active, key)

    def value_of(self, out: int, index: Index) -> Location:
        """Return where an output is computed.

        Args:
            out: number of the output.
            index: of the entry.
        """
        if out < self.carried:
            return Location(self.frame_of(self.length - 1), "value", self.body.outvars[out], index)
        s = self.row(index[0])  # its own inverse
        return Location(self.frame_of(s), "value", self.body.outvars[out], index[1:])

    @functools.cached_property
    def active(self) -> list[bool]:
        """Which inputs of the body are differentiated."""
        active = [jaxprs.is_var(v) and v in self.frame.active for v in self.eqn.invars]
        while True:
            reached = Frame(self.frame.programs, self.closed, self.operands, self.frame.outside, (), active).active
            grown = list(active)
            for k, v in enumerate(self.body.outvars[: self.carried]):
                grown[self.fixed + k] |= jaxprs.is_var(v) and v in reached
            if grown == active:
                return active
            active = grown

    @functools.cached_property
    def backward(self) -> States:
        """Before each step of the way back: cotangents of the carry, and the sums of the constants' so far."""
        outer = [self.frame.cotangent(v) for v in self.eqn.outvars[: self.carried]]
        carry = [
            (zeros(v) if c is None else c) if self.active[self.fixed + k] else None
            for k, (v, c) in enumerate(zip(self.eqn.outvars[: self.carried], outer, strict=True))
        ]
        sums = [zeros(v) if a else None for v, a in zip(self.body.invars[: self.fixed], self.active, strict=False)]
        return States((carry, sums), lambda state, r: self._back(state, r)[0])

    def rows_back(self, s: int) -> list[Any]:
        """Return cotangents of what a step adds to the stacked outputs.

        Args:
            s: number of the step in the order of execution.
        """
        rows = [self.frame.cotangent(v) for v in self.eqn.outvars[self.carried :]]
        return [None if c is None else c[self.row(s)] for c in rows]

    def seeds(self, s: int) -> list[Any]:
        """Return cotangents of the body's outputs at a step.

        Args:
            s: number of the step in the order of execution.
        """
        return [*self.backward[self.length - 1 - s][0], *self.rows_back(s)]

    def _back(self, state: Any, r: int) -> tuple[Any, dict[int, Any]]:
        """Take the r-th step of the way back."""
        (carry, sums), s = state, self.length - 1 - r
        cotangents = [*carry, *self.rows_back(s)]
        live = tuple(q for q, c in enumerate(cotangents) if c is not None)
        wanted = tuple(k for k, a in enumerate(self.active) if a)
        transposed = self.frame.programs.body_derivative(self.closed, live, wanted)
        found = transposed(self.inputs(self.carries[s], s), [cotangents[q] for q in live])
        by_input = dict(zip(wanted, found, strict=True))
        sums = [None if total is None else total + by_input[k] for k, total in enumerate(sums)]
        return ([by_input.get(self.fixed + k) for k in range(self.carried)], sums), by_input

    def cotangent_of(self, position: int, index: Index) -> Target:
        """Return where the cotangent of an operand is computed.

        Args:
            position: number of the operand.
            index: of the entry.
        """
        if position >= self.fixed:
            carried = position < self.fixed + self.carried
            s, rest = (0, index) if carried else (self.row(index[0]), index[1:])
            return Location(self.frame_of(s, self.seeds(s)), "cotangent", self.body.invars[position], rest)
        for r in range(self.length):
            if is_bad(self.backward[r + 1][1][position], index):
                s = self.length - 1 - r
                there = self.frame_of(s, self.seeds(s))
                if is_bad(self._back(self.backward[r], r)[1][position], index):
                    return Location(there, "cotangent", self.body.invars[position], index)
                total = self.backward[r + 1][1][position]
                return Born(there, self.eqn, [total], total, index, "sum over steps")
        raise LookupError("no step makes it non-finite")


class While:
    """A while loop inside a frame, on the way forward.

    Args:
        frame: that it stands in.
        number: of its step there.
    """

    def __init__(self, frame: Frame, number: int) -> None:
        self.frame, self.number, self.eqn = frame, number, frame.steps[number]
        params = self.eqn.params
        self.closed = params["body_jaxpr"]
        self.body, _ = jaxprs.opened(self.closed)
        self.of_test, self.fixed = int(params["cond_nconsts"]), int(params["body_nconsts"])
        operands = frame.operands(self.eqn)
        tested, self.constants = operands[: self.of_test], operands[self.of_test : self.of_test + self.fixed]
        run = frame.programs.compiled(self.closed)
        test = frame.programs.compiled(params["cond_jaxpr"])
        self.carries = States(operands[self.of_test + self.fixed :], lambda state, s: run(*self.constants, *state))
        self._goes_on: Callable[[Any], bool] = lambda state: bool(test(*tested, *state)[0])

    @functools.cached_property
    def length(self) -> int:
        """Number of steps taken."""
        count = 0
        while self._goes_on(self.carries[count]):
            count += 1
        return count

    def frame_of(self, s: int) -> Frame:
        """Return the run of the body at a step.

        Args:
            s: number of the step.
        """
        around = self.frame.outside

        def enter(position: int, index: Index) -> Target:
            if position >= self.fixed and s > 0:
                return Location(self.frame_of(s - 1), "value", self.body.outvars[position - self.fixed], index)
            return Location(self.frame, "value", self.eqn.invars[self.of_test + position], index)

        outside = Outside(enter, around.leave, (*around.path, self.eqn), (*around.steps, s), around.rule)
        inputs = [*self.constants, *self.carries[s]]
        return Frame(self.frame.programs, self.closed, inputs, outside, key=(*self.frame.key, self.number, s))

    def value_of(self, out: int, index: Index) -> Target:
        """Return where an output is computed.

        Args:
            out: number of the output.
            index: of the entry.
        """
        if self.length == 0:
            return Location(self.frame, "value", self.eqn.invars[self.of_test + self.fixed + out], index)
        return Location(self.frame_of(self.length - 1), "value", self.body.outvars[out], index)
