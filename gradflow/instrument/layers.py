"""Find the layers of a jaxpr: which contractions meet a weight, what their axes mean, which of them feed the loss."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from jax.extend import core

from gradflow.instrument import jaxprs
from gradflow.instrument.errors import FlowError
from gradflow.instrument.origins import (
    NEUTRAL,
    Kind,
    Origin,
    join,
    join_indices,
    merge,
    propagate,
    scanned,
    stacked,
)
from gradflow.instrument.tap import TAP_PREFIX

Path = tuple[int, ...]
_AFTER_ALL = 1 << 40  # sorts a scan's carries behind the layers of its body


@dataclasses.dataclass(frozen=True)
class Site:
    """One place in the jaxpr where a value is tapped.

    Attributes:
        path: indices that lead to the equation: (equation, sub-jaxpr, equation, ...), the last one an equation.
        kind: "layer", "embedding", "activation" (two activations contracted), "tap" (by hand) or "carry".
        out: which output of the equation is tapped.
        source: which operand enters as the layer's input, None where there is none to speak of.
        weight: origin of the weight, None where there is none.
        unit_axes, example_axes: axes of the tapped value; `similarity` runs over the first example axis.
        shape, input_shape: of the tapped value and of the input.
        mesh_axes: manual mesh axes over which the examples are split.
        lengths: lengths of the scans around it, outermost first.
        chain: paths of those scans.
        scope: the `jax.named_scope` at which it was traced.
        given: the name given by hand, "" otherwise.
        source_active: whether the loss differentiates through the input anyway.
    """

    path: Path
    kind: str
    out: int
    source: int | None
    weight: Origin | None
    unit_axes: tuple[int, ...]
    example_axes: tuple[int, ...]
    shape: tuple[int, ...]
    input_shape: tuple[int, ...] | None = None
    mesh_axes: tuple[str, ...] = ()
    lengths: tuple[int, ...] = ()
    chain: tuple[Path, ...] = ()
    scope: str = ""
    given: str = ""
    source_active: bool = False
    order: tuple[Any, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where the analysis stands: the path so far, the scans around it, and whether values here can be tapped."""

    path: Path = ()
    lengths: tuple[int, ...] = ()
    chain: tuple[Path, ...] = ()

    def into(self, eqn: int, branch: int = 0, length: int | None = None) -> _Place:
        path = (*self.path, eqn, branch)
        if length is None:
            return dataclasses.replace(self, path=path)
        return _Place(path, (*self.lengths, length), (*self.chain, path))


def find_sites(closed: Any, parameters: Sequence[Origin], consts: Sequence[Origin], *, activations: bool) -> list[Site]:
    """Return what can be tapped in a traced loss function, in forward order.

    Args:
        closed: the traced function; its first output is the loss.
        parameters: origin of each input.
        consts: origin of each constant.
        activations: whether contractions of two activations count.
    """
    analysis = _Analysis(activations)
    jaxpr, _ = jaxprs.opened(closed)
    outs = analysis.walk(jaxpr, list(consts), list(parameters), _Place())
    return analysis.collect(outs[0].layers)


