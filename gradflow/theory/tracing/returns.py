"""What the parts of a program that theory does not follow send back into the signals that they read.

Where a signal x leaves the theory, the mean square of the gradient that comes back by this way alone is measured on the
batch, and is added to what theory predicts for the signal's Gaussians. Where the branch joins the stream a again, s =
a + b, the gradient of a is that of s and what b sends back: E[d_a^2] = E[d_s^2] + E[d_b^2] + 2 E[d_s d_b]. The last
term is k E[d_s^2] with k = 2 E[d_s d_b] / E[d_s^2] measured, and E[d_s^2] by theory. Other readers of the stream, which
theory follows behind random weights, add nothing to it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from jax.extend import core

from gradflow.instrument import jaxprs
from gradflow.theory.tracing.abstract_values import (
    Data,
    Known,
    Outside,
    Piece,
    Signal,
    Value,
    gaussians_of,
    identity_of,
    unmeasured_of,
)
from gradflow.theory.tracing.measured_cotangents import MeasuredCotangents, Reading
from gradflow.theory.tracing.random_fields import Gaussian

__all__ = ["Returned", "Returns"]

Path: TypeAlias = tuple[int, ...]
Steps: TypeAlias = tuple[int, ...]
_SUMS = frozenset({"add", "add_any", "sub"})


@dataclasses.dataclass
class _Exit:
    """A signal that leaves the theory, by which equations, and what it is at each step of the scans around it."""

    path: Path
    operand: int
    readers: set[int]
    uses: dict[Steps, Signal]


@dataclasses.dataclass(frozen=True)
class _Junction:
    """A sum of a stream and a branch that gets back what is measured; `rest` is the Gaussian that stands for it."""

    path: Path
    operand: int
    steps: Steps
    stream: Signal
    rest: Gaussian
    branch: frozenset[Gaussian]
    atom: Any  # the stream's variable
    alone: bool  # whether the program around sees nothing of it


@dataclasses.dataclass(frozen=True)
class Returned:
    """What is measured.

    Attributes:
        squares: mean square gradients that come back from outside, by Gaussian.
        echoes: factors of the mean square gradient of a sum, which its stream gets in addition, by the Gaussian that
            stands for the branch.
        lost: Gaussians for which it could not be measured.
    """

    squares: Mapping[Gaussian, float]
    echoes: Mapping[Gaussian, list[tuple[Gaussian, float]]]
    lost: frozenset[Gaussian]


class Returns:
    """Places where signals leave the theory, and where a branch outside joins a stream."""

    def __init__(self) -> None:
        self._exits: dict[tuple[Path, Any], _Exit] = {}
        self._junctions: list[_Junction] = []
        self._sums: dict[tuple[Path, Any], set[int]] = {}
        self._outer: dict[tuple[Path, Any], tuple[Any, Path, int, set[int]]] = {}

    def leave(self, eqn: core.JaxprEqn, values: Sequence[Value], out: Outside, path: Path, steps: Steps) -> Outside:
        """Note that signals leave the theory; return what they become, with those whose gradient will be measured.

        Args:
            eqn: the equation that theory does not follow.
            values: its operands.
            out: what they become.
            path: leads to the equation.
            steps: of the scans around it.
        """
        here: set[Gaussian] = set()
        others: list[Value] = []
        for k, (atom, value) in enumerate(zip(eqn.invars, values, strict=True)):
            found = _source_of(value, atom, path, k)
            if found is None:
                others.append(value)
                continue
            signal, source, at, operand = found
            place = self._exits.setdefault((at[:-1], source), _Exit(at, operand, set(), {}))
            place.readers.add(at[-1])
            place.uses[steps] = signal
            here |= set(signal.components)
        known = frozenset().union(*(gaussians_of(v) for v in values))
        measured = (here | out.measured) - unmeasured_of(others) - (out.reads - known - out.measured)
        return dataclasses.replace(out, measured=frozenset(measured))

    def enter(self, eqn: core.JaxprEqn, path: Path) -> None:
        """Note which variables inside a call are those outside; what a signal sends back is measured at one place.

        Args:
            eqn: the call.
            path: leads to it.
        """
        inner = jaxprs.opened(jaxprs.inner_jaxpr(eqn))[0]
        for k, (atom, var) in enumerate(zip(eqn.invars, inner.invars, strict=False)):
            readers = {index for index, e in enumerate(inner.eqns) if var in e.invars}
            if jaxprs.is_var(atom) and all(var is not v for v in inner.outvars):
                self._outer[(*path, 0), var] = (atom, path, k, readers)

    def _places(self) -> list[_Exit]:
        """Where signals leave, as far outside of calls as nothing but what is outside reads them."""
        exits = {
            key: dataclasses.replace(e, readers=set(e.readers), uses=dict(e.uses)) for key, e in self._exits.items()
        }
        todo = list(exits)
        while todo:
            key = max(todo, key=lambda k: len(k[0]))
            todo.remove(key)
            outer = self._outer.get(key)
            if outer is None or outer[3] != exits[key].readers:
                continue
            atom, path, operand, _ = outer
            inner, above = exits.pop(key), (path[:-1], atom)
            if above not in exits:
                exits[above] = _Exit(path, operand, set(), {})
                todo.append(above)
            exits[above].readers.add(path[-1])
            exits[above].uses.update(inner.uses)
        return list(exits.values())

    @staticmethod
    def cut(eqn: core.JaxprEqn, value: Value, path: Path) -> Value:
        """Return a value; where it is a piece of a signal, it is noted what cut it.

        Args:
            eqn: the equation that made it.
            value: the value.
            path: leads to the equation.
        """
        if isinstance(value, Piece) and value.cut is None and jaxprs.is_var(eqn.invars[0]):
            return dataclasses.replace(value, cut=(eqn.invars[0], path, 0))
        return value

    def join(
        self, jaxpr: core.Jaxpr, eqn: core.JaxprEqn, values: Sequence[Value], rest: Gaussian, place: tuple[Path, Steps]
    ) -> None:
        """Note that a branch joins a stream.

        Args:
            jaxpr: that the sum stands in.
            eqn: the sum.
            values: its operands: the stream, and what is outside.
            rest: the Gaussian that stands for the branch.
            place: path of the sum, and steps of the scans around it.
        """
        at = next(k for k, v in enumerate(values) if isinstance(v, Signal))
        stream, branch = values[at], values[1 - at]
        if not isinstance(stream, Signal) or not isinstance(branch, Outside) or not branch.measured:
            return
        atom = eqn.invars[at]
        alone = all(v is not atom for v in jaxpr.outvars)
        path, steps = place
        self._junctions.append(_Junction(path, at, steps, stream, rest, branch.measured, atom, alone))

    def sum_with(self, eqn: core.JaxprEqn, values: Sequence[Value], path: Path) -> None:
        """Note a sum of signals, through which the gradient of a stream comes back once more.

        Args:
            eqn: the equation.
            values: its operands.
            path: leads to it.
        """
        if eqn.primitive.name in _SUMS and not any(isinstance(v, (Known, Data)) for v in values):
            for atom in filter(jaxprs.is_var, eqn.invars):
                self._sums.setdefault((path[:-1], atom), set()).add(path[-1])

    def measured(self, cotangents: MeasuredCotangents) -> Returned:
        """Return what comes back, as far as it has been measured.

        Args:
            cotangents: measured gradients.
        """
        squares, lost = self._squares(cotangents)
        echoes: dict[Gaussian, list[tuple[Gaussian, float]]] = {}
        for junction in self._junctions:
            reading = Reading(junction.path, junction.operand, readers=frozenset({junction.path[-1]}), first=True)
            others = self._sums.get((junction.path[:-1], junction.atom), set()) - {junction.path[-1]}
            moments = cotangents.get(reading, junction.steps) if junction.alone and not others else None
            branch = sum(squares.get(g, 0.0) for g in junction.branch)
            if branch == 0:
                continue
            if moments is None or not moments["rest"] > 0 or not moments["square"] > 0:
                lost |= junction.branch
                continue
            factor = 2 * float(moments["cross"] / moments["square"])
            echoes[junction.rest] = [(g, factor * slope) for g, slope in junction.stream.edges]
        return Returned(squares, echoes, frozenset(lost))

    def _squares(self, cotangents: MeasuredCotangents) -> tuple[dict[Gaussian, float], set[Gaussian]]:
        """Mean squares that come back by each Gaussian, and Gaussians for which they are not known."""
        squares: dict[Gaussian, float] = {}
        lost: set[Gaussian] = set()
        seen: set[Any] = set()
        for place in self._places():
            reading = Reading(place.path, place.operand, readers=frozenset(place.readers))
            for steps, signal in place.uses.items():
                moments = cotangents.get(reading, steps)
                key = (steps, identity_of(signal))
                if moments is None or key in seen:  # how two gradients of one signal agree is measured at one place
                    lost |= set(signal.components)
                seen.add(key)
                for gaussian, component in signal.components.items():
                    returned = 0.0 if moments is None else float(moments["square"] * component.mean_square_slope)
                    squares[gaussian] = squares.get(gaussian, 0.0) + returned
        return squares, lost


def _source_of(value: Value, atom: Any, path: Path, operand: int) -> tuple[Signal, Any, Path, int] | None:
    """The signal that leaves, its variable, and the equation that reads it; None where it is not to be measured."""
    if isinstance(value, Piece) and value.cut is not None:
        atom, path, operand = value.cut
        value = value.signal
    if not isinstance(value, Signal) or not jaxprs.is_var(atom) or not jaxprs.is_inexact(atom):
        return None
    return (value, atom, path, operand) if _is_composed(value) else None


def _is_composed(signal: Signal) -> bool:
    """Whether it is made of more than one layer; the gradient of a layer is measured anyway."""
    made = [g for g in signal.components if g.layer is not None or g.edges]
    return len(made) > 1 or any(g.layer is None for g in made)
