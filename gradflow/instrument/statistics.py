"""Array -> a few float32 numbers: the reductions that a tap makes of a value and of its cotangent.

Everything is a sum, so that scan steps, branches, shards and repeated uses add up; `flow.py` forms means, rms and
fractions at the end. Squares are summed at three scales because a gradient that vanishes or explodes leaves the range of
float32 when squared: 1e-25 is a fine float32, its square is 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Num

from gradflow.instrument.jaxprs import varying_axes

T = TypeVar("T")
LOW_SCALE = 2.0**64
HIGH_SCALE = 2.0**-96
# A mean square above this loses nothing that float32 keeps, even if a few entries carry all of it.
HEALTHY_MEAN_SQUARE = 2.0**-80
HEALTHY_SUM = 2.0**100
_PACK_BITS = 16
_PACK = 1 << _PACK_BITS

STATISTICS = (
    "input_rms", "output_rms", "output_mean", "output_grad_rms", "input_grad_rms",
    "weight_rms", "weight_grad_rms", "weight_grad_norm",
    "zero_grad_fraction", "dead_fraction", "underflow_fraction", "similarity", "nonfinite",
)  # fmt: skip
SCALES = ("sum", "low", "high")


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which numbers a tap returns, by name, in order.

    Attributes:
        wanted: fields of `LayerFlow` that were asked for; sums that none of them needs are not formed.
    """

    wanted: frozenset[str]

    @property
    def forward(self) -> tuple[str, ...]:
        """Columns from the forward pass: the layer's input, then its output."""
        columns = [*(f"input_{s}" for s in SCALES)] if "input_rms" in self.wanted else []
        if self.squares_output:
            columns += [f"output_{s}" for s in SCALES]
        if "output_mean" in self.wanted:
            columns.append("output_total")
        if "similarity" in self.wanted:
            columns += ["direction", "alive"]
        if "nonfinite" in self.wanted:
            columns.append("nonfinite_forward")
        return tuple(columns)

    @property
    def backward(self) -> tuple[str, ...]:
        """Columns of the output's cotangent."""
        columns = ["calls"]
        if self.squares_cotangent:
            columns += [f"cotangent_{s}" for s in SCALES]
        if "nonfinite" in self.wanted:
            columns.append("nonfinite_backward")
        if self.counts_entries:
            columns += ["zero", "flushed", "dead"]
        return tuple(columns)

    @property
    def main(self) -> tuple[str, ...]:
        """Columns of the tap on a value."""
        return self.forward + self.backward

    @property
    def handed(self) -> tuple[str, ...]:
        """Columns of the cotangent that a layer hands down to its input."""
        return ("calls", *(f"cotangent_{s}" for s in SCALES)) if "input_grad_rms" in self.wanted else ()

    @property
    def squares_output(self) -> bool:
        """Whether the output is squared and summed."""
        return bool(self.wanted & {"output_rms", "nonfinite", "similarity"})

    @property
    def squares_cotangent(self) -> bool:
        """Whether the output's cotangent is squared and summed."""
        return bool(self.wanted & {"output_grad_rms", "nonfinite"})

    @property
    def counts_entries(self) -> bool:
        """Whether cotangent entries are looked at one by one."""
        return bool(self.wanted & {"zero_grad_fraction", "dead_fraction", "underflow_fraction"})


class Squares(NamedTuple):
    """Sums of squares of one array.

    Attributes:
        sum: over all entries.
        rows: along the kept axis, of the entries times `scale`.
        scale: 1, or what brought the entries back into range.
        rescue: the sums at the low and at the high scale and the count of NaN and Inf; zeros where `sum` is healthy.
    """

    sum: Float[Array, ""]
    rows: Float[Array, " rows"]
    scale: Float[Array, ""]
    rescue: Float[Array, " 3"]


def on_cpu() -> bool:
    """Whether the default backend is the CPU, where every reduction is a pass of its own over memory."""
    return jax.default_backend() == "cpu"


