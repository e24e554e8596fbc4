"""Value and gradients without the flow, as each framework forms them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import jax

from gradflow.instrument.modules import argument_number, differentiated, holds

__all__ = ["argument_numbers", "value_and_grad"]


def argument_numbers(argnums: Any, count: int) -> tuple[int, ...]:
    """Return the numbers of the differentiated arguments, from 0.

    Args:
        argnums: as for `jax.value_and_grad`.
        count: how many positional arguments the loss gets.

    Raises:
        ValueError: for the number of an argument that is not there.
    """
    numbers = [argument_number(n) for n in (argnums if hasattr(argnums, "__iter__") else (argnums,))]
    for n in numbers:
        if not -count <= n < count:
            raise ValueError(
                f"watch(step, ...): expected argnums to name positional arguments after the step, got argnums={n} in a "
                f"call with {count} of them. Likely cause: the step or the parameters were left out, or are passed by "
                "name. Fix: value, grads, record = watch(step, params, *args)"
            )
    return tuple(n % count for n in numbers)


def value_and_grad(fun: Callable[..., Any], argnums: Any, has_aux: bool) -> Callable[..., tuple[Any, Any]]:
    """Return `jax.value_and_grad`, or what stands for it where an argument is a Flax NNX or Equinox module.

    Args:
        fun: the loss.
        argnums: what is differentiated.
        has_aux: whether the loss returns a pair.
    """

    def call(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        nnx, equinox = sys.modules.get("flax.nnx"), sys.modules.get("equinox")
        if nnx is not None and holds((args, kwargs), (nnx.Pytree, nnx.Variable), besides=nnx.State):
            return nnx.value_and_grad(fun, argnums=argnums, has_aux=has_aux)(*args, **kwargs)
        single = not hasattr(argnums, "__iter__")
        numbers = list(argument_numbers(argnums, len(args)))
        if equinox is not None and any(holds(args[n], equinox.Module) for n in numbers):
            return _filtered(fun, numbers, single, has_aux, args, kwargs)
        return jax.value_and_grad(fun, argnums, has_aux)(*args, **kwargs)

    return call


def _filtered(
    fun: Callable[..., Any], numbers: list[int], single: bool, has_aux: bool, args: tuple[Any, ...], kwargs: Any
) -> tuple[Any, Any]:
    """Differentiate only what of the arguments can be, as `equinox.filter_value_and_grad` does."""
    chosen = args[numbers[0]] if single else tuple(args[n] for n in numbers)
    leaves, tree = jax.tree.flatten(chosen)
    wanted = differentiated(chosen)
    active = [leaf if w else None for leaf, w in zip(leaves, wanted, strict=True)]

    def loss(active: list[Any]) -> Any:
        values = [a if w else leaf for a, leaf, w in zip(active, leaves, wanted, strict=True)]
        whole = jax.tree.unflatten(tree, values)
        full = list(args)
        for n, value in zip(numbers, (whole,) if single else whole, strict=True):
            full[n] = value
        return fun(*full, **kwargs)

    value, grads = jax.value_and_grad(loss, has_aux=has_aux)(active)
    return value, jax.tree.unflatten(tree, grads)
