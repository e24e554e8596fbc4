"""Statistics of the parameters themselves: sums of squares of each weight and of its gradient."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from gradflow.instrument.layers import Site
from gradflow.instrument.origins import Kind, Origin
from gradflow.instrument.statistics import sum_of_squares

COLUMNS = ("weight_sum", "weight_low", "weight_high", "gradient_sum", "gradient_low", "gradient_high")
Cut = tuple[tuple[Any, ...], ...]


@dataclasses.dataclass(frozen=True)
class Part:
    """The part of the parameters that one layer uses: whole leaves, or one leaf cut by `steps`."""

    leaves: frozenset[int]
    steps: Cut


@dataclasses.dataclass(frozen=True)
class Groups:
    """The distinct parts, grouped by how many scans cut them (their sums are stacked along one array's last axis)."""

    parts: tuple[tuple[Part, ...], ...]

    def where(self, weight: Origin | None) -> tuple[int, int] | None:
        """Return (group, index) of a weight's part."""
        if weight is None:
            return None
        part = part_of(weight)
        for number, parts in enumerate(self.parts):
            if part in parts:
                return number, parts.index(part)
        raise KeyError(part)


def part_of(weight: Origin) -> Part:
    """Return which part of the parameters a weight is, by the cuts made on the way from the leaf."""
    steps: list[tuple[Any, ...]] = []
    if weight.kind == Kind.VIEW:
        steps = list(weight.steps)
        while steps and steps[-1][0] not in ("scan", "slice", "split"):
            steps.pop()  # reshapes after the last cut change no sum
        if any(step[0] == "opaque" for step in steps):
            steps = []
    return Part(weight.leaves, tuple(steps))


def group(sites: Sequence[Site]) -> Groups:
    """Collect the parts that the layers use."""
    found: dict[tuple[Any, ...], list[Part]] = {}
    for site in sites:
        if site.weight is not None:
            part = part_of(site.weight)
            rows = _scan_lengths(site, part)
            members = found.setdefault(rows, [])
            if part not in members:
                members.append(part)
    return Groups(tuple(tuple(parts) for parts in found.values()))


def _scan_lengths(site: Site, part: Part) -> tuple[int, ...]:
    count = sum(step[0] == "scan" for step in part.steps)
    return site.lengths[len(site.lengths) - count :]


def size(weight: Origin | None, leaves: Sequence[Any]) -> int:
    """Return the number of entries of a weight's part (of one row of it, if scans cut it)."""
    if weight is None:
        return 0
    part = part_of(weight)
    cut = _cutter(part.steps)
    rows = sum(step[0] == "scan" for step in part.steps)
    return sum(
        math.prod(jax.eval_shape(lambda x: cut(x, lambda part: part), leaves[k]).shape[rows:])
        for k in sorted(part.leaves)
    )


def reduce(
    groups: Groups, leaves: Sequence[Any], grads: Sequence[Any], wanted: frozenset[str]
) -> tuple[Float[Array, "*rows columns"], ...]:
    """Return, for each group, the sums of squares of weights and gradients side by side along the last axis."""
    sources = []
    if "weight_rms" in wanted:
        sources.append((0, leaves))
    if wanted & {"weight_grad_rms", "weight_grad_norm"}:
        sources.append((1, grads))
    if not sources:
        return ()
    out = []
    for parts in groups.parts:
        arrays = [
            _cutter(part.steps)(jnp.asarray(values[k]), lambda x: x)
            for part in parts
            for _, values in sources
            for k in sorted(part.leaves)
        ]
        rows = sum(step[0] == "scan" for step in parts[0].steps)
        out.append(_summed(parts, arrays, rows, [at for at, _ in sources]))
    return tuple(out)


def _summed(
    parts: Sequence[Part], arrays: list[Array], rows: int, places: list[int]
) -> Float[Array, "*rows columns"]:
    def sums(arrays: list[Array]) -> Array:
        rest = iter(arrays)
        pieces: list[Array] = []
        for part in parts:
            columns = [jnp.zeros((3,), jnp.float32)] * 2
            for at in places:
                columns[at] = functools.reduce(jnp.add, [sum_of_squares(next(rest)) for _ in part.leaves])
            pieces += columns
        return jnp.concatenate(pieces)

    for _ in range(rows):
        sums = jax.vmap(sums)
    return sums(arrays)


def _cutter(steps: Cut) -> Callable[[Array, Callable[[Array], Array]], Array]:
    """Return a function that cuts a leaf and applies another to the part, once for each row of the scans."""
    if not steps:
        return lambda x, then: then(x)
    rest = _cutter(steps[1:])
    if steps[0][0] == "scan":
        return lambda x, then: jax.vmap(lambda row: rest(row, then))(x)
    return lambda x, then: rest(_apply(steps[0], x), then)


def _apply(step: tuple[Any, ...], x: Array) -> Array:
    name, *how = step
    if name == "slice":
        return lax.slice(x, *how)
    if name == "split":
        sizes, axis, index = how
        return lax.split(x, sizes, axis)[index]
    if name == "reshape":
        return lax.reshape(x, *how)
    return {"transpose": lax.transpose, "squeeze": lax.squeeze}[name](x, *how)
