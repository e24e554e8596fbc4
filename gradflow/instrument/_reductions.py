"""Reduce arrays to sums that add up: squares and totals at three scales, directions of examples, counts of entries.

A gradient that vanishes or explodes leaves the range of its type when squared (1e-25 is a fine float32, its square is
0), so entries are multiplied by one of three powers of two before they are squared, and each scale has a column of its
own, as in Blue's algorithm (ACM TOMS 4, 1978), which LAPACK's norm follows. Where Blue sorts single entries, here one
scale serves a whole array (or one example), chosen by the exact sum of its absolute values: that sum A can overflow
but not underflow, and it bounds the squares from both sides, A^2 / n <= sum x^2 <= A^2. At the scale s chosen,
A s / n >= 2^-57 in float32, so that what is lost where (x s)^2 < 2^-126 is at most 2^-12 of the sum, however the
exponents are arranged.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Num

from gradflow.instrument.replacement import replaceable

_RUN = 16
_BITS = 10
_LARGE_ARRAY = 2**22


@dataclasses.dataclass(frozen=True)
class Range:
    """The scales at which a type's squares are summed.

    Attributes:
        low, high: powers of two that bring its smallest, and its largest, numbers into the range of their squares.
        floor: least mean absolute value of an array whose squares are summed as they are.
        middle: what entries are multiplied by before they are added up themselves: no sum of normal numbers becomes
            subnormal.
        ceiling: what such a sum may reach for sums of it to be finite.
    """

    low: float
    high: float
    floor: float
    middle: float
    ceiling: float

    @property
    def scales(self) -> tuple[float, float, float]:
        """The scales of the three columns, in their order."""
        return self.low, 1.0, self.high


@functools.cache
def range_of(dtype: str) -> Range:
    """Return the scales for sums of squares in float32 or float64."""
    info = np.finfo(dtype)
    half = -int(info.minexp) // 2
    top = int(info.maxexp)
    return Range(
        low=2.0 ** (half + 1),
        high=2.0 ** -(top // 2 + 26),
        floor=2.0 ** (6 - half),
        middle=2.0 ** (half // 2),
        ceiling=2.0 ** (top - 28),
    )


def real_parts(x: Num[Array, "..."], dtype: str) -> list[Float[Array, "..."]]:
    """Return an array in the type of the columns; real and imaginary part of a complex one."""
    parts = [x.real, x.imag] if jnp.iscomplexobj(x) else [x]
    return [part.astype(dtype) for part in parts]


def scale_for(absolute: Float[Array, "*k"], size: int) -> Float[Array, "*k"]:
    """Choose the scale for `size` numbers by the sum of their absolute values; NaN and Inf take the last one."""
    limits = range_of(absolute.dtype.name)
    # A small array needs no threshold that follows its size; without one, few large entries leave room to add up.
    least = max(size, _LARGE_ARRAY) * limits.floor
    middle = jnp.where(absolute < least / limits.high, 1.0, limits.high)
    return jnp.where(absolute < least, limits.low, middle).astype(absolute.dtype)


def hidden(parts: list[Array], scale: Array) -> tuple[list[Array], Array]:
    """Hide an array and its scale from the compiler.

    Of a compile-time constant c it makes c^2 scale^2 in place of (c scale)^2, which leaves the range.
    """
    return lax.optimization_barrier((parts, scale))


def by_scale(total: Float[Array, "*k"], scale: Float[Array, "*k"]) -> Float[Array, "*k 3"]:
    """Put a sum into that of the three columns which belongs to its scale."""
    scales = jnp.asarray(range_of(total.dtype.name).scales, total.dtype)
    return jnp.where(scale[..., None] == scales, total[..., None], 0.0)


def sum_of_squares(x: Num[Array, "..."], dtype: str = "float32") -> Float[Array, " 3"]:
    """Sum the squares (of a complex array the squared moduli) of all entries, into one column of three.

    Args:
        x: any array; its entries are cast to `dtype` first.
        dtype: "float32" or "float64".

    Returns:
        The columns low, sum and high; they add up over arrays, steps and devices. `root_mean_square` reads them.
    """
    parts = real_parts(x, dtype)
    scale = scale_for(add([jnp.sum(jnp.abs(part)) for part in parts]), x.size)
    parts, scale = hidden(parts, scale)
    return by_scale(add([jnp.sum(jnp.square(part * scale)) for part in parts]), scale)


@replaceable
def sums_of_squares(arrays: Sequence[Num[Array, "..."]], dtype: str) -> Float[Array, " columns"]:
    """Return `sum_of_squares` of each array, one after the other."""
    return jnp.concatenate([sum_of_squares(x, dtype) for x in arrays])


def inner_products(gs: Sequence[Num[Array, "..."]], of: Num[Array, "..."], dtype: str) -> Float[Array, "k 3"]:
    """Project arrays on one that is not larger than their sum: Re <g_k, of>, in the columns of one scale for all."""
    arrays = [real_parts(x, dtype) for x in (*gs, of)]
    absolute = add([jnp.sum(jnp.abs(part)) for parts in arrays for part in parts])
    scale = scale_for(absolute, of.size * len(arrays))
    flat, scale = hidden([part for parts in arrays for part in parts], scale)
    width = len(arrays[0])
    scaled = [[part * scale for part in flat[k : k + width]] for k in range(0, len(flat), width)]
    products = [add([jnp.sum(a * b) for a, b in zip(parts, scaled[-1], strict=True)]) for parts in scaled[:-1]]
    return jnp.stack([by_scale(product, scale) for product in products])


def total(x: Num[Array, "..."], dtype: str) -> Float[Array, " k"]:
    """Sum the entries times `middle`, and times `high`; of a complex array real parts, then imaginary parts.

    The first sum is Inf where it leaves the range; then the second one counts.
    """
    limits = range_of(dtype)
    sums = [[jnp.sum(part * limits.middle), jnp.sum(part * limits.high)] for part in real_parts(x, dtype)]
    return jnp.stack([value for middle, high in sums for value in (_within(middle), high)])


def _within(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Replace what left the range by Inf: not by NaN, which would stop a user who looks for NaN (`jax_debug_nans`)."""
    return jnp.where(jnp.abs(x) < range_of(x.dtype.name).ceiling, x, jnp.inf)


