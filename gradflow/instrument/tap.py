"""The tap: an identity that reduces what passes through it, forward and backward, and hands the numbers to a sink."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Num

from gradflow.instrument import statistics
from gradflow.instrument.jaxprs import as_varying

T = TypeVar("T")
TAP_PREFIX = "gradflow:"


def tap(name: str, value: T) -> T:
    """Name a value, so that `value_grad_and_flow` reports its forward and backward signal under that name.

    Outside of the transformation it is the identity and costs nothing. It works in every framework and may stand
    anywhere but in a while loop or a custom derivative rule, through which no cotangent can be followed.

    Args:
        name: what `flow` calls it; unique within the loss function.
        value: a floating-point array of any shape, or a pytree of such arrays, which get `name/path`. The last axis is
            taken as the units, the ones before it as the examples.

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
        raise TypeError(f"gradflow.tap: expected a non-empty name, got {name!r}; write tap('block_3', x)")
    leaves, tree = jax.tree_util.tree_flatten_with_path(value)
    named = []
    for path, leaf in leaves:
        full = name if not path else f"{name}/{jax.tree_util.keystr(path, simple=True, separator='/')}"
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise TypeError(
                f"gradflow.tap({full!r}): expected a floating-point array, got {jnp.result_type(leaf)}. "
                "Likely cause: an index or a mask, which has no gradient. Fix: tap the value computed from it"
            )
        named.append(checkpoint_name(leaf, TAP_PREFIX + full))
    return jax.tree_util.tree_unflatten(tree, named)


@dataclasses.dataclass(frozen=True)
class TapSpec:
    """What a tap has to know beforehand: the columns asked for, and what the axes of its value mean."""

    layout: statistics.Layout
    unit_axes: tuple[int, ...]
    example_axes: tuple[int, ...]
    mesh_axes: tuple[str, ...]
    flush_below: float


def apply_tap(
    spec: TapSpec, y: Num[Array, "..."], x: Num[Array, "..."] | None, sink: Float[Array, " columns"]
) -> Num[Array, "..."]:
    """Return `y`; the gradient with respect to `sink` is its statistics, and the forward ones of the input `x`."""
    axes = statistics.mesh_axes_of(y, spec.mesh_axes)
    ahead = statistics.forward(*jax.lax.stop_gradient((y, x)), spec.layout, spec.unit_axes, spec.example_axes, axes)
    return _value_tap(spec, y, as_varying(ahead, y), as_varying(sink, y))


def apply_input_tap(spec: TapSpec, x: Num[Array, "..."], sink: Float[Array, " columns"]) -> Num[Array, "..."]:
    """Return `x`; the gradient with respect to `sink` is the statistics of the cotangent that this use of `x` gets."""
    return _input_tap(spec, x, as_varying(sink, x))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _value_tap(spec: TapSpec, y: Array, ahead: Array, sink: Array) -> Array:
    del spec, ahead, sink
    return y


def _value_tap_fwd(spec: TapSpec, y: Array, ahead: Array, sink: Array) -> tuple[Array, Array]:
    del spec, sink
    # Nothing goes on before it has been looked at: else XLA may look later, and keep the array alive until then.
    return jax.lax.optimization_barrier((y, ahead))


def _value_tap_bwd(spec: TapSpec, ahead: Array, g: Array) -> tuple[Array, None, Array]:
    axes = statistics.mesh_axes_of(g, spec.mesh_axes)
    back = statistics.backward(g, spec.layout, spec.unit_axes, axes, spec.flush_below)
    g, back = jax.lax.optimization_barrier((g, as_varying(back, g)))
    return g, None, jnp.concatenate([ahead, back])


_value_tap.defvjp(_value_tap_fwd, _value_tap_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _input_tap(spec: TapSpec, x: Array, sink: Array) -> Array:
    del spec, sink
    return x


def _input_tap_fwd(spec: TapSpec, x: Array, sink: Array) -> tuple[Array, None]:
    del spec, sink
    return x, None


def _input_tap_bwd(spec: TapSpec, _: None, g: Array) -> tuple[Array, Array]:
    return jax.lax.optimization_barrier((g, as_varying(statistics.handed_down(g, spec.layout), g)))


_input_tap.defvjp(_input_tap_fwd, _input_tap_bwd)
