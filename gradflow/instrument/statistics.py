"""Array -> a few float32 numbers: the reductions that a tap makes of a value and of its cotangent.

Everything is a sum, so that scan steps, branches, shards and repeated uses add up; `flow.py` forms means, rms and
fractions at the end. A gradient that vanishes or explodes leaves the range of float32 when squared (1e-25 is a fine
float32, its square is 0), so an array is scaled by a power of two before it is squared where that is needed, and sums
of squares come in three columns, one for each scale.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Num

from gradflow.instrument.jaxprs import varying_axes

LOW_SCALE, SMALL = 2.0**64, 2.0**-40
HIGH_SCALE, LARGE = 2.0**-96, 2.0**40
_RUN = 16
_BITS = 10

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
        if "output_rms" in self.wanted:
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
        if "output_grad_rms" in self.wanted:
            columns += [f"cotangent_{s}" for s in SCALES]
        if self.counts_entries:
            columns += ["zero", "flushed", "dead", "nonfinite_backward"]
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
    def counts_entries(self) -> bool:
        """Whether cotangent entries are looked at one by one."""
        return bool(self.wanted & {"zero_grad_fraction", "dead_fraction", "underflow_fraction", "nonfinite"})


def sum_of_squares(x: Num[Array, "..."]) -> Float[Array, " 3"]:
    """Sum the squares of all entries, as one of `SCALES`: as they are, times `LOW_SCALE`, or times `HIGH_SCALE`.

    One pass over memory. A sample of 64 entries chooses the scale; the other two sums are 0, so the three add up to the
    sum of squares whatever was chosen, also over steps and devices. Digits are kept as long as the largest entry of the
    array and of the sample lie within 10^12 of each other; a sample of zeros leaves the array as it is.
    """
    x32 = x.astype(jnp.float32)
    scale = _scale(x32)
    total = jnp.sum(jnp.square(x32 * scale))
    return jnp.where(scale == jnp.asarray([1.0, LOW_SCALE, HIGH_SCALE], jnp.float32), total, 0.0)


def _scale(x: Float[Array, "..."]) -> Float[Array, ""]:
    """Return the scale that brings the squares of an array into the range of float32, judged by 64 spread entries."""
    counts = {x.ndim - 1: 64} if x.ndim == 1 else {x.ndim - 1: 8, x.ndim - 2: 8}
    strides = [max(1, -(-length // counts.get(axis, 1))) for axis, length in enumerate(x.shape)]
    size = jnp.max(jnp.abs(lax.slice(x, [0] * x.ndim, x.shape, strides)), initial=0.0)
    small, large = (size > 0) & (size < SMALL), size > LARGE
    return jnp.where(small, LOW_SCALE, jnp.where(large, HIGH_SCALE, 1.0)).astype(jnp.float32)


def _count(marks: Bool[Array, "..."]) -> Float[Array, ""]:
    """Count marked entries in one pass."""
    return jnp.sum(_sum_runs(marks.astype(jnp.int32), tuple(range(marks.ndim))).astype(jnp.float32))


def _sum_runs(x: Num[Array, "..."], axes: Sequence[int]) -> Num[Array, "..."]:
    """Sum runs of up to 16 entries along that one of the axes that allows the longest, not the last if possible.

    XLA's CPU backend writes an expression out in memory before it sums a long axis, but not before it sums a run of at
    most 32: so runs come first, and what they leave is small.
    """
    if not axes:
        return x
    axis = max(axes, key=lambda k: (_run(x.shape[k]), k != x.ndim - 1))
    run = _run(x.shape[axis])
    return jnp.sum(x.reshape(*x.shape[:axis], x.shape[axis] // run, run, *x.shape[axis + 1 :]), axis=axis + 1)


def _run(length: int) -> int:
    """Return the largest divisor of a length that is at most 16."""
    return next((d for d in range(_RUN, 0, -1) if length % d == 0), 1)


def small_sums(x: Num[Array, "k *rest"]) -> Num[Array, " k"]:
    """Sum each row of a small array by one kernel, together with whatever follows.

    XLA's CPU backend splits a sum over an axis longer than 32 into two kernels, and sees through a plain reshape.
    """
    shape = [x.shape[0]]
    for length in x.shape[1:]:
        while length > 32 and (factor := next((d for d in range(32, 1, -1) if length % d == 0), 0)):
            shape.append(factor)
            length //= factor
        shape.append(length)
    return jnp.sum(lax.optimization_barrier(x.reshape(shape)), axis=tuple(range(1, len(shape))))


def forward(
    y: Num[Array, "..."],
    x: Num[Array, "..."] | None,
    layout: Layout,
    example_axes: Sequence[int],
    mesh: Sequence[str],
) -> Float[Array, " columns"]:
    """Reduce a tapped value `y`, and the input `x` of its layer if there is one, to the columns `layout.forward`."""
    pieces: list[Array] = []
    if "input_rms" in layout.wanted:
        pieces.append(jnp.zeros((3,), jnp.float32) if x is None else sum_of_squares(x))
    if "output_rms" in layout.wanted:
        pieces.append(sum_of_squares(y))
    pieces += _totals(y, example_axes, layout, mesh)
    if "nonfinite" in layout.wanted:
        pieces.append(_count(~jnp.isfinite(y)))
    return _joined(pieces)


def _totals(y: Num[Array, "..."], example_axes: Sequence[int], layout: Layout, mesh: Sequence[str]) -> list[Array]:
    r"""Form `output_total`, `direction` = \|sum_b y_b/|y_b|\|^2 and `alive`, the number of examples that are not 0."""
    mean, alike = "output_mean" in layout.wanted, "similarity" in layout.wanted
    y32 = y.astype(jnp.float32)
    if not (alike and example_axes):
        return ([jnp.sum(y32)] if mean else []) + ([jnp.zeros((2,), jnp.float32)] if alike else [])
    first = example_axes[0]
    rows = jnp.sum(jnp.square(y32), axis=tuple(k for k in range(y.ndim) if k != first))
    inverse = jnp.where(rows > 0, lax.rsqrt(jnp.where(rows > 0, rows, 1.0)), 0.0)
    # The row of ones makes it a product of matrices, a library call; with a vector XLA compiles a loop.
    weights = lax.optimization_barrier(jnp.stack([inverse, jnp.ones_like(inverse)]))
    totals = _weighted_sums(weights, y32, first)
    count = _over_mesh(small_sums((weights[:1] > 0).astype(jnp.float32))[0], mesh)
    direction = small_sums(jnp.square(_over_mesh(totals[:1], mesh)))[0]
    return ([small_sums(totals[1:])[0]] if mean else []) + [direction, count]


def backward(
    g: Num[Array, "..."], layout: Layout, unit_axes: Sequence[int], mesh: Sequence[str], flush_below: float
) -> Float[Array, " columns"]:
    """Reduce a tapped value's cotangent to the columns `layout.backward`."""
    pieces = [jnp.ones((), jnp.float32)]
    if "output_grad_rms" in layout.wanted:
        pieces.append(sum_of_squares(g))
    if layout.counts_entries:
        nonzero, flushed, bad = lax.optimization_barrier(_count_by_unit(g, unit_axes, flush_below))
        dead = (_over_mesh(nonzero, mesh) == 0).astype(jnp.int32)
        zero = g.size // nonzero.size - nonzero
        pieces.append(small_sums(jnp.stack([zero, flushed, dead, bad]).astype(jnp.float32)))
    return _joined(pieces)


