"""What a step returns of its flow, and what the host makes of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from gradflow.instrument import Flow
from gradflow.instrument.jaxprs import empty_like
from gradflow.instrument.modules import differentiated
from gradflow.instrument.naming import leaf_names
from gradflow.instrument.parameters import column_dtype
from gradflow.instrument.statistics import root_mean_square, sums_of_squares

__all__ = [
    "Record", "Snapshot", "UpdateSums", "layer_sizes", "leaf_paths", "paired_leaves", "snapshots", "update_sums",
    "with_updates",
]  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class UpdateSums:
    """Sums of squares of updates and of the parameters that they change, traced.

    Attributes:
        sums: of shape (*steps, leaves, 6): three columns of the update, then three of the parameter.
        paths: of the leaves.
        sizes: of the leaves.
    """

    sums: Any
    paths: tuple[str, ...]
    sizes: tuple[int, ...]


_SMALL = 2**16  # entries of a leaf that is copied beside others
_ARRAYS = ("step", "loss", "flow", "gradients", "updates", "taken")


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
    """What a step returns beside its value and gradients: a small pytree, to be handed to `watch.write`.

    Attributes:
        known: whether it holds a flow; None where the step is a traced number, so that this is not known.
        step: number of the step; None where nothing is recorded.
        loss: its value.
        flow: None where nothing is recorded; zeros where `taken` is false.
        gradients: with `history`, the mean |entry| of each layer's gradient.
        updates: from `watch.updates`.
        taken: whether it holds a flow, where `known` is None: a boolean array.
        layers: names of the rows of `gradients`.
    """

    known: bool | None
    step: Any = None
    loss: Any = None
    flow: Flow | None = None
    gradients: Any = None
    updates: UpdateSums | None = None
    taken: Any = None
    layers: tuple[str, ...] = ()

    @property
    def holds_flow(self) -> Any:
        """True, or False; a boolean array where the step is a traced number, inside `jit` or `scan`."""
        return self.taken if self.known is None else self.known


jax.tree_util.register_dataclass(Record, list(_ARRAYS), ["known", "layers"])
jax.tree_util.register_dataclass(UpdateSums, ["sums"], ["paths", "sizes"])


@dataclasses.dataclass(frozen=True, eq=False)
class Snapshot:
    """One recorded step on the host, as writers get it.

    Attributes:
        step: its number.
        flow: with numbers.
        loss: None if it is not known.
        update_ratios: for each leaf by its path, norm of the update / norm of the parameter; NaN where the parameter is
            0. None without `watch.updates`, and at a step that updated nothing (accumulation).
        update_norm: norm of the whole update, after clipping and all else that the optimizer does; likewise.
    """

    step: int
    flow: Flow
    loss: float | None = None
    update_ratios: Mapping[str, float] | None = None
    update_norm: float | None = None


def leaf_paths(tree: Any, arguments: Sequence[str], *, single: bool) -> tuple[list[tuple[str, ...]], list[Any]]:
    """Return the names that lead to every leaf, and the leaves.

    Args:
        tree: a pytree of arrays.
        arguments: names of the differentiated arguments.
        single: whether the tree is the only one of them, not a tuple of them.
    """
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return leaf_names([path for path, _ in flat], arguments, single), [leaf for _, leaf in flat]


def layer_sizes(
    grads: Any, arguments: Sequence[str], *, single: bool
) -> tuple[tuple[str, ...], Float[Array, " layers"]]:
    """Return the layers' names and for each the mean |entry| of its gradient; NaN and Inf stay what they are.

    A mean of absolute values is in range wherever the entries are; their squares would not be. A layer's kernels stand
    for it; biases count where there is nothing else.

    Args:
        grads: gradients of the differentiated arguments.
        arguments: their names.
        single: whether there is one only.
    """
    paths, leaves = leaf_paths(grads, arguments, single=single)
    layers: dict[str, list[Any]] = {}
    for path, leaf in zip(paths, leaves, strict=True):
        layers.setdefault("/".join(path[:-1]) or path[-1], []).append(leaf)
    pieces: list[tuple[int, Any, float]] = []
    for number, members in enumerate(layers.values()):
        chosen = [leaf for leaf in members if jnp.ndim(leaf) > 1] or members
        count = max(sum(jnp.size(leaf) for leaf in chosen), 1)
        pieces += [(number, leaf, 1 / count) for leaf in chosen]
    return tuple(layers), _mean_sizes(pieces, len(layers))


def _mean_sizes(pieces: list[tuple[int, Any, float]], layers: int) -> Float[Array, " layers"]:
    """Add up |entry| * factor of (layer, leaf, factor), layer by layer.

    Small leaves of one type are stacked and summed by one kernel: what many small kernels cost is their start.
    """
    groups: dict[Any, list[tuple[int, Any, float]]] = {}
    for number, piece in enumerate(pieces):
        small = jnp.size(piece[1]) <= _SMALL
        groups.setdefault((str(jax.typeof(piece[1])), piece[2]) if small else number, []).append(piece)
    sums = []
    for group in groups.values():
        stacked = jnp.abs(jnp.stack([leaf for _, leaf, _ in group])).astype(jnp.float32)
        # Divided before they are added up: a sum could leave the range.
        sums.append(jnp.sum(stacked * np.float32(group[0][2]), axis=tuple(range(1, stacked.ndim))))
    order = [number for group in groups.values() for number, _, _ in group]
    own = [[k for k, number in enumerate(order) if number == layer] for layer in range(layers)]
    most = max(map(len, own), default=0)
    table = np.array([[*places, *[len(order)] * (most - len(places))] for places in own], np.int32)
    return jnp.sum(jnp.concatenate([*sums, jnp.zeros((1,), jnp.float32)])[table], axis=1)


def paired_leaves(
    updates: Any, params: Any, arguments: Sequence[str] | None = None
) -> tuple[tuple[str, ...], list[Any], list[Any]]:
    """Return the paths of what is differentiated of the parameters, the leaves of their updates, and theirs.

    Args:
        updates: what is added to the parameters.
        params: before that.
        arguments: names of the arguments whose tuple they are; None for a single one.

    Raises:
        ValueError: if they have other leaves.
    """
    paths, old = leaf_paths(params, arguments or [""], single=arguments is None)
    wanted = differentiated(params)
    paths, old = ([x for x, w in zip(values, wanted, strict=True) if w] for values in (paths, old))
    new = jax.tree.leaves(updates)
    shapes = [[jnp.shape(leaf) for leaf in leaves] for leaves in (new, old)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"watch.updates: expected updates of the parameters' structure, {len(old)} leaves, got {len(new)} leaves"
            f"{'' if len(old) != len(new) else ' of other shapes'}. Likely cause: gradients of another argument, or a "
            "whole state in place of its parameters. Fix: updates, opt_state = optimizer.update(grads, opt_state, "
            "params); record = watch.updates(record, updates, params)"
        )
    return tuple("/".join(path) for path in paths), new, old


def update_sums(new: list[Any], old: list[Any]) -> Float[Array, "leaves 6"]:
    """Return the sums of squares of updates and of the parameters that they change, leaf by leaf.

    Args:
        new: leaves of the updates.
        old: leaves of the parameters.
    """
    dtype = column_dtype(*old) if old else "float32"
    pairs = [x for pair in zip(new, old, strict=True) for x in pair]
    return sums_of_squares(pairs, dtype).reshape(len(new), 6)


def with_updates(record: Record, updates: Any, params: Any, arguments: Sequence[str] | None = None) -> Record:
    """Return what `Watch.updates` promises.

    Args:
        record: of the same step.
        updates: what is added to the parameters.
        params: before that.
        arguments: names of the arguments whose tuple they are; None for a single one.
    """
    if record.known is False:
        return record
    paths, new, old = paired_leaves(updates, params, arguments)
    if record.known is True:
        sums = update_sums(new, old)
    else:
        shape = jax.eval_shape(update_sums, new, old)
        sums = lax.cond(record.holds_flow, update_sums, lambda *_: empty_like(shape), new, old)
    return dataclasses.replace(record, updates=UpdateSums(sums, paths, tuple(int(jnp.size(leaf)) for leaf in old)))


def snapshots(record: Record) -> list[Snapshot]:
    """Return the recorded steps of a record on the host: none, one, or some where a scan stacked them.

    Args:
        record: with arrays that were fetched.
    """
    if record.flow is None:
        return []
    steps = np.asarray(record.step)
    holds = np.broadcast_to(np.asarray(record.holds_flow), steps.shape)
    return [_snapshot(record, index) for index in np.ndindex(steps.shape) if holds[index]]


def _snapshot(record: Record, index: tuple[int, ...]) -> Snapshot:
    flow = jax.tree.map(lambda x: np.asarray(x)[index], record.flow)
    loss = None if record.loss is None else float(np.asarray(record.loss, np.float64)[index])
    ratios, norm = (None, None) if record.updates is None else _ratios(record.updates, index)
    return Snapshot(int(np.asarray(record.step)[index]), flow, loss, ratios, norm)


def _ratios(updates: UpdateSums, index: tuple[int, ...]) -> tuple[dict[str, float] | None, float | None]:
    sums = np.asarray(updates.sums)[index]
    sizes = np.maximum(np.asarray(updates.sizes, np.float64), 1)
    change, weight = (root_mean_square(list(sums[:, at : at + 3].T), sizes) for at in (0, 3))
    change, weight = np.asarray(change, np.float64), np.asarray(weight, np.float64)
    if not change.any():
        return None, None
    with np.errstate(all="ignore"):
        ratios = np.where(weight > 0, change / weight, np.nan)
        norm = float(np.sqrt(np.sum(np.square(change) * sizes)))
    return dict(zip(updates.paths, ratios.tolist(), strict=True)), norm
