"""From a loss function and its arguments to a jaxpr of the differentiated leaves; bad input is refused here."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow.instrument import naming
from gradflow.instrument.errors import FlowError
from gradflow.instrument.jaxprs import opened
from gradflow.instrument.keras_variables import watched
from gradflow.instrument.modules import Call, argument_number, call_of, differentiated


@dataclasses.dataclass(frozen=True)
class Traced:
    """A loss function as a jaxpr of its differentiated leaves.

    Attributes:
        jaxpr: leaves -> [loss, *aux].
        leaves: what is differentiated.
        paths: names that lead to them.
        rebuild_grads: from gradients of the leaves to those of the arguments.
        rebuild_aux: from what the jaxpr returns beside the loss to the caller's aux.
    """

    jaxpr: Any
    leaves: list[Any]
    paths: list[tuple[str, ...]]
    rebuild_grads: Callable[[list[Any]], Any]
    rebuild_aux: Callable[[list[Any]], Any]

    def require_numbers(self, who: str, fix: str) -> None:
        """Refuse a call whose parameters, or whose data, are being traced.

        Args:
            who: was called.
            fix: what to do instead.

        Raises:
            FlowError: inside `jit`, `vmap`, `scan` or `grad`.
        """
        if any(isinstance(x, jax.core.Tracer) for x in [*self.leaves, *opened(self.jaxpr)[1]]):
            raise FlowError(
                expected="a call with numbers",
                got="one that is being traced",
                cause=f"{who} inside jit, vmap, scan or grad",
                fix=fix,
            )


@contextlib.contextmanager
def trace(
    fun: Callable[..., Any], argnums: Any, has_aux: bool, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Iterator[Traced]:
    """Yield a loss as a jaxpr; `rebuild_aux` also hands state back to the caller's modules.

    Args:
        fun: the loss.
        argnums: what is differentiated.
        has_aux: whether the loss returns a pair.
        args: of the call.
        kwargs: of the call.
    """
    single = not hasattr(argnums, "__iter__")
    entries = (argnums,) if single else tuple(argnums)
    numbers = _normalised([argument_number(n) for n in entries], len(args))
    with watched(fun, args), call_of(fun, numbers, entries, args, kwargs) as call:
        yield _traced(call, numbers, single, has_aux, argument_names(fun, numbers))


def _traced(call: Call, numbers: tuple[int, ...], single: bool, has_aux: bool, names: list[str]) -> Traced:
    chosen = call.chosen
    flat, tree = jax.tree_util.tree_flatten_with_path(chosen[0] if single else chosen)
    everything = [leaf for _, leaf in flat]
    wanted = [w for value in chosen for w in differentiated(value)]
    keys = [path for (path, _), w in zip(flat, wanted, strict=True) if w]
    leaves = [leaf for leaf, w in zip(everything, wanted, strict=True) if w]
    paths = naming.leaf_names(keys, names, single)
    _check_leaves(leaves, paths)
    kept: dict[str, Any] = {}

    def placed(values: Sequence[Any], others: Sequence[Any]) -> Any:
        rest = iter(values)
        both = [next(rest) if w else other for w, other in zip(wanted, others, strict=True)]
        return jax.tree_util.tree_unflatten(tree, both)

    def flat_fun(*leaves: Any) -> list[Any]:
        values = placed(leaves, everything)
        out = call((values,) if single else values)
        loss, aux = _checked_pair(out) if has_aux else (out, None)
        _check_scalar(loss)
        aux_leaves, kept["tree"] = jax.tree_util.tree_flatten(call.leaving(aux))
        traced = [isinstance(a, jax.core.Tracer) for a in aux_leaves]
        kept["static"] = [None if t else a for a, t in zip(aux_leaves, traced, strict=True)]
        kept["traced"] = traced
        return [loss, *(a for a, t in zip(aux_leaves, traced, strict=True) if t)]

    jaxpr = jax.make_jaxpr(flat_fun)(*leaves)

    def rebuild_aux(values: list[Any]) -> Any:
        rest = iter(values)
        both = [next(rest) if t else s for t, s in zip(kept["traced"], kept["static"], strict=True)]
        return call.delivered(jax.tree_util.tree_unflatten(kept["tree"], both))

    return Traced(jaxpr, leaves, paths, lambda g: placed(g, [None] * len(everything)), rebuild_aux)


def _normalised(numbers: Sequence[int], count: int) -> tuple[int, ...]:
    for n in numbers:
        if not -count <= n < count:
            raise ValueError(
                f"value_grad_and_flow: expected argnums to name positional arguments, got argnums={n} in a call with "
                f"{count} of them. Likely cause: a differentiated argument passed by name. Fix: pass it by position"
            )
    return tuple(n % count for n in numbers)


def argument_names(fun: Callable[..., Any], numbers: tuple[int, ...]) -> list[str]:
    """Return the names of positional arguments; their numbers where they have none.

    Args:
        fun: whose.
        numbers: of the arguments, from 0.
    """
    try:
        positional = list(inspect.signature(fun).parameters)
    except (TypeError, ValueError):
        positional = []
    return [positional[n] if n < len(positional) else str(n) for n in numbers]


def _check_leaves(leaves: list[Any], paths: list[tuple[str, ...]]) -> None:
    for leaf, path in zip(leaves, paths, strict=True):
        name = "/".join(path)
        if not isinstance(leaf, (jax.Array, np.ndarray, np.generic, float, int, complex)):
            raise TypeError(
                f"value_grad_and_flow: expected arrays as parameters, got {type(leaf).__name__} at {name!r}. "
                "Likely cause: a model object with functions or names in it. "
                "Fix: separate the arrays, by eqx.partition(model, eqx.is_inexact_array) or "
                "nnx.split(model, nnx.Param, ...), and put the rest back inside the loss"
            )
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.inexact):
            got, cause = _not_differentiable(dtype, jnp.shape(leaf))
            raise TypeError(
                f"value_grad_and_flow: expected floating-point or complex parameters, got {got} at {name!r}. "
                f"Likely cause: {cause} among the parameters, or argnums names the wrong argument. "
                "Fix: pass it as another argument"
            )


def _not_differentiable(dtype: Any, shape: tuple[int, ...]) -> tuple[str, str]:
    """Return what a leaf is, and why it is probably there."""
    of = f" of shape {shape}" if shape else ""
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return f"a random key ({dtype}){of}", "the random state of dropout or noise"
    if dtype == jnp.bool_:
        return f"a mask (bool){of}" if shape else "a switch (bool)", "a mask or a setting"
    if dtype == jnp.uint32 and shape[-1:] == (2,):
        return f"integers (uint32){of} (a raw random key?)", "a random key"
    if dtype == jax.dtypes.float0:
        return f"float0{of}", "a gradient with respect to integers"
    if shape:
        return f"integers ({dtype}){of}", "labels, tokens or indices"
    return f"an integer ({dtype})", "a step counter or a setting"


def _checked_pair(out: Any) -> tuple[Any, Any]:
    if not isinstance(out, tuple) or len(out) != 2:
        raise TypeError(
            "value_grad_and_flow: with has_aux=True expected the loss function to return (loss, aux), "
            f"got {type(out).__name__}. Fix: return a pair, or leave has_aux out"
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
    if jnp.issubdtype(jnp.result_type(loss), jnp.complexfloating):
        raise FlowError(
            expected,
            f"a complex number ({jnp.result_type(loss)})",
            "a holomorphic function, or an imaginary part that is left over",
            "return a real number: jnp.abs(z) ** 2 or jnp.real(z); parameters may be complex",
        )
    if not jnp.issubdtype(jnp.result_type(loss), jnp.floating):
        raise FlowError(
            expected, f"one of type {jnp.result_type(loss)}", "a count or a metric", "return the loss itself"
        )
