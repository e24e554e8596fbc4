"""The path of a signal from the first layer to the loss: which values it passes, stage by stage, step by step.

A **chain** passes every value in turn. A **residual stream** passes the values that all branches come together in. The
**recurrent state** is followed from step to step of the lowest scan over time; a scan over layers is followed likewise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from gradflow.instrument import jaxprs
from gradflow.instrument.causes import Stage, Surroundings
from gradflow.instrument.path_loops import ALL_STEPS, LINKS, Loop, LoopFollower, layers_below
from gradflow.instrument.path_stages import Move, Point
from gradflow.instrument.signal_graph import Operation, SignalGraph, scan_body
from gradflow.instrument.sites import LAYER_KINDS, Path, Place, Site


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


class _Follower(LoopFollower):
    def __init__(self, jaxpr: Any, sites: Sequence[Site], names: Sequence[str], owners: Sequence[str]) -> None:
        self.candidates = [
            (site, name)
            for site, name in zip(sites, names, strict=True)
            if site.kind in LAYER_KINDS and not site.entering and site.computed_in == "value"
        ]
        super().__init__(SignalGraph(jaxpr), {site.path: (name, site) for site, name in self.candidates}, owners)
        self.aside: dict[str, str] = {}

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
        passed = [self.stages[k] for k in dict.fromkeys(move.stage for move in moves)]
        followed = [s for s in passed if s.operation not in LINKS]
        on_path = {first, *(s.where for s in followed), *(n for s in followed for n in s.layers)}
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

    def _upwards(self, sources: list[int], first: str, inside: tuple[Loop, int] | None) -> tuple[list[Move], str]:
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
            below = layers_below(loop_here.body, self.layers)[-1]
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

    def _joined(self, pieces: list[list[Move]], sources: list[int], inside: tuple[Loop, int] | None) -> list[Move]:
        moves = [move for piece in reversed(pieces) for move in piece]
        if inside is None and moves:  # the path ends at the layer's own output, whatever the taps behind it merged
            end = self._point(self.graph, sources[0], Place())
            link = moves[-1].stage
            if self.stages[link].operation == ALL_STEPS:  # nothing but a reshaping below: the first step's own output
                moves.pop()
            elif moves[-1].lower.step is None:
                moves[-1] = dataclasses.replace(moves[-1], lower=end)
        return moves

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


def _number_at(graph: SignalGraph, site: Site) -> int | None:
    found = (n for n, v in enumerate(graph.values) if v.path == site.path and v.out == site.out)
    return next(found, None)


def _is_layer(graph: SignalGraph, number: int, layers: Mapping[Path, tuple[str, Site]]) -> bool:
    return number in graph.makers and graph.makers[number].path in layers


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
