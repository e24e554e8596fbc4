"""The numbers that a tap makes of a value and of its cotangent: their names, and the reductions that form them.

This is the whole interface of the reductions. `Layout` names the columns. `forward`, `backward`,
`reduce_input_cotangent` and `sum_of_squares` fill them. `root_mean_square`, `mean` and `similarity` turn sums of
columns into what `LayerFlow` shows. Every column is a sum over calls, so that scan steps, branches, shards and repeated
uses add up.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Num

from gradflow.instrument import _reductions as reductions
from gradflow.instrument._finalization import mean, root_mean_square, similarity
from gradflow.instrument._reductions import sum_of_squares, sums_of_squares
from gradflow.instrument.jaxprs import varying_axes
from gradflow.instrument.replacement import replaceable

DEFAULT_STATISTICS = (
    "input_rms", "output_rms", "output_mean", "output_grad_rms", "input_grad_rms",
    "weight_rms", "weight_grad_rms", "weight_grad_norm",
    "zero_grad_fraction", "dead_fraction", "underflow_fraction", "similarity", "nonfinite",
)  # fmt: skip
STATISTICS = (*DEFAULT_STATISTICS, "output_grad_max", "exponent_histogram")
SCALES = ("low", "sum", "high")
EXPONENT_BINS = 64
_ENTRY_COUNTS = frozenset({"zero_grad_fraction", "dead_fraction", "underflow_fraction", "nonfinite"})


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which numbers one tapped place returns, by name, in order.

    Attributes:
        wanted: fields of `LayerFlow` that were asked for; sums that none of them needs are not formed.
        dtype: of the columns, "float64" for 64-bit values under x64, else "float32".
        is_complex: whether the tapped value is complex.
    """

    wanted: frozenset[str]
    dtype: str = "float32"
    is_complex: bool = False

    @property
    def forward(self) -> tuple[str, ...]:
        """Columns from the forward pass: that it came through, the layer's input, then its output."""
        columns = ["ran"]
        if "input_rms" in self.wanted:
            columns += [f"input_{s}" for s in SCALES]
        if "output_rms" in self.wanted:
            columns += [f"output_{s}" for s in SCALES]
        if "similarity" in self.wanted:
            columns += ["alive", "direction"]
        if "output_mean" in self.wanted:
            columns += self.total
        if "nonfinite" in self.wanted:
            columns.append("nonfinite_forward")
        return tuple(columns)

    @property
    def total(self) -> tuple[str, ...]:
        """Columns that `mean` takes: the sum of the output; of a complex one the real, then the imaginary part."""
        prefixes = ("total", "imaginary_total") if self.is_complex else ("total",)
        return tuple(f"{prefix}_{s}" for prefix in prefixes for s in ("sum", "high"))

    @property
    def backward(self) -> tuple[str, ...]:
        """Columns of the output's cotangent: that the backward pass came through, then what it brought."""
        columns = ["calls"]
        if "output_grad_rms" in self.wanted:
            columns += [f"cotangent_{s}" for s in SCALES]
        if self.wanted & _ENTRY_COUNTS:
            columns += ["zero", "flushed", "dead", "nonfinite_backward"]
        if "output_grad_max" in self.wanted:
            columns.append("cotangent_max")
        if "exponent_histogram" in self.wanted:
            columns += [f"exponent_{k}" for k in range(EXPONENT_BINS)]
        return tuple(columns)

    @property
    def input_cotangent(self) -> tuple[str, ...]:
        """Columns of the cotangent that a layer hands down to its input; none if they are not wanted."""
        return ("calls", *(f"cotangent_{s}" for s in SCALES)) if "input_grad_rms" in self.wanted else ()


def exponent_edges(dtype: str) -> np.ndarray:
    """Return the exponents of 2 that bound the bins of `exponent_histogram`: bin k holds 2^e_k <= |g| < 2^(e_k+1).

    Args:
        dtype: of the columns. float32: -128, -124, ..., 128; float64: -1024, -992, ..., 1024.

    Returns:
        Integers of shape (65,). The lowest bin also holds what subnormals the backend tells from 0.
    """
    top = int(np.finfo(dtype).maxexp)
    return np.linspace(-top, top, EXPONENT_BINS + 1).astype(np.int64)


