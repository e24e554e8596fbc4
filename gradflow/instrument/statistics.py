"""Array -> a few float32 numbers: the reductions that a tap makes of a value and of its cotangent.

Everything is a sum, so that scan steps, branches, shards and repeated uses add up; `flow.py` forms means, rms and
fractions at the end. Squares are summed at three scales because a gradient that vanishes or explodes leaves the range of
float32 when squared: 1e-25 is a fine float32, its square is 0.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Num

from gradflow.instrument.jaxprs import varying_axes

LOW_SCALE = 2.0**64
HIGH_SCALE = 2.0**-96
# A mean square above this loses nothing that float32 keeps, even if a few entries carry all of it.
HEALTHY_MEAN_SQUARE = 2.0**-80
HEALTHY_SUM = 2.0**100
_PACK = 1 << 16

FORWARD = ("output_rms", "output_mean", "similarity", "nonfinite", "input_rms")
BACKWARD = ("output_grad_rms", "zero_grad_fraction", "dead_fraction", "underflow_fraction", "nonfinite")
OF_WEIGHT = ("weight_rms", "weight_grad_rms", "weight_grad_norm")
STATISTICS = tuple(dict.fromkeys((*FORWARD, *BACKWARD, "input_grad_rms", *OF_WEIGHT)))

_SQUARES = ("sum", "low", "high")


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which numbers a tap returns, by name, in order: `main` from the value's tap, `handed` from the input's."""

    wanted: frozenset[str]

    @property
    def main(self) -> tuple[str, ...]:
        """Columns of the tap on a value: forward, then backward."""
        return (*self.forward_input, *self.forward_output, *self.backward)

    @property
    def forward_input(self) -> tuple[str, ...]:
        """Columns of the layer's input, forward."""
        return tuple(f"input_{s}" for s in _SQUARES) if "input_rms" in self.wanted else ()

    @property
    def forward_output(self) -> tuple[str, ...]:
        """Columns of the tapped value, forward."""
        columns: list[str] = []
        if "output_rms" in self.wanted:
            columns += [f"output_{s}" for s in _SQUARES]
        if "output_mean" in self.wanted:
            columns.append("output_total")
        if "similarity" in self.wanted:
            columns += ["similarity_sum", "similarity_pairs"]
        if "nonfinite" in self.wanted:
            columns.append("nonfinite_forward")
        return tuple(columns)

    @property
    def backward(self) -> tuple[str, ...]:
        """Columns of the tapped value's cotangent."""
        columns = ["calls"]
        if "output_grad_rms" in self.wanted:
            columns += [f"cotangent_{s}" for s in _SQUARES]
        if "nonfinite" in self.wanted:
            columns.append("nonfinite_backward")
        if self.counts_entries:
            columns += ["nonzero", "flushed", "dead"]
        return tuple(columns)

    @property
    def counts_entries(self) -> bool:
        """Whether cotangent entries are looked at one by one."""
        return bool(self.wanted & {"zero_grad_fraction", "dead_fraction", "underflow_fraction"})

    @property
    def handed(self) -> tuple[str, ...]:
        """Columns of the cotangent that a layer hands down to its input."""
        return ("calls", *(f"cotangent_{s}" for s in _SQUARES)) if "input_grad_rms" in self.wanted else ()


class Squares(NamedTuple):
    """Sums of squares of an array at three scales; `rows` are the sums along one kept axis, times `scale` squared."""

    rows: Float[Array, "*rows"]
    scale: Float[Array, ""]
    sum: Float[Array, ""]
    low: Float[Array, ""]
    high: Float[Array, ""]
    nonfinite: Float[Array, ""]


def on_cpu() -> bool:
    """Whether the default backend is the CPU, where every reduction is a pass of its own over memory."""
    return jax.default_backend() == "cpu"