def squares(x: Num[Array, "..."], keep: int | None = None) -> Squares:
    """Sum the squares of all entries of an array, also row by row along the axis `keep` if one is given.

    On a CPU only the plain sum is formed; a branch that is hardly ever taken forms the others when it says that they
    are needed. On GPU and TPU all sums are one fused pass.
    """
    axes = tuple(k for k in range(x.ndim) if k != keep)
    x32 = x.astype(jnp.float32)
    rows = jnp.sum(jnp.square(x32), axis=axes)
    # The barrier keeps XLA from turning the sum of row sums into a second pass over the squares, written out in memory.
    total = rows if keep is None else jnp.sum(lax.optimization_barrier(rows))
    healthy = (total > x.size * HEALTHY_MEAN_SQUARE) & (total < HEALTHY_SUM)
    one = jnp.ones_like(total)

    def rescue() -> tuple[Array, Array, Array]:
        low = jnp.sum(jnp.square(x32 * LOW_SCALE), axis=axes)
        high = jnp.sum(jnp.square(x32 * HIGH_SCALE), axis=axes)
        bad = jnp.sum(~jnp.isfinite(x32), dtype=jnp.int32).astype(jnp.float32)
        large = ~(total < HEALTHY_SUM)
        sums = jnp.stack([jnp.sum(low), jnp.sum(high), bad])
        return jnp.where(large, high, low), jnp.where(large, one * HIGH_SCALE, one * LOW_SCALE), sums

    rows, scale, rescued = choose(healthy, lambda: (rows, one, jnp.stack([0 * one] * 3)), rescue)
    return Squares(total, rows, scale, rescued)


def choose(healthy: Array, plain: Callable[[], T], rescue: Callable[[], T]) -> T:
    """Return `plain()` if healthy, else `rescue()`: by a branch on the CPU, by selection where both are one fused pass."""
    if on_cpu():
        return lax.cond(healthy, plain, rescue)
    return jax.tree.map(lambda a, b: jnp.where(healthy, a, b), plain(), rescue())


def forward(
    y: Num[Array, "..."], x: Num[Array, "..."] | None, layout: Layout, example_axes: Sequence[int], mesh: Sequence[str]
) -> Float[Array, " columns"]:
    """Reduce a tapped value `y`, and the input `x` of its layer if there is one, to the columns `layout.forward`."""
    zero = jnp.zeros((), jnp.float32)
    pieces: list[Array] = []
    if "input_rms" in layout.wanted:
        entering = squares(x) if x is not None else None
        pieces += [entering.sum, entering.rescue[:2]] if entering is not None else [jnp.zeros((3,), jnp.float32)]
    alike = "similarity" in layout.wanted
    first = example_axes[0] if alike and example_axes else None
    if layout.squares_output:
        leaving = squares(y, first)
        pieces += [leaving.sum, leaving.rescue[:2]]
    weights = [jnp.ones((y.shape[first],), jnp.float32)] if first is not None and "output_mean" in layout.wanted else []
    if first is not None:
        alive = leaving.rows > 0
        weights.append(jnp.where(alive, lax.rsqrt(jnp.where(alive, leaving.rows, 1.0)) * leaving.scale, 0.0))
    if weights:
        totals = _weighted_sums(jnp.stack(weights), y.astype(jnp.float32), first)
    if "output_mean" in layout.wanted:
        pieces.append(jnp.sum(totals[0]) if weights else jnp.sum(y.astype(jnp.float32)))
    if alike and first is not None:
        pieces.append(jnp.sum(jnp.square(_over_mesh(totals[-1], mesh))))
        pieces.append(_over_mesh(jnp.sum(alive.astype(jnp.float32)), mesh))
    elif alike:
        pieces += [zero, zero]
    if "nonfinite" in layout.wanted:
        pieces.append(leaving.rescue[2:])
    return _joined(pieces)


