"""Convolution whose gradients run as fast inside a loop as outside of it."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

__all__ = ["Pairs", "conv", "flax_conv"]

Pairs = tuple[tuple[int, int], ...]

_WIDE = (np.dtype("float32"), np.dtype("float64"))  # sums of parts would lose bits in narrower ones
_PART = 2**17  # bytes of cotangents, measured on XLA:CPU: small enough for a core's cache, large enough for a loop
_SPLIT_FROM = 4 * _PART


def conv(
    x: Float[Array | np.ndarray, "batch *positions inputs"],
    kernel: Float[Array | np.ndarray, "*window inputs outputs"],
    strides: int | Sequence[int] = 1,
    padding: Literal["SAME", "VALID"] | Sequence[tuple[int, int]] = "SAME",
) -> Float[Array, "batch *transposed outputs"]:
    """Cross-correlation: y[n, p, o] = sum over q, c of x[n, strides p + q - low, c] kernel[q, c, o].

    Value and gradients are those of `jax.lax.conv_general_dilated`; what differs is how the gradients are written. Its
    own rules leave the axes of kernel and cotangent where they are and name them anew, a form that XLA:CPU runs as a
    plain loop when it stands inside `lax.scan`. Here the axes move first, so that both gradients are convolutions
    in the form of the forward pass. Any transformation of JAX applies, any number of times.

    Where derivatives are taken and the program is lowered for a CPU, the kernel's gradient of a large batch is a sum
    over parts of it (those are a `lax.scan`), and convolutions of stride 1 with 8 to 16 channels compute two columns at
    once; results then differ from those of `jax.lax` by rounding. Other platforms, bfloat16, and inputs that an
    explicit mesh shards, keep the plain form.

    Args:
        x: inputs, channels last, any number of position axes.
        kernel: weights, of the dtype of x.
        strides: steps between outputs, one number or one an axis.
        padding: "SAME", "VALID", or (low, high) zeros for each axis of positions.

    Raises:
        ValueError: for a kernel that does not fit the inputs, or a window that is larger than the padded input.

    Examples:
        >>> import jax.numpy as jnp
        >>> conv(jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 5)), 2).shape
        (1, 2, 2, 5)
    """
    x, kernel = jnp.asarray(x), jnp.asarray(kernel)
    positions = x.ndim - 2
    if kernel.ndim != x.ndim or kernel.shape[-2] != x.shape[-1]:
        raise ValueError(
            f"expected a kernel (*window, {x.shape[-1]}, outputs) with {positions} axes of window for inputs of shape "
            f"{x.shape}, got {kernel.shape}. Likely cause: channels not on the last axis. Fix: jnp.moveaxis(x, 1, -1)"
        )
    steps = (strides,) * positions if isinstance(strides, int) else tuple(strides)
    window = kernel.shape[:-2]
    pairs = lax.padtype_to_pads(x.shape[1:-1], window, steps, padding) if isinstance(padding, str) else padding
    for size, (low, high), wide in zip(x.shape[1:-1], pairs, window, strict=True):
        if size + low + high < wide:
            raise ValueError(
                f"expected at least {wide} positions for a window of {window}, got {size} + {low} + {high}. "
                "Fix: a smaller window, or padding"
            )
    around = tuple((int(low), int(high)) for low, high in pairs)
    if any(axis is not None for axis in jax.typeof(x).sharding.spec):
        # On an explicit mesh the gradients' shardings are decided by JAX's own rules; ours would have to state them.
        return _correlate(x, kernel, steps, around)
    return _conv(x, kernel, steps, around)


def flax_conv(lhs: Array, rhs: Array, window_strides: Any, padding: Any, **_: Any) -> Array:
    """`conv` with the signature that `flax.linen.Conv(conv_general_dilated=...)` calls, for its default options.

    Args:
        lhs: inputs.
        rhs: kernel.
        window_strides: strides.
        padding: "SAME", "VALID" or pairs.
    """
    return conv(lhs, rhs, window_strides, padding)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _conv(x: Array, kernel: Array, strides: tuple[int, ...], padding: Pairs) -> Array:
    return _correlate(x, kernel, strides, padding)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _conv_differentiated(x: Array, kernel: Array, strides: tuple[int, ...], padding: Pairs) -> Array:
    """`_conv` as it runs where derivatives are taken; `_conv` itself stays one equation for those who read programs."""
    if not _is_narrow(x, kernel, strides, padding):
        return _correlate(x, kernel, strides, padding)
    plain = functools.partial(_correlate, strides=strides, padding=padding)
    return lax.platform_dependent(x, kernel, cpu=functools.partial(_paired, padding=padding), default=plain)


def _conv_jvp(
    strides: tuple[int, ...],
    padding: Pairs,
    primals: tuple[Array, Array],
    tangents: tuple[Array | np.ndarray, Array | np.ndarray],
) -> tuple[Array, Array]:
    x, kernel = primals
    x_dot, kernel_dot = (jnp.asarray(tangent) for tangent in tangents)
    y = _conv_differentiated(x, kernel, strides, padding)
    return y, _along_inputs(x_dot, kernel, strides, padding) + _along_kernel(x, kernel_dot, strides, padding, y)


_conv.defjvp(_conv_jvp)
_conv_differentiated.defjvp(_conv_jvp)


def _along_inputs(x_dot: Array, kernel: Array, strides: tuple[int, ...], padding: Pairs) -> Array:
    """The convolution again, written so that its transpose has the kernel as (window, outputs, inputs)."""

    def plain(x_dot: Array, kernel: Array) -> Array:
        return _correlate(x_dot, kernel.swapaxes(-1, -2), strides, padding, swapped=True)

    def paired(x_dot: Array, kernel: Array) -> Array:
        turned = jnp.flip(kernel, (0, 1)).swapaxes(-1, -2)
        around = tuple(
            (wide - 1 - low, wide - 1 - high) for (low, high), wide in zip(padding, kernel.shape, strict=False)
        )
        y = jax.eval_shape(plain, x_dot, kernel)
        (y_dot,) = jax.linear_transpose(lambda cotangent: _paired(cotangent, turned, padding=around), y)(x_dot)
        return y_dot

    if not _is_narrow(x_dot, kernel, strides, padding):
        return plain(x_dot, kernel)
    return lax.platform_dependent(x_dot, kernel, cpu=paired, default=plain)


def _along_kernel(x: Array, kernel_dot: Array, strides: tuple[int, ...], padding: Pairs, y: Array) -> Array:
    """The convolution again, written as transpose of the kernel's gradient.

    Inside shard_map a kernel that all devices share meets examples that they do not. A 0 and a 1 that vary over devices
    as y does give what is made here the same type; XLA leaves them out.
    """
    zero = y[:0].sum()
    kernel_dot = (1 + zero) * kernel_dot
    plain = functools.partial(_by_gradient, strides=strides, padding=padding, shape=y.shape, parts=1, zero=zero)
    parts = _parts(y)
    if parts == 1:
        return plain(x, kernel_dot)

    def paired(x: Array, kernel_dot: Array) -> Array:
        shape = (*y.shape[:2], y.shape[2] // 2, 2 * y.shape[3])
        doubled = _doubled(kernel_dot)
        return _by_gradient(x, doubled, strides=(1, 2), padding=padding, shape=shape, parts=parts, zero=zero).reshape(
            y.shape
        )

    in_parts = functools.partial(_by_gradient, strides=strides, padding=padding, shape=y.shape, parts=parts, zero=zero)
    cpu = paired if _is_narrow(x, kernel_dot, strides, padding) else in_parts
    # What the backward pass keeps is x, rather than what either platform makes of it.
    chosen = functools.partial(lax.platform_dependent, cpu=cpu, default=plain)
    return jax.checkpoint(chosen, prevent_cse=False)(x, kernel_dot)


def _by_gradient(
    x: Array,
    kernel_dot: Array,
    *,
    strides: tuple[int, ...],
    padding: Pairs,
    shape: tuple[int, ...],
    parts: int,
    zero: Array,
) -> Array:
    """Transpose of the kernel's gradient, applied to a kernel; the result has the given shape.

    That gradient is a correlation of inputs and cotangents in which positions are the window, examples what is summed
    over, and channels of the input the batch. Taken in parts of the batch, both operands of a part stay in the cache.
    """
    window = kernel_dot.shape[:-2]
    used = tuple(
        (low, (size - 1) * step + wide - length - low)
        for (low, _), size, step, wide, length in zip(padding, shape[1:-1], strides, window, x.shape[1:-1], strict=True)
    )

    def part(x: Array, cotangent: Array) -> Array:
        transposed = jnp.moveaxis(cotangent, 0, -2)
        return _correlate(x.swapaxes(0, -1), transposed, (1,) * len(window), used, dilation=strides)

    def gradient(cotangent: Array) -> Array:
        if parts == 1:
            return jnp.moveaxis(part(x, cotangent), 0, -2)
        # Without it, differentiation takes what depends on x alone out of the loop, into one of its own.
        again = jax.checkpoint(part, prevent_cse=False)
        operands = (x.reshape(parts, -1, *x.shape[1:]), cotangent.reshape(parts, -1, *shape[1:]))
        start = jnp.broadcast_to(zero, (x.shape[-1], *window, shape[-1]))
        total, _ = lax.scan(lambda total, pair: (total + again(*pair), None), start, operands)
        return jnp.moveaxis(total, 0, -2)

    (y_dot,) = jax.linear_transpose(gradient, jnp.broadcast_to(zero, shape))(kernel_dot)
    return y_dot


def _parts(y: Array) -> int:
    """In how many equal parts of the batch a processor's caches want the kernel's gradient, 1 for all at once."""
    size = y.dtype.itemsize * math.prod(y.shape)
    if y.ndim != 4 or y.dtype not in _WIDE or size < _SPLIT_FROM:
        return 1
    return next(
        parts for parts in range(1, len(y) + 1) if len(y) % parts == 0 and (size <= parts * _PART or parts == len(y))
    )


def _is_narrow(x: Array, kernel: Array, strides: tuple[int, ...], padding: Pairs) -> bool:
    """Whether so few channels go out that a processor is better given two columns at once (`_paired`), both ways."""
    channels, window = kernel.shape[-2:], kernel.shape[:-2]
    return (
        x.ndim == 4
        and x.dtype in _WIDE
        and strides == (1, 1)
        and min(channels) >= 8
        and max(channels) <= 16
        and window[1] >= 3
        and all(0 <= side < wide for pair, wide in zip(padding, window, strict=True) for side in pair)
        and x.shape[2] % 2 == 0
        and (sum(padding[1]) - window[1]) % 2 == 1
    )


def _paired(x: Array, kernel: Array, *, padding: Pairs) -> Array:
    """The correlation of stride 1 as one of stride 2 with twice the outputs, those of two neighboring columns."""
    y = _correlate(x, _doubled(kernel), (1, 2), padding)
    return y.reshape(*y.shape[:2], 2 * y.shape[2], kernel.shape[-1])


def _doubled(kernel: Array) -> Array:
    """(rows, columns, inputs, outputs) to (rows, columns + 1, inputs, 2 outputs): the kernel, and it one column on."""
    sides = [jnp.pad(kernel, ((0, 0), columns, (0, 0), (0, 0))) for columns in ((0, 1), (1, 0))]
    return jnp.concatenate(sides, -1)


def _correlate(
    x: Array,
    kernel: Array,
    strides: tuple[int, ...],
    padding: Pairs,
    *,
    dilation: tuple[int, ...] | None = None,
    swapped: bool = False,
) -> Array:
    """`lax.conv_general_dilated`, channels last; `swapped` for a kernel (*window, outputs, inputs)."""
    axes = "".join(chr(ord("0") + k) for k in range(x.ndim - 2))
    numbers = (f"N{axes}C", f"{axes}OI" if swapped else f"{axes}IO", f"N{axes}C")
    return lax.conv_general_dilated(x, kernel, strides, padding, rhs_dilation=dilation, dimension_numbers=numbers)
