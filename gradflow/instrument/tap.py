"""The tap: an identity that reduces what passes through it, forward to an output of its own, backward to a sink."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int, Num

from gradflow.instrument import statistics
from gradflow.instrument.jaxprs import as_varying
from gradflow.instrument.replacement import replaceable

T = TypeVar("T")
TAP_PREFIX = "gradflow:"
# Columns that XLA has ready after the others of a value, or of a cotangent; the first one there is counts.
_READY_LAST = ("direction", "output_sum", "total_high", "cotangent_sum")


def tap(name: str, value: T) -> T:
    """Name a value, so that `value_grad_and_flow` reports its forward and backward signal under that name.

    Outside of the transformation it is the identity and costs nothing. It works in every framework and may stand
    anywhere but in a while loop or a custom derivative rule, through which no cotangent can be followed.

    Args:
        name: what `flow` calls it; unique within the loss function.
        value: a floating-point or complex array of any shape, or a pytree of such arrays, which get `name/path`. The
            last axis is taken as the units, the ones before it as the examples.

    Returns:
        `value`, unchanged.

    Raises:
        TypeError: for an empty name, or a value that is not floating-point and so has no gradient.

    Examples:
        >>> import jax.numpy as jnp
        >>> float(tap("residual_stream", jnp.ones(3)).sum())
        3.0
    """
    if not isinstance(name, str) or not name:
        raise TypeError(f"gradflow.tap: expected a non-empty name, got {name!r}. Fix: write tap('block_3', x)")
    leaves, tree = jax.tree_util.tree_flatten_with_path(value)
    named = []
    for path, leaf in leaves:
        full = name if not path else f"{name}/{jax.tree_util.keystr(path, simple=True, separator='/')}"
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            raise TypeError(
                f"gradflow.tap({full!r}): expected a floating-point array, got {jnp.result_type(leaf)}. "
                "Likely cause: an index or a mask, which has no gradient. Fix: tap the value computed from it"
            )
        named.append(checkpoint_name(leaf, TAP_PREFIX + full))
    return jax.tree_util.tree_unflatten(tree, named)


@dataclasses.dataclass(frozen=True)
class TapSpec:
    """What a tap has to know beforehand: the columns asked for, and what the axes of its value mean.

    Attributes:
        layout: the columns of the value and of its cotangent.
        unit_axes, example_axes: axes of the value.
        mesh_axes: manual mesh axes over which its examples are split.
        flush_below: largest cotangent that a 16-bit type makes 0.
        fuses: whether what is done to the value on the way forward ends up inside the one kernel that reads it.
        ahead: parts that the forward pass gives, with their widths: "value", "silent", "experts".
        back: parts that the backward pass gives: "value", "input_cotangent", "experts", "products".
    """

    layout: statistics.Layout
    unit_axes: tuple[int, ...]
    example_axes: tuple[int, ...]
    mesh_axes: tuple[str, ...]
    flush_below: float
    fuses: bool = False
    ahead: Mapping[str, int] = dataclasses.field(hash=False, default_factory=dict)
    back: Mapping[str, int] = dataclasses.field(hash=False, default_factory=dict)


def forward_numbers(spec: TapSpec, y: Num[Array, "..."], x: Num[Array, "..."] | None) -> Float[Array, " columns"]:
    """Reduce a value and the input of its layer to the columns `spec.layout.forward`."""
    axes = statistics.mesh_axes_of(y, spec.mesh_axes)
    y, x = jax.lax.stop_gradient((y, x))
    return as_varying(statistics.forward(y, x, spec.layout, spec.unit_axes, spec.example_axes, axes), y)


def silent_units(spec: TapSpec, y: Num[Array, "..."]) -> Float[Array, " 2"]:
    """Count a pass, and the units of a value that are 0 for every example."""
    axes = statistics.mesh_axes_of(y, spec.mesh_axes)
    examples = tuple(k for k in range(y.ndim) if k not in spec.unit_axes)
    nonzero = jnp.sum(jax.lax.stop_gradient(y) != 0, axis=examples, dtype=jnp.int32)
    nonzero = jax.lax.psum(nonzero, axes) if axes else nonzero
    silent = jnp.sum((nonzero == 0).astype(spec.layout.dtype))
    return as_varying(jnp.stack([jnp.ones_like(silent), silent]), y)


def apply_tap(
    spec: TapSpec, y: Num[Array, "..."], x: Num[Array, "..."] | None, sink: Float[Array, " back"]
) -> tuple[Num[Array, "..."], Float[Array, " columns"]]:
    """Return `y` and its forward numbers, those of the input `x` among them; the gradient of `sink` is the others."""
    return _value_tap(spec, y, forward_numbers(spec, y, x), as_varying(sink, y))


def apply_input_tap(spec: TapSpec, x: Num[Array, "..."], sink: Float[Array, " columns"]) -> Num[Array, "..."]:
    """Return `x`; the gradient with respect to `sink` is the statistics of the cotangent that this use of `x` gets."""
    return _input_tap(spec, x, as_varying(sink, x))


def apply_expert_tap(
    spec: TapSpec, y: Num[Array, "..."], sizes: Int[Array, "*batch groups"], sink: Float[Array, " groups"]
) -> tuple[Num[Array, "..."], Float[Array, " groups"]]:
    """Return `y`, the output of a ragged contraction, and how many entries of it each group has.

    The gradient with respect to `sink` counts the entries of dL/dy that are exactly 0, group by group.
    """
    per_row = 1
    for axis in spec.unit_axes:
        per_row *= y.shape[axis]
    entries = jnp.sum(sizes.reshape(-1, sizes.shape[-1]), 0) * per_row
    return _expert_tap(spec, y, sizes, as_varying(sink, y)), as_varying(entries.astype(spec.layout.dtype), y)


def apply_fork_tap(
    spec: TapSpec, y: Num[Array, "..."], count: int, sink: Float[Array, " products"]
) -> tuple[Num[Array, "..."], ...]:
    """Return `count` copies of `y`, one for each branch that reads it.

    The gradient with respect to `sink` holds, for each copy, the columns of the inner product of its cotangent with the
    sum of all: `statistics.inner_products`.
    """
    return _fork_tap(spec, count, y, as_varying(sink, y))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _value_tap(spec: TapSpec, y: Array, ahead: Array, sink: Array) -> tuple[Array, Array]:
    del spec, sink
    return y, ahead


def _value_tap_fwd(spec: TapSpec, y: Array, ahead: Array, sink: Array) -> tuple[tuple[Array, Array], None]:
    del sink
    if not spec.fuses:  # several readers (a normalization) would each want the value that has passed the condition
        return jax.lax.optimization_barrier((y, ahead)), None
    return (hold_until_reduced(y, ahead, spec, spec.layout.forward), ahead), None


def _value_tap_bwd(spec: TapSpec, residuals: None, cotangents: tuple[Array, Array]) -> tuple[Array, None, Array]:
    del residuals
    g = cotangents[0]
    axes = statistics.mesh_axes_of(g, spec.mesh_axes)
    back = statistics.backward(g, spec.layout, spec.unit_axes, axes, spec.flush_below)
    back = as_varying(back, g)
    return hold_until_reduced(g, back, spec, spec.layout.backward), None, back


_value_tap.defvjp(_value_tap_fwd, _value_tap_bwd)


@replaceable
def hold_until_reduced(value: Array, numbers: Array, spec: TapSpec, columns: tuple[str, ...]) -> Array:
    """Return a value that goes on only when it has been reduced.

    XLA drops barriers before it schedules, and then reads the value again long after its last use in the network, which
    keeps it in memory until then. A condition on the number that is ready last holds it back; that it is always true
    XLA cannot know (sums of squares are not negative, scaled totals small).

    Args:
        value: what was reduced.
        numbers: its columns.
        spec: how they were formed.
        columns: their names.
    """
    del spec
    value, numbers = jax.lax.optimization_barrier((value, numbers))
    for name in _READY_LAST:
        if name in columns:
            return jnp.where(numbers[columns.index(name)] < -1e37, jnp.zeros_like(value), value)
    return value


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _input_tap(spec: TapSpec, x: Array, sink: Array) -> Array:
    del spec, sink
    return x


def _input_tap_fwd(spec: TapSpec, x: Array, sink: Array) -> tuple[Array, None]:
    del spec, sink
    return x, None


def _input_tap_bwd(spec: TapSpec, _: None, g: Array) -> tuple[Array, Array]:
    return jax.lax.optimization_barrier((g, as_varying(statistics.reduce_input_cotangent(g, spec.layout), g)))


_input_tap.defvjp(_input_tap_fwd, _input_tap_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _expert_tap(spec: TapSpec, y: Array, sizes: Array, sink: Array) -> Array:
    del spec, sizes, sink
    return y


def _expert_tap_fwd(spec: TapSpec, y: Array, sizes: Array, sink: Array) -> tuple[Array, Array]:
    del spec, sink
    return y, sizes


def _expert_tap_bwd(spec: TapSpec, sizes: Array, g: Array) -> tuple[Array, None, Array]:
    groups = sizes.shape[-1]
    units = tuple(sorted(spec.unit_axes))
    zeros = jnp.sum(g == 0, axis=units, dtype=jnp.int32).reshape(-1, g.shape[spec.example_axes[0]])
    ends = jnp.cumsum(sizes.reshape(-1, groups), -1)
    rows = jnp.arange(zeros.shape[1], dtype=ends.dtype)
    owner = jax.vmap(lambda e: jnp.searchsorted(e, rows, side="right"))(ends)  # rows behind the last group: none
    counts = jnp.zeros((groups + 1,), jnp.int32).at[owner].add(zeros)[:groups]
    return g, None, as_varying(counts.astype(spec.layout.dtype), g)


_expert_tap.defvjp(_expert_tap_fwd, _expert_tap_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _fork_tap(spec: TapSpec, count: int, y: Array, sink: Array) -> tuple[Array, ...]:
    del spec, sink
    return (y,) * count


def _fork_tap_fwd(spec: TapSpec, count: int, y: Array, sink: Array) -> tuple[tuple[Array, ...], None]:
    del spec, sink
    return (y,) * count, None


def _fork_tap_bwd(spec: TapSpec, count: int, _: None, gs: tuple[Array, ...]) -> tuple[Array, Array]:
    del count
    total, products = statistics.inner_products(gs, spec.layout)
    return total, as_varying(products, total)


_fork_tap.defvjp(_fork_tap_fwd, _fork_tap_bwd)
