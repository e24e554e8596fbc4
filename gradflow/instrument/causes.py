"""What a stretch of a signal's path is: the weights of a layer, an activation, a normalization, a skip connection."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gradflow.instrument import jaxprs
from gradflow.instrument.neighbours import is_elementwise
from gradflow.instrument.signal_graph import RANDOM, ROOT, Operation, SignalGraph
from gradflow.instrument.sites import Path, Site
from gradflow.primitives import CONTRACTIONS, IDENTITIES, RESHAPINGS

_LINEAR = frozenset({"add", "add_any", "sub", "neg", "reduce_sum", "broadcast_in_dim", "transpose", "copy"}) | (
    IDENTITIES | RESHAPINGS | CONTRACTIONS
)
_REDUCTIONS = frozenset({"reduce_sum", "reduce_max", "reduce_min", "psum", "psum_invariant", "dot_general"})
_ADDING = frozenset({"add", "add_any", "sub"})


@dataclasses.dataclass(frozen=True)
class Stage:
    """What lies between two neighbouring cuts of a path.

    Attributes:
        cause: "weights", "activation", "normalization", "skip", "time", "loss" or "other".
        where: the layer that it belongs to.
        operation: what it computes, in a word or two.
        layers: names of the layers inside it, where it holds several branches.
        branches: names of the branches, in the order of the readers of the fork below it; () without a fork.
        fork: number of the site that projects the branches, -1 without one.
        low, high: numbers of the values in their graph that it leads from and to, what leaves cotangents alone aside.
        operations: what lies between them.
        layer: the one layer that it is, None for anything else.
        entering: number of the site that taps what enters an activation, -1 for other stages.
    """

    cause: str
    where: str
    operation: str
    layers: tuple[str, ...] = ()
    branches: tuple[str, ...] = ()
    fork: int = -1
    low: int = dataclasses.field(default=-1, compare=False)
    high: int = dataclasses.field(default=-1, compare=False)
    operations: tuple[Operation, ...] = dataclasses.field(default=(), compare=False, repr=False)
    layer: Site | None = dataclasses.field(default=None, compare=False, repr=False)
    entering: int = dataclasses.field(default=-1, compare=False)


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What a classification has to know beside the operations.

    Attributes:
        graph: in which they stand.
        layers: name and site of each layer, by the path of its equation.
        leaf_owners: for each parameter leaf the name of the layer or module that owns it.
        dependent: values that depend on the path's first one, differentiably or not.
        call_sizes: how many operations on the path each call holds.
    """

    graph: SignalGraph
    layers: Mapping[Path, tuple[str, Site]]
    leaf_owners: Sequence[str]
    dependent: set[int]
    call_sizes: Mapping[Path, int]


def classify(low: int, operations: Sequence[Operation], around: Surroundings, below: str, before: str) -> Stage | None:
    """Name the cause of what happens between two cuts; None where cotangents pass unchanged but for their shape.

    Args:
        low: the lower cut.
        operations: all between the cuts.
        around: see `Surroundings`.
        below: name of the layer below.
        before: cause of the stage below, "" for none.
    """
    if len(operations) == 1:
        return _single(low, operations[0], around, below, before)
    names = [name for op in operations for name in layers_in(op, around.layers)]
    operation = label(operations, around)
    if names:
        return _with_layers(low, operations, around, tuple(names), operation)
    if all(is_elementwise(op.eqn) or op.name == "broadcast_in_dim" for op in operations):
        return Stage("activation", below, operation)
    reduces = any(op.name in _REDUCTIONS for op in operations)
    kinds = {op.name for op in operations}
    if reduces and "exp" in kinds:
        return Stage("activation", below, operation)
    root = any(around.graph.flags[n] & ROOT for op in operations for n in (*op.reads, *op.writes) if n is not None)
    if reduces and (root or "pow" in kinds or all(k in _LINEAR or k in ("div", "mul") for k in kinds)):
        reads = {n for op in operations for n in op.reads if n is not None} - around.dependent
        owners = _owners(reads, around)
        return Stage("normalization", owners[0] if len(owners) == 1 else below, operation)
    return Stage("other", below, operation)


def _owners(numbers: Iterable[int], around: Surroundings) -> list[str]:
    """Return the names of those that own the parameters behind values."""
    leaves = 0
    for n in numbers:
        leaves |= around.graph.leaves[n]
    return list(dict.fromkeys(owner for k, owner in enumerate(around.leaf_owners) if leaves >> k & 1))


def _single(low: int, op: Operation, around: Surroundings, below: str, before: str) -> Stage | None:
    if op.path in around.layers:
        name, site = around.layers[op.path]
        whole = op.name not in CONTRACTIONS or site.source is None or op.reads[site.source] != low
        return Stage("weights", name, "custom rule" if whole else op.name, layer=None if whole else site)
    if op.reads.count(low) == 1 and is_neutral(low, op, around.graph):
        return None
    others = [n for n in op.reads if n is not None and n != low]
    operation = label([op], around)
    inside = () if op.path in around.layers else tuple(layers_in(op, around.layers))
    if inside:
        over_time = op.name == "scan" and _is_over_time(op, around)
        words = "all steps of a scan" if op.name == "scan" else operation
        return Stage("time" if over_time else "other", common_name(inside), words, inside)
    if op.reads.count(low) == 1 and op.name in ("mul", "div") and not set(others) & around.dependent:
        return _scaled(op, others, around, below, before, operation)
    if op.name == "select_n" and op.reads[0] not in around.dependent:
        random = op.reads[0] is not None and around.graph.flags[op.reads[0]] & RANDOM
        return Stage("other", below, "dropout" if random else "mask")
    if op.name not in IDENTITIES | _ADDING and is_elementwise(op.eqn) and _keeps_shape(low, op, around.graph):
        return Stage("activation", below, operation)
    return Stage("other", below, "cast" if op.name == "convert_element_type" else operation)


