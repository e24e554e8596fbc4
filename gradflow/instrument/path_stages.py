"""Stages of a signal's path within one graph: between which values they lie, and what taps them."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence

from gradflow.instrument.causes import Stage, Surroundings, classify, layers_in
from gradflow.instrument.signal_graph import Operation, SignalGraph
from gradflow.instrument.sites import Path, Place, Site, site_of_value


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


@dataclasses.dataclass
class Stretch:
    """A stage between two values of one graph."""

    low: int
    high: int
    stage: int


class StageBuilder:
    """Collects the stages of a path, and the sites between them.

    Args:
        layers: name and site of each layer, by the path of its equation.
        owners: for each parameter leaf the name of what owns it.
    """

    def __init__(self, layers: dict[Path, tuple[str, Site]], owners: Sequence[str]) -> None:
        self.layers, self.owners = layers, owners
        self.sites: list[Site] = []
        self.numbers: dict[tuple[Path, int], int] = {}
        self.stages: list[Stage] = []
        self.kinds: list[str] = []

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
    ) -> tuple[list[Stretch], str]:
        """Return the stages between cuts, upwards; what leaves cotangents as they are joins the stage below it."""
        out: list[Stretch] = []
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
            out.append(Stretch(start, low, len(self.stages) - 1))
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
            names = [name for op in region if set(op.writes) & found for name in layers_in(op, self.layers)]
            branches.append(names[0] if names else "skip" if stage.cause == "skip" else "without a layer")
        var = graph.values[low].var
        site = site_of_value(var, fork.path, "fork", fork.out, Place(), order=fork.path, readers=fork.readers)
        self.sites.append(site)
        return dataclasses.replace(stage, branches=tuple(branches), fork=len(self.sites) - 1)

    def _moves(self, graph: SignalGraph, stretches: list[Stretch], place: Place, step: int | None) -> list[Move]:
        points = [(self._point(graph, s.high, place, step), self._point(graph, s.low, place, step)) for s in stretches]
        return [Move(up, low, s.stage) for (up, low), s in reversed(list(zip(points, stretches, strict=True)))]

    def _point(self, graph: SignalGraph, number: int, place: Place, step: int | None = None) -> Point:
        return Point((self._tap(graph, number, place),), step)

    def _tap(self, graph: SignalGraph, number: int, place: Place) -> int:
        value = graph.values[number]
        key = (value.path, value.out)
        if key not in self.numbers:
            self.numbers[key] = len(self.sites)
            self.sites.append(site_of_value(value.var, value.path, "cut", value.out, place, order=value.path))
        return self.numbers[key]

    def _stage(self, stage: Stage) -> int:
        self.stages.append(stage)
        return len(self.stages) - 1


__all__ = ["Move", "Point", "StageBuilder", "Stretch"]