def flush_below(dtype: Any) -> float:
    """Return the largest magnitude that becomes 0 in a 16-bit type.

    float16 keeps its subnormals: half the smallest of them (ties to even). What computes in bfloat16 flushes its
    subnormals: the number below its smallest normal number, 1.2e-38.

    Raises:
        ValueError: for another type.
    """
    dtype = jnp.dtype(dtype)
    if dtype == jnp.dtype(jnp.float16):
        return float(jnp.finfo(dtype).smallest_subnormal) / 2
    if dtype == jnp.dtype(jnp.bfloat16):
        return float(np.nextafter(np.finfo(np.float32).smallest_normal, np.float32(0)))
    raise ValueError(f"underflow_dtype: expected float16 or bfloat16, got {dtype}")


@replaceable
def forward(
    y: Num[Array, "..."],
    x: Num[Array, "..."] | None,
    layout: Layout,
    unit_axes: Sequence[int],
    example_axes: Sequence[int],
    mesh: Sequence[str],
) -> Float[Array, " columns"]:
    """Reduce a tapped value `y`, and the input `x` of its layer if there is one, to the columns `layout.forward`.

    Args:
        y: the value, of any shape.
        x: the layer's input; None gives zeros.
        layout: what is wanted.
        unit_axes: axes of `y` that are units.
        example_axes: axes of `y` that are examples; `similarity` runs over the first.
        mesh: manual mesh axes over which `y` differs.
    """
    del unit_axes
    pieces = [jnp.ones((), layout.dtype)]
    if "input_rms" in layout.wanted:
        pieces.append(jnp.zeros((3,), layout.dtype) if x is None else sum_of_squares(x, layout.dtype))
    pieces += _output_sums(y, example_axes, layout, mesh)
    if "nonfinite" in layout.wanted:
        pieces.append(reductions.count(~jnp.isfinite(y), layout.dtype))
    return _joined(pieces)


def _output_sums(y: Num[Array, "..."], example_axes: Sequence[int], layout: Layout, mesh: Sequence[str]) -> list[Array]:
    """Form the columns of `output_rms`, `output_mean` and `similarity`, as far as they are wanted."""
    wanted, dtype = layout.wanted, layout.dtype
    if "similarity" in wanted and example_axes:
        # A vector that is needed whole is summed by the kernel that joins the columns; a part of it would not be.
        over_examples, over_units = reductions.sum_examples(y, example_axes[0], dtype, mesh)
        return [
            over_examples if "output_rms" in wanted else over_examples[3:],
            over_units if "output_mean" in wanted else over_units[:1],
        ]
    pieces = [sum_of_squares(y, dtype)] if "output_rms" in wanted else []
    pieces += [jnp.zeros((2,), dtype)] if "similarity" in wanted else []
    return pieces + ([reductions.total(y, dtype)] if "output_mean" in wanted else [])


@replaceable
def backward(
    g: Num[Array, "..."], layout: Layout, unit_axes: Sequence[int], mesh: Sequence[str], flush_below: float
) -> Float[Array, " columns"]:
    """Reduce a tapped value's cotangent to the columns `layout.backward`.

    Args:
        g: the cotangent, of any shape.
        layout: what is wanted.
        unit_axes: axes of `g` that are units, the others are examples.
        mesh: manual mesh axes over which `g` differs.
        flush_below: largest magnitude that counts as flushed; a 16-bit cotangent has lost those, and counts none.
    """
    pieces = [jnp.ones((), layout.dtype)]
    if "output_grad_rms" in layout.wanted:
        pieces.append(sum_of_squares(g, layout.dtype))
    if layout.wanted & _ENTRY_COUNTS:
        counts = reductions.count_by_unit(_marks(g, flush_below), unit_axes)
        nonzero, flushed, bad = lax.optimization_barrier(counts)
        dead = ((lax.psum(nonzero, tuple(mesh)) if mesh else nonzero) == 0).astype(nonzero.dtype)
        zero = g.size // max(1, nonzero.size) - nonzero
        pieces.append(reductions.small_sums(jnp.stack([zero, flushed, dead, bad]).astype(layout.dtype)))
    if "output_grad_max" in layout.wanted:
        largest = lax.stop_gradient(jnp.max(_magnitude(g), initial=0.0))
        pieces.append((lax.pmax(largest, tuple(mesh)) if mesh else largest).astype(layout.dtype))
    if "exponent_histogram" in layout.wanted:
        pieces.append(_exponent_counts(_magnitude(g), layout.dtype))
    return _joined(pieces)