def squares(x: Num[Array, "..."], keep: int | None = None) -> Squares:
    """Sum the squares of all entries, along the axis `keep` one by one if given.

    On a CPU only the plain sum is formed; a branch that is hardly ever taken forms the others when it says that they
    are needed. On GPU and TPU the sums are one fused pass, so all are formed at once.
    """
    axes = tuple(k for k in range(x.ndim) if k != keep)
    x32 = x.astype(jnp.float32)
    rows = jnp.sum(jnp.square(x32), axis=axes)
    total = jnp.sum(rows) if keep is not None else rows
    one = jnp.ones_like(total)

    def at_all_scales(_: None) -> Squares:
        low = jnp.sum(jnp.square(x32 * LOW_SCALE), axis=axes)
        high = jnp.sum(jnp.square(x32 * HIGH_SCALE), axis=axes)
        bad = jnp.sum(~jnp.isfinite(x32), axis=axes, dtype=jnp.int32).astype(jnp.float32)
        large = ~(total < HEALTHY_SUM)
        chosen = jnp.where(large, high, low)
        scale = jnp.where(large, one * HIGH_SCALE, one * LOW_SCALE)
        return Squares(chosen, scale, total, jnp.sum(low), jnp.sum(high), jnp.sum(bad))

    healthy = (total > x.size * HEALTHY_MEAN_SQUARE) & (total < HEALTHY_SUM)
    plain = Squares(rows, one, total, 0 * one, 0 * one, 0 * one)
    if on_cpu():
        return lax.cond(healthy, lambda _: plain, at_all_scales, None)
    robust = at_all_scales(None)
    return robust._replace(
        rows=jnp.where(healthy, rows, robust.rows), scale=jnp.where(healthy, one, robust.scale)
    )


def forward(
    y: Num[Array, "..."], layout: Layout, example_axes: Sequence[int], mesh_axes: Sequence[str]
) -> Float[Array, " columns"]:
    """Reduce a tapped value to the columns `layout.forward_output`."""
    first = example_axes[0] if example_axes and "similarity" in layout.wanted else None
    out: dict[str, Array] = {}
    if layout.wanted & {"output_rms", "similarity", "nonfinite"}:
        sums = squares(y, first)
        out |= {f"output_{s}": getattr(sums, s) for s in _SQUARES}
        out["nonfinite_forward"] = sums.nonfinite
        if first is not None:
            out["similarity_sum"], out["similarity_pairs"] = _similarity(y, sums, first, mesh_axes)
    if "output_mean" in layout.wanted:
        out["output_total"] = jnp.sum(y.astype(jnp.float32))
    return _columns(out, layout.forward_output)


def forward_input(x: Num[Array, "..."], layout: Layout) -> Float[Array, " columns"]:
    """Reduce a layer's input to the columns `layout.forward_input`."""
    if not layout.forward_input:
        return jnp.zeros((0,), jnp.float32)
    sums = squares(x)
    return _columns({f"input_{s}": getattr(sums, s) for s in _SQUARES}, layout.forward_input)


def backward(
    g: Num[Array, "..."],
    layout: Layout,
    unit_axes: Sequence[int],
    mesh_axes: Sequence[str],
    flush_below: float,
) -> Float[Array, " columns"]:
    """Reduce a tapped value's cotangent to the columns `layout.backward`."""
    out = {"calls": jnp.ones((), jnp.float32)}
    if layout.wanted & {"output_grad_rms", "nonfinite"}:
        sums = squares(g)
        out |= {f"cotangent_{s}": getattr(sums, s) for s in _SQUARES}
        out["nonfinite_backward"] = sums.nonfinite
    if layout.counts_entries:
        nonzero, flushed = _count_by_unit(g, unit_axes, flush_below)
        out["nonzero"] = jnp.sum(nonzero).astype(jnp.float32)
        out["flushed"] = jnp.sum(flushed).astype(jnp.float32)
        out["dead"] = jnp.sum(_over_mesh(nonzero, mesh_axes) == 0, dtype=jnp.int32).astype(jnp.float32)
    return _columns(out, layout.backward)


