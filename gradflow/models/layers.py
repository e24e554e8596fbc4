"""The pieces that models share: checks of inputs and options, learned activations, gates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.nn import sigmoid
from jax.nn.initializers import Initializer, constant
from jaxtyping import Array, Float

from gradflow import _lookup, activations, initializers
from gradflow.models.custom_layers import apply_custom_layer, check_custom_layer

__all__ = [
    "PReLU",
    "activation_for_depth",
    "apply_activation",
    "as_floating",
    "bias_initializer",
    "check_dtypes",
    "check_model",
    "check_size",
    "highway",
    "varying_as",
]


class PReLU(nn.Module):
    """Parametric ReLU: x where x >= 0, a x elsewhere, the slope a learned.

    He et al. 2015, "Delving Deep into Rectifiers", equation 1, where a is 0.25 at first. The slope is the parameter
    `negative_slope`; weight decay should leave it alone, for it pulls towards ReLU (section 2.1).

    Attributes:
        channelwise: one slope for each entry of the last axis, rather than one for all.
        initial_slope: a at the start.
        param_dtype: of the slope.
    """

    channelwise: bool = False
    initial_slope: float = 0.25
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Apply the activation.

        Args:
            x: pre-activations; channels, if they count, on the last axis.
        """
        shape = x.shape[-1:] if self.channelwise else ()
        slope = self.param("negative_slope", constant(self.initial_slope), shape, self.param_dtype)
        return activations.prelu(x, slope)


def apply_activation(
    activation: str | activations.Activation | Callable[[Array], Array],
    x: Array,
    *,
    suffix: str,
    channelwise: bool,
    param_dtype: Any,
) -> Array:
    """Apply an activation inside a compact method; one with a learned slope becomes a `PReLU` module.

    Args:
        activation: name, record, function, or a Linen class, partial of one or module.
        x: pre-activations.
        suffix: of the module's name, where there is one.
        channelwise: one slope a channel.
        param_dtype: of the slope.

    Raises:
        ValueError: for a function or module that does not keep the shape.
    """
    fn = activations.get(activation) if isinstance(activation, str) else activation
    if isinstance(fn, activations.Activation):
        if fn.parameter is None:
            return fn(x)
        return PReLU(channelwise, fn.parameter, param_dtype, name="PReLU" + suffix)(x)
    return apply_custom_layer(
        fn, x, option="activation", suffix=suffix, shape=x.shape, dtype=x.dtype, param_dtype=param_dtype
    )


def activation_for_depth(
    activation: str | activations.Activation | Callable[[Array], Array], depth: int
) -> str | activations.Activation | Callable[[Array], Array]:
    """Put the record that is solved for a depth in place of the name of a family of activations.

    Args:
        activation: name, record, function or module.
        depth: number of layers with this activation, one after the other.
    """
    if isinstance(activation, str) and activation in activations.FAMILIES:
        return activations.get(activation, depth=depth)
    return activation


def as_floating(x: Array | np.ndarray, rank: int, layout: str, dtype: Any) -> Array:
    """Check an input and cast it to the dtype of computation.

    Args:
        x: input.
        rank: number of axes it has to have; at least that many for a negative number.
        layout: what the axes are, for the error.
        dtype: to cast to.

    Raises:
        TypeError: for an input that is no array or not floating-point.
        ValueError: for the wrong number of axes.
    """
    if not hasattr(x, "dtype"):
        raise TypeError(f"expected an array of inputs, got a {type(x).__name__}. Fix: jnp.asarray(...)")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"expected floating-point inputs, got {x.dtype}. Likely cause: raw images or token numbers. Fix: normalize "
            "images to floats of mean 0 and variance 1; turn tokens into one-hot vectors"
        )
    if x.ndim != rank and not (rank < 0 and x.ndim >= -rank):
        raise ValueError(
            f"expected inputs of shape {layout}, got {x.shape}. Likely cause: a single example without its batch axis, "
            "or an axis of channels left out. Fix: x[None], or x[..., None]"
        )
    return jnp.asarray(x, dtype)


