"""The native handlers as JAX functions, and the cases that they leave to the reference."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from gradflow.instrument.jaxprs import varying_axes
from gradflow.instrument.native.library import TARGETS
from gradflow.instrument.replacement import REPLACEMENTS
from gradflow.instrument.statistics import Layout
from gradflow.instrument.tap import TapSpec

# Which columns are wanted; source/handlers.cc holds the same list.
_SQUARES, _SIMILARITY, _EXAMPLES, _TOTAL, _NONFINITE, _INPUT = 1, 2, 4, 8, 16, 32
_COUNTS, _LARGEST, _HISTOGRAM, _CALLS = 64, 128, 256, 512
_TYPES = frozenset({"float32", "float64", "bfloat16", "float16"})
_LARGE = 2**20  # bytes of an array that caches do not hold until something else has been computed
Reference = Callable[..., Array]


def install() -> None:
    """Let the handlers stand in for the reductions."""
    functions = (forward, backward, reduce_input_cotangent, sums_of_squares, hold_until_reduced)
    REPLACEMENTS.update({function.__name__: function for function in functions})


def forward(
    reference: Reference,
    y: Num[Array, "..."],
    x: Num[Array, "..."] | None,
    layout: Layout,
    unit_axes: Sequence[int],
    example_axes: Sequence[int],
    mesh: Sequence[str],
) -> Float[Array, " columns"] | None:
    """Compute `statistics.forward`, or return None: examples do not lie along axis 0, and what `_serves` says."""
    wanted = layout.wanted
    arrays = [y] if x is None or "input_rms" not in wanted else [y, x]
    if not _serves_forward(arrays, layout, example_axes, mesh):
        return None
    flags = _CALLS + _EXAMPLES * bool(example_axes)
    for field, flag in (
        ("input_rms", _INPUT), ("output_rms", _SQUARES), ("similarity", _SIMILARITY), ("output_mean", _TOTAL),
        ("nonfinite", _NONFINITE),
    ):  # fmt: skip
        flags += flag * (field in wanted)

    def pure(y: Array, x: Array | None = None) -> Array:
        return reference(y, x, layout, unit_axes, example_axes, mesh)

    return _call("forward", pure, arrays, len(layout.forward), layout.dtype, flags=np.int64(flags))


def backward(
    reference: Reference,
    g: Num[Array, "..."],
    layout: Layout,
    unit_axes: Sequence[int],
    mesh: Sequence[str],
    flush_below: float,
) -> Float[Array, " columns"] | None:
    """Compute `statistics.backward`, or return None: units do not lie along the last axes, and what `_serves` says."""
    columns = layout.backward
    if not _serves_backward(g, layout, unit_axes, mesh):
        return None
    flags = _CALLS
    for column, flag in (
        ("cotangent_sum", _SQUARES), ("zero", _COUNTS), ("cotangent_max", _LARGEST), ("exponent_0", _HISTOGRAM),
    ):  # fmt: skip
        flags += flag * (column in columns)

    def pure(g: Array) -> Array:
        return reference(g, layout, unit_axes, mesh, flush_below)

    return _call(
        "backward",
        pure,
        [g],
        len(columns),
        layout.dtype,
        flags=np.int64(flags),
        unit_axes=np.int64(len(unit_axes)),
        flush=np.float64(flush_below),
    )


def reduce_input_cotangent(
    reference: Reference, g: Num[Array, "..."], layout: Layout
) -> Float[Array, " columns"] | None:
    """Compute `statistics.reduce_input_cotangent`, or return None where `_serves` says so."""
    if not _serves([g], layout.dtype, ()):
        return None
    pure = functools.partial(reference, layout=layout)
    return _call("squares", pure, [g], len(layout.input_cotangent), layout.dtype, flags=np.int64(_CALLS))


def sums_of_squares(
    reference: Reference, arrays: Sequence[Num[Array, "..."]], dtype: str
) -> Float[Array, " columns"] | None:
    """Compute `_reductions.sums_of_squares`, or return None where `_serves` says so."""
    if not _serves(arrays, dtype, ()):
        return None

    def pure(*arrays: Array) -> Array:
        return reference(arrays, dtype)

    return _call("squares", pure, list(arrays), 3 * len(arrays), dtype, flags=np.int64(0))


def hold_until_reduced(
    reference: Callable[..., Array],
    value: Num[Array, "..."],
    numbers: Float[Array, " columns"],
    spec: TapSpec,
    columns: tuple[str, ...],
) -> Num[Array, "..."] | None:
    """Return a small value as it is, or None where JAX reduced it, or where it is large.

    One call has read it all. What fits into the caches is read again at little cost whenever that call is made; the
    barrier keeps it in the form in which the handler read it. What does not fit has to be reduced at once.
    """
    del reference
    if value.size * value.dtype.itemsize >= _LARGE:
        return None
    ahead = columns == spec.layout.forward
    if ahead and not _serves_forward([value], spec.layout, spec.example_axes, spec.mesh_axes):
        return None
    if not ahead and not _serves_backward(value, spec.layout, spec.unit_axes, spec.mesh_axes):
        return None
    return jax.lax.optimization_barrier((value, numbers))[0]


def _serves_forward(arrays: Sequence[Array], layout: Layout, example_axes: Sequence[int], mesh: Sequence[str]) -> bool:
    compares = "similarity" in layout.wanted and bool(example_axes)
    return _serves(arrays, layout.dtype, mesh) and (not compares or example_axes[0] == 0)


def _serves_backward(g: Array, layout: Layout, unit_axes: Sequence[int], mesh: Sequence[str]) -> bool:
    return _serves([g], layout.dtype, mesh) and set(unit_axes) == set(range(g.ndim - len(unit_axes), g.ndim))


def _serves(arrays: Sequence[Array], dtype: str, mesh: Sequence[str]) -> bool:
    """Tell whether the handlers take these arrays: real, on the one CPU that there is, no axis split over devices."""
    if mesh or not arrays or not _is_one_cpu():
        return False
    for x in arrays:
        name = jnp.result_type(x).name
        if name not in _TYPES or (name == "float64" and dtype != "float64"):
            return False
        sharding = getattr(jax.typeof(x), "sharding", None)
        if varying_axes(x) or any(axis is not None for axis in getattr(sharding, "spec", ())):
            return False
    return True


def _is_one_cpu() -> bool:
    """Tell whether all that JAX can compute on is one CPU: then a program can be for nothing else."""
    return jax.default_backend() == "cpu" and len(jax.devices()) == 1 and set(jax.extend.backend.backends()) == {"cpu"}


def _call(
    name: str, pure: Callable[..., Array], arrays: Sequence[Array], columns: int, dtype: str, **attributes: Any
) -> Float[Array, " columns"]:
    """Call a handler on arrays; derivatives are those of the reference, and `vmap` hands it all slabs at once."""
    shape = jax.ShapeDtypeStruct((columns,), jnp.dtype(dtype))

    @jax.custom_jvp
    def call(*arrays: Array) -> Array:
        return jax.ffi.ffi_call(TARGETS[name], shape, vmap_method="expand_dims")(*arrays, **attributes)

    call.defjvp(lambda primals, tangents: jax.jvp(pure, primals, tangents))
    return call(*arrays)
