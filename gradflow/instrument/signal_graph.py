"""The values of a traced loss as a graph along which cotangents travel: cuts, regions and branches.

This is the interface for whoever asks where a signal comes through: which values every path passes (`cuts`), what lies
between them (`regions`), where a value splits into branches (`fork`). Calls (`jit`, `remat`) are seen through;
custom rules, branches and loops are single operations. The body of a scan is a graph of its own (`scan_body`).
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from jax.extend import core

from gradflow.instrument import jaxprs
from gradflow.instrument.origins import FLAT
from gradflow.instrument.sites import Path

ENTRY = -1  # stands for "an input of this jaxpr" where the number of an equation would be
_CALLS = jaxprs.INLINED | jaxprs.REMAT
_CUTTING = FLAT | {"stop_gradient", "while"}
# Flags of a value: it was made with random bits; by a root or its inverse, as a standard deviation is.
RANDOM, ROOT = 1, 2
_PASSING_ROOT = frozenset({"mul", "broadcast_in_dim", "convert_element_type", "reshape", "neg", "squeeze", "copy"})


@dataclasses.dataclass(frozen=True)
class Value:
    """Where a value is computed.

    Attributes:
        path: of its equation, the last number `ENTRY` for an input of the jaxpr.
        out: which output of the equation, or which input.
        var: its variable there.
    """

    path: Path
    out: int
    var: Any


@dataclasses.dataclass(frozen=True)
class Operation:
    """One equation that is not a call.

    Attributes:
        eqn: the equation.
        path: where it stands.
        reads: number of the value behind each operand, None for a literal.
        writes: number of each output's value.
        calls: path and name of every call around it, outermost first.
        jaxpr: that it is an equation of.
    """

    eqn: core.JaxprEqn
    path: Path
    reads: tuple[int | None, ...]
    writes: tuple[int, ...]
    calls: tuple[tuple[Path, str], ...]
    jaxpr: core.Jaxpr

    @property
    def name(self) -> str:
        """Of its primitive."""
        return str(self.eqn.primitive.name)

    def __call__(self, env: dict[int, Any]) -> None:
        """Compute it, from values by their numbers, and write its outputs there."""
        made = {v: env[n] for v, n in zip(self.eqn.invars, self.reads, strict=True) if n is not None}
        outs = [v for v in self.eqn.outvars if not isinstance(v, core.DropVar)]
        jaxprs.evaluate(self.jaxpr, [self.eqn], outs, made)
        env.update((n, made[v]) for v, n in zip(self.eqn.outvars, self.writes, strict=True) if v in made)


@dataclasses.dataclass(frozen=True)
class Fork:
    """A value that several operations of one jaxpr read.

    Attributes:
        path, out: where it is computed or comes in, as in `Value`.
        readers: numbers of the equations of that jaxpr.
    """

    path: Path
    out: int
    readers: tuple[int, ...]


class SignalGraph:
    """Values and operations of a jaxpr, in the order of computation.

    Args:
        jaxpr: the jaxpr, open.
        prefix: its path, () for the traced function.
        leaves: bit mask of the parameters behind each input; for the traced function, its own bit for each.
        flags: of each input.

    Attributes:
        values: by number.
        operations: in order.
        leaves: bit mask of the parameters behind every value.
        flags: `RANDOM` and `ROOT` of every value.
        inputs, outputs: numbers of the values that enter and leave; None for a literal.
    """

    def __init__(
        self, jaxpr: core.Jaxpr, prefix: Path = (), leaves: Sequence[int] = (), flags: Sequence[int] = ()
    ) -> None:
        self.prefix = prefix
        self.values: list[Value] = []
        self.operations: list[Operation] = []
        self.leaves: list[int] = []
        self.flags: list[int] = []
        self._frames: dict[Path, tuple[core.Jaxpr, dict[Any, int]]] = {}
        masks = leaves or [1 << k for k in range(len(jaxpr.invars))]
        self.inputs = [
            self._value(Value((*prefix, ENTRY), k, var), masks[k], flags[k] if flags else 0)
            for k, var in enumerate(jaxpr.invars)
        ]
        self.outputs = self._walk(jaxpr, prefix, self.inputs, ())
        self.makers = {w: op for op in self.operations for w in op.writes}

    def _value(self, value: Value, leaves: int, flags: int) -> int:
        self.values.append(value)
        self.leaves.append(leaves)
        self.flags.append(flags)
        return len(self.values) - 1

    def _walk(
        self, jaxpr: core.Jaxpr, prefix: Path, args: Sequence[int | None], calls: tuple[tuple[Path, str], ...]
    ) -> list[int | None]:
        env: dict[Any, int | None] = dict(zip(jaxpr.invars, args, strict=True))
        for k, var in enumerate(jaxpr.constvars):
            env[var] = self._value(Value((*prefix, ENTRY), -1 - k, var), 0, 0)

        def read(atom: Any) -> int | None:
            return env[atom] if jaxprs.is_var(atom) else None

        for index, eqn in enumerate(jaxpr.eqns):
            reads = tuple(read(v) for v in eqn.invars)
            path = (*prefix, index)
            if eqn.primitive.name in _CALLS:
                inner, _ = jaxprs.opened(jaxprs.inner_jaxpr(eqn))
                outs = self._walk(inner, (*path, 0), reads, (*calls, (path, str(eqn.params.get("name", "")))))
            else:
                outs = self._operation(eqn, path, reads, calls, jaxpr)
            env.update(zip(eqn.outvars, outs, strict=True))
        self._frames[prefix] = (jaxpr, {v: n for v, n in env.items() if n is not None})
        return [read(v) for v in jaxpr.outvars]

    def _operation(
        self,
        eqn: core.JaxprEqn,
        path: Path,
        reads: tuple[int | None, ...],
        calls: tuple[tuple[Path, str], ...],
        jaxpr: core.Jaxpr,
    ) -> list[int | None]:
        name, leaves, flags = eqn.primitive.name, 0, 0
        for n in reads:
            if n is not None:
                leaves |= self.leaves[n]
                flags |= self.flags[n] & (RANDOM | (ROOT if name in _PASSING_ROOT else 0))
        if name.startswith(("random_", "threefry", "rng_")):
            flags |= RANDOM
        if name in ("rsqrt", "sqrt"):
            flags |= ROOT
        writes = tuple(self._value(Value(path, k, v), leaves, flags) for k, v in enumerate(eqn.outvars))
        self.operations.append(Operation(eqn, path, reads, writes, calls, jaxpr))
        return list(writes)

    def passes(self, op: Operation, number: int | None) -> bool:
        """Tell whether a cotangent of some output of an operation can get to a value that it reads."""
        return number is not None and op.name not in _CUTTING and jaxprs.is_inexact(self.values[number].var)

    def reachable(self, sources: Iterable[int]) -> set[int]:
        """Return the values on which a differentiable path from one of `sources` ends, these included."""
        found = set(sources)
        for op in self.operations:
            if any(n in found and self.passes(op, n) for n in op.reads):
                found.update(w for w in op.writes if jaxprs.is_inexact(self.values[w].var))
        return found

    def dependent(self, sources: Iterable[int]) -> set[int]:
        """Return the values that depend on `sources` in whatever way."""
        found = set(sources)
        for op in self.operations:
            if any(n in found for n in op.reads):
                found.update(op.writes)
        return found

    def between(self, sources: Iterable[int], sinks: Collection[int]) -> set[int]:
        """Return the values that lie on a differentiable path from one of `sources` to one of `sinks`."""
        ahead = self.reachable(sources)
        found = set(sinks) & ahead
        for op in reversed(self.operations):
            if any(w in found for w in op.writes):
                found.update(n for n in op.reads if n in ahead and self.passes(op, n) and n is not None)
        return found

    def cuts(self, sources: Collection[int], sinks: Collection[int]) -> list[int]:
        """Return the values that every differentiable path from `sources` to `sinks` passes, in order.

        Values are numbered in the order of computation. A value is on every path if no edge of a path leaps over it,
        and a source or a sink is one only if it is the only one.
        """
        alive = sorted(self.between(sources, sinks))
        place = {n: k for k, n in enumerate(alive)}
        if not alive:
            return []
        opened = [0] * (len(alive) + 2)
        edges = [(-1, place[n]) for n in sources if n in place]
        edges += [(place[n], len(alive)) for n in sinks if n in place]
        for op in self.operations:
            ins = [place[n] for n in op.reads if n in place and self.passes(op, n)]
            edges += [(i, place[w]) for w in op.writes if w in place for i in ins]
        for low, high in edges:  # counts edges over the places strictly between
            opened[low + 1] += 1
            opened[high] -= 1
        out, over = [], 0
        for k, n in enumerate(alive):
            over += opened[k]
            if over == 0:
                out.append(n)
        return out

    def regions(self, sources: Collection[int], sinks: Collection[int]) -> tuple[list[int], list[list[Operation]]]:
        """Return the `cuts`, and the operations between each of them and the next."""
        cuts, alive = self.cuts(sources, sinks), self.between(sources, sinks)
        found: list[list[Operation]] = [[] for _ in cuts[1:]]
        for op in self.operations:
            writes = [w for w in op.writes if w in alive]
            if not writes or not any(n in alive and self.passes(op, n) for n in op.reads):
                continue
            k = bisect.bisect_left(cuts, max(writes))
            if 0 < k < len(cuts):
                found[k - 1].append(op)
        return cuts, found

    def fork(self, number: int, operations: Sequence[Operation]) -> Fork | None:
        """Find the jaxpr in which a value splits into the branches that lead to `operations`.

        Args:
            number: of the value.
            operations: all that read it and send back a cotangent.

        Returns:
            Where; None where one operation reads it, or the readers have no jaxpr in common that holds the value.
        """
        for prefix, (jaxpr, env) in sorted(self._frames.items(), key=lambda item: len(item[0])):
            depth = len(prefix)
            inside = [op.path for op in operations if op.path[:depth] == prefix and len(op.path) > depth]
            readers = tuple(sorted({path[depth] for path in inside}))
            if len(inside) < len(operations) or len(readers) < 2:
                continue
            found = [v for v, n in env.items() if n == number]
            if len(found) != 1:
                continue
            if found[0] in jaxpr.invars:
                return Fork((*prefix, ENTRY), jaxpr.invars.index(found[0]), readers)
            for index, eqn in enumerate(jaxpr.eqns):
                if found[0] in eqn.outvars:
                    return Fork((*prefix, index), list(eqn.outvars).index(found[0]), readers)
        return None


def scan_body(graph: SignalGraph, op: Operation) -> SignalGraph:
    """Return the graph of a scan's body, with what its inputs are made of."""
    jaxpr, _ = jaxprs.opened(jaxprs.inner_jaxpr(op.eqn))
    leaves = [0 if n is None else graph.leaves[n] for n in op.reads]
    flags = [0 if n is None else graph.flags[n] for n in op.reads]
    return SignalGraph(jaxpr, (*op.path, 0), leaves or [0], flags or [0])
