"""Walk a traced loss and find its layers: which contractions meet a weight, and which of them feed the loss."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jax.extend import core

from gradflow.instrument import jaxprs
from gradflow.instrument.axes import contracts
from gradflow.instrument.contractions import Meeting, contraction, hand_tap, look_up, marked, ordinary, whole_rule
from gradflow.instrument.errors import FlowError
from gradflow.instrument.neighbours import Frame, definition
from gradflow.instrument.origins import NEUTRAL, Kind, Origin, cut, join, merge, scanned, stacked
from gradflow.instrument.recorder import Recorder
from gradflow.instrument.sites import Findings, Path, Place, site_of_value
from gradflow.instrument.tap import TAP_PREFIX
from gradflow.primitives import CONTRACTIONS

_AFTER_ALL = 1 << 40  # sorts a scan's carries behind the layers of its body
_CALLS = jaxprs.INLINED | jaxprs.REMAT
_NEVER_OPENED = frozenset({"while", "pallas_call", "ffi_call", "custom_linear_solve"})


def find_sites(closed: Any, parameters: Sequence[Origin], consts: Sequence[Origin], *, activations: bool) -> Findings:
    """Return what can be tapped in a traced loss function, and what cannot.

    Args:
        closed: the traced function; its first output is the loss.
        parameters: origin of each input, the differentiated leaves.
        consts: origin of each constant.
        activations: whether contractions of two activations count.
    """
    analysis = _Analysis(Recorder(), activations)
    jaxpr, _ = jaxprs.opened(closed)
    marked = []
    for k, origin in enumerate(parameters):
        bit = analysis.record.bit(("leaf", k))
        marked.append(dataclasses.replace(origin, layers=bit, reaching=bit))
    outs = analysis.walk(Frame(jaxpr), list(consts), marked, Place())
    return analysis.record.collect(outs[0], len(parameters))


class _Analysis:
    """Forward abstract interpretation with `Origin` as the domain."""

    def __init__(self, record: Recorder, activations: bool) -> None:
        self.record, self.activations = record, activations

    def walk(self, frame: Frame, consts: list[Origin], args: list[Origin], place: Place) -> list[Origin]:
        jaxpr = frame.jaxpr
        env: dict[Any, Origin] = dict(zip(jaxpr.constvars, consts, strict=True))
        env.update(zip(jaxpr.invars, args, strict=True))

        def read(atom: Any) -> Origin:
            return env[atom] if jaxprs.is_var(atom) else NEUTRAL

        for index, eqn in enumerate(jaxpr.eqns):
            outs = self.equation(Meeting(eqn, [read(v) for v in eqn.invars], index, place, frame))
            env.update(zip(eqn.outvars, outs, strict=True))
        return [read(v) for v in jaxpr.outvars]

    def equation(self, here: Meeting) -> list[Origin]:
        eqn, name = here.eqn, here.eqn.primitive.name
        if name in _CALLS:
            return self.call(jaxprs.inner_jaxpr(eqn), here.origins, here)
        if name in CONTRACTIONS and contracts(eqn):
            return contraction(here, self.record, activations=self.activations)
        if name == "gather":
            return look_up(here, self.record)
        if (handler := _HIGHER_ORDER.get(name)) is not None:
            return handler(self, here)
        if _is_hand_tap(eqn):
            return hand_tap(here, self.record, str(eqn.params["name"]).removeprefix(TAP_PREFIX))
        if name in _NEVER_OPENED or jaxprs.subjaxprs(eqn):
            return self.opaque(here)
        if name.startswith(("random_", "threefry")) and all(o.kind == Kind.DATA for o in here.origins):
            # Noise is neither parameter nor data: a masked weight (DropConnect) is still a weight.
            return [dataclasses.replace(join(here.origins), kind=Kind.NEUTRAL)] * len(eqn.outvars)
        return ordinary(here, self.record)

    def call(self, closed: Any, origins: list[Origin], here: Meeting, branch: int = 0) -> list[Origin]:
        jaxpr, consts = jaxprs.opened(closed)
        place = here.place.into(here.index, branch)
        above = (here.frame, here.index) if here.eqn.primitive.name in _CALLS else None
        return self.walk(Frame(jaxpr, place.path, above), [_constant(c) for c in consts], origins, place)

    def scan(self, here: Meeting) -> list[Origin]:
        eqn = here.eqn
        jaxpr, values = jaxprs.opened(jaxprs.inner_jaxpr(eqn))
        consts = [_constant(c) for c in values]
        num_consts, num_carry = jaxprs.scan_arity(eqn)
        fixed, carry = here.origins[:num_consts], here.origins[num_consts : num_consts + num_carry]
        rows = [scanned(o, len(here.place.lengths)) for o in here.origins[num_consts + num_carry :]]
        inside = here.place.into_scan(here.index, eqn.params["length"], eqn.params["reverse"])
        frame = Frame(jaxpr, inside.path)
        while True:  # the domain is finite and `merge` only climbs, so this ends
            self.record.forget(inside.path)
            outs = self.walk(frame, consts, [*fixed, *carry, *rows], inside)
            climbed = [merge(a, b) for a, b in zip(carry, outs[:num_carry], strict=True)]
            if climbed == carry:
                break
            carry = climbed
        states = {v: k for k, v in enumerate(jaxpr.invars[num_consts : num_consts + num_carry])}
        recurrent = set(self.mark_recurrent(jaxpr, states, inside.path))
        bits = 0
        for number, (atom, origin) in enumerate(zip(jaxpr.outvars[:num_carry], carry, strict=True)):
            if origin.kind != Kind.NEUTRAL:
                bits |= self.carry(frame, atom, number, origin, inside, hidden=number in recurrent)
        return [marked(o, bits) for o in (*carry, *(stacked(o) for o in outs[num_carry:]))]

    def carry(self, frame: Frame, atom: Any, number: int, origin: Origin, place: Place, *, hidden: bool) -> int:
        """Note a scan's carry where it is computed, so that all its uses count (h_t also goes to the output)."""
        if not jaxprs.is_var(atom) or not jaxprs.is_inexact(atom) or math.prod(jaxprs.shape_of(atom)) < 2:
            return 0
        located = definition(frame, atom)
        if located is None:
            return 0
        path, out, var = located
        key = ("carry", path, out)
        self.record.extra[key] = site_of_value(
            var,
            path,
            "carry",
            out,
            place,
            mesh_axes=tuple(sorted(origin.axes)),
            source_carried=hidden,
            order=(*place.path, _AFTER_ALL, number),
        )
        return self.record.bit(key)

    def mark_recurrent(self, jaxpr: core.Jaxpr, states: Mapping[Any, int], path: Path) -> Iterator[int]:
        """Mark the layers that read a scan's carry as recurrent, and give the numbers of those carries."""
        for index, eqn in enumerate(jaxpr.eqns):
            read = [(states[v], k) for k, v in enumerate(eqn.invars) if jaxprs.is_var(v) and v in states]
            if not read:
                continue
            site = self.record.found.get((*path, index))
            if site is not None and site.source is not None and any(k == site.source for _, k in read):
                self.record.found[(*path, index)] = dataclasses.replace(site, source_carried=True)
                yield next(number for number, k in read if k == site.source)
            if eqn.primitive.name in _CALLS:
                inner, _ = jaxprs.opened(jaxprs.inner_jaxpr(eqn))
                inside = {inner.invars[k]: number for number, k in read}
                yield from self.mark_recurrent(inner, inside, (*path, index, 0))

    def cond(self, here: Meeting) -> list[Origin]:
        branches = [
            self.call(branch, here.origins[1:], here, k) for k, branch in enumerate(here.eqn.params["branches"])
        ]
        outs = branches[0]
        for branch in branches[1:]:
            outs = [merge(a, b) for a, b in zip(outs, branch, strict=True)]
        chosen = cut(here.origins[0], "cond")
        if not chosen.layers:
            return outs
        return [dataclasses.replace(o, layers=o.layers | chosen.layers, cuts=join((o, chosen)).cuts) for o in outs]

    def shard_map(self, here: Meeting) -> list[Origin]:
        specs = here.eqn.params["in_specs"]
        inner = [
            dataclasses.replace(o, axes=o.axes | _spec_axes(spec)) for o, spec in zip(here.origins, specs, strict=True)
        ]
        manual = frozenset(a for spec in specs for a in _spec_axes(spec))
        outs = self.call(jaxprs.inner_jaxpr(here.eqn), inner, here)
        return [dataclasses.replace(o, axes=o.axes - manual) for o in outs]

    def opaque(self, here: Meeting) -> list[Origin]:
        """Loops that cannot be reverse-differentiated and custom rules: never opened, their outputs may be tapped."""
        eqn, name = here.eqn, here.eqn.primitive.name
        _refuse_taps_inside(eqn)
        joined = dataclasses.replace(join(here.origins), spread=False)
        if name in jaxprs.CUSTOM_RULES:
            inner = _Analysis(Recorder(), self.activations)
            bare = [dataclasses.replace(o, layers=0, reaching=0) for o in here.origins]
            outs = inner.call(jaxprs.inner_jaxpr(eqn), bare, dataclasses.replace(here, place=Place()))
            weights = [s.weight for s in inner.record.found.values() if s.weight is not None]
            outs = [dataclasses.replace(_like(o, joined), active=o.active or joined.active) for o in outs]
        else:
            weights = []
            made = joined if joined.kind < Kind.MIXED else dataclasses.replace(joined, kind=Kind.DATA, signal=True)
            outs = [made] * len(eqn.outvars)
        stops = name == "while"
        outs = [
            cut(o, name) if stops or not jaxprs.is_inexact(v) else o for o, v in zip(outs, eqn.outvars, strict=True)
        ]
        return whole_rule(here, self.record, outs, weights)


