"""Deep multilayer perceptrons with any depth, activation, initialization, normalization and skip connections."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.nn.initializers import Initializer, constant, zeros
from jaxtyping import Array, Float

from gradflow import activations, initializers
from gradflow.models.custom_layers import CustomLayer, apply_custom_layer
from gradflow.models.layers import (
    activation_for_depth,
    apply_activation,
    as_floating,
    bias_initializer,
    check_model,
    highway,
)
from gradflow.models.normalization import NORMALIZATIONS, normalize

__all__ = ["MLP", "Normalization", "Residual"]

Normalization: TypeAlias = Literal["batch", "layer", "rms"] | CustomLayer
Residual: TypeAlias = Literal["plain", "rezero", "skipinit", "highway"] | CustomLayer


class MLP(nn.Module):
    """Multilayer perceptron: `depth` hidden layers of `width` units, then a linear output layer.

    A hidden layer is f(x) = phi(norm(W x + b)), or norm(phi(W x + b)) with `norm_position="post"`. With `residual`,
    every hidden layer but the first, which changes the width, becomes x + f(x), "plain", or x + alpha f(x), alpha
    learned and 0 at first: "rezero" (Bachlechner et al. 2020), "skipinit" (De & Smith 2020), which coincide where a
    branch is a single layer. "highway" (Srivastava et al. 2015) is T(x) f(x) + (1 - T(x)) x with a learned gate
    T(x) = sigmoid(W_T x + b_T), b_T negative at first, so that layers carry their input along.

    Parameters are `Dense_0` to `Dense_{depth}` (`kernel`, `bias`), with `BatchNorm_i`, `LayerNorm_i`, `RMSNorm_i`,
    `PReLU_i`, `Gate_i`, `residual_scale_i` beside them. With `scan`, the hidden layers after the first lie in `Hidden`,
    stacked along a leading axis of length depth - 1, and compile time does not depend on depth.

    Inputs of more than two axes, such as images, are flattened to (batch, features).

    A custom layer may stand for a name: a function, a Flax Linen class (or a `functools.partial` of
    one) or a Linen module. Every layer gets its own module, `{class name}_i`, built with this model's `dtype`,
    `param_dtype`, `batch_norm_momentum` and `axis_name` where it has such fields and leaves them open; it is told
    `train`, or Flax's `use_running_average`, if its call takes that. A function may itself make modules.

    Attributes:
        depth: number of hidden layers, at least 1.
        width: units of each.
        outputs: units of the output layer.
        activation: name in `gradflow.activations`, a record of it, or a custom layer x -> phi(x); "prelu" learns one
            slope a layer; "tailored_leaky_relu" is solved for this depth and wants weight variance 1, "lecun_normal".
        initializer: of every kernel; name in `gradflow.initializers`, or a function.
        normalization: None, "batch" (running averages in the collection `batch_stats`), "layer", "rms", or a custom
            layer y -> norm(y).
        norm_position: "pre", between contraction and activation, or "post", after the activation.
        residual: None, "plain", "rezero", "skipinit", "highway", or a custom layer (x, f(x)) -> y that joins the two.
        gate_bias: for "highway": b_T at first, the lower the deeper the network, usually -1 to -4.
        bias: whether layers have a bias, 0 at first; or the bias's initializer, as name or function.
        channelwise_prelu: whether "prelu" learns one slope a unit rather than one a layer.
        batch_norm_momentum: of the running averages, per step.
        axis_name: mapped axis over which batch statistics are averaged too.
        scan: write the hidden layers after the first as one `nn.scan`.
        remat: recompute hidden layers during the backward pass instead of storing their insides.
        dtype: of computation.
        param_dtype: of parameters.
    """

    depth: int
    width: int
    outputs: int
    activation: str | activations.Activation | Callable[[Array], Array] = "relu"
    initializer: str | Initializer = "he_normal"
    normalization: Normalization | None = None
    norm_position: Literal["pre", "post"] = "pre"
    residual: Residual | None = None
    gate_bias: float = -2.0
    bias: bool | str | Initializer = True
    channelwise_prelu: bool = False
    batch_norm_momentum: float = 0.9
    axis_name: str | None = None
    scan: bool = False
    remat: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        choices = {
            "normalization": (None, *NORMALIZATIONS),
            "norm_position": ("pre", "post"),
            "residual": (None, "plain", "rezero", "skipinit", "highway"),
        }
        replaceable = ("normalization", "residual")
        check_model(self, ("depth", "width", "outputs"), choices, replaceable=replaceable, depth=self.depth)
        super().__post_init__()

    @property
    def stacked(self) -> tuple[str, ...]:
        """Names of the submodules whose parameters hold many layers, stacked along their first axis."""
        return ("Hidden",) if self.scan and self.depth > 1 else ()

    @nn.compact
    def __call__(
        self, x: Float[Array | np.ndarray, "batch *features"], train: bool = False
    ) -> Float[Array, "batch outputs"]:
        """Map inputs to outputs (logits).

        Args:
            x: inputs, floating-point, at least two axes.
            train: whether batch normalization uses the batch's own statistics and updates the running averages, which
                then have to be mutable: `apply(..., mutable=["batch_stats"])`.

        Raises:
            TypeError: for inputs that are not floating-point.
            ValueError: for inputs without a batch axis.
        """
        x = as_floating(x, -2, "(batch, features...)", self.dtype)
        x = x.reshape(len(x), math.prod(x.shape[1:]))
        hidden = nn.remat(_hidden, static_argnums=(2, 3, 4, 5)) if self.remat else _hidden
        layer = self._layer()
        x = hidden(self, x, layer, train, "_0", False)
        if self.scan and self.depth > 1:
            x, _ = self._scanned()(layer, train, name="Hidden")(x, None)
        else:
            for index in range(1, self.depth):
                x = hidden(self, x, layer, train, f"_{index}", True)
        return _dense(layer, self.outputs, f"Dense_{self.depth}")(x)

    def _layer(self) -> _Layer:
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(_Layer)}
        return _Layer(**{**options, "activation": activation_for_depth(self.activation, self.depth)})

    def _scanned(self) -> Callable[..., nn.Module]:
        body = nn.remat(_ScannedHidden, prevent_cse=False) if self.remat else _ScannedHidden
        return nn.scan(
            body,
            variable_axes={"params": 0, "batch_stats": 0, "intermediates": 0},
            split_rngs={"params": True},
            length=self.depth - 1,
        )


@dataclasses.dataclass(frozen=True)
class _Layer:
    """What all hidden layers have in common: the options of `MLP` of the same names."""

    width: int
    activation: str | activations.Activation | Callable[[Array], Array]
    initializer: str | Initializer
    normalization: Normalization | None
    norm_position: Literal["pre", "post"]
    residual: Residual | None
    gate_bias: float
    bias: bool | str | Initializer
    channelwise_prelu: bool
    batch_norm_momentum: float
    axis_name: str | None
    dtype: Any
    param_dtype: Any


class _ScannedHidden(nn.Module):
    """Body of the scan over hidden layers."""

    layer: _Layer
    train: bool

    @nn.compact
    def __call__(self, x: Array, _: None) -> tuple[Array, None]:
        return _hidden(self, x, self.layer, self.train, "", True), None


def _hidden(module: nn.Module, x: Array, layer: _Layer, train: bool, suffix: str, inner: bool) -> Array:
    """One hidden layer within a compact method of `module`; `inner` if it may have a skip connection."""

    def norm(y: Array) -> Array:
        if layer.normalization is None:
            return y
        return normalize(
            layer.normalization,
            y,
            train,
            suffix=suffix,
            momentum=layer.batch_norm_momentum,
            axis_name=layer.axis_name,
            dtype=layer.dtype,
            param_dtype=layer.param_dtype,
        )

    def phi(y: Array) -> Array:
        return apply_activation(
            layer.activation,
            y,
            suffix=suffix,
            channelwise=layer.channelwise_prelu,
            param_dtype=layer.param_dtype,
        )

    y = _dense(layer, layer.width, "Dense" + suffix)(x)
    y = phi(norm(y)) if layer.norm_position == "pre" else norm(phi(y))
    if layer.residual is None or not inner:
        return y
    if callable(layer.residual):
        return apply_custom_layer(
            layer.residual,
            x,
            y,
            option="residual",
            suffix=suffix,
            shape=y.shape,
            dtype=y.dtype,
            param_dtype=layer.param_dtype,
        )
    if layer.residual == "highway":
        return highway(x, y, _dense(layer, layer.width, "Gate" + suffix, constant(layer.gate_bias))(x))
    if layer.residual != "plain":
        scale = module.param("residual_scale" + suffix, zeros, (), layer.param_dtype)
        y = scale.astype(y.dtype) * y
    return x + y


def _dense(layer: _Layer, units: int, name: str, bias: Initializer | None = None) -> nn.Dense:
    return nn.Dense(
        units,
        use_bias=bias is not None or layer.bias is not False,
        kernel_init=initializers.get(layer.initializer),
        bias_init=bias or bias_initializer(layer.bias),
        dtype=layer.dtype,
        param_dtype=layer.param_dtype,
        name=name,
    )
