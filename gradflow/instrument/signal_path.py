"""The path of a signal from the first layer to the loss: which values it passes, stage by stage, step by step.

A **chain** passes every value in turn. A **residual stream** passes the values that all branches come together in. The
**recurrent state** is followed from step to step of the lowest scan over time; a scan over layers is followed likewise.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from gradflow.instrument import jaxprs
from gradflow.instrument.causes import Stage, Surroundings, classify, common_name, shares_weights
from gradflow.instrument.signal_graph import Operation, SignalGraph, scan_body
from gradflow.instrument.sites import LAYER_KINDS, Path, Place, Site, site_of_value

# What the stages are called that join the steps of a scan to what is around it; they change nothing where the signal
# enters and leaves in one place.
ALL_OUTPUTS, INITIAL_STATE, ALL_STEPS = "outputs of all steps", "initial state", "all steps together"
LINKS = frozenset({ALL_OUTPUTS, INITIAL_STATE, ALL_STEPS})


@dataclasses.dataclass(frozen=True)
class Point:
    """A value on the path, or several that are passed together.

    Attributes:
        sites: numbers of the sites that tap them; () for the loss itself.
        step: index of the scan's step, None outside of scans.
    """

    sites: tuple[int, ...]
    step: int | None = None


@dataclasses.dataclass(frozen=True)
class Move:
    """One stage of the path, at one step.

    Attributes:
        upper: the point nearer to the loss.
        lower: the point nearer to the data.
        stage: number of the stage.
    """

    upper: Point
    lower: Point
    stage: int


@dataclasses.dataclass(frozen=True)
class SignalPath:
    """A path from the loss down to the first layer.

    Attributes:
        sites: what has to be tapped.
        stages: what lies between neighbouring points.
        moves: from the loss downwards.
        first: name of the first layer.
        last: name of the last layer on the path, "" where none lies behind the first.
        kinds: what it follows: "chain", "residual stream", "scan over layers", "recurrent state".
        first_step: whether the first layer's output is that of the first of several steps.
        aside: names of layers that are not on it, and why.
    """

    sites: tuple[Site, ...]
    stages: tuple[Stage, ...]
    moves: tuple[Move, ...]
    first: str
    last: str
    kinds: tuple[str, ...]
    first_step: bool
    aside: tuple[tuple[str, str], ...]


def find_path(
    jaxpr: Any,
    sites: Sequence[Site],
    names: Sequence[str],
    owners: Sequence[str],
    passed_over: Mapping[str, str] = MappingProxyType({}),
) -> SignalPath:
    """Find the path of a loss.

    Args:
        jaxpr: of the loss, a function of the parameters' leaves.
        sites: of its layers, in forward order.
        names: of the sites.
        owners: for each leaf the name of what owns it.
        passed_over: layers that it shall not begin at, and why; it then begins at one that does not depend on them.

    Returns:
        The path; without moves, and with reasons in `aside`, where none can be followed.
    """
    return _Follower(jaxprs.opened(jaxpr)[0], sites, names, owners).follow(passed_over)


@dataclasses.dataclass
class _Stretch:
    """A stage between two values of one graph."""

    low: int
    high: int
    stage: int


@dataclasses.dataclass(frozen=True)
class _Loop:
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
        return int(self.op.eqn.params["length"])

    def step(self, number: int) -> int:
        """Return the index of the step that runs as the given one."""
        return self.length - 1 - number if self.op.eqn.params["reverse"] else number


class _Follower:
    def __init__(self, jaxpr: Any, sites: Sequence[Site], names: Sequence[str], owners: Sequence[str]) -> None:
        self.graph = SignalGraph(jaxpr)
        self.loss = self.graph.outputs[0]
        self.candidates = [
            (site, name)
            for site, name in zip(sites, names, strict=True)
            if site.kind in LAYER_KINDS and not site.entering and site.computed_in == "value"
        ]
        self.layers = {site.path: (name, site) for site, name in self.candidates}
        self.owners = owners
        self.sites: list[Site] = []
        self.numbers: dict[tuple[Path, int], int] = {}
        self.stages: list[Stage] = []
        self.kinds: list[str] = []
        self.aside: dict[str, str] = {}
        self.time_followed = False

    def follow(self, passed_over: Mapping[str, str]) -> SignalPath:
        behind = set[Path]()
        for site, name in self.candidates:
            if name in passed_over:
                self.aside[name] = passed_over[name]
                behind |= self._dependent_layers(site)
                continue
            if site.path in behind:
                continue
            if site.cut:
                self.aside[name] = f"no cotangent: cut by {', '.join(site.cut)}"
                continue
            moves = self._from_layer(site, name)
            if moves is not None:
                return self._finished(moves, name)
            self.aside[name] = "inside a branch, a custom rule or a nested scan, which is not followed"
        return self._finished(([], ""), "")

    def _finished(self, found: tuple[list[Move], str], first: str) -> SignalPath:
        moves, last = found
        kinds = tuple(dict.fromkeys(self.kinds)) or ("chain",)
        on_path = {first, *(s.where for s in self.stages), *(n for s in self.stages for n in s.layers)}
        for site, name in self.candidates:
            if moves and name not in on_path and name not in self.aside:
                self.aside[name] = "no cotangent: cut by " + ", ".join(site.cut) if site.cut else "on another branch"
        at_step = bool(moves) and moves[-1].lower.step is not None
        aside = tuple((name, why) for name, why in self.aside.items())
        return SignalPath(tuple(self.sites), tuple(self.stages), tuple(moves), first, last, kinds, at_step, aside)

    def _dependent_layers(self, site: Site) -> set[Path]:
        """Return the layers that depend on the output of one, in the same jaxpr, and in the same step of a scan."""
        graphs = [self.graph, *(scan_body(self.graph, op) for op in self.graph.operations if op.name == "scan")]
        for graph in graphs:
            if (number := _number_at(graph, site)) is not None:
                return {graph.values[n].path for n in graph.dependent([number])} & set(self.layers)
        return set(self.layers)

    # Where the path begins.

    def _from_layer(self, site: Site, name: str) -> tuple[list[Move], str] | None:
        if self.loss is None:
            return None
        number = _number_at(self.graph, site)
        if number is not None and self.graph.between([number], [self.loss]):
            return self._upwards([number], name, None)
        for op in self.graph.operations:
            if op.name == "scan" and site.path[: len(op.path) + 1] == (*op.path, 0):
                body = scan_body(self.graph, op)
                inside = _number_at(body, site)
                loop = None if inside is None else self._loop(op, inside, body)
                if loop is None or inside is None:
                    return None
                outs = [w for w in op.writes if self.graph.between([w], [self.loss])]
                return self._upwards(outs, name, (loop, inside))
        return None

    def _upwards(self, sources: list[int], first: str, inside: tuple[_Loop, int] | None) -> tuple[list[Move], str]:
        """Follow the outermost graph from the first layer, or from the scan that it is in, to the loss."""
        assert self.loss is not None
        graph, loss = self.graph, self.loss
        around = self._surroundings(graph, sources, [loss])
        cuts, regions = graph.regions(sources, [loss])
        top = max((k for k, n in enumerate(cuts) if _is_layer(graph, n, self.layers)), default=-1)
        last = self.layers[graph.makers[cuts[top]].path][0] if top >= 0 else ""
        pieces: list[list[Move]] = []
        below = first
        if inside is not None:
            loop, number = inside
            self.time_followed |= loop.over_time
            moves, below = self._through(loop, self._point(graph, cuts[0], Place()), number, None)
            pieces.append(moves)
        start = 0
        for k, region in enumerate(regions[: max(top, 0)]):
            loop_here = self._openable(graph, region, cuts[k]) if len(region) == 1 else None
            if loop_here is None:
                continue
            stretches, below = self._stretches(graph, cuts[start : k + 1], regions[start:k], around, below, Place())
            pieces.append(self._moves(graph, stretches, Place(), None))
            pieces.append(self._over(loop_here, cuts[k], cuts[k + 1]))
            below = _layers_below(loop_here.body, self.layers)[-1]
            start = k + 1
        end = max(top, 0)
        stretches, below = self._stretches(graph, cuts[start : end + 1], regions[start:end], around, below, Place())
        pieces.append(self._moves(graph, stretches, Place(), None))
        pieces.append(self._loss_moves(cuts[end:], regions[end:], around, below))
        if not last and inside is not None:
            pieces, last = _last_in_loop(pieces, self.stages)
        elif cuts and last == first and inside is None and not any(pieces[:-1]):
            last = first
        return self._joined(pieces, sources, inside), last

    def _joined(self, pieces: list[list[Move]], sources: list[int], inside: tuple[_Loop, int] | None) -> list[Move]:
        moves = [move for piece in reversed(pieces) for move in piece]
        if inside is None and moves:  # the path ends at the layer's own output, whatever the taps behind it merged
            end = self._point(self.graph, sources[0], Place())
            link = moves[-1].stage
            if self.stages[link].operation == ALL_STEPS:  # nothing but a reshaping below: the first step's own output
                moves.pop()
            elif moves[-1].lower.step is None:
                moves[-1] = dataclasses.replace(moves[-1], lower=end)
        return moves

    # Stages of one graph.

    def _surroundings(self, graph: SignalGraph, sources: Sequence[int], sinks: Sequence[int]) -> Surroundings:
        alive = graph.between(sources, sinks)
        sizes: collections.Counter[Path] = collections.Counter(
            path
            for op in graph.operations
            if any(w in alive for w in op.writes) and any(n in alive and graph.passes(op, n) for n in op.reads)
            for path, _ in op.calls
        )
        return Surroundings(graph, self.layers, self.owners, graph.dependent(sources), sizes)

    def _stretches(
        self,
        graph: SignalGraph,
        cuts: Sequence[int],
        regions: Sequence[list[Operation]],
        around: Surroundings,
        below: str,
        place: Place,
    ) -> tuple[list[_Stretch], str]:
        """Return the stages between cuts, upwards; what leaves cotangents as they are joins the stage below it."""
        out: list[_Stretch] = []
        before, low = "", cuts[0] if cuts else 0
        for k, region in enumerate(regions):
            stage = classify(cuts[k], region, around, below, before)
            if stage is None:
                if out:
                    out[-1].high = cuts[k + 1]
                continue
            start, low = (low if not out else out[-1].high), cuts[k + 1]
            before = stage.cause
            if stage.cause == "normalization" and out and self.stages[out[-1].stage].cause == "normalization":
                old = self.stages[out[-1].stage]
                words = ", ".join(dict.fromkeys([old.operation, stage.operation]))
                self.stages[out[-1].stage] = dataclasses.replace(old, where=stage.where, operation=words)
                out[-1].high = low
                continue
            if stage.layers and len(region) > 1:
                stage = self._forked(graph, cuts[k], region, stage)
            if stage.cause == "skip":
                self.kinds.append("residual stream")
            below = stage.where if stage.cause in ("weights", "skip") else below
            stage = dataclasses.replace(stage, low=cuts[k], high=cuts[k + 1], operations=tuple(region))
            if stage.cause == "activation":
                stage = dataclasses.replace(stage, entering=self._tap(graph, cuts[k], place))
            self.stages.append(stage)
            out.append(_Stretch(start, low, len(self.stages) - 1))
        return out, below

    def _forked(self, graph: SignalGraph, low: int, region: list[Operation], stage: Stage) -> Stage:
        """Tap the branches into which a value splits."""
        reading = [op for op in region if any(n == low and graph.passes(op, n) for n in op.reads)]
        fork = graph.fork(low, reading)
        if fork is None or graph.prefix:
            return stage
        depth = len(fork.path) - 1
        branches = []
        for reader in fork.readers:
            starts = [op for op in reading if op.path[depth] == reader]
            found = {w for op in starts for w in op.writes}
            for op in region:
                if any(n in found for n in op.reads):
                    found.update(op.writes)
            names = [self.layers[op.path][0] for op in region if op.path in self.layers and set(op.writes) & found]
            branches.append(names[0] if names else "skip" if stage.cause == "skip" else "without a layer")
        var = graph.values[low].var
        site = site_of_value(var, fork.path, "fork", fork.out, Place(), order=fork.path, readers=fork.readers)
        self.sites.append(site)
        return dataclasses.replace(stage, branches=tuple(branches), fork=len(self.sites) - 1)

    def _moves(self, graph: SignalGraph, stretches: list[_Stretch], place: Place, step: int | None) -> list[Move]:
        points = [(self._point(graph, s.high, place, step), self._point(graph, s.low, place, step)) for s in stretches]
        return [Move(up, low, s.stage) for (up, low), s in reversed(list(zip(points, stretches, strict=True)))]

    def _loss_moves(
        self, cuts: list[int], regions: list[list[Operation]], around: Surroundings, below: str
    ) -> list[Move]:
        start = len(self.stages)
        stretches, _ = self._stretches(self.graph, cuts, regions, around, below, Place())
        for k in range(start, len(self.stages)):
            self.stages[k] = dataclasses.replace(self.stages[k], cause="loss", where="loss")
        moves = self._moves(self.graph, stretches, Place(), None)
        if moves:
            moves[0] = dataclasses.replace(moves[0], upper=Point(()))
        return moves

    def _point(self, graph: SignalGraph, number: int, place: Place, step: int | None = None) -> Point:
        return Point((self._tap(graph, number, place),), step)

    def _tap(self, graph: SignalGraph, number: int, place: Place) -> int:
        value = graph.values[number]
        key = (value.path, value.out)
        if key not in self.numbers:
            self.numbers[key] = len(self.sites)
            self.sites.append(site_of_value(value.var, value.path, "cut", value.out, place, order=value.path))
        return self.numbers[key]

    # Scans.

    def _loop(self, op: Operation, source: int, body: SignalGraph) -> _Loop | None:
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
        layers = _layers_below(body, self.layers)
        if not alive or not layers:
            return None
        depth = len(body.prefix)
        shared = shares_weights([site for path, (_, site) in self.layers.items() if path[:depth] == body.prefix])
        reverse, length = op.eqn.params["reverse"], op.eqn.params["length"]
        place = Place(body.prefix, (length,), (reverse,), (body.prefix,))
        states, results = tuple(i for i, _ in alive), tuple(o for _, o in alive)
        return _Loop(graph, op, body, place, states, results, tuple(dict.fromkeys((*ends, *results))), shared)

    def _openable(self, graph: SignalGraph, region: list[Operation], low: int) -> _Loop | None:
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

    def _over(self, loop: _Loop, low: int, high: int) -> list[Move]:
        """Follow a scan between two values of the graph around it."""
        number = loop.op.reads.index(low)
        num_consts, num_carry = jaxprs.scan_arity(loop.op.eqn)
        carried = number < num_consts + num_carry
        source = None if carried else loop.body.inputs[number]
        moves, _ = self._through(loop, self._point(loop.graph, high, Place()), source, low)
        return moves

    def _through(self, loop: _Loop, top: Point, source: int | None, low: int | None) -> tuple[list[Move], str]:
        """Follow the state from the point above a scan down to its first step.

        Args:
            loop: the scan.
            top: the point above it.
            source: where the signal enters the body at the first step; None where it is the state itself.
            low: the value of the graph around it that enters, None where the first layer is inside.
        """
        cause = "time" if loop.over_time else "other"
        names = _layers_below(loop.body, self.layers)
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
            moves += self._first_step(loop, source, point, entering, where)
            point = moves[-1].lower
        if low is not None:
            words = INITIAL_STATE if source is None else ALL_STEPS
            stage = self._stage(Stage(cause, where, words))
            moves.append(Move(point, self._point(loop.graph, low, Place()), stage))
        return moves, names[-1]

    def _stage(self, stage: Stage) -> int:
        self.stages.append(stage)
        return len(self.stages) - 1

    def _cycle(self, loop: _Loop, where: str) -> list[_Stretch] | None:
        """Return the stages of one step where the state is one value and every path passes it; else None."""
        if len(loop.states) != 1:
            return None
        return self._body_stretches(loop, loop.states[0], where)

    def _body_stretches(self, loop: _Loop, source: int, where: str) -> list[_Stretch] | None:
        body = loop.body
        cuts, regions = body.regions([source], loop.ends)
        if loop.results[0] not in cuts or source not in cuts:
            return None
        end = cuts.index(loop.results[0])
        around = self._surroundings(body, [source], loop.ends)
        start, below = len(self.stages), _layers_below(body, self.layers)[-1]
        stretches, _ = self._stretches(body, cuts[: end + 1], regions[:end], around, below, loop.place)
        if loop.over_time:
            for k in range(start, len(self.stages)):
                stage = self.stages[k]
                words = f"{stage.cause}: {stage.operation}"
                self.stages[k] = dataclasses.replace(stage, cause="time", operation=words)
        return stretches

    def _state(self, loop: _Loop, step: int) -> Point:
        return Point(tuple(self._tap(loop.body, n, loop.place) for n in loop.states), step)

    def _first_step(self, loop: _Loop, source: int, point: Point, entering: int, where: str) -> list[Move]:
        """Follow the first step from the state behind it to where the signal enters."""
        step = loop.step(0)
        known = len(self.stages)
        stretches = self._body_stretches(loop, source, where) if len(loop.states) == 1 else None
        if stretches:
            for s in stretches:  # the same stage as in later steps is one entry
                s.stage = self.stages.index(self.stages[s.stage]) if s.stage >= known else s.stage
            moves = self._moves(loop.body, stretches, loop.place, step)
            return [Move(point, moves[0].upper, entering), *moves]
        stage = self._stage(Stage("time" if loop.over_time else "other", where, "the first step"))
        return [Move(point, self._point(loop.body, source, loop.place, step), stage)]


def _number_at(graph: SignalGraph, site: Site) -> int | None:
    found = (n for n, v in enumerate(graph.values) if v.path == site.path and v.out == site.out)
    return next(found, None)


def _is_layer(graph: SignalGraph, number: int, layers: Mapping[Path, tuple[str, Site]]) -> bool:
    return number in graph.makers and graph.makers[number].path in layers


def _layers_below(body: SignalGraph, layers: Mapping[Path, tuple[str, Site]]) -> list[str]:
    """Return the names of the layers in a scan's body, in forward order."""
    depth = len(body.prefix)
    return [name for path, (name, _) in layers.items() if path[:depth] == body.prefix]


def _last_in_loop(pieces: list[list[Move]], stages: list[Stage]) -> tuple[list[list[Move]], str]:
    """Find the last layer in a scan behind which no layer lies; what is above its output belongs to the loss."""
    for piece in reversed(pieces):
        for k, move in enumerate(piece):
            stage = stages[move.stage]
            if stage.cause == "loss" or not (stage.cause == "weights" or stage.operation.startswith("weights: ")):
                continue
            for j in range(k):
                above = stages[piece[j].stage]
                stages.append(dataclasses.replace(above, cause="loss", where="loss"))
                piece[j] = dataclasses.replace(piece[j], stage=len(stages) - 1)
            return pieces, stage.where
    return pieces, ""


__all__ = ["LINKS", "Move", "Point", "SignalPath", "find_path"]
