"""From a loss function and its arguments to a jaxpr of the differentiated leaves; bad input is refused here."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow.instrument import naming
from gradflow.instrument.errors import FlowError


@dataclasses.dataclass(frozen=True)
class Traced:
    """A loss function as a jaxpr of its differentiated leaves."""

    jaxpr: Any
    leaves: list[Any]
    paths: list[tuple[str, ...]]
    rebuild_grads: Callable[[list[Any]], Any]
    rebuild_aux: Callable[[list[Any]], Any]


def trace(
    fun: Callable[..., Any], argnums: Any, has_aux: bool, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Traced:
    single = isinstance(argnums, (int, np.integer))
    numbers = _normalised((argnums,) if single else tuple(argnums), len(args))
    chosen = args[numbers[0]] if single else tuple(args[n] for n in numbers)
    flat, tree = jax.tree_util.tree_flatten_with_path(chosen)
    names = _argument_names(fun, numbers)
    paths = [_leaf_parts(path, names, single) for path, _ in flat]
    leaves = [leaf for _, leaf in flat]
    _check_leaves(leaves, paths)
    kept: dict[str, Any] = {}

    def flat_fun(*leaves: Any) -> list[Any]:
        values = jax.tree_util.tree_unflatten(tree, leaves)
        full = list(args)
        for n, value in zip(numbers, (values,) if single else values, strict=True):
            full[n] = value
        out = fun(*full, **kwargs)
        loss, aux = _checked_pair(out) if has_aux else (out, None)
        _check_scalar(loss)
        aux_leaves, kept["tree"] = jax.tree_util.tree_flatten(aux)
        traced = [isinstance(a, jax.core.Tracer) for a in aux_leaves]
        kept["static"] = [None if t else a for a, t in zip(aux_leaves, traced, strict=True)]
        kept["traced"] = traced
        return [loss, *(a for a, t in zip(aux_leaves, traced, strict=True) if t)]

    jaxpr = jax.make_jaxpr(flat_fun)(*leaves)

    def rebuild_aux(values: list[Any]) -> Any:
        rest = iter(values)
        both = [next(rest) if t else s for t, s in zip(kept["traced"], kept["static"], strict=True)]
        return jax.tree_util.tree_unflatten(kept["tree"], both)

    return Traced(jaxpr, leaves, paths, lambda g: jax.tree_util.tree_unflatten(tree, g), rebuild_aux)


def _normalised(numbers: tuple[int, ...], count: int) -> tuple[int, ...]:
    for n in numbers:
        if not -count <= n < count:
            raise ValueError(
                f"value_grad_and_flow: argnums={n} but the function was called with {count} positional arguments; "
                "pass the differentiated arguments by position"
            )
    return tuple(n % count for n in numbers)


def _argument_names(fun: Callable[..., Any], numbers: tuple[int, ...]) -> list[str]:
    try:
        positional = list(inspect.signature(fun).parameters)
    except (TypeError, ValueError):
        positional = []
    return [positional[n] if n < len(positional) else str(n) for n in numbers]


def _leaf_parts(path: Sequence[Any], names: list[str], single: bool) -> tuple[str, ...]:
    if single or len(names) == 1:
        parts = naming.path_parts(path if single else path[1:])
        return parts or (names[0],)
    return (names[path[0].idx], *naming.path_parts(path[1:]))


def _check_leaves(leaves: list[Any], paths: list[tuple[str, ...]]) -> None:
    for leaf, path in zip(leaves, paths, strict=True):
        name = "/".join(path)
        if not isinstance(leaf, (jax.Array, np.ndarray, np.generic, float, int, complex)):
            raise TypeError(
                f"value_grad_and_flow: expected arrays as parameters, got {type(leaf).__name__} at {name!r}. "
                "Likely cause: a model object with functions or names in it. "
                "Fix: separate the arrays (eqx.partition, nnx.split) and put the rest back inside the loss"
            )
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise TypeError(
                f"value_grad_and_flow: expected floating-point parameters, got {jnp.result_type(leaf)} at {name!r}. "
                "Likely cause: a step counter, a random key or labels among the parameters, or argnums names the wrong "
                "argument. Fix: pass it as another argument"
            )


def _checked_pair(out: Any) -> tuple[Any, Any]:
    if not isinstance(out, tuple) or len(out) != 2:
        raise TypeError(
            "value_grad_and_flow: with has_aux=True expected the loss function to return (loss, aux), "
            f"got {type(out).__name__}"
        )
    return out


def _check_scalar(loss: Any) -> None:
    expected = "a loss function that returns a floating-point scalar"
    leaves = jax.tree_util.tree_leaves(loss)
    if isinstance(loss, tuple):
        got, cause = f"a tuple of {len(loss)}", "the function also returns something else"
        raise FlowError(expected, got, cause, "pass has_aux=True")
    if len(leaves) != 1 or leaves[0] is not loss:
        raise FlowError(expected, type(loss).__name__, "the function returns no array", "return the loss")
    if jnp.shape(loss) != ():
        raise FlowError(
            expected, f"an array of shape {jnp.shape(loss)}", "one loss for each example", "return the mean"
        )
    if not jnp.issubdtype(jnp.result_type(loss), jnp.floating):
        raise FlowError(
            expected, f"one of type {jnp.result_type(loss)}", "a count or a metric", "return the loss itself"
        )