def _scaled(
    op: Operation, others: Sequence[int], around: Surroundings, below: str, before: str, operation: str
) -> Stage:
    """Name a product with something that does not depend on the signal: a learned scale, a constant."""
    owners = _owners(others, around)
    where = owners[0] if len(owners) == 1 else below
    if before == "normalization" or any(around.graph.flags[n] & ROOT for n in others):
        return Stage("normalization", where, operation)
    if owners:
        return Stage("weights", where, "scale")
    random = any(around.graph.flags[n] & RANDOM for n in others)
    return Stage("other", below, "dropout" if random else "constant factor")


def _with_layers(
    low: int, operations: Sequence[Operation], around: Surroundings, names: tuple[str, ...], operation: str
) -> Stage:
    """Name a stretch in which branches with layers meet."""
    where, last = common_name(names), operations[-1]
    holders = {op.path for op in operations if layers_in(op, around.layers)}
    free = _ends_without(low, operations, lambda op: op.path in holders)
    linear = _ends_without(low, operations, lambda op: op.name not in _LINEAR and op.path not in around.layers)
    all_linear = all(op.name in _LINEAR or op.path in around.layers for op in operations)
    added = last.name in _ADDING
    if (added or last.name == "concatenate") and free:
        return Stage("skip", where, _own_name(last), names)
    if all_linear:
        return Stage("weights", where, operation, names)
    if added and linear:
        return Stage("skip", where, _own_name(last), names)
    if all(op.name == "scan" and _is_over_time(op, around) for op in operations if op.path in holders):
        return Stage("time", where, operation, names)
    return Stage("other", where, operation, names)


def _ends_without(low: int, operations: Sequence[Operation], avoided: Any) -> bool:
    """Tell whether a path leads from a value to the last operation without passing some."""
    found = {low}
    for op in operations:
        if not avoided(op) and any(n in found for n in op.reads):
            found.update(op.writes)
    return bool(found & set(operations[-1].writes))


def is_neutral(low: int, op: Operation, graph: SignalGraph) -> bool:
    """Tell whether the cotangent of what an operation reads is that of its output, in another shape or sign."""
    source, result = graph.values[low].var, graph.values[op.writes[0]].var
    if len(op.writes) != 1 or jaxprs.dtype_of(source) != jaxprs.dtype_of(result):
        return False
    if op.name in IDENTITIES or op.name in RESHAPINGS or op.name in ("rev", "neg"):
        return op.name != "reduce_precision"
    if op.name in ("add", "add_any", "sub") or op.name == "broadcast_in_dim":
        a, b = jaxprs.shape_of(source), jaxprs.shape_of(result)
        return a == b or (op.name == "broadcast_in_dim" and _size(a) == _size(b))
    return False


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def _keeps_shape(low: int, op: Operation, graph: SignalGraph) -> bool:
    return all(jaxprs.shape_of(graph.values[low].var) == jaxprs.shape_of(v) for v in op.eqn.outvars)


def layers_in(op: Operation, layers: Mapping[Path, tuple[str, Site]]) -> list[str]:
    """Return the names of the layers that an operation is or holds."""
    if op.path in layers:
        return [layers[op.path][0]]
    if not jaxprs.subjaxprs(op.eqn):
        return []
    return [name for path, (name, _) in layers.items() if path[: len(op.path)] == op.path]


def _is_over_time(op: Operation, around: Surroundings) -> bool:
    """Tell whether the steps of a scan share their weights."""
    inside = [site for path, (_, site) in around.layers.items() if path[: len(op.path)] == op.path]
    return shares_weights(inside)


def shares_weights(sites: Sequence[Site]) -> bool:
    """Tell whether the layers in a scan use the same weights at every step: a scan over time, not over layers."""
    return not any(step[0] == "scan" for site in sites if site.weight is not None for step in site.weight.steps)


def label(operations: Sequence[Operation], around: Surroundings) -> str:
    """Say what operations compute: the call that holds them and nothing else of the path, else what they are."""
    common = [call for call in operations[0].calls if all(call in op.calls for op in operations)]
    for path, name in common:
        if name and around.call_sizes.get(path, 0) == len(operations):
            return name.strip("_")
    kinds = list(dict.fromkeys(_own_name(op) for op in operations if op.name not in IDENTITIES | RESHAPINGS))
    shown = [k for k in kinds if k != "broadcast_in_dim"] or kinds
    return ", ".join(shown[:3]) + (", …" if len(shown) > 3 else "") or operations[0].name


def _own_name(op: Operation) -> str:
    """Return the name of a primitive, of a custom rule that of the function that it was defined for."""
    if op.name not in jaxprs.CUSTOM_RULES:
        return op.name
    inner = jaxprs.opened(jaxprs.inner_jaxpr(op.eqn))[0]
    named = [e.params["name"] for e in inner.eqns if e.primitive.name in jaxprs.INLINED and "name" in e.params]
    if op.eqn.params.get("name") or (len(inner.eqns) == 1 and named):
        return str(op.eqn.params.get("name") or named[0]).strip("_")
    return op.name


def common_name(names: Sequence[str]) -> str:
    """Return the path that names have in common, else the first of them."""
    parts = [name.split("/") for name in names]
    common = []
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            break
        common.append(level[0])
    return "/".join(common) or names[0]


__all__ = ["Stage", "Surroundings", "classify", "common_name", "is_neutral", "label", "layers_in", "shares_weights"]
