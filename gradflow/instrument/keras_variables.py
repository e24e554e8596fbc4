"""Keras models that a loss closes over: what it assigns to their variables would be lost with the trace."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import jax

from gradflow.instrument.errors import FlowError

_DEPTH = 3  # functions that call functions that close over a model


@contextlib.contextmanager
def watched(fun: Callable[..., Any], args: tuple[Any, ...]) -> Iterator[None]:
    """Refuse a loss that assigns to variables of a Keras model, and give them their values back.

    Args:
        fun: the loss.
        args: of the call.

    Raises:
        FlowError: if a variable holds what lives only inside the trace.
    """
    keras = sys.modules.get("keras")
    if keras is None:
        yield
        return
    kinds = (keras.Layer, keras.Metric)
    before = [(v, v.value) for model in _models(kinds, fun, args) for v in model.variables]
    try:
        yield
    finally:
        changed = [(v, old) for v, old in before if v.value is not old and isinstance(v.value, jax.core.Tracer)]
        for variable, old in changed:
            variable.assign(old)
    if changed:
        raise FlowError(
            expected="a loss that assigns to no variable of a Keras model",
            got=f"new values of {', '.join(v.path for v, _ in changed[:3])}, which would be lost",
            cause="model(x, training=True) inside the loss: batch statistics, seeds of dropout",
            fix="y, state = model.stateless_call(trainable, non_trainable, x, training=True), and return state as aux",
        )


def _models(kinds: tuple[Any, ...], fun: Any, args: Any) -> list[Any]:
    found: dict[int, Any] = {}

    def look(tree: Any, depth: int) -> None:
        for value in jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, kinds)):
            if isinstance(value, kinds):
                found[id(value)] = value
            elif depth and isinstance(value, functools.partial):
                look([value.func, value.args, value.keywords], depth)
            elif depth and isinstance(value, types.MethodType):
                look([value.__self__, value.__func__], depth)
            elif depth and isinstance(value, types.FunctionType):
                look(_closed_over(value), depth - 1)

    look([fun, args], _DEPTH)
    return list(found.values())


def _closed_over(function: types.FunctionType) -> list[Any]:
    """Return the values that a function, and the callable that it wraps, close over."""
    values: list[Any] = []
    for inner in (function, inspect.unwrap(function)):
        if isinstance(inner, types.FunctionType):
            variables = inspect.getclosurevars(inner)
            values += [*variables.nonlocals.values(), *variables.globals.values()]
        else:  # an object with __call__
            values += list(getattr(inner, "__dict__", {}).values())
    return values