class _Analysis:
    """Forward abstract interpretation with `Origin` as the domain."""

    def __init__(self, activations: bool) -> None:
        self.activations = activations
        self.found: dict[Path, Site] = {}
        self.extra: dict[tuple[Path, int], Site] = {}
        self.bits: dict[Path, int] = {}

    def collect(self, feeding_loss: int) -> list[Site]:
        alive = [s for p, s in self.found.items() if s.kind == "tap" or self.bits[p] & feeding_loss]
        carries = [
            s for s in self.extra.values() if any(s.chain[-1] == layer.path[: len(s.chain[-1])] for layer in alive)
        ]
        return sorted([*alive, *carries], key=lambda s: s.order)

    def walk(self, jaxpr: core.Jaxpr, consts: list[Origin], args: list[Origin], place: _Place) -> list[Origin]:
        env: dict[Any, Origin] = dict(zip(jaxpr.constvars, consts, strict=True))
        env.update(zip(jaxpr.invars, args, strict=True))

        def read(atom: Any) -> Origin:
            return env[atom] if jaxprs.is_var(atom) else NEUTRAL

        for index, eqn in enumerate(jaxpr.eqns):
            outs = self.equation(eqn, [read(v) for v in eqn.invars], index, place)
            env.update(zip(eqn.outvars, outs, strict=True))
        return [read(v) for v in jaxpr.outvars]

    def equation(self, eqn: core.JaxprEqn, origins: list[Origin], index: int, place: _Place) -> list[Origin]:
        name = eqn.primitive.name
        self.found.pop((*place.path, index), None)  # from an earlier round of a scan's fixed point
        if _is_hand_tap(eqn):
            return self.hand_tap(eqn, origins, index, place)
        if name in ("dot_general", "conv_general_dilated"):
            return self.contraction(eqn, origins, index, place)
        if name == "gather":
            return self.gather(eqn, origins, index, place)
        if name in jaxprs.INLINED or name in jaxprs.REMAT:
            return self.call(jaxprs.inner_jaxpr(eqn), origins, place.into(index))
        if name == "scan":
            return self.scan(eqn, origins, index, place)
        if name == "cond":
            return self.cond(eqn, origins, index, place)
        if name == "shard_map":
            return self.shard_map(eqn, origins, index, place)
        if jaxprs.subjaxprs(eqn):
            return self.opaque(eqn, origins, index, place)
        if name.startswith(("random_", "threefry")) and all(o.kind == Kind.DATA for o in origins):
            # Noise is neither parameter nor data: a masked weight (DropConnect) is still a weight.
            joined = join(origins)
            return [dataclasses.replace(joined, kind=Kind.NEUTRAL)] * len(eqn.outvars)
        return propagate(eqn, origins)

    def call(self, closed: Any, origins: list[Origin], place: _Place) -> list[Origin]:
        jaxpr, consts = jaxprs.opened(closed)
        return self.walk(jaxpr, [_constant(c) for c in consts], origins, place)

    def scan(self, eqn: core.JaxprEqn, origins: list[Origin], index: int, place: _Place) -> list[Origin]:
        jaxpr, values = jaxprs.opened(jaxprs.inner_jaxpr(eqn))
        consts = [_constant(c) for c in values]
        num_consts, num_carry = jaxprs.scan_arity(eqn)
        fixed, carry = origins[:num_consts], origins[num_consts : num_consts + num_carry]
        rows = [scanned(o, len(place.lengths)) for o in origins[num_consts + num_carry :]]
        inside = place.into(index, 0, eqn.params["length"])
        while True:  # the domain is finite and `merge` only climbs, so this ends
            outs = self.walk(jaxpr, consts, [*fixed, *carry, *rows], inside)
            climbed = [merge(a, b) for a, b in zip(carry, outs[:num_carry], strict=True)]
            if climbed == carry:
                break
            carry = climbed
        for number, (atom, origin) in enumerate(zip(jaxpr.outvars[:num_carry], carry, strict=True)):
            if origin.kind == Kind.DATA:
                self.carry(jaxpr, atom, number, origin, inside)
        return [*carry, *(stacked(o) for o in outs[num_carry:])]

    def carry(self, jaxpr: core.Jaxpr, atom: Any, number: int, origin: Origin, place: _Place) -> None:
        """Note a scan's carry where it is computed, so that all its uses count (h_t also goes to the output)."""
        if not jaxprs.is_var(atom) or not jaxprs.is_inexact(atom) or math.prod(jaxprs.shape_of(atom)) < 2:
            return
        located = _definition(jaxpr, atom, place.path)
        if located is None:
            return
        path, out, var = located
        rank = len(jaxprs.shape_of(var))
        self.extra[(path, out)] = Site(
            path,
            "carry",
            out,
            None,
            None,
            unit_axes=(rank - 1,),
            example_axes=tuple(range(rank - 1)),
            shape=jaxprs.shape_of(var),
            mesh_axes=tuple(sorted(origin.axes)),
            lengths=place.lengths,
            chain=place.chain,
            order=(*place.path, _AFTER_ALL, number),
        )

    def cond(self, eqn: core.JaxprEqn, origins: list[Origin], index: int, place: _Place) -> list[Origin]:
        branches = [
            self.call(branch, origins[1:], place.into(index, k)) for k, branch in enumerate(eqn.params["branches"])
        ]
        outs = branches[0]
        for branch in branches[1:]:
            outs = [merge(a, b) for a, b in zip(outs, branch, strict=True)]
        return outs

    def shard_map(self, eqn: core.JaxprEqn, origins: list[Origin], index: int, place: _Place) -> list[Origin]:
        inner = [
            dataclasses.replace(o, axes=o.axes | _spec_axes(spec))
            for o, spec in zip(origins, eqn.params["in_specs"], strict=True)
        ]
        manual = frozenset(a for spec in eqn.params["in_specs"] for a in _spec_axes(spec))
        outs = self.call(jaxprs.inner_jaxpr(eqn), inner, place.into(index))
        return [dataclasses.replace(o, axes=o.axes - manual) for o in outs]

    def opaque(self, eqn: core.JaxprEqn, origins: list[Origin], index: int, place: _Place) -> list[Origin]:
        """Loops that cannot be reverse-differentiated and custom rules: never opened, their outputs may be tapped."""
        self.refuse_taps_inside(eqn)
        if eqn.primitive.name not in jaxprs.CUSTOM_RULES:
            return [join(origins)] * len(eqn.outvars)
        inner = _Analysis(self.activations)
        outs = inner.call(jaxprs.inner_jaxpr(eqn), [dataclasses.replace(o, layers=0) for o in origins], _Place())
        passed = join(origins)
        outs = [dataclasses.replace(o, layers=passed.layers) for o in outs]
        weights = [s.weight for s in inner.found.values() if s.weight is not None]
        floating = [k for k, v in enumerate(eqn.outvars) if jaxprs.is_inexact(v) and jaxprs.shape_of(v)]
        if not weights or len(floating) != 1 or outs[floating[0]].kind == Kind.VIEW:
            return outs
        data = [k for k, o in enumerate(origins) if o.kind == Kind.DATA and jaxprs.is_inexact(eqn.invars[k])]
        k = floating[0]
        rank = len(jaxprs.shape_of(eqn.outvars[k]))
        weight = weights[0] if len(set(weights)) == 1 else join(weights)
        axes = ((rank - 1,), tuple(range(rank - 1)))
        bit = self.add(eqn, index, place, "layer", k, data[0] if data else None, weight, axes, origins)
        outs[k] = dataclasses.replace(outs[k], layers=passed.layers | bit)
        return outs

    def refuse_taps_inside(self, eqn: core.JaxprEqn) -> None:
        hit = None
        for inner in jaxprs.subjaxprs(eqn):
            hit = hit or jaxprs.any_equation(inner, _is_hand_tap)
        if hit is not None:
            name = str(hit.params["name"]).removeprefix(TAP_PREFIX)
            loop = eqn.primitive.name == "while"
            raise FlowError(
                expected=f"gradflow.tap({name!r}, ...) where a cotangent passes",
                got=f"one inside {'a while loop' if loop else 'a ' + eqn.primitive.name}",
                cause="a while loop has no reverse mode" if loop else "custom rules are never broken open",
                fix="use lax.scan or a fori_loop with constant bounds" if loop else "tap the value outside of it",
            )

    def hand_tap(self, eqn: core.JaxprEqn, origins: list[Origin], index: int, place: _Place) -> list[Origin]:
        rank = len(jaxprs.shape_of(eqn.outvars[0]))
        axes = (tuple(range(rank))[-1:], tuple(range(max(rank - 1, 0))))
        self.add(eqn, index, place, "tap", 0, None, None, axes, origins)
        return origins

    def gather(self, eqn: core.JaxprEqn, origins: list[Origin], index: int, place: _Place) -> list[Origin]:
        operand, indices = origins
        dims = eqn.params["dimension_numbers"]
        out = eqn.outvars[0]
        examples = tuple(k for k in range(len(jaxprs.shape_of(out))) if k not in dims.offset_dims)
        if not operand.is_weight:
            return [join(origins)]
        if not examples or not jaxprs.is_inexact(out):
            return [dataclasses.replace(join_indices(operand, [indices]), steps=(*operand.steps, ("opaque",)))]
        bit = self.add(eqn, index, place, "embedding", 0, None, operand, (tuple(dims.offset_dims), examples), [indices])
        joined = join(origins)
        return [dataclasses.replace(joined, layers=indices.layers | bit)]

    def contraction(self, eqn: core.JaxprEqn, origins: list[Origin], index: int, place: _Place) -> list[Origin]:
        lhs, rhs = origins
        joined = join(origins)
        if not (lhs.is_weight or rhs.is_weight):
            if not self.activations or not (lhs.active and rhs.active):
                return [joined]
            axes = _axis_roles(eqn, weight=1)
            bit = self.add(eqn, index, place, "activation", 0, 0, None, axes, origins)
            return [dataclasses.replace(joined, layers=joined.layers | bit)]
        # Of two values made of parameters the more direct one is the weight; by convention the right one in a tie.
        weight = 1 if rhs.is_weight and (not lhs.is_weight or rhs.kind <= lhs.kind) else 0
        source = 1 - weight
        axes = _axis_roles(eqn, weight)
        bit = self.add(eqn, index, place, "layer", 0, source, origins[weight], axes, origins)
        return [dataclasses.replace(joined, layers=origins[source].layers | bit)]

    def add(
        self,
        eqn: core.JaxprEqn,
        index: int,
        place: _Place,
        kind: str,
        out: int,
        source: int | None,
        weight: Origin | None,
        axes: tuple[tuple[int, ...], tuple[int, ...]],
        origins: list[Origin],
    ) -> int:
        """Record a site and return its bit."""
        path = (*place.path, index)
        shared = frozenset[str]() if weight is None else weight.axes
        varying = frozenset[str]().union(*(o.axes for o in origins)) - shared
        entering = None if source is None or not jaxprs.is_inexact(eqn.invars[source]) else eqn.invars[source]
        self.found[path] = Site(
            path,
            kind,
            out,
            None if entering is None else source,
            weight,
            *axes,
            shape=jaxprs.shape_of(eqn.outvars[out]),
            input_shape=None if entering is None else jaxprs.shape_of(entering),
            mesh_axes=tuple(sorted(varying)),
            lengths=place.lengths,
            chain=place.chain,
            scope=jaxprs.source_scope(eqn),
            given=str(eqn.params["name"]).removeprefix(TAP_PREFIX) if kind == "tap" else "",
            source_active=source is not None and origins[source].active,
            order=path,
        )
        return self.bits.setdefault(path, 1 << len(self.bits))