_HIGHER_ORDER = {"scan": _Analysis.scan, "cond": _Analysis.cond, "shard_map": _Analysis.shard_map}


def _like(origin: Origin, joined: Origin) -> Origin:
    """Let a custom rule's output depend on all that enters: the analysis does not look at what happens inside."""
    return dataclasses.replace(origin, layers=joined.layers, reaching=joined.reaching, cuts=joined.cuts)


def _constant(value: Any) -> Origin:
    return Origin(Kind.DATA, axes=jaxprs.varying_axes(value))


def _is_hand_tap(eqn: core.JaxprEqn) -> bool:
    return eqn.primitive.name == "name" and str(eqn.params["name"]).startswith(TAP_PREFIX)


def _refuse_taps_inside(eqn: core.JaxprEqn) -> None:
    hit = None
    for inner in jaxprs.subjaxprs(eqn):
        hit = hit or jaxprs.any_equation(inner, _is_hand_tap)
    if hit is None:
        return
    name = str(hit.params["name"]).removeprefix(TAP_PREFIX)
    loop = eqn.primitive.name == "while"
    raise FlowError(
        expected=f"gradflow.tap({name!r}, ...) where a cotangent passes",
        got=f"one inside {'a while loop' if loop else 'a ' + eqn.primitive.name}",
        cause="a while loop has no reverse mode" if loop else "custom rules are never broken open",
        fix="use lax.scan or a fori_loop with constant bounds" if loop else "tap the value outside of it",
    )


def _spec_axes(spec: Any) -> frozenset[str]:
    names: set[str] = set()
    for entry in spec or ():
        names.update(entry if isinstance(entry, tuple) else () if entry is None else (entry,))
    return frozenset(names)