def _magnitude(g: Num[Array, "..."]) -> Float[Array, "..."]:
    """Return |g|, in float32 at least."""
    size = jnp.abs(g)
    return size if size.dtype.itemsize >= 4 else size.astype(jnp.float32)


def _marks(g: Num[Array, "..."], flush_below: float) -> list[Bool[Array, "..."]]:
    """Mark entries that are not 0, those that a 16-bit cast would make 0, and NaN and Inf."""
    nonzero = g != 0
    if g.dtype.itemsize < 4:
        return [nonzero, jnp.zeros_like(nonzero), ~jnp.isfinite(g)]
    # Without |g|: `sum_of_squares` forms it too, and XLA would write it out for both.
    parts = [g.real, g.imag] if jnp.iscomplexobj(g) else [g]
    small = [(part <= flush_below) & (part >= -flush_below) for part in parts]
    return [nonzero, functools.reduce(jnp.logical_and, small, nonzero), ~jnp.isfinite(g)]


def _exponent_counts(size: Float[Array, "..."], dtype: str) -> Float[Array, " bins"]:
    """Count the entries, 0, NaN and Inf aside, whose exponent falls into each bin of `exponent_edges`."""
    size = size.astype(dtype)
    bins = jnp.where((size != 0) & jnp.isfinite(size), _exponent_bins(size), -1)
    return lax.map(lambda k: reductions.count(bins == k, dtype), jnp.arange(EXPONENT_BINS, dtype=jnp.int32))


def _exponent_bins(size: Float[Array, "..."]) -> Int[Array, "..."]:
    """Read the bin off the bits: the exponent's field counts from 1 - 2^(bits - 1), one above the lowest edge."""
    info = np.finfo(size.dtype)
    integer = jnp.int32 if info.bits == 32 else jnp.int64
    field = lax.bitcast_convert_type(size, integer) >> info.nmant
    return ((field + 1) * EXPONENT_BINS // (2 * int(info.maxexp))).astype(jnp.int32)


@replaceable
def reduce_input_cotangent(g: Num[Array, "..."], layout: Layout) -> Float[Array, " columns"]:
    """Reduce the cotangent that a layer hands to its input to the columns `layout.input_cotangent`."""
    return _joined([jnp.ones((), layout.dtype), sum_of_squares(g, layout.dtype)])


def inner_products(
    gs: Sequence[Num[Array, "..."]], layout: Layout
) -> tuple[Num[Array, "..."], Float[Array, " products"]]:
    """Add up the cotangents of branches, and project each on the sum.

    Args:
        gs: cotangents of one value, one a branch.
        layout: what dtype the columns have.

    Returns:
        The sum g, and <g_k, g> for each branch k, three columns each, one of them for the scale that serves all.
    """
    total = reductions.add(gs)
    return total, _joined([reductions.inner_products(gs, total, layout.dtype).reshape(-1)])


def _joined(pieces: Sequence[Array]) -> Float[Array, " columns"]:
    """Put numbers into one vector, by one small kernel: without the barrier XLA makes each a kernel of its own."""
    return lax.optimization_barrier(jnp.concatenate([jnp.atleast_1d(p) for p in pieces]))


def mesh_axes_of(y: Array, axes: Sequence[str]) -> tuple[str, ...]:
    """Keep the mesh axes over which `y` really differs, where its type tells."""
    known = varying_axes(y)
    return tuple(a for a in axes if a in known) if known else tuple(axes)


__all__ = [
    "DEFAULT_STATISTICS",
    "EXPONENT_BINS",
    "SCALES",
    "STATISTICS",
    "Layout",
    "backward",
    "exponent_edges",
    "flush_below",
    "forward",
    "inner_products",
    "mean",
    "mesh_axes_of",
    "reduce_input_cotangent",
    "root_mean_square",
    "similarity",
    "sum_of_squares",
    "sums_of_squares",
]  # fmt: skip