def sum_examples(
    y: Num[Array, "..."], axis: int, dtype: str, mesh: Sequence[str]
) -> tuple[Float[Array, " 4"], Float[Array, " k"]]:
    """Compare the examples that lie along one axis, and form all that the same passes over memory give.

    Returns:
        The three columns of the sum of squares and the number of examples that are not 0; the squared norm of the sum
        of all examples, each divided by its norm, and the columns of `total`. The number and the squared norm are
        those of all devices over which examples are spread.
    """
    parts = real_parts(y, dtype)
    rest = tuple(k for k in range(y.ndim) if k != axis)
    scale = scale_for(add([jnp.sum(jnp.abs(part), axis=rest) for part in parts]), y.size // max(1, y.shape[axis]))
    parts, scale = hidden(parts, scale)
    aligned = jnp.expand_dims(scale, rest)
    rows = add([jnp.sum(jnp.square(part * aligned), axis=rest) for part in parts])
    weights = lax.optimization_barrier(_example_weights(rows, scale))
    sums = [_weighted_sums(weights, part, axis) for part in parts]
    units = [part[0] + part[1] * range_of(dtype).high for part in sums]
    direction = add([jnp.square(_over_mesh(unit, mesh)) for unit in units])
    totals = [row for part in sums for row in (_within(part[2]), part[3])]
    over_units = small_sums(jnp.stack([direction, *totals]))
    over_examples = small_sums(jnp.concatenate([by_scale(rows, scale).T, (rows > 0).astype(dtype)[None]]))
    if mesh:
        over_examples = jnp.concatenate([over_examples[:3], _over_mesh(over_examples[3:], mesh)])
    return over_examples, over_units


def _example_weights(rows: Float[Array, " examples"], scale: Float[Array, " examples"]) -> Float[Array, "4 examples"]:
    """Return 1/norm of each example that is not large, that of each large one times 1/`high`, `middle`, and `high`.

    Large examples stand apart, since their 1/norm leaves the range. The last two rows sum the entries themselves.
    """
    limits = range_of(rows.dtype.name)
    inverse = jnp.where(rows > 0, lax.rsqrt(jnp.where(rows > 0, rows, 1.0)), 0.0)
    large = scale == limits.high
    # As a matrix: its product with y is a library call; with a vector XLA compiles a loop.
    return jnp.stack(
        [
            jnp.where(large, 0.0, inverse * scale),
            jnp.where(large, inverse, 0.0),
            jnp.full_like(rows, limits.middle),
            jnp.full_like(rows, limits.high),
        ]
    )


def count(marks: Bool[Array, "..."], dtype: str) -> Float[Array, ""]:
    """Count marked entries in one pass."""
    return jnp.sum(_sum_runs(marks.astype(jnp.int32), tuple(range(marks.ndim))).astype(dtype))


def count_by_unit(marks: Sequence[Bool[Array, "..."]], unit_axes: Sequence[int]) -> list[Int[Array, "*units"]]:
    """Count, for each unit, the entries that have each of three marks.

    In one pass: for a short run the three counts fit side by side into one integer.
    """
    code = add([mark.astype(jnp.int32) << (_BITS * k) for k, mark in enumerate(marks)])
    examples = tuple(k for k in range(code.ndim) if k not in unit_axes)
    runs = _sum_runs(code, examples)
    return [jnp.sum((runs >> (_BITS * k)) & ((1 << _BITS) - 1), axis=examples) for k in range(len(marks))]


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


def add(terms: Sequence[Array]) -> Array:
    """Add arrays of one shape."""
    return functools.reduce(jnp.add, terms)


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
