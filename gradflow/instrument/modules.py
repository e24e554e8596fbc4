"""Arguments that are modules: what of them is differentiated, and what they change in themselves during the call.

Flax NNX and Equinox are looked up among the imported modules, so that neither has to be installed. A caller that
passes one of their objects has imported them.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from gradflow.instrument.errors import FlowError

_TAG = "value_grad_and_flow"


def differentiated(argument: Any) -> list[bool]:
    """Tell which leaves of an argument are differentiated: all, except that Equinox modules give only inexact arrays.

    Args:
        argument: a pytree.
    """
    equinox = sys.modules.get("equinox")
    leaves = jax.tree.leaves(argument)
    if equinox is None or not holds(argument, equinox.Module):
        return [True] * len(leaves)
    return [bool(equinox.is_inexact_array(leaf)) for leaf in leaves]


def argument_number(entry: Any) -> Any:
    """Return the number of an argument.

    Args:
        entry: of `argnums`: a number, or an `nnx.DiffState`.
    """
    nnx = sys.modules.get("flax.nnx")
    return entry.argnum if nnx is not None and isinstance(entry, nnx.DiffState) else entry


def holds(tree: Any, kinds: Any, besides: Any = ()) -> bool:
    """Tell whether objects of some class stand in a tree.

    Args:
        tree: any pytree.
        kinds: class or classes.
        besides: classes that are not looked into.
    """
    stops = (kinds if isinstance(kinds, tuple) else (kinds,)) + (besides if isinstance(besides, tuple) else (besides,))
    return any(isinstance(x, kinds) for x in jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, stops)))


def copies_in_this_trace(tree: Any) -> Any:
    """Return a tree with a copy of each Flax NNX module, which may be changed where modules from outside may not be.

    What modules share, their copies share. Changes of a copy are not handed back to the caller's module.

    Args:
        tree: any pytree.
    """
    nnx = sys.modules.get("flax.nnx")
    if nnx is None or not holds(tree, (nnx.Pytree, nnx.Variable), besides=nnx.State):
        return tree

    def is_node(x: Any) -> bool:
        return isinstance(x, (nnx.Pytree, nnx.Variable))

    leaves, structure = jax.tree.flatten(tree, is_leaf=is_node)
    nodes = iter(nnx.clone([leaf for leaf in leaves if is_node(leaf)]))
    return jax.tree.unflatten(structure, [next(nodes) if is_node(leaf) else leaf for leaf in leaves])


class Call:
    """A call of the loss, by the values of its differentiated arguments.

    Args:
        fun: the loss.
        numbers: of the differentiated arguments.
        args, kwargs: of the call.
    """

    def __init__(self, fun: Callable[..., Any], numbers: Sequence[int], args: Any, kwargs: Any) -> None:
        self._fun, self._numbers, self._args, self._kwargs = fun, tuple(numbers), args, kwargs

    @property
    def chosen(self) -> tuple[Any, ...]:
        """The differentiated arguments."""
        return tuple(self._args[n] for n in self._numbers)

    def __call__(self, values: Sequence[Any]) -> Any:
        """Return what the loss returns.

        Args:
            values: of the differentiated arguments.
        """
        full = list(self._args)
        for n, value in zip(self._numbers, values, strict=True):
            full[n] = value
        return self._fun(*full, **self._kwargs)

    def leaving(self, aux: Any) -> Any:
        """Return all that has to leave the trace beside the loss, as a pytree of arrays.

        Args:
            aux: what the loss returned beside it.
        """
        return aux

    def delivered(self, left: Any) -> Any:
        """Return the caller's aux.

        Args:
            left: the values of what left the trace.
        """
        return left


class ModuleCall(Call):
    """A call with Flax NNX modules among its arguments, which it changes as `nnx.value_and_grad` does.

    A differentiated module is given by the state that `nnx.DiffState` names, by default its `nnx.Param`s. What the loss
    changes in any module (batch statistics, random counts, new variables) leaves the trace as states.

    Args:
        nnx: the imported `flax.nnx`.
        fun: the loss.
        filters: which variables of which argument are differentiated.
        args, kwargs: of the call.
    """

    def __init__(self, nnx: Any, fun: Callable[..., Any], filters: dict[int, Any], args: Any, kwargs: Any) -> None:
        self._nnx = nnx
        flat, self._tree = jax.tree_util.tree_flatten_with_path((args, kwargs), is_leaf=self._is_node)
        places = [(filters.get(path[1].idx) if path[0].idx == 0 else None, leaf) for path, leaf in flat]
        _check_modules(nnx, [(which, leaf) for which, leaf in places if self._is_node(leaf)])
        self._parts: list[tuple[Any, ...]] = []
        leaves = []
        with nnx.split_context(_TAG) as context:
            for which, leaf in places:
                parts, left = self._split(context, which, leaf)
                self._parts.append(parts)
                leaves.append(left)
        args, kwargs = jax.tree.unflatten(self._tree, leaves)
        super().__init__(fun, tuple(filters), args, kwargs)

    def _is_node(self, x: Any) -> bool:
        return isinstance(x, (self._nnx.Pytree, self._nnx.Variable))

    def _split(self, context: Any, which: Any, leaf: Any) -> tuple[tuple[Any, ...], Any]:
        """Return what a module is rebuilt from beside its differentiated part, and that part, None without one."""
        if not self._is_node(leaf):
            return (), leaf
        if which is None:
            return (*context.split(leaf),), None
        if isinstance(leaf, self._nnx.Variable):
            graph, state = context.split(leaf)
            return (graph,), state
        graph, state, rest = context.split(leaf, which, ...)
        return (graph, rest), state

    def __call__(self, values: Sequence[Any]) -> Any:
        """Return what the loss returns, called with modules that live in this trace."""
        args = list(self._args)
        for n, value in zip(self._numbers, values, strict=True):
            args[n] = value
        tree: Any = self._tree
        lefts = tree.flatten_up_to((tuple(args), self._kwargs))
        with self._nnx.merge_context(_TAG, True) as context:
            leaves = [
                context.merge(parts[0], *parts[1:], *(() if left is None else (left,))) if parts else left
                for parts, left in zip(self._parts, lefts, strict=True)
            ]
        self._inside = [x for x in leaves if self._is_node(x)]
        args, kwargs = jax.tree.unflatten(self._tree, leaves)
        return self._fun(*args, **kwargs)

    def leaving(self, aux: Any) -> Any:
        """Return the states of all modules after the call, and of those that the loss returns."""
        leaves, self._aux_tree = jax.tree.flatten(aux, is_leaf=self._is_node)
        with self._nnx.split_context(_TAG) as context:
            changed = [context.split(node) for node in self._inside]
            returned = [context.split(leaf) if self._is_node(leaf) else (None, leaf) for leaf in leaves]
        self._changed, self._returned = [graph for graph, _ in changed], [graph for graph, _ in returned]
        return [state for _, state in changed], [state for _, state in returned]

    def delivered(self, left: Any) -> Any:
        """Change the caller's modules, and return the aux with them in it."""
        changed, returned = left
        with self._nnx.merge_context(_TAG, False) as context:
            for graph, state in zip(self._changed, changed, strict=True):
                context.merge(graph, state)
            leaves = [
                leaf if graph is None else context.merge(graph, leaf)
                for graph, leaf in zip(self._returned, returned, strict=True)
            ]
        return jax.tree.unflatten(self._aux_tree, leaves)


