"""Equations in which parameters meet data: contractions, look-ups, additions of a table, and what is neither."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax.extend import core

from gradflow.instrument import jaxprs
from gradflow.instrument.axes import axis_roles
from gradflow.instrument.neighbours import Frame, activation_behind, added_leaf, computed_in
from gradflow.instrument.origins import Kind, Origin, join, join_indices, propagate
from gradflow.instrument.recorder import ELEMENTWISE_USE, INPUT_USE, Recorder
from gradflow.instrument.sites import Place, site_of_value
from gradflow.primitives import CONTRACTIONS, ELEMENTWISE

_BEFORE, _BEHIND = 1 << 38, 1 << 39  # sort what enters a layer behind the equation before it, what follows it behind it
_MERGING = frozenset({"concatenate", "pad", "dynamic_update_slice", "gather", "select_and_gather_add"})


@dataclasses.dataclass(frozen=True)
class Meeting:
    """An equation with the origins of what it reads, and where it stands."""

    eqn: core.JaxprEqn
    origins: list[Origin]
    index: int
    place: Place
    frame: Frame

    @property
    def path(self) -> tuple[int, ...]:
        """The path of the equation."""
        return (*self.place.path, self.index)


def contraction(here: Meeting, record: Recorder, *, activations: bool) -> list[Origin]:
    """A sum of products: a layer where one operand is a weight, the one that is made more directly of parameters."""
    lhs, rhs = here.origins[:2]
    joined = dataclasses.replace(join(here.origins), spread=False)
    data = joined.kind >= Kind.MIXED
    joined = dataclasses.replace(
        joined,
        kind=Kind.DATA if data else joined.kind,
        leaves=frozenset() if data else joined.leaves,
        signal=joined.signal or data or Kind.NEUTRAL in (lhs.kind, rhs.kind),
        cotangent="transpose(" in jaxprs.source_scope(here.eqn),
    )
    weight = _weight_operand(lhs, rhs)
    if weight is None:
        bit = _without_weight(here, record, activations=activations)
        return [marked(joined, bit)]
    source = here.origins[1 - weight]
    bit = _layer(here, record, weight)
    used = record.use((*here.path, 1 - weight), source.leaves, INPUT_USE) if source.leaves else 0
    layers = source.layers | bit | used | record.leaf_bits(here.origins[weight])
    reaching = source.reaching | bit | (record.leaf_bits(here.origins[weight]) & here.origins[weight].reaching)
    if here.origins[weight].kind == Kind.MIXED:
        layers |= here.origins[weight].layers & ~here.origins[weight].building
        reaching |= here.origins[weight].reaching & ~here.origins[weight].building
        record.discard_tables(here.origins[weight])
    return [dataclasses.replace(joined, layers=layers, reaching=reaching)]


def _weight_operand(lhs: Origin, rhs: Origin) -> int | None:
    """Return which operand is the weight; of two values made of parameters the more direct one, else the right one."""
    if not (lhs.is_weight or rhs.is_weight) or lhs.kind == rhs.kind == Kind.MIXED:
        return None
    return 1 if rhs.is_weight and (not lhs.is_weight or rhs.kind <= lhs.kind) else 0


def _without_weight(here: Meeting, record: Recorder, *, activations: bool) -> int:
    lhs, rhs = here.origins[:2]
    if lhs.kind == rhs.kind == Kind.MIXED:
        why = "contracted with another value that is made of parameters and data, so neither is the weight"
        return record.use(here.path, lhs.leaves | rhs.leaves, why)
    if not activations or not (lhs.active and rhs.active):
        return 0
    axes = axis_roles(here.eqn, 1)
    return record.add(here.eqn, here.path, here.place, "activation", axes, here.origins, source=0, source_active=True)


def _layer(here: Meeting, record: Recorder, weight: int) -> int:
    source = 1 - weight
    eqn, origin = here.eqn, here.origins[source]

    def bit_of(index: int) -> int:
        return record.known_bit((*here.place.path, index))

    bit = record.add(
        eqn,
        here.path,
        here.place,
        "layer",
        axis_roles(eqn, weight),
        here.origins,
        source=source,
        weight=here.origins[weight],
        source_active=origin.active,
        computed_in=computed_in(eqn, here.index, weight, origin, here.frame, bit_of),
        single_reader=here.frame.has_single_reader(eqn.outvars[0]),
        **_experts(eqn, weight),
    )
    _input(here, record, source)
    _silence(here, record)
    return bit


def _experts(eqn: core.JaxprEqn, weight: int) -> dict[str, int]:
    """Rows of a ragged contraction belong to groups, each with a weight of its own (the experts of a mixture)."""
    if not eqn.primitive.name.startswith("ragged") or weight != 1 or len(jaxprs.shape_of(eqn.outvars[0])) < 2:
        return {}
    return {"groups": 2, "experts": jaxprs.shape_of(eqn.invars[2])[-1]}


def _input(here: Meeting, record: Recorder, source: int) -> None:
    """Data that enters a layer gets a row of its own: an unscaled input is the commonest cause of trouble."""
    origin, var = here.origins[source], here.eqn.invars[source]
    if origin.kind != Kind.DATA or origin.active or origin.layers or origin.cotangent or not jaxprs.is_inexact(var):
        return
    if not jaxprs.is_var(var) or jaxprs.shape_of(var) == ():
        return
    key = ("input", here.place.path, id(var))
    if key in record.extra:
        return
    record.extra[key] = site_of_value(
        var,
        here.path,
        "input",
        source,
        here.place,
        mesh_axes=record.found[here.path].mesh_axes,
        order=(*here.path[:-1], here.path[-1] - 1, _BEFORE),
        entering=True,
        forward_only=True,
        parent=here.path,
    )


def _silence(here: Meeting, record: Recorder) -> None:
    """In float16 a zero cotangent may have been flushed: whether a unit is dead is read from its activation."""
    if jaxprs.dtype_of(here.eqn.outvars[0]) != jnp.float16:
        return
    behind = activation_behind(here.frame, here.eqn.outvars[0])
    if behind is None:
        return
    frame, index, out = behind
    site = record.found[here.path]
    path = (*frame.path, index)
    record.extra[("silence", here.path)] = dataclasses.replace(
        site,
        path=path,
        kind="silence",
        out=out,
        source=None,
        input_shape=None,
        weight=None,
        dtype=jaxprs.dtype_of(frame.jaxpr.eqns[index].outvars[out]),
        order=(*here.path, _BEHIND),
        forward_only=True,
        groups=None,
        experts=0,
        parent=here.path,
    )


def look_up(here: Meeting, record: Recorder) -> list[Origin]:
    """A gather: an embedding where the table is a weight that no contraction has changed."""
    operand, indices = here.origins[:2]
    dims = here.eqn.params["dimension_numbers"]
    out = here.eqn.outvars[0]
    examples = tuple(k for k in range(len(jaxprs.shape_of(out))) if k not in dims.offset_dims)
    if not operand.is_weight or operand.signal:
        return [dataclasses.replace(join(here.origins), spread=False)]
    if not examples or not jaxprs.is_inexact(out):
        return [dataclasses.replace(join_indices(operand, [indices]), steps=(*operand.steps, ("opaque",)))]
    axes = (tuple(dims.offset_dims), examples)
    bit = record.add(here.eqn, here.path, here.place, "embedding", axes, [indices], weight=operand)
    leaves = record.leaf_bits(operand)
    joined = join(here.origins)
    return [
        dataclasses.replace(
            joined,
            kind=Kind.DATA,
            leaves=frozenset(),
            layers=indices.layers | bit | leaves,
            reaching=bit | (leaves & operand.reaching),
        )
    ]


def ordinary(here: Meeting, record: Recorder) -> list[Origin]:
    """Any other first-order equation; where parameters become data it is a table of positions or a bare use."""
    outs = propagate(here.eqn, here.origins)
    if not any(o.leaves for o in here.origins):
        return outs
    bit = _table(here, record)
    # Where a number made of leaves meets the loss, a number too, it is a penalty or the weight of a term.
    numbers = all(jaxprs.shape_of(v) == () for v in (*here.eqn.invars, *here.eqn.outvars))
    if not bit and not numbers and any(o.kind == Kind.DATA for o in outs):
        leaves = frozenset[int]().union(*(o.leaves for o in here.origins))
        mixed = all(o.kind == Kind.MIXED for o in here.origins if o.leaves)
        bit = record.use(here.path, leaves, ELEMENTWISE_USE if mixed else reason(here.eqn))
    return [marked(o, bit) for o in outs]


def _table(here: Meeting, record: Recorder) -> int:
    """A table of positions that is sliced and added is a look-up, as one that is gathered from is."""
    if here.eqn.primitive.name not in ("add", "add_any"):
        return 0
    found = added_leaf(here.eqn, here.origins, here.index, here.frame, record.found)
    if found is None:
        return 0
    at, operand, origin = found
    eqn = here.frame.jaxpr.eqns[at]
    path = (*here.place.path, at)
    key = ("table", path, operand)
    scope = jaxprs.source_scope(eqn)
    record.found[key] = site_of_value(
        eqn.invars[operand],
        path,
        "embedding",
        operand,
        here.place,
        weight=origin,
        scope=scope,
        order=path,
        entering=True,
    )
    record.tables[key] = record.bit(key)
    return record.bit(key)


def reason(eqn: core.JaxprEqn) -> str:
    """Say what an equation does with parameters that have no row there."""
    name = eqn.primitive.name
    if name in ELEMENTWISE or name in CONTRACTIONS:
        return ELEMENTWISE_USE
    if name in _MERGING or name.startswith("scatter"):
        return f"put together with data ({name}): no contraction"
    scope = jaxprs.source_scope(eqn)
    label = eqn.params.get("name")
    words = f"inside {name}" + (f" {label!r}" if isinstance(label, str) and label else "")
    return words + (f" in {scope}" if scope else "")


def marked(origin: Origin, bit: int) -> Origin:
    """Let a value depend on a place; where it can send back a cotangent at all, the place is reached, too."""
    if not bit:
        return origin
    reaching = origin.reaching | (bit if origin.active or origin.reaching else 0)
    return dataclasses.replace(origin, layers=origin.layers | bit, reaching=reaching)


def hand_tap(here: Meeting, record: Recorder, name: str) -> list[Origin]:
    """A value that the user named."""
    rank = len(jaxprs.shape_of(here.eqn.outvars[0]))
    axes = (tuple(range(rank))[-1:], tuple(range(max(rank - 1, 0))))
    bit = record.add(here.eqn, here.path, here.place, "tap", axes, here.origins, given=name)
    return [marked(here.origins[0], bit)]


def whole_rule(here: Meeting, record: Recorder, outs: list[Origin], weights: list[Any]) -> list[Origin]:
    """A custom derivative rule with a contraction inside and one floating-point output is one layer, tapped there."""
    eqn, origins = here.eqn, here.origins
    joined = join(origins)
    floating = [k for k, v in enumerate(eqn.outvars) if jaxprs.is_inexact(v) and jaxprs.shape_of(v)]
    leaves = frozenset[int]().union(*(o.leaves for o in origins))
    if not weights or len(floating) != 1 or outs[floating[0]].kind == Kind.VIEW:
        becomes_data = any(o.kind == Kind.DATA for o in outs)
        bit = record.use(here.path, leaves, reason(eqn)) if leaves and becomes_data else 0
        return [marked(o, bit) for o in outs]
    data = [k for k, o in enumerate(origins) if o.kind == Kind.DATA and jaxprs.is_inexact(eqn.invars[k])]
    k = floating[0]
    rank = len(jaxprs.shape_of(eqn.outvars[k]))
    weight = weights[0] if len(set(weights)) == 1 else join(weights)
    axes = ((rank - 1,), tuple(range(rank - 1)))
    source = data[0] if data else None
    active = source is not None and origins[source].active
    bit = record.add(
        eqn, here.path, here.place, "layer", axes, origins, out=k, source=source, weight=weight, source_active=active
    )
    outs[k] = dataclasses.replace(outs[k], layers=joined.layers | bit, reaching=joined.reaching | bit, signal=True)
    return outs