def backward(
    g: Num[Array, "..."], layout: Layout, unit_axes: Sequence[int], mesh: Sequence[str], flush_below: float
) -> Float[Array, " columns"]:
    """Reduce a tapped value's cotangent to the columns `layout.backward`."""
    pieces = [jnp.ones((), jnp.float32)]
    if layout.squares_cotangent:
        sums = squares(g)
        pieces += [sums.sum, sums.rescue[:2]]
        if "nonfinite" in layout.wanted:
            pieces.append(sums.rescue[2:])
    if layout.counts_entries:
        nonzero, flushed = _count_by_unit(g, unit_axes, flush_below)
        dead = _over_mesh(nonzero, mesh) == 0
        examples = g.size // nonzero.size
        counts = jnp.stack([(examples - nonzero).astype(jnp.float32), flushed.astype(jnp.float32), dead.astype(jnp.float32)])
        pieces.append(jnp.sum(counts, axis=tuple(range(1, counts.ndim))))
    return _joined(pieces)


def handed_down(g: Num[Array, "..."]) -> Float[Array, " columns"]:
    """Reduce the cotangent that a layer hands to its input to the columns `Layout.handed`."""
    sums = squares(g)
    return _joined([jnp.ones((), jnp.float32), sums.sum, sums.rescue[:2]])


def _joined(pieces: Sequence[Array]) -> Float[Array, " columns"]:
    return jnp.concatenate([jnp.atleast_1d(p) for p in pieces]) if pieces else jnp.zeros((0,), jnp.float32)


def _over_mesh(x: Array, mesh: Sequence[str]) -> Array:
    return lax.psum(x, tuple(mesh)) if mesh else x


def _weighted_sums(weights: Float[Array, "k examples"], y: Float[Array, "..."], axis: int) -> Float[Array, "k ..."]:
    """Sum `y` over one axis with each row of weights: a matrix product where that is the quicker pass over memory."""
    if on_cpu() and axis in (0, y.ndim - 1) and not _explicitly_sharded(y):
        return lax.dot_general(weights, y, (((1,), (axis,)), ((), ())))
    shape = [1] * y.ndim
    shape[axis] = y.shape[axis]
    return jnp.stack([jnp.sum(y * row.reshape(shape), axis=axis) for row in weights])


def _explicitly_sharded(x: Array) -> bool:
    sharding = getattr(jax.typeof(x), "sharding", None)
    return sharding is not None and any(entry is not None for entry in sharding.spec)


def _count_by_unit(g: Array, unit_axes: Sequence[int], flush_below: float) -> tuple[Array, Array]:
    """Count, for each unit, the entries that are not 0 and those that a 16-bit cast would make 0, in one pass.

    Both counts travel in one int32. The longest example axis is summed in short runs first: XLA's CPU backend writes the
    codes out in memory before it sums a long axis, and does not for a short one.
    """
    size = jnp.abs(g.astype(jnp.float32))
    nonzero = size != 0
    code = nonzero.astype(jnp.int32) + _PACK * (nonzero & (size <= flush_below)).astype(jnp.int32)
    examples = tuple(k for k in range(g.ndim) if k not in unit_axes)
    if not examples:
        return nonzero.astype(jnp.int32), code >> _PACK_BITS
    axis = max(examples, key=lambda k: _run(g.shape[k]))
    run = _run(g.shape[axis])
    split = code.reshape(*g.shape[:axis], g.shape[axis] // run, run, *g.shape[axis + 1 :])
    runs = jnp.sum(split, axis=axis + 1)
    return jnp.sum(runs & (_PACK - 1), axis=examples), jnp.sum(runs >> _PACK_BITS, axis=examples)


def _run(length: int) -> int:
    """Return the largest divisor of a length that is at most 16."""
    return next(d for d in range(16, 0, -1) if length % d == 0)


def mesh_axes_of(y: Array, axes: Sequence[str]) -> tuple[str, ...]:
    """Keep the mesh axes over which `y` really differs, where its type tells."""
    known = varying_axes(y)
    return tuple(a for a in axes if a in known) if known else tuple(axes)