def bias_initializer(bias: bool | str | Initializer) -> Initializer:
    """Return the initializer that a `bias=` option stands for: zeros for True and False.

    Args:
        bias: the option.
    """
    return initializers.zeros() if isinstance(bias, bool) else initializers.get(bias)


def check_size(owner: str, name: str, size: Any) -> None:
    """Check that an option is a whole number of at least 1.

    Args:
        owner: name of the model.
        name: of the option.
        size: its value.

    Raises:
        ValueError: if it is not.
    """
    if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
        raise ValueError(f"{owner}({name}=...): expected a whole number of at least 1, got {size!r}")


def check_dtypes(model: Any) -> None:
    """Check that a model computes with, and stores, floating-point numbers.

    Args:
        model: has the attributes `dtype` and `param_dtype`.

    Raises:
        TypeError: for a dtype that is not floating-point.
    """
    for name in ("dtype", "param_dtype"):
        dtype = getattr(model, name)
        try:
            floating = dtype is not None and jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
        except TypeError:
            floating = False
        if not floating:
            raise TypeError(
                f"{type(model).__name__}({name}=...): expected a floating-point dtype like jnp.float32, got {dtype!r}"
            )


def check_model(
    model: Any,
    sizes: Sequence[str],
    choices: Mapping[str, Sequence[Any]],
    *,
    replaceable: Sequence[str] = (),
    depth: int = 1,
) -> None:
    """Check the options that feed-forward models have in common, before anything is traced.

    Args:
        model: has the attributes `activation`, `initializer`, `dtype`, `param_dtype`, perhaps `bias` and
            `batch_norm_momentum`, and those named below.
        sizes: options that are whole numbers of at least 1.
        choices: options that are one of a few values.
        replaceable: those of the choices in whose place a function or a Linen module may stand.
        depth: number of activations one after the other.

    Raises:
        ValueError: for a size that is none, or a value or name that is not known, with the nearest known one.
        TypeError: for an activation or initializer that is neither name nor function, or a dtype that is not floating.
    """
    owner = type(model).__name__
    for name in sizes:
        check_size(owner, name, getattr(model, name))
    for name, known in choices.items():
        value = getattr(model, name)
        if name in replaceable and callable(value):
            check_custom_layer(owner, name, value)
        elif not any(type(value) is type(one) and value == one for one in known):
            _lookup.find(name, str(value), dict.fromkeys(map(str, known)))
            raise ValueError(
                f"{owner}({name}=...): expected True, False or a number, got the text {value!r}. Fix: no quotes"
            )
    initializers.get(model.initializer)
    bias_initializer(getattr(model, "bias", True))
    momentum = getattr(model, "batch_norm_momentum", 0.9)
    if not 0 <= momentum < 1:
        raise ValueError(f"{owner}(batch_norm_momentum=...): expected a number from 0 to below 1, got {momentum!r}")
    check_dtypes(model)
    activation = activation_for_depth(model.activation, depth)
    if isinstance(activation, str):
        activations.get(activation)
    else:
        check_custom_layer(owner, "activation", activation)


def highway(carry: Array, transformed: Array, gate: Array) -> Array:
    """Highway layer: y = T f + (1 - T) x, with T = sigmoid(gate).

    Srivastava et al. 2015, "Highway Networks", equation 3.

    Args:
        carry: x, carried where the gate is closed.
        transformed: f, of the same shape.
        gate: pre-activation of T, of the same shape.
    """
    return carry + sigmoid(gate) * (transformed - carry)


def varying_as(tree: Any, x: Array) -> Any:
    """Return arrays with the type that x has inside `shard_map`, where a scan's carry must not change its type.

    Args:
        tree: of arrays, such as the states before the first step.
        x: what they are going to meet; outside of `shard_map` nothing happens.
    """
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return tree
    zero = x[:0].sum()  # that varies over devices as x does
    return jax.tree.map(lambda leaf: leaf + zero.astype(leaf.dtype), tree)
