"""Many runs as one program: every combination of seeds and hyperparameters, spread over devices."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Num

from gradflow.training.step import Tree

__all__ = ["grid"]


def grid(
    one: Callable[..., Tree],
    axes: Mapping[str, Num[Array, "_"] | Num[np.ndarray, "_"]],
    *shared: Any,
    mesh: Mesh | None = None,
) -> Tree:
    """Run every combination as one compiled program: `one` under `vmap`.

    A second call with the same function and as many values compiles nothing. Results are those of single runs within
    float rounding: products of many small matrices are summed in another order.

    Args:
        one: `one(*shared, name=value, ...) -> pytree of arrays`, pure; a whole run with `init` and `run`.
        axes: name of each argument -> its values, a row of numbers, in the order of the result's axes.
        shared: further arguments, pytrees of arrays, the same for all runs: the source of the batches.
        mesh: devices that share the runs; None for the default device. What is left over when their number does not
            divide that of the runs is filled up with copies of the last one.

    Returns:
        What `one` returns, each array with one axis a name in front.

    Raises:
        ValueError: without axes, or for values that are not a row of at least one number.

    Examples:
        >>> import jax.numpy as jnp
        >>> grid(lambda seed, rate: seed + rate, {"seed": jnp.arange(2.0), "rate": jnp.arange(3.0)}).shape
        (2, 3)
    """
    columns = {name: jnp.asarray(values) for name, values in axes.items()}
    for name, values in columns.items():
        if values.ndim != 1 or not len(values):
            raise ValueError(f"grid: expected a row of numbers for {name!r}, got an array of shape {values.shape}")
    if not columns:
        raise ValueError("grid: expected at least one axis, such as {'seed': jnp.arange(8)}, got none")
    shape = tuple(len(values) for values in columns.values())
    runs = dict(zip(columns, (x.reshape(-1) for x in jnp.meshgrid(*columns.values(), indexing="ij")), strict=True))
    if mesh is None:
        return jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), _all(one, None, runs, shared))
    total = math.prod(shape)
    filled = -(-total // mesh.size) * mesh.size
    runs = jax.tree.map(lambda x: jnp.pad(x, (0, filled - total), mode="edge"), runs)
    out = _all(one, Mesh(mesh.devices, mesh.axis_names), runs, shared)
    return jax.tree.map(lambda x: x[:total].reshape(*shape, *x.shape[1:]), out)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _all(one: Callable[..., Tree], mesh: Mesh | None, runs: dict[str, Array], shared: tuple[Any, ...]) -> Tree:
    def many(runs: dict[str, Array], shared: tuple[Any, ...]) -> Tree:
        return jax.vmap(lambda run: one(*shared, **run))(runs)

    if mesh is None:
        return many(runs, shared)
    split = PartitionSpec(mesh.axis_names)
    # Each device runs its part by itself, and nothing is exchanged; so there is nothing to be checked.
    return jax.shard_map(many, mesh=mesh, in_specs=(split, PartitionSpec()), out_specs=split, check_vma=False)(
        runs, shared
    )
