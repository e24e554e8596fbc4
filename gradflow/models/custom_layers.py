"""Custom layers: Linen modules and functions of the user's own, which models take in place of a name."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array

__all__ = ["CustomLayer", "apply_custom_layer", "build", "check_custom_layer", "module_class"]

# A function, a Linen class, a `functools.partial` of one, or a module, of which every layer gets a copy of its own.
CustomLayer: TypeAlias = Callable[..., Any]


def module_class(layer: Any) -> type[nn.Module] | None:
    """Return the Linen class of a custom layer; None for a function, or for what is no layer at all.

    Args:
        layer: a class, a `functools.partial` of one, a module, or anything else.
    """
    if isinstance(layer, nn.Module):
        return type(layer)
    made = layer.func if isinstance(layer, functools.partial) else layer
    return made if isinstance(made, type) and issubclass(made, nn.Module) else None


def check_custom_layer(owner: str, option: str, layer: Any) -> None:
    """Check that an option that is no name is a custom layer.

    Args:
        owner: name of the model.
        option: name of the option.
        layer: its value.

    Raises:
        TypeError: if it is neither a function nor a Linen module or class.
    """
    if not callable(layer) or (isinstance(layer, type) and module_class(layer) is None):
        raise TypeError(
            f"{owner}({option}=...): expected a name, a function, or a Flax Linen module or class, got {layer!r}. "
            "Likely cause: an array or a layer of another framework. Fix: a function that calls it"
        )


def build(layer: CustomLayer, suffix: str, **fields: Any) -> Callable[..., Any]:
    """Make the module of a custom layer within a compact method; a function comes back as it is.

    Args:
        layer: a function, class, partial or module; a module is copied, so that each place has its own parameters.
        suffix: of the module's name, which begins with the name of its class.
        fields: of the module, given where its class has them and the user left them open.
    """
    kind = module_class(layer)
    if kind is None:
        return layer
    name = kind.__name__ + suffix
    if isinstance(layer, nn.Module):
        return layer.copy(name=name)
    known = [field.name for field in dataclasses.fields(kind)]
    bound = {*layer.keywords, *known[: len(layer.args)]} if isinstance(layer, functools.partial) else set()
    return layer(name=name, **{key: value for key, value in fields.items() if key in known and key not in bound})


def apply_custom_layer(
    layer: CustomLayer,
    *inputs: Any,
    option: str,
    suffix: str,
    shape: tuple[int, ...],
    dtype: Any,
    train: bool | None = None,
    **fields: Any,
) -> Array:
    """Apply a custom layer within a compact method, and check that the model can go on with what it returns.

    Args:
        layer: a function, class, partial or module.
        inputs: what it is called with.
        option: name of the option that it was given for, for the error.
        suffix: of the module's name.
        shape: that its result has to have.
        dtype: of the result, whatever the layer computes in.
        train: handed on, as `train` or as Flax's `use_running_average`, to a layer that takes it.
        fields: of the module, as for `build`.

    Raises:
        ValueError: for a result of another shape.
    """
    made = build(layer, suffix, dtype=dtype, **fields)
    # Flax mixes its float32 statistics with inputs of other precision, which strict dtype promotion forbids.
    with jax.numpy_dtype_promotion("standard") if isinstance(made, nn.Module) else contextlib.nullcontext():
        y = made(*inputs, **({} if train is None else _mode(made, train)))
    if jnp.shape(y) != shape:
        raise ValueError(
            f"{option}=...: expected a layer that returns shape {shape} here, got {jnp.shape(y)} from {layer!r}. "
            "Likely cause: a reduction (softmax over one axis keeps the shape, a norm or a pooling does not), or a "
            "layer of another width. Fix: a function or module that keeps the shape"
        )
    return y.astype(dtype)


def _mode(layer: Callable[..., Any], train: bool) -> dict[str, bool]:
    """The argument that tells a layer whether the model is in training, if it takes one."""
    takes = inspect.signature(type(layer).__call__ if isinstance(layer, nn.Module) else layer).parameters
    if "train" in takes:
        return {"train": train}
    if "use_running_average" in takes and getattr(layer, "use_running_average", None) is None:
        return {"use_running_average": not train}
    return {}
