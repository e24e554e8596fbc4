"""The pieces that models share: checks of inputs and options, learned activations, gates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax.nn import sigmoid
from jax.nn.initializers import Initializer, constant
from jaxtyping import Array, Float

from gradflow import activations, initializers, lookup


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
    name: str,
    channelwise: bool,
    param_dtype: Any,
) -> Array:
    """Apply an activation inside a compact method; one with a learned slope becomes a `PReLU` module.

    Args:
        activation: name, record or function.
        x: pre-activations.
        name: of the module, where there is one.
        channelwise: one slope a channel.
        param_dtype: of the slope.
    """
    fn = activations.get(activation) if isinstance(activation, str) else activation
    if isinstance(fn, activations.Activation) and fn.parameter is not None:
        return PReLU(channelwise, fn.parameter, param_dtype, name=name)(x)
    return fn(x)


def as_floating(x: Array, rank: int, layout: str, dtype: Any) -> Array:
    """Check an input and cast it to the dtype of computation.

    Args:
        x: input.
        rank: number of axes it has to have; at least that many for a negative number.
        layout: what the axes are, for the error.
        dtype: to cast to.

    Raises:
        TypeError: for an input that is not floating-point.
        ValueError: for the wrong number of axes.
    """
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
    return x.astype(dtype)


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
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ValueError(f"{owner}({name}=...): expected a whole number of at least 1, got {size!r}")


def check_model(model: Any, sizes: Sequence[str], choices: Mapping[str, Sequence[Any]]) -> None:
    """Check the options that feed-forward models have in common, before anything is traced.

    Args:
        model: has the attributes `activation` and `initializer`, perhaps `bias`, and those named below.
        sizes: options that are whole numbers of at least 1.
        choices: options that are one of a few values.

    Raises:
        ValueError: for a size that is none, or a value or name that is not known, with the nearest known one.
        TypeError: for an activation or initializer that is neither name nor function.
    """
    owner = type(model).__name__
    for name in sizes:
        check_size(owner, name, getattr(model, name))
    for name, known in choices.items():
        value = getattr(model, name)
        if not any(type(value) is type(one) and value == one for one in known):
            lookup.find(name, str(value), dict.fromkeys(map(str, known)))
            raise ValueError(f"{owner}({name}=...): got the text {value!r} for what is no text")
    initializers.get(model.initializer)
    bias_initializer(getattr(model, "bias", True))
    if isinstance(model.activation, str):
        activations.get(model.activation)
    elif not callable(model.activation):
        raise TypeError(
            f"{owner}(activation=...): expected the name of an activation or a function, got {model.activation!r}"
        )


def highway(carry: Array, transformed: Array, gate: Array) -> Array:
    """Highway layer: y = T f + (1 - T) x, with T = sigmoid(gate).

    Srivastava et al. 2015, "Highway Networks", equation 3.

    Args:
        carry: x, carried where the gate is closed.
        transformed: f, of the same shape.
        gate: pre-activation of T, of the same shape.
    """
    return carry + sigmoid(gate) * (transformed - carry)