def _count_by_unit(g: Num[Array, "..."], unit_axes: Sequence[int], flush_below: float) -> list[Int[Array, "*units"]]:
    """Count, for each unit, the entries that are not 0, those that a 16-bit cast would make 0, and NaN and Inf.

    In one pass: for a short run the three counts fit side by side into one integer.
    """
    size = jnp.abs(g.astype(jnp.float32))
    marks = (size != 0, (size != 0) & (size <= flush_below), ~jnp.isfinite(size))
    code = sum(mark.astype(jnp.int32) << (_BITS * k) for k, mark in enumerate(marks))
    examples = tuple(k for k in range(g.ndim) if k not in unit_axes)
    runs = _sum_runs(jnp.asarray(code), examples)
    return [jnp.sum((runs >> (_BITS * k)) & ((1 << _BITS) - 1), axis=examples) for k in range(len(marks))]


def handed_down(g: Num[Array, "..."]) -> Float[Array, " columns"]:
    """Reduce the cotangent that a layer hands to its input to the columns `Layout.handed`."""
    return _joined([jnp.ones((), jnp.float32), sum_of_squares(g)])


def _joined(pieces: Sequence[Array]) -> Float[Array, " columns"]:
    """Put numbers into one vector, by one small kernel: without the barrier XLA makes each a kernel of its own."""
    if not pieces:
        return jnp.zeros((0,), jnp.float32)
    return lax.optimization_barrier(jnp.concatenate([jnp.atleast_1d(p) for p in pieces]))


def _over_mesh(x: Array, mesh: Sequence[str]) -> Array:
    return lax.psum(x, tuple(mesh)) if mesh else x


def _weighted_sums(weights: Float[Array, "k examples"], y: Float[Array, "..."], axis: int) -> Float[Array, "k ..."]:
    """Sum `y` over one axis with each row of weights: a matrix product where that is the quicker pass over memory."""
    if jax.default_backend() == "cpu" and axis in (0, y.ndim - 1) and not _explicitly_sharded(y):
        return lax.dot_general(weights, y, (((1,), (axis,)), ((), ())))
    shape = [1] * y.ndim
    shape[axis] = y.shape[axis]
    return jnp.stack([jnp.sum(y * row.reshape(shape), axis=axis) for row in weights])


def _explicitly_sharded(x: Array) -> bool:
    sharding = getattr(jax.typeof(x), "sharding", None)
    return sharding is not None and any(entry is not None for entry in sharding.spec)


def mesh_axes_of(y: Array, axes: Sequence[str]) -> tuple[str, ...]:
    """Keep the mesh axes over which `y` really differs, where its type tells."""
    known = varying_axes(y)
    return tuple(a for a in axes if a in known) if known else tuple(axes)
