"""Abstract values: where a value of the jaxpr comes from, and by which primitives a weight stays a weight."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from jax.extend import core

from gradflow.instrument.errors import FlowError
from gradflow.instrument.jaxprs import is_inexact, shape_of
from gradflow.primitives import ELEMENTWISE, IDENTITIES, RESHAPINGS, RULES, OriginRule, fill_rules

Cuts = tuple[tuple[str, int], ...]


class Kind(enum.IntEnum):
    """What a value is made of. Where two meet the larger one wins, except where `combine` says otherwise."""

    NEUTRAL = 0  # literals, iota, random bits: neither parameter nor data
    VIEW = 1  # one parameter leaf through reshapes, casts, transposes, slices and broadcasts
    PARAMS = 2  # computed from parameters alone
    MIXED = 3  # parameters, combined entry by entry with arrays of their own shape: a mask, a frozen weight, an update
    DATA = 4  # anything else that depends on a closed-over value or an argument that is not differentiated


@dataclasses.dataclass(frozen=True, slots=True)
class Origin:
    """Where a value comes from.

    Attributes:
        kind: see `Kind`.
        leaves: the parameter leaves behind a value that is not data; exactly one behind a VIEW.
        steps: for a VIEW, how the leaf was cut on the way, so that its statistics can be taken of the part used.
        layers: bit mask of the places (layers, leaves, uses of leaves) that the value depends on.
        reaching: those of them to which a cotangent of the value can get.
        cuts: what cut others off from it, and which: ("stop_gradient", mask).
        active: whether the loss can send a cotangent through this value to a parameter.
        axes: manual mesh axes over which the value differs from device to device.
        uniform: one number, or one number broadcast.
        spread: a broadcast repeats its entries.
        signal: it has come through a contraction, so it is no mask and no frozen weight.
        building: of a MIXED value, the places that only built its parameters (a product of two of them).
        cotangent: it was computed by a backward pass inside the loss (an adapted weight is a leaf minus such a value).
    """

    kind: Kind
    leaves: frozenset[int] = frozenset()
    steps: tuple[tuple[Any, ...], ...] = ()
    layers: int = 0
    reaching: int = 0
    cuts: Cuts = ()
    active: bool = False
    axes: frozenset[str] = frozenset()
    uniform: bool = False
    spread: bool = False
    signal: bool = False
    building: int = 0
    cotangent: bool = False

    @property
    def is_weight(self) -> bool:
        """Whether a contraction with this value is a layer."""
        return self.kind in (Kind.VIEW, Kind.PARAMS, Kind.MIXED)


NEUTRAL = Origin(Kind.NEUTRAL)
_NO_AXES = frozenset[str]()
_NO_LEAVES = frozenset[int]()
# Forwards a value as it is; the others of `IDENTITIES` do so, too.
_UNCHANGED = IDENTITIES | {"expand_dims", "stop_gradient"}
_SAME_EVERYWHERE = frozenset({"psum", "psum_invariant", "pmax", "pmin", "all_gather", "all_gather_invariant"})
# Functions whose derivative is 0 wherever it exists: JAX sends no cotangent through them.
FLAT = frozenset({"sign", "floor", "ceil", "round", "nextafter", "is_finite"})


def join(origins: Iterable[Origin]) -> Origin:
    """Return the origin of a value computed from (or being one of) several."""
    origins = tuple(origins)
    kind, leaves, axes = Kind.NEUTRAL, _NO_LEAVES, _NO_AXES
    cuts: Cuts = ()
    layers = reaching = building = 0
    active = signal = cotangent = False
    spread = bool(origins)
    for o in origins:
        kind = max(kind, o.kind)
        layers |= o.layers
        reaching |= o.reaching
        building |= o.building
        active |= o.active
        signal |= o.signal
        cotangent |= o.cotangent
        spread &= o.spread or o.kind == Kind.NEUTRAL
        if o.axes:
            axes |= o.axes
        if o.cuts:
            cuts = _both_cuts(cuts, o.cuts)
        if o.leaves:
            leaves |= o.leaves
    if kind == Kind.VIEW:
        kind = Kind.PARAMS
    if kind == Kind.DATA:
        leaves = _NO_LEAVES
    return Origin(kind, leaves, (), layers, reaching, cuts, active, axes, False, spread, signal, building, cotangent)


def merge(a: Origin, b: Origin) -> Origin:
    """Return what is true of a value that is sometimes `a`, sometimes `b` (branches, loop carries)."""
    if a == b:
        return a
    joined = join((a, b))
    if a.kind == b.kind == Kind.VIEW and a.leaves == b.leaves and a.steps == b.steps:
        return dataclasses.replace(joined, kind=Kind.VIEW, steps=a.steps)
    return joined


def cut(origin: Origin, by: str) -> Origin:
    """Return the origin behind an operation through which no cotangent passes."""
    cuts = _both_cuts(origin.cuts, ((by, origin.reaching),)) if origin.reaching else origin.cuts
    return dataclasses.replace(origin, active=False, reaching=0, cuts=cuts)


def _both_cuts(a: Cuts, b: Cuts) -> Cuts:
    masks = dict(a)
    for name, mask in b:
        masks[name] = masks.get(name, 0) | mask
    return tuple(sorted(masks.items()))


def stacked(origin: Origin) -> Origin:
    """Return the origin of a scan's stacked output, given that of one step's."""
    return join((origin,)) if origin.kind == Kind.VIEW else origin


def scanned(origin: Origin, depth: int) -> Origin:
    """Return the origin of the row that one step of a scan, `depth` scans deep itself, sees."""
    return _view(origin, ("scan", depth))


def _view(origin: Origin, step: tuple[Any, ...]) -> Origin:
    if origin.kind == Kind.VIEW:
        return dataclasses.replace(origin, steps=(*origin.steps, step))
    return origin


_R = TypeVar("_R", bound=OriginRule)


def _rule(*primitives: str) -> Callable[[_R], _R]:
    """Fill the column `origin` of the table of rules."""

    def fill(function: _R) -> _R:
        fill_rules(primitives, "origin", function)
        return function

    return fill


def propagate(eqn: core.JaxprEqn, origins: Sequence[Origin]) -> list[Origin]:
    """Apply the rule of an ordinary (first-order, not contracting) equation.

    A primitive without a rule mixes what it reads: its outputs are parameters if all inputs are, else data.
    """
    name = eqn.primitive.name
    entry = RULES.get(name)
    if entry is None or entry.origin is None:
        outs = [_mixture(origins)] * len(eqn.outvars)
    else:
        outs = entry.origin(eqn, origins)
        _check_count(eqn, outs)
    if name in FLAT:
        return [cut(o, name) for o in outs]
    return [
        o if o.reaching == 0 and not o.active else o if is_inexact(v) else cut(o, name)
        for o, v in zip(outs, eqn.outvars, strict=True)
    ]


def _check_count(eqn: core.JaxprEqn, outs: Any) -> None:
    if isinstance(outs, list) and len(outs) == len(eqn.outvars) and all(isinstance(o, Origin) for o in outs):
        return
    raise FlowError(
        expected=f"a list of {len(eqn.outvars)} origins from the rule of {eqn.primitive.name}, one for each output",
        got=repr(outs)[:200],
        cause="a rule registered with gradflow.register_rule returned something else",
        fix="return [origins[0]] where the only output is a form of the first operand",
    )


def _mixture(origins: Iterable[Origin]) -> Origin:
    joined = join(origins)
    if joined.kind == Kind.MIXED:
        return dataclasses.replace(joined, kind=Kind.DATA, leaves=_NO_LEAVES, spread=False)
    return dataclasses.replace(joined, spread=False)


@_rule(*ELEMENTWISE)
def _elementwise(eqn: core.JaxprEqn, origins: Sequence[Origin]) -> list[Origin]:
    return [combine(eqn, origins)] * len(eqn.outvars)


@_rule(*_UNCHANGED)
def _unchanged(eqn: core.JaxprEqn, origins: Sequence[Origin]) -> list[Origin]:
    if eqn.primitive.name == "stop_gradient":
        return [cut(o, "stop_gradient") for o in origins]
    return list(origins)


@_rule(*(RESHAPINGS - _UNCHANGED))
def _reshaped(eqn: core.JaxprEqn, origins: Sequence[Origin]) -> list[Origin]:
    name = eqn.primitive.name
    key = {"reshape": "new_sizes", "transpose": "permutation", "squeeze": "dimensions"}[name]
    return [_view(origins[0], (name, tuple(eqn.params[key])))]


@_rule("slice")
def _sliced(eqn: core.JaxprEqn, origins: Sequence[Origin]) -> list[Origin]:
    params = eqn.params
    return [_view(origins[0], ("slice", params["start_indices"], params["limit_indices"], params["strides"]))]


@_rule("split")
def _split(eqn: core.JaxprEqn, origins: Sequence[Origin]) -> list[Origin]:
    sizes = tuple(int(s) for s in eqn.params["sizes"])
    return [_view(origins[0], ("split", sizes, eqn.params["axis"], k)) for k in range(len(sizes))]


@_rule("dynamic_slice", "rev")
def _part(eqn: core.JaxprEqn, origins: Sequence[Origin]) -> list[Origin]:
    del eqn
    return [_view(join_indices(origins[0], origins[1:]), ("opaque",))]


@_rule("broadcast_in_dim")
def _broadcast(eqn: core.JaxprEqn, origins: Sequence[Origin]) -> list[Origin]:
    operand, old, new = origins[0], shape_of(eqn.invars[0]), shape_of(eqn.outvars[0])
    spread = operand.spread or math.prod(new) > math.prod(old)
    uniform = operand.uniform or math.prod(old) == 1
    step = ("opaque",) if math.prod(new) > math.prod(old) else ("reshape", new)
    return [dataclasses.replace(_view(operand, step), spread=spread, uniform=uniform)]


@_rule(*_SAME_EVERYWHERE)
def _collective(eqn: core.JaxprEqn, origins: Sequence[Origin]) -> list[Origin]:
    name, gone = eqn.primitive.name, _axis_names(eqn.params)
    gathers = name.startswith("all_gather")
    outs = [_view(o, ("opaque",)) if gathers else join((o,)) for o in origins]
    return [dataclasses.replace(o, axes=o.axes - gone) for o in outs]


@_rule("axis_index")
def _axis_index(eqn: core.JaxprEqn, origins: Sequence[Origin]) -> list[Origin]:
    del origins
    return [Origin(Kind.NEUTRAL, axes=frozenset({eqn.params["axis_name"]}))]


def combine(eqn: core.JaxprEqn, origins: Sequence[Origin]) -> Origin:
    """Return the origin of a function of entries at the same place.

    A leaf of rank >= 2 that is not broadcast stays a weight when it meets arrays of its own shape: masks, frozen
    weights, updates. It does not when it meets a signal (a position added to a residual stream), except one that a
    backward pass inside the loss made (a weight adapted by gradient descent). What is broadcast (scale, bias) never
    makes a weight of data.
    """
    joined = join(origins)
    if joined.kind == Kind.DATA or (joined.kind == Kind.MIXED and len(origins) > 1):
        return _meeting(eqn, origins, joined)
    return joined


def _meeting(eqn: core.JaxprEqn, origins: Sequence[Origin], joined: Origin) -> Origin:
    shape = shape_of(eqn.outvars[0])
    weights = [
        o
        for o, atom in zip(origins, eqn.invars, strict=True)
        if o.is_weight and not o.spread and len(shape) >= 2 and shape_of(atom) == shape
    ]
    data = [(o, atom) for o, atom in zip(origins, eqn.invars, strict=True) if o.kind == Kind.DATA]
    others = [(o, atom) for o, atom in data if not _is_number(o, atom)]
    if not weights or any(_is_signal(o, shape_of(atom), shape) for o, atom in others):
        return dataclasses.replace(joined, kind=Kind.DATA, leaves=_NO_LEAVES)
    leaves = _NO_LEAVES.union(*(o.leaves for o in origins))
    kind = Kind.MIXED if others or any(o.kind == Kind.MIXED for o in origins) else Kind.PARAMS
    building = 0
    for o in origins:
        building |= o.building if o.kind == Kind.MIXED else o.layers if o.is_weight else 0
    return dataclasses.replace(joined, kind=kind, leaves=leaves, building=building, spread=False)


def _is_signal(origin: Origin, shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    adapts = origin.cotangent and not origin.spread and shape == expected
    return origin.signal and not adapts


def _is_number(origin: Origin, atom: Any) -> bool:
    """Spectral normalization divides a weight by one number that depends on running (not learned) state."""
    return origin.uniform or math.prod(shape_of(atom)) == 1


def join_indices(operand: Origin, indices: Iterable[Origin]) -> Origin:
    """Return the origin of a part of `operand` whose place other values choose: still a part of it."""
    joined = join((operand, *indices))
    return dataclasses.replace(operand, layers=joined.layers, cuts=joined.cuts, axes=joined.axes)


def _axis_names(params: dict[str, Any]) -> frozenset[str]:
    names = params.get("axes", params.get("axis_name", ()))
    return frozenset(n for n in (names if isinstance(names, (tuple, list)) else (names,)) if isinstance(n, str))
