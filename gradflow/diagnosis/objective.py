"""A loss as a function of its differentiated leaves and of its arrays, so that one program serves all batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from gradflow.instrument.arguments import trace
from gradflow.instrument.jaxprs import opened
from gradflow.instrument.modules import copies_in_this_trace

__all__ = ["Objective"]


@dataclasses.dataclass(frozen=True, eq=False)
class Objective:
    """A loss with everything that it was called with.

    Attributes:
        leaves: what is differentiated, as `jax.tree.leaves` lists it.
        paths: names of the leaves, joined by "/".
        arrays: arrays among the other arguments.
        rebuild: from values of the leaves to the differentiated argument, None where nothing is differentiated.
        value: (leaves, arrays) -> loss; to be jitted.
        places: number of the leaf that each leaf of `tree` is.
        arrays_of: from other arguments of the same structure to their arrays.
    """

    leaves: list[Any]
    paths: tuple[str, ...]
    arrays: list[Any]
    rebuild: Callable[[list[Any]], Any]
    value: Callable[[Sequence[Any], Sequence[Any]], Any]
    places: tuple[int, ...]
    arrays_of: Callable[[tuple[Any, ...]], list[Any]]

    def tree(self, leaves: Sequence[Any]) -> Any:
        """Return leaves as nested dicts by their names, so that layers are called as in the user's tree.

        Args:
            leaves: in the order of `leaves`.
        """
        return _nested(self.paths, leaves)

    def of_tree(self, tree: Any, arrays: Sequence[Any]) -> Any:
        """Return the loss of nested dicts.

        Args:
            tree: as `tree` gives it.
            arrays: of the other arguments.
        """
        return self.value(self.leaves_of(tree), arrays)

    def leaves_of(self, tree: Any) -> list[Any]:
        """Return the leaves of nested dicts in the order of `leaves`.

        Args:
            tree: as `tree` gives it, or of the same structure.
        """
        by_place = dict(zip(self.places, jax.tree.leaves(tree), strict=True))
        return [by_place[k] for k in range(len(by_place))]

    @classmethod
    def of(
        cls, loss_fn: Callable[..., Any], params: Any, args: tuple[Any, ...], kwargs: dict[str, Any], has_aux: bool
    ) -> Objective:
        """Look at a call of a loss.

        Args:
            loss_fn: the loss.
            params: its first argument, which is differentiated.
            args: its other positional arguments.
            kwargs: of the call.
            has_aux: whether it returns (loss, aux).

        Raises:
            FlowError: inside `jit`, `vmap` or `grad`, or for a loss that `value_grad_and_flow` refuses.
        """
        flat, tree = jax.tree_util.tree_flatten(args)
        dynamic = [isinstance(leaf, (jax.Array, np.ndarray)) for leaf in flat]

        def placed(arrays: Sequence[Any]) -> tuple[Any, ...]:
            rest = iter(arrays)
            leaves = [next(rest) if d else leaf for d, leaf in zip(dynamic, flat, strict=True)]
            out: tuple[Any, ...] = jax.tree_util.tree_unflatten(tree, leaves)
            return out

        def value(leaves: Sequence[Any], arrays: Sequence[Any]) -> Any:
            # Under jit a module from outside cannot be changed, and the loss may change it: running averages, counts.
            here, named = copies_in_this_trace(((params, *placed(arrays)), kwargs))
            with trace(loss_fn, 0, has_aux, here, named) as traced:
                jaxpr, consts = opened(traced.jaxpr)
            return core.jaxpr_as_fun(core.ClosedJaxpr(jaxpr, consts))(*leaves)[0]

        def arrays_of(args: tuple[Any, ...]) -> list[Any]:
            leaves, structure = jax.tree_util.tree_flatten(args)
            if str(structure) != str(tree):
                raise ValueError(
                    f"batches: expected arguments of the structure of the call's, {tree}, got {structure}. Likely "
                    "cause: a batch that is one argument given as a tuple. Fix: a tuple of all arguments behind params"
                )
            return [_strong(leaf) for d, leaf in zip(dynamic, leaves, strict=True) if d]

        with trace(loss_fn, 0, has_aux, (params, *args), kwargs) as traced:
            traced.require_numbers("gf.diagnose", "call it outside; it compiles what it runs itself")
        paths = tuple("/".join(path) for path in traced.paths)
        leaves = [_strong(leaf) for leaf in traced.leaves]
        places = tuple(jax.tree.leaves(_nested(paths, range(len(paths)))))
        return cls(leaves, paths, arrays_of(args), traced.rebuild_grads, value, places, arrays_of)


def _strong(x: Any) -> Any:
    """Return an array that is not of a weak type, as results are, so that both run the same program."""
    return jnp.asarray(x, x.dtype) if getattr(x, "weak_type", False) else jnp.asarray(x)


def _nested(paths: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in zip(paths, values, strict=True):
        *heads, last = path.split("/")
        node = tree
        for head in heads:
            node = node.setdefault(head, {})
        node[last] = value
    return tree
