"""Several devices and hosts: one program over a mesh; the batch is split, and every device holds all else."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gradflow.training.step import Key, Tree

__all__ = ["AXIS", "SplitWindow", "data_mesh", "join", "replicated", "window_sharding"]

AXIS = "data"


def data_mesh(devices: Any = None) -> Mesh:
    """Return a mesh of one axis, "data", over devices of all processes.

    Args:
        devices: which; None for all.
    """
    return Mesh(np.asarray(jax.devices() if devices is None else devices).reshape(-1), (AXIS,))


def window_sharding(mesh: Mesh) -> NamedSharding:
    """Return how the arrays (steps, batch, ...) of a stream lie on a mesh: `sharding=` of `gf.data.stream`.

    Args:
        mesh: as given to `fit`; the batch is split over all its axes.
    """
    return NamedSharding(mesh, PartitionSpec(None, mesh.axis_names))


def join(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None, **options: Any
) -> Mesh:
    """Make this process one of several, and return the mesh over the devices of all; which has to be called first.

    Under Slurm, Open MPI, Kubernetes (with JAX's environment variables) and on Cloud TPUs nothing has to be said:
    JAX finds out. Elsewhere each process is started with the same address and its own number.

    Args:
        coordinator: "HOST:PORT" of process 0, with a free port.
        processes: how many there are.
        process: number of this one, from 0.
        options: of `jax.distributed.initialize`, such as `local_device_ids`.

    Raises:
        ValueError: if only some of the three are given.
        RuntimeError: if no launcher is found, or JAX has computed something already.
    """
    given = [coordinator, processes, process]
    if any(x is None for x in given) and any(x is not None for x in given):
        raise ValueError(
            f"join: expected all of coordinator, processes and process, or none under a launcher that JAX knows; got "
            f"coordinator={coordinator!r}, processes={processes}, process={process}. "
            "Fix: join('HOST:PORT', processes=N, process=0 ... N - 1), or join() under a launcher"
        )
    try:
        jax.distributed.initialize(coordinator, processes, process, **options)
    except (ValueError, RuntimeError) as error:
        raise RuntimeError(
            f"join: this process could not join the others: {error}. Likely cause: no launcher that JAX knows (Slurm, "
            "Open MPI, Kubernetes, Cloud TPU), or a computation before this call. Fix: call it first, or give the "
            'address: join("HOST:PORT", processes=N, process=0 ... N - 1)'
        ) from error
    return data_mesh()


def replicated(tree: Tree, mesh: Mesh) -> Tree:
    """Put a copy of every array on every device of a mesh; what already lies on all of its devices stays as it is.

    Args:
        tree: arrays, the same in all processes.
        mesh: of one or more processes.
    """
    everywhere = NamedSharding(mesh, PartitionSpec())
    members = set(mesh.devices.flat)

    def place(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and set(leaf.sharding.device_set) == members:
            return leaf
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = jax.device_put(np.asarray(jax.random.key_data(leaf)), everywhere)
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        return jax.device_put(np.asarray(leaf), everywhere)

    return jax.tree.map(place, tree)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class SplitWindow:
    """A window whose batches are split over a mesh.

    Attributes:
        window: with a pure `batch(key, step)`.
        mesh: the batch is split over all its axes.
    """

    window: Any
    mesh: Mesh = dataclasses.field(metadata={"static": True})

    def batch(self, key: Key, step: Any) -> Any:
        """Draw the batch of a step, every device its part.

        Args:
            key: randomness of the batches.
            step: counted from 0.

        Raises:
            ValueError: if the devices cannot share the batch evenly.
        """
        drawn = getattr(self.window, "batch", self.window)(key, step)
        rows = NamedSharding(self.mesh, PartitionSpec(self.mesh.axis_names))
        for size in {x.shape[0] for x in jax.tree.leaves(drawn)}:
            if size % self.mesh.size:
                raise ValueError(
                    f"expected a batch that {self.mesh.size} devices can share evenly, got {size} examples. "
                    f"Fix: a batch size of {-(-size // self.mesh.size) * self.mesh.size}, or fewer devices in the mesh"
                )
        return jax.lax.with_sharding_constraint(drawn, rows)
