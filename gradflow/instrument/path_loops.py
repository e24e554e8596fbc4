"""Scans on a signal's path: which state carries the signal, and what it passes from step to step."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from gradflow.instrument import jaxprs
from gradflow.instrument.causes import Stage, common_name, shares_weights
from gradflow.instrument.path_stages import Move, Point, StageBuilder, Stretch
from gradflow.instrument.signal_graph import Operation, SignalGraph, scan_body
from gradflow.instrument.sites import Path, Place, Site

# What the stages are called that join the steps of a scan to what is around it; they change nothing where the signal
# enters and leaves in one place.
ALL_OUTPUTS, INITIAL_STATE, ALL_STEPS = "outputs of all steps", "initial state", "all steps together"
LINKS = frozenset({ALL_OUTPUTS, INITIAL_STATE, ALL_STEPS})


@dataclasses.dataclass(frozen=True)
class Loop:
    """A scan on the path.

    Attributes:
        graph: in which it stands.
        op: the scan.
        body: the graph of its body.
        place: of the body.
        states: inputs of the body that carry the state; `results` are the outputs that they become.
        results: see `states`.
        ends: all outputs of the body through which the loss is reached.
        over_time: whether its steps share their weights.
    """

    graph: SignalGraph
    op: Operation
    body: SignalGraph
    place: Place
    states: tuple[int, ...]
    results: tuple[int, ...]
    ends: tuple[int, ...]
    over_time: bool

    @property
    def length(self) -> int:
        """Number of steps."""
        return int(self.op.eqn.params["length"])

    def step(self, number: int) -> int:
        """Return the index of the step that runs as the given one."""
        return self.length - 1 - number if self.op.eqn.params["reverse"] else number


class LoopFollower(StageBuilder):
    """Follows the state of scans in the graph of a loss.

    Args:
        graph: of the loss.
        layers: see `StageBuilder`.
        owners: see `StageBuilder`.
    """

    def __init__(self, graph: SignalGraph, layers: dict[Path, tuple[str, Site]], owners: Sequence[str]) -> None:
        super().__init__(layers, owners)
        self.graph, self.loss = graph, graph.outputs[0]
        self.time_followed = False

    def _loop(self, op: Operation, source: int, body: SignalGraph) -> Loop | None:
        """Describe a scan whose state carries the signal of a value of its body; None where none does."""
        graph, loss = self.graph, self.loss
        assert loss is not None
        num_consts, num_carry = jaxprs.scan_arity(op.eqn)
        ends = [n for w, n in zip(op.writes, body.outputs, strict=True) if n is not None and graph.between([w], [loss])]
        carries = list(zip(body.inputs[num_consts : num_consts + num_carry], body.outputs[:num_carry], strict=True))
        sources, alive = {source}, list[tuple[int, int]]()
        while True:
            reached = body.reachable(sources)
            found = [(i, o) for i, o in carries if o in reached and jaxprs.is_inexact(body.values[i].var)]
            if found == alive:
                break
            alive = [(i, o) for i, o in found if o is not None]
            sources |= {i for i, _ in alive}
        while True:
            goals = {*ends, *(o for _, o in alive)}
            kept = [(i, o) for i, o in alive if body.between([i], {*ends}) or body.between([i], goals - {o})]
            if kept == alive:
                break
            alive = kept
        layers = layers_below(body, self.layers)
        if not alive or not layers:
            return None
        depth = len(body.prefix)
        shared = shares_weights([site for path, (_, site) in self.layers.items() if path[:depth] == body.prefix])
        reverse, length = op.eqn.params["reverse"], op.eqn.params["length"]
        place = Place(body.prefix, (length,), (reverse,), (body.prefix,))
        states, results = tuple(i for i, _ in alive), tuple(o for _, o in alive)
        return Loop(graph, op, body, place, states, results, tuple(dict.fromkeys((*ends, *results))), shared)

    def _openable(self, graph: SignalGraph, region: list[Operation], low: int) -> Loop | None:
        """Return the loop of a stretch that is one scan, if the signal enters through its carry or its rows alone."""
        op = region[0]
        if op.name != "scan":
            return None
        places = [k for k, n in enumerate(op.reads) if n == low]
        num_consts, _ = jaxprs.scan_arity(op.eqn)
        if len(places) != 1 or places[0] < num_consts:
            return None
        body = scan_body(graph, op)
        loop = self._loop(op, body.inputs[places[0]], body)
        if loop is None or (loop.over_time and self.time_followed):
            return None
        self.time_followed |= loop.over_time
        return loop

    def _over(self, loop: Loop, low: int, high: int) -> list[Move]:
        """Follow a scan between two values of the graph around it."""
        number = loop.op.reads.index(low)
        num_consts, num_carry = jaxprs.scan_arity(loop.op.eqn)
        carried = number < num_consts + num_carry
        source = None if carried else loop.body.inputs[number]
        moves, _ = self._through(loop, self._point(loop.graph, high, Place()), source, low)
        return moves

    def _through(self, loop: Loop, top: Point, source: int | None, low: int | None) -> tuple[list[Move], str]:
        """Follow the state from the point above a scan down to its first step.

        Args:
            loop: the scan.
            top: the point above it.
            source: where the signal enters the body at the first step; None where it is the state itself.
            low: the value of the graph around it that enters, None where the first layer is inside.
        """
        cause = "time" if loop.over_time else "other"
        names = layers_below(loop.body, self.layers)
        where = common_name(names)
        self.kinds.append("recurrent state" if loop.over_time else "scan over layers")
        entering = self._stage(Stage(cause, where, ALL_OUTPUTS, tuple(names)))
        cycle = self._cycle(loop, where)
        joint = -1 if cycle else self._stage(Stage(cause, where, "one step", tuple(names)))
        moves, point = list[Move](), top
        for number in range(loop.length - 1, -1 if source is None else 0, -1):
            step = loop.step(number)
            if cycle:
                inside = self._moves(loop.body, cycle, loop.place, step)
                moves += [Move(point, inside[0].upper, entering), *inside]
            else:
                moves.append(Move(point, self._state(loop, step), joint))
            point = moves[-1].lower
        if source is not None:
            moves += self._first_step(loop, source, point, entering, where, cycle or [])
            point = moves[-1].lower
        if low is not None:
            words = INITIAL_STATE if source is None else ALL_STEPS
            stage = self._stage(Stage(cause, where, words))
            moves.append(Move(point, self._point(loop.graph, low, Place()), stage))
        return moves, names[-1]

    def _cycle(self, loop: Loop, where: str) -> list[Stretch] | None:
        """Return the stages of one step where the state is one value and every path passes it; else None."""
        if len(loop.states) != 1:
            return None
        return self._body_stretches(loop, loop.states[0], where)

    def _body_stretches(self, loop: Loop, source: int, where: str) -> list[Stretch] | None:
        body = loop.body
        cuts, regions = body.regions([source], loop.ends)
        if loop.results[0] not in cuts or source not in cuts:
            return None
        end = cuts.index(loop.results[0])
        around = self._surroundings(body, [source], loop.ends)
        start, below = len(self.stages), layers_below(body, self.layers)[-1]
        stretches, _ = self._stretches(body, cuts[: end + 1], regions[:end], around, below, loop.place)
        if loop.over_time:
            for k in range(start, len(self.stages)):
                stage = self.stages[k]
                words = f"{stage.cause}: {stage.operation}"
                self.stages[k] = dataclasses.replace(stage, cause="time", operation=words)
        return stretches

    def _state(self, loop: Loop, step: int) -> Point:
        return Point(tuple(self._tap(loop.body, n, loop.place) for n in loop.states), step)

    def _same_stage(self, number: int, known: int, cycle: list[Stretch]) -> int:
        """Return the stage of a later step that lies between the same values, else the stage itself."""
        stage = self.stages[number]
        same = (
            c.stage for c in cycle if (self.stages[c.stage].low, self.stages[c.stage].high) == (stage.low, stage.high)
        )
        return next(same, number) if number >= known else number

    def _first_step(
        self, loop: Loop, source: int, point: Point, entering: int, where: str, cycle: list[Stretch]
    ) -> list[Move]:
        """Follow the first step from the state behind it to where the signal enters."""
        step = loop.step(0)
        known = len(self.stages)
        stretches = self._body_stretches(loop, source, where) if len(loop.states) == 1 else None
        if stretches:
            for s in stretches:  # the same stage as in later steps is one entry
                s.stage = self._same_stage(s.stage, known, cycle)
            moves = self._moves(loop.body, stretches, loop.place, step)
            return [Move(point, moves[0].upper, entering), *moves]
        stage = self._stage(Stage("time" if loop.over_time else "other", where, "the first step"))
        return [Move(point, self._point(loop.body, source, loop.place, step), stage)]


def layers_below(body: SignalGraph, layers: Mapping[Path, tuple[str, Site]]) -> list[str]:
    """Return the names of the layers in a scan's body, in forward order."""
    depth = len(body.prefix)
    return [name for path, (name, _) in layers.items() if path[:depth] == body.prefix]


__all__ = ["LINKS", "Loop", "LoopFollower", "layers_below"]