def handed_down(g: Num[Array, "..."], layout: Layout) -> Float[Array, " columns"]:
    """Reduce the cotangent that a layer hands to its input to the columns `layout.handed`."""
    sums = squares(g)
    out = {f"cotangent_{s}": getattr(sums, s) for s in _SQUARES}
    return _columns(out | {"calls": jnp.ones((), jnp.float32)}, layout.handed)


def _columns(values: dict[str, Array], order: Sequence[str]) -> Float[Array, " columns"]:
    zero = jnp.zeros((), jnp.float32)
    return jnp.stack([values.get(name, zero) for name in order]) if order else jnp.zeros((0,), jnp.float32)


def _over_mesh(x: Array, mesh_axes: Sequence[str]) -> Array:
    return lax.psum(x, tuple(mesh_axes)) if mesh_axes else x


def _similarity(
    y: Array, sums: Squares, axis: int, mesh_axes: Sequence[str]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    r"""Sum the cosine over ordered pairs of different examples: \|sum_b y_b/|y_b|\|^2 - m for m non-zero examples."""
    alive = sums.rows > 0
    inverse = jnp.where(alive, lax.rsqrt(jnp.where(alive, sums.rows, 1.0)) * sums.scale, 0.0)
    direction = _weighted_sum(inverse, y.astype(jnp.float32), axis)
    count = _over_mesh(jnp.sum(alive, dtype=jnp.int32).astype(jnp.float32), mesh_axes)
    direction = _over_mesh(direction, mesh_axes)
    return jnp.sum(jnp.square(direction)) - count, count * (count - 1)


def _weighted_sum(weights: Float[Array, " examples"], y: Float[Array, "..."], axis: int) -> Float[Array, "..."]:
    """Sum `y` over one axis with weights: a matrix product where that is the quicker pass over memory."""
    if on_cpu() and axis in (0, y.ndim - 1) and not _explicitly_sharded(y):
        return lax.dot_general(weights, y, (((0,), (axis,)), ((), ())))
    shape = [1] * y.ndim
    shape[axis] = y.shape[axis]
    return jnp.sum(y * weights.reshape(shape), axis=axis)


def _explicitly_sharded(x: Array) -> bool:
    sharding = getattr(jax.typeof(x), "sharding", None)
    return sharding is not None and any(entry is not None for entry in sharding.spec)


def _count_by_unit(g: Array, unit_axes: Sequence[int], flush_below: float) -> tuple[Array, Array]:
    """Count, for each unit, the entries that are not 0 and those that a 16-bit cast would make 0, in one pass.

    Both counts travel in one int32 as long as neither can overflow its half.
    """
    size = jnp.abs(g.astype(jnp.float32))
    nonzero, flushed = size != 0, (size != 0) & (size <= flush_below)
    examples = [k for k in range(g.ndim) if k not in unit_axes]
    packed: list[int] = []
    for axis in sorted(examples, reverse=True):
        if math.prod(g.shape[k] for k in (*packed, axis)) < _PACK // 2:
            packed.append(axis)
    if not packed:
        return jnp.sum(nonzero, axis=tuple(examples), dtype=jnp.int32), jnp.sum(
            flushed, axis=tuple(examples), dtype=jnp.int32
        )
    code = jnp.sum(nonzero.astype(jnp.int32) + _PACK * flushed.astype(jnp.int32), axis=tuple(packed), keepdims=True)
    rest = tuple(examples)
    return jnp.sum(code & (_PACK - 1), axis=rest), jnp.sum(code >> 16, axis=rest)


def mesh_axes_of(y: Array, axes: Sequence[str]) -> tuple[str, ...]:
    """Keep the mesh axes over which `y` really differs, where its type tells."""
    known = varying_axes(y)
    return tuple(a for a in axes if a in known) if known else tuple(axes)