def _constant(value: Any) -> Origin:
    return Origin(Kind.DATA, axes=jaxprs.varying_axes(value))


def _is_hand_tap(eqn: core.JaxprEqn) -> bool:
    return eqn.primitive.name == "name" and str(eqn.params["name"]).startswith(TAP_PREFIX)


def _spec_axes(spec: Any) -> frozenset[str]:
    names: set[str] = set()
    for entry in spec or ():
        names.update(entry if isinstance(entry, tuple) else () if entry is None else (entry,))
    return frozenset(names)


def _definition(jaxpr: core.Jaxpr, var: Any, path: Path) -> tuple[Path, int, Any] | None:
    """Follow a variable through inlined calls to the equation that computes it; None for a passed-through input."""
    for index, eqn in enumerate(jaxpr.eqns):
        if var in eqn.outvars:
            out = list(eqn.outvars).index(var)
            if eqn.primitive.name in jaxprs.INLINED | jaxprs.REMAT:
                inner, _ = jaxprs.opened(jaxprs.inner_jaxpr(eqn))
                if jaxprs.is_var(inner.outvars[out]):
                    return _definition(inner, inner.outvars[out], (*path, index, 0)) or (
                        (*path, index),
                        out,
                        var,
                    )
            return (*path, index), out, var
    return None


def _axis_roles(eqn: core.JaxprEqn, weight: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return (unit axes, example axes) of a contraction's output, the batch axis first among the examples."""
    if eqn.primitive.name == "conv_general_dilated":
        spec = eqn.params["dimension_numbers"].out_spec
        unit, batch = (spec[1], spec[0]) if weight == 1 else (spec[0], spec[1])
        return (unit,), (batch, *spec[2:])
    (lhs_contract, rhs_contract), (lhs_batch, rhs_batch) = eqn.params["dimension_numbers"]
    ranks = [len(jaxprs.shape_of(v)) for v in eqn.invars]
    batch = tuple(range(len(lhs_batch)))
    lhs_free = ranks[0] - len(lhs_contract) - len(lhs_batch)
    rhs_free = ranks[1] - len(rhs_contract) - len(rhs_batch)
    lhs_axes = tuple(range(len(batch), len(batch) + lhs_free))
    rhs_axes = tuple(range(len(batch) + lhs_free, len(batch) + lhs_free + rhs_free))
    return (rhs_axes, (*lhs_axes, *batch)) if weight == 1 else (lhs_axes, (*rhs_axes, *batch))
