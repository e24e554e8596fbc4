"""Abstract values: where a value of the jaxpr comes from, and by which primitives a weight stays a weight."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Iterable
from typing import Any

from jax.extend import core

from gradflow.instrument.jaxprs import is_inexact, shape_of


class Kind(enum.IntEnum):
    """What a value is made of; the larger one wins where two meet."""

    NEUTRAL = 0  # literals, iota, random bits: neither parameter nor data
    VIEW = 1  # one parameter leaf through reshapes, casts, transposes, slices and broadcasts
    PARAMS = 2  # computed from parameters alone
    DATA = 3  # anything that depends on a closed-over value or an argument that is not differentiated


@dataclasses.dataclass(frozen=True, slots=True)
class Origin:
    """Where a value comes from.

    Attributes:
        kind: see `Kind`.
        leaves: the parameter leaves behind a VIEW (exactly one) or PARAMS value.
        steps: for a VIEW, how the leaf was cut on the way, so that its statistics can be taken of the part used.
        layers: bit mask of the layers that the value depends on.
        active: whether the loss can send a cotangent through this value to a parameter.
        axes: manual mesh axes over which the value differs from device to device.
        uniform: one number, or one number broadcast.
    """

    kind: Kind
    leaves: frozenset[int] = frozenset()
    steps: tuple[tuple[Any, ...], ...] = ()
    layers: int = 0
    active: bool = False
    axes: frozenset[str] = frozenset()
    uniform: bool = False

    @property
    def is_weight(self) -> bool:
        """Whether a contraction with this value is a layer."""
        return self.kind in (Kind.VIEW, Kind.PARAMS)


NEUTRAL = Origin(Kind.NEUTRAL)
_RESHAPING = frozenset({"reshape", "transpose", "squeeze"})
_UNCHANGED = frozenset(
    {
        "convert_element_type", "copy", "copy_p", "pvary", "pcast", "reduce_precision", "sharding_constraint",
        "name", "stop_gradient", "expand_dims", "device_put", "optimization_barrier", "mesh_cast", "reshard",
    }
)  # fmt: skip
_OPAQUE_VIEWS = frozenset({"broadcast_in_dim", "dynamic_slice", "rev"})
_SAME_EVERYWHERE = frozenset({"psum", "psum_invariant", "pmax", "pmin", "all_gather", "all_gather_invariant"})
_RESCALING = frozenset({"mul", "div", "add", "sub"})


def join(origins: Iterable[Origin]) -> Origin:
    """Return the origin of a value computed from (or being one of) several."""
    origins = tuple(origins)
    kind = max((o.kind for o in origins), default=Kind.NEUTRAL)
    if kind == Kind.VIEW:
        kind = Kind.PARAMS
    leaves: frozenset[int] = frozenset()
    if kind == Kind.PARAMS:
        leaves = leaves.union(*(o.leaves for o in origins))
    layers, axes = 0, frozenset[str]()
    for o in origins:
        layers |= o.layers
        axes |= o.axes
    return Origin(kind, leaves, (), layers, any(o.active for o in origins), axes)


def merge(a: Origin, b: Origin) -> Origin:
    """Return what is true of a value that is sometimes `a`, sometimes `b` (branches, loop carries)."""
    if a == b:
        return a
    if a.kind == b.kind == Kind.VIEW and a.leaves == b.leaves and a.steps == b.steps:
        joined = join((a, b))
        return dataclasses.replace(joined, kind=Kind.VIEW, steps=a.steps)
    return join((a, b))


def stacked(origin: Origin) -> Origin:
    """Return the origin of a scan's stacked output, given that of one step's."""
    return join((origin,)) if origin.kind == Kind.VIEW else origin


def scanned(origin: Origin, depth: int) -> Origin:
    """Return the origin of the row that one step of a scan, `depth` scans deep itself, sees."""
    if origin.kind == Kind.VIEW:
        return dataclasses.replace(origin, steps=(*origin.steps, ("scan", depth)))
    return origin


def _view(origin: Origin, step: tuple[Any, ...]) -> Origin:
    if origin.kind == Kind.VIEW:
        return dataclasses.replace(origin, steps=(*origin.steps, step))
    return origin


def propagate(eqn: core.JaxprEqn, origins: list[Origin]) -> list[Origin]:
    """Apply the rule of an ordinary (first-order, not contracting) equation."""
    name, params = eqn.primitive.name, eqn.params
    if name in _UNCHANGED:
        if name == "stop_gradient":
            return [dataclasses.replace(o, active=False) for o in origins]
        return list(origins)
    if name in _RESHAPING:
        key = {"reshape": "new_sizes", "transpose": "permutation", "squeeze": "dimensions"}[name]
        return [_view(origins[0], (name, tuple(params[key])))]
    if name == "slice":
        cut = ("slice", params["start_indices"], params["limit_indices"], params["strides"])
        return [_view(origins[0], cut)]
    if name == "split":
        sizes = tuple(int(s) for s in params["sizes"])
        return [_view(origins[0], ("split", sizes, params["axis"], k)) for k in range(len(sizes))]
    if name in _OPAQUE_VIEWS:
        out = _view(join_indices(origins[0], origins[1:]), ("opaque",))
        uniform = name == "broadcast_in_dim" and (origins[0].uniform or _is_single(eqn.invars[0]))
        return [dataclasses.replace(out, uniform=uniform)]
    if name in _RESCALING and (scaled := _rescaled(eqn, origins)) is not None:
        return [scaled]
    if name in _SAME_EVERYWHERE:
        return [dataclasses.replace(_collected(name, o), axes=o.axes - _axis_names(params)) for o in origins]
    if name == "axis_index":
        return [Origin(Kind.NEUTRAL, axes=frozenset({params["axis_name"]}))]
    out = join(origins)
    if not any(is_inexact(v) for v in eqn.outvars):
        out = dataclasses.replace(out, active=False)
    return [out] * len(eqn.outvars)


def join_indices(operand: Origin, indices: Iterable[Origin]) -> Origin:
    """Return the origin of a part of `operand` whose place other values choose: still a part of it."""
    joined = join((operand, *indices))
    return dataclasses.replace(operand, layers=joined.layers, axes=joined.axes)


def _rescaled(eqn: core.JaxprEqn, origins: list[Origin]) -> Origin | None:
    """Spectral normalization divides a weight by one number that depends on running (not learned) state."""
    for here, other, atom in ((0, 1, eqn.invars[1]), (1, 0, eqn.invars[0])):
        array, number = origins[here], origins[other]
        single = number.kind == Kind.DATA and (number.uniform or _is_single(atom))
        if array.is_weight and single and not _is_single(eqn.invars[here]):
            return join((array, dataclasses.replace(number, kind=Kind.NEUTRAL)))
    return None


def _collected(name: str, origin: Origin) -> Origin:
    return _view(origin, ("opaque",)) if name.startswith("all_gather") else join((origin,))


def _axis_names(params: dict[str, Any]) -> frozenset[str]:
    names = params.get("axes", params.get("axis_name", ()))
    return frozenset(n for n in (names if isinstance(names, (tuple, list)) else (names,)) if isinstance(n, str))


def _is_single(atom: Any) -> bool:
    return math.prod(shape_of(atom)) == 1
