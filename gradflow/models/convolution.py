"""Convolution whose gradients run as fast inside a loop as outside of it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal

import jax
from jax import lax
from jaxtyping import Array, Float

Pairs = tuple[tuple[int, int], ...]


def conv(
    x: Float[Array, "batch *positions inputs"],
    kernel: Float[Array, "*window inputs outputs"],
    strides: int | Sequence[int] = 1,
    padding: Literal["SAME", "VALID"] | Sequence[tuple[int, int]] = "SAME",
) -> Float[Array, "batch *moved outputs"]:
    """Cross-correlation: y[n, p, o] = sum over q, c of x[n, strides p + q - low, c] kernel[q, c, o].

    Value and gradients are those of `jax.lax.conv_general_dilated`; what differs is how the gradients are written. Its
    own rules leave the axes of kernel and cotangent where they are and name them anew, a form that XLA:CPU runs as a
    plain loop when it stands inside `lax.scan`. Here the axes are moved first, so that both gradients are convolutions
    in the form of the forward pass. Any transformation of JAX applies, any number of times.

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
                f"expected at least {wide} positions for a window of {window}, got {size} + {low} + {high}"
            )
    return _conv(x, kernel, steps, tuple((int(low), int(high)) for low, high in pairs))


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


@_conv.defjvp
def _conv_jvp(
    strides: tuple[int, ...], padding: Pairs, primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    (x, kernel), (x_dot, kernel_dot) = primals, tangents
    y = _conv(x, kernel, strides, padding)
    return y, _along_inputs(x_dot, kernel, strides, padding) + _along_kernel(x, kernel_dot, strides, padding, y)


def _along_inputs(x_dot: Array, kernel: Array, strides: tuple[int, ...], padding: Pairs) -> Array:
    """The convolution again, written so that its transpose has the kernel as (window, outputs, inputs)."""
    return _correlate(x_dot, kernel.swapaxes(-1, -2), strides, padding, swapped=True)


def _along_kernel(x: Array, kernel_dot: Array, strides: tuple[int, ...], padding: Pairs, y: Array) -> Array:
    """The convolution again, written as transpose of the kernel's gradient.

    That gradient is a correlation of inputs and cotangents in which positions are the window, examples what is summed
    over, and channels of the input the batch.
    """
    window = kernel_dot.shape[:-2]
    used = [
        (low, (size - 1) * step + wide - length - low)
        for (low, _), size, step, wide, length in zip(
            padding, y.shape[1:-1], strides, window, x.shape[1:-1], strict=True
        )
    ]
    turned = x.swapaxes(0, -1)
    unit = (1,) * len(window)

    def gradient(cotangent: Array) -> Array:
        return _correlate(turned, cotangent, unit, tuple(used), dilation=strides)

    transposed = jax.linear_transpose(gradient, jax.numpy.moveaxis(y, 0, -2))
    # Inside shard_map a kernel that all devices share meets examples that they do not: a factor of 1 that varies over
    # devices as y does gives its tangent their type. XLA leaves it out.
    one = 1 + y[:0].sum()
    (moved,) = transposed(jax.numpy.moveaxis(one * kernel_dot, -2, 0))
    return jax.numpy.moveaxis(moved, -2, 0)


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