def _check_modules(nnx: Any, nodes: Sequence[tuple[Any, Any]]) -> None:
    """Refuse modules that cannot be changed here, and variables that are differentiated in one place only."""
    active: dict[int, bool] = {}
    for which, node in nodes:
        wanted = None if which is None else nnx.filterlib.to_predicate(which)
        for path, variable in nnx.iter_graph(node):
            if not isinstance(variable, nnx.Variable):
                continue
            mine = wanted is not None and (isinstance(node, nnx.Variable) or bool(wanted(path, variable)))
            name = "/".join(map(str, path)) or type(variable).__name__
            if active.setdefault(id(variable), mine) != mine:
                raise FlowError(
                    expected="every nnx.Variable to be differentiated wherever it stands, or nowhere",
                    got=f"{name!r}, which stands in a differentiated and in another argument",
                    cause="two modules that share parameters",
                    fix="pass a copy (nnx.clone), or name both arguments in argnums",
                )
            try:
                variable.set_raw_value(variable.get_raw_value())
            except sys.modules["flax.errors"].TraceContextError:
                raise FlowError(
                    expected="modules that may be changed here",
                    got=f"{name!r}, which was made outside of a transformation around this call",
                    cause="a module that jax.jit, jax.vmap or jax.lax.scan closes over",
                    fix="nnx.jit or nnx.vmap with the module as argument, or "
                    "graph, params, rest = nnx.split(model, nnx.Param, ...) and nnx.merge inside the loss",
                ) from None


@contextlib.contextmanager
def call_of(
    fun: Callable[..., Any], numbers: Sequence[int], entries: Sequence[Any], args: tuple[Any, ...], kwargs: Any
) -> Iterator[Call]:
    """Yield the call of a loss; inside the block, changes of modules are returned to the caller's modules.

    Args:
        fun: the loss.
        numbers: of the differentiated arguments, from 0.
        entries: of `argnums`, which belong to them: numbers or `nnx.DiffState`s.
        args: of the call.
        kwargs: of the call.
    """
    nnx = sys.modules.get("flax.nnx")
    if nnx is None or not holds((args, kwargs), (nnx.Pytree, nnx.Variable), besides=nnx.State):
        yield Call(fun, numbers, args, kwargs)
        return
    filters = {
        n: entry.filter if isinstance(entry, nnx.DiffState) else nnx.Param
        for n, entry in zip(numbers, entries, strict=True)
    }
    with nnx.update_context(_TAG):
        yield ModuleCall(nnx, fun, filters, args, kwargs)
