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

from gradflow.instrument.origins import Kind, Origin
from gradflow.instrument.sites import Site
from gradflow.instrument.statistics import SCALES, sums_of_squares

COLUMNS = tuple(f"{kind}_{scale}" for kind in ("weight", "gradient") for scale in SCALES)
Cut = tuple[tuple[Any, ...], ...]


@dataclasses.dataclass(frozen=True)
class Part:
    """The part of the parameters that one layer uses: whole leaves, or one leaf cut by `steps`.

    Attributes:
        leaves: numbers of the leaves among those of the differentiated arguments, as `jax.tree.leaves` lists them.
        steps: how scans, slices and splits cut the one leaf on the way to the layer.
    """

    leaves: frozenset[int]
    steps: Cut

    @property
    def scans(self) -> tuple[int, ...]:
        """Which of the scans around the layer cut it, counted from the outermost: those of which it has a row each."""
        return tuple(step[1] for step in self.steps if step[0] == "scan")

    @property
    def is_rows(self) -> bool:
        """Whether it is a whole leaf, cut into rows by scans or not at all."""
        return all(step[0] == "scan" for step in self.steps)

    def take(self, leaf: Float[Array, "..."]) -> Float[Array, "*rows rest"]:
        """Cut the part out of its leaf; an axis for each of `scans` comes first."""
        return _cutter(self.steps)(jnp.asarray(leaf))

    def put(self, leaf: Float[Array, "..."], part: Float[Array, "*rows rest"]) -> Float[Array, "..."]:
        """Return the leaf with the part replaced: what `take` gives of it is `part`."""
        back = jax.vjp(self.take, jnp.asarray(leaf))[1]
        return jnp.where(back(jnp.ones_like(part))[0] != 0, back(part)[0], leaf)


@dataclasses.dataclass(frozen=True)
class Groups:
    """The distinct parts, grouped by the scans that cut them: the sums of a group are stacked along one last axis.

    Attributes:
        parts: the parts of each group.
        sizes: the number of entries of each (of one row, where scans cut it).
        rows: how many scans cut the parts of each group.
    """

    parts: tuple[tuple[Part, ...], ...]
    sizes: tuple[tuple[int, ...], ...]
    rows: tuple[int, ...]

    def find(self, weight: Origin | None) -> tuple[tuple[int, int] | None, int]:
        """Return (group, index) of a weight's part, None if there is no weight, and the part's size."""
        if weight is None:
            return None, 0
        place = self._places[part_of(weight)]
        return place, self.sizes[place[0]][place[1]]

    def leaf(self, number: int) -> tuple[int, int]:
        """Return (group, index) of a part whose rows make up a whole leaf."""
        return self._whole[number]

    @functools.cached_property
    def _places(self) -> dict[Part, tuple[int, int]]:
        return {part: (n, k) for n, parts in enumerate(self.parts) for k, part in enumerate(parts)}

    @functools.cached_property
    def _whole(self) -> dict[int, tuple[int, int]]:
        whole = [part for part in self._places if part.is_rows and len(part.leaves) == 1]
        return {min(part.leaves): self._places[part] for part in reversed(whole)}


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


def group(sites: Sequence[Site], leaves: Sequence[Any], reported: Sequence[int]) -> Groups:
    """Collect the parts that the layers use, and each reported leaf as a whole.

    Args:
        sites: the layers.
        leaves: the differentiated leaves.
        reported: numbers of the leaves that `Flow.parameters` lists.
    """
    found: dict[tuple[int, ...], dict[Part, int]] = {}
    used = dict.fromkeys(part_of(site.weight) for site in sites if site.weight is not None)
    # The rows of a leaf that a scan cuts add up to the whole of it.
    covered = {min(part.leaves) for part in used if part.is_rows and len(part.leaves) == 1}
    whole = [Part(frozenset({k}), ()) for k in reported if k not in covered]
    for part in dict.fromkeys([*used, *whole]):
        count = sum(step[0] == "scan" for step in part.steps)
        shapes = [_cut_shape(part, leaves[k]) for k in sorted(part.leaves)]
        found.setdefault(shapes[0][:count], {})[part] = sum(math.prod(shape[count:]) for shape in shapes)
    return Groups(
        tuple(tuple(parts) for parts in found.values()),
        tuple(tuple(parts.values()) for parts in found.values()),
        tuple(len(rows) for rows in found),
    )


def _cut_shape(part: Part, leaf: Any) -> tuple[int, ...]:
    cut = _cutter(part.steps)
    return jax.eval_shape(lambda x: cut(jnp.asarray(x)), leaf).shape


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
    for parts, rows in zip(groups.parts, groups.rows, strict=True):
        arrays = [
            _cutter(part.steps)(jnp.asarray(values[k]))
            for part in parts
            for _, values in sources
            for k in sorted(part.leaves)
        ]
        out.append(_summed(parts, arrays, rows, [at for at, _ in sources]))
    return tuple(out)


def _summed(parts: Sequence[Part], arrays: list[Array], rows: int, places: list[int]) -> Float[Array, "*rows columns"]:
    dtype = column_dtype(*arrays)

    def sums(arrays: list[Array]) -> Array:
        rest = iter(jnp.split(sums_of_squares(arrays, dtype), len(arrays)))
        pieces: list[Array] = []
        for part in parts:
            columns = [jnp.zeros((3,), dtype)] * 2
            for at in places:
                columns[at] = functools.reduce(jnp.add, [next(rest) for _ in part.leaves])
            pieces += columns
        return jnp.concatenate(pieces)

    for _ in range(rows):
        sums = jax.vmap(sums)
    return sums(arrays)


def column_dtype(*values: Any) -> str:
    """Return the type of the columns for values: float64 where one of them has 64-bit parts, else float32."""
    dtypes = [jnp.result_type(getattr(value, "dtype", value)) for value in values]
    return "float64" if any(jnp.finfo(d).bits == 64 for d in dtypes if jnp.issubdtype(d, jnp.inexact)) else "float32"


def _cutter(steps: Cut) -> Callable[[Array], Array]:
    """Return a function that cuts a leaf down to the part; rows that scans cut off stay in front as axes."""
    if not steps:
        return lambda x: x
    rest = _cutter(steps[1:])
    if steps[0][0] == "scan":
        return jax.vmap(rest)
    return lambda x: rest(_apply(steps[0], x))


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
