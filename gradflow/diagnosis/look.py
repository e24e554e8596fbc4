"""One compiled program that measures a loss wherever it is looked at: value, gradients and flow, and the loss alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow.diagnosis.objective import Objective
from gradflow.instrument import Flow, value_grad_and_flow

__all__ = ["Look", "Seen"]

STATISTICS = ("input_rms", "output_rms", "output_grad_rms", "dead_fraction", "similarity", "nonfinite")


class Seen(NamedTuple):
    """What one look gives.

    Attributes:
        value: the loss.
        gradients: of the leaves.
        flow: of the batch.
    """

    value: Any
    gradients: list[Any]
    flow: Flow


@dataclasses.dataclass(frozen=True, eq=False)
class Look:
    """Compiled programs of a loss; each is compiled once, when it is first called.

    Attributes:
        measure: (leaves, arrays, scale) -> `Seen`, of the loss times the scale.
        loss: (leaves, direction, multiple, arrays) -> loss at leaves + multiple * direction, in float32.
    """

    measure: Callable[..., Seen]
    loss: Callable[..., Any]

    def __call__(self, leaves: Sequence[Any], arrays: Sequence[Any], scale: float = 1.0) -> Seen:
        """Look once.

        Args:
            leaves: values of what is differentiated.
            arrays: of the other arguments.
            scale: of the loss; a power of 2 changes no bit of what stays in range.
        """
        return self.measure(list(leaves), list(arrays), jnp.float32(scale))

    @classmethod
    def compiled(cls, objective: Objective) -> Look:
        """Make the programs.

        Args:
            objective: the loss.
        """

        @jax.jit
        def measure(leaves: list[Any], arrays: list[Any], scale: Any) -> Seen:
            def scaled(tree: Any, arrays: list[Any]) -> Any:
                loss = objective.of_tree(tree, arrays)
                return loss * scale.astype(loss.dtype)

            measured = value_grad_and_flow(scaled, statistics=STATISTICS, data_gradients=False)
            value, gradients, flow = measured(objective.tree(leaves), arrays)
            return Seen(value, objective.leaves_of(gradients), flow)

        @jax.jit
        def loss(leaves: list[Any], direction: list[Any], multiple: Any, arrays: list[Any]) -> Any:
            with jax.numpy_dtype_promotion("standard"):  # a multiple in single precision, of leaves of any type
                steps = [multiple * d for d in direction]
            there = [o + step.astype(o.dtype) for o, step in zip(leaves, steps, strict=True)]
            return objective.value(there, arrays).astype(jnp.float32)

        return cls(measure, loss)
