"""Recurrent layers whose cell is a Flax Linen module: `Recurrent(cell=nn.GRUCell)`."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn.initializers import Initializer
from jaxtyping import Array

from gradflow.models.custom_layers import build, module_class
from gradflow.models.layers import varying_as

__all__ = ["LinenLayer", "check_cell", "is_linen"]


def is_linen(cell: Any) -> bool:
    """Whether a cell is a Linen cell: a class, a `functools.partial` of one, or a module.

    Args:
        cell: the option of `Recurrent`.
    """
    kind = module_class(cell)
    return kind is not None and issubclass(kind, nn.RNNCellBase)


def check_cell(cell: Any, hidden: int, refused: dict[str, Any]) -> None:
    """Check the options of a `Recurrent` with a Linen cell.

    Args:
        cell: the cell.
        hidden: units that the layer is to have.
        refused: options that such a cell cannot follow, by name; None and False are not set.

    Raises:
        ValueError: for one of these, or a module with another number of features.
    """
    for name, value in refused.items():
        if value is not None and value is not False:
            raise ValueError(
                f"Recurrent({name}=...): expected one of gradflow's cells, got the Linen cell {cell!r}, which keeps "
                "its gates to itself. Fix: cell='lstm', or set it in the module"
            )
    features = cell.features if isinstance(cell, nn.Module) and hasattr(cell, "features") else hidden
    if features != hidden:
        raise ValueError(
            f"Recurrent(hidden={hidden}): the cell has {features} features. Fix: hidden={features}, or give the class"
        )


def _recurrent_initializer(cell: Any, param_dtype: Any) -> Initializer | None:
    """Return a cell's default recurrent initializer, drawn in float32 and cast; None where it can draw by itself.

    It is orthogonal in Flax, and from JAX 0.12 on the QR decomposition refuses types narrower than float32.
    """
    fields = {field.name: field for field in dataclasses.fields(module_class(cell) or nn.Module)}
    default = fields["recurrent_kernel_init"].default if "recurrent_kernel_init" in fields else None
    if jnp.finfo(param_dtype).bits >= 32 or not callable(default):
        return None

    def narrow(key: Any, shape: Any, dtype: Any = param_dtype, out_sharding: Any = None) -> Any:
        del out_sharding
        return default(key, shape, jnp.float32).astype(dtype)

    return narrow


class LinenLayer(nn.Module):
    """One recurrent layer in one direction, time first, by a scan over a Linen cell.

    Attributes:
        cell: class, partial of one, or module, a subclass of `flax.linen.RNNCellBase`.
        hidden: units, its `features`.
        kernel: initializer of input kernels, its `kernel_init`; None: its own.
        recurrent: initializer of recurrent kernels, its `recurrent_kernel_init`; None: its own.
        reverse: read the sequence from its end.
        unroll: steps of the scan done in one turn of the loop.
        dtype: of computation.
        param_dtype: of parameters.
    """

    cell: Any
    hidden: int
    kernel: Initializer | None
    recurrent: Initializer | None
    reverse: bool
    unroll: int
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, sequence: Array, counts: Array | None, states: Any, collect: bool) -> tuple[Any, Array]:
        """Return the carry after the last step, and the output, (batch, units), or of every step, (time, batch, units).

        Args:
            sequence: (time, batch, features).
            counts: whether a step counts, (time, batch, 1); None: all do.
            states: carry before the first step; None: the cell's own.
            collect: whether the outputs of all steps are wanted.
        """
        recurrent = _recurrent_initializer(self.cell, self.param_dtype) if self.recurrent is None else self.recurrent
        given = {"kernel_init": self.kernel, "recurrent_kernel_init": recurrent}
        fields = {name: init for name, init in given.items() if init is not None}
        cell: Any = build(self.cell, "", features=self.hidden, dtype=self.dtype, param_dtype=self.param_dtype, **fields)
        own = cell.initialize_carry(jax.random.key(0), sequence.shape[1:])
        if states is not None and jax.tree.map(jnp.shape, states) != jax.tree.map(jnp.shape, own):
            raise ValueError(
                f"expected state to hold, for each layer and direction, a carry of shape {jax.tree.map(jnp.shape, own)}"
                f", got {jax.tree.map(jnp.shape, states)}. Fix: take the one that return_state=True returns"
            )
        start = jax.tree.map(lambda s: jnp.asarray(s).astype(self.dtype), own if states is None else states)

        def step(cell: nn.Module, before: Any, inputs: tuple[Array, Array | None]) -> tuple[Any, Array | None]:
            x, counted = inputs
            with jax.numpy_dtype_promotion("standard"):  # as for other modules: see `apply_custom_layer`
                after = cell(before[0], x)
            if jnp.shape(after[1]) != before[1].shape:
                raise ValueError(
                    f"expected a cell that returns (carry, outputs of shape {before[1].shape}), got outputs of shape "
                    f"{jnp.shape(after[1])}. Fix: hidden= as many as the cell has features"
                )
            after = jax.tree.map(lambda new, old: new.astype(old.dtype), after, before)
            if counted is not None:
                after = jax.tree.map(lambda new, old: jnp.where(counted, new, old), after, before)
            return after, after[1] if collect else None

        scan = nn.scan(
            step,
            variable_broadcast="params",
            split_rngs={"params": False},
            reverse=self.reverse,
            unroll=self.unroll,
        )
        latest = jnp.zeros((sequence.shape[1], self.hidden), self.dtype)
        (last, latest), outputs = scan(cell, varying_as((start, latest), sequence), (sequence, counts))
        return last, latest if outputs is None else outputs
