"""Vanilla convolutional networks of any depth: no skip connections, no normalization."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jax.nn.initializers import Initializer
from jaxtyping import Array, Float

from gradflow import activations, initializers
from gradflow.models.convolution import conv, flax_conv
from gradflow.models.custom_layers import module_class
from gradflow.models.layers import (
    activation_for_depth,
    apply_activation,
    as_floating,
    bias_initializer,
    check_model,
    check_size,
)

__all__ = ["CNN"]

_WINDOW = 3


class CNN(nn.Module):
    """Stack of `depth` 3x3 convolutions of `channels`, each phi(W * x + b), mean over positions, a linear layer.

    The network that Xiao et al. 2018 train at 10,000 layers, "Dynamical Isometry and a Mean Field Theory of CNNs":
    tanh, positions that wrap around ("CIRCULAR"), and kernels that are orthogonal matrices at the window's centre and
    0 around it, so that at first every layer turns channels and moves nothing. For other activations take kernel and
    bias from `gradflow.initializers.critical(phi, bias_variance, kernel="delta_orthogonal")`.

    The first `halvings` convolutions have stride 2. Parameters are `Conv_0` to `Conv_{depth - 1}` and `Dense_head`
    (`kernel`, `bias`). With `scan`, the convolutions that keep the shape, all but the first max(1, halvings), lie in
    `Hidden/Conv`, stacked along a leading axis, and compile time does not depend on depth.

    Attributes:
        depth: number of convolutions.
        channels: of each of them.
        outputs: units of the linear layer.
        activation: name in `gradflow.activations`, a record of it, or an elementwise function; none with a learned
            slope or other parameters. "tailored_leaky_relu" is solved for this depth.
        initializer: of every kernel; name in `gradflow.initializers`, or a function. "delta_orthogonal" needs at least
            as many channels as the images have.
        head_initializer: of the linear layer's kernel.
        bias: whether convolutions have a bias, 0 at first; or its initializer, as name or function.
        padding: "CIRCULAR", as in the theory, or "SAME" for zeros.
        halvings: number of convolutions of stride 2 at the start.
        scan: write the convolutions that keep the shape as one loop.
        remat: what the backward pass computes again instead of storing it: False, nothing; True, the inside of each
            layer; "segments", with `scan` only, all but the inputs of about sqrt(depth) runs of as many layers (Chen et
            al. 2016, "Training Deep Nets with Sublinear Memory Cost"), for one more forward pass.
        dtype: of computation.
        param_dtype: of parameters.
    """

    depth: int
    channels: int
    outputs: int
    activation: str | activations.Activation | Callable[[Array], Array] = "tanh"
    initializer: str | Initializer = "delta_orthogonal"
    head_initializer: str | Initializer = "lecun_normal"
    bias: bool | str | Initializer = True
    padding: Literal["CIRCULAR", "SAME"] = "CIRCULAR"
    halvings: int = 0
    scan: bool = False
    remat: bool | Literal["segments"] = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        choices = {"padding": ("CIRCULAR", "SAME"), "remat": (False, True, "segments")}
        check_model(self, ("depth", "channels", "outputs"), choices, depth=self.depth)
        initializers.get(self.head_initializer)
        if self.halvings != 0:
            check_size("CNN", "halvings", self.halvings)
        if self.halvings > self.depth:
            raise ValueError(
                f"CNN(halvings=...): expected at most depth = {self.depth}, got {self.halvings}. Likely cause: more "
                "halvings than convolutions. Fix: fewer, or a larger depth"
            )
        if self.remat == "segments" and not self.scan:
            raise ValueError("CNN(remat='segments'): runs of layers are those of a loop. Fix: scan=True")
        phi = activation_for_depth(self.activation, self.depth)
        phi = activations.get(phi) if isinstance(phi, str) else phi
        if module_class(phi) is not None or (isinstance(phi, activations.Activation) and phi.learnable):
            raise ValueError(
                f"CNN(activation=...): expected one without a learned slope or other parameters, got {phi!r}. "
                "Fix: 'leaky_relu', or the model ResNet(residual=False)"
            )
        super().__post_init__()

    @property
    def stacked(self) -> tuple[str, ...]:
        """Names of the submodules whose parameters hold many layers, stacked along their first axis."""
        return ("Hidden",) if self.scan and self.depth > max(1, self.halvings) else ()

    @nn.compact
    def __call__(
        self, x: Float[Array | np.ndarray, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch outputs"]:
        """Map images to logits.

        Args:
            x: images, floating-point.
            train: without effect, for every model takes it.

        Raises:
            TypeError: for images that are not floating-point.
            ValueError: for inputs that do not have four axes, or more channels than a delta-orthogonal kernel can take.
        """
        x = as_floating(x, 4, "(batch, height, width, channels)", self.dtype)
        if self.initializer == "delta_orthogonal" and x.shape[-1] > self.channels:
            raise ValueError(
                f"CNN(channels={self.channels}): images have {x.shape[-1]} channels, and a delta-orthogonal kernel "
                "needs as many outputs as inputs. Fix: more channels, or another initializer"
            )
        first = max(1, self.halvings)
        unrolled = first if self.scan else self.depth
        layer = nn.remat(_layer, static_argnums=(2, 3)) if self.remat is True else _layer
        for index in range(unrolled):
            x = layer(self, x, index, 2 if index < self.halvings else 1)
        if unrolled < self.depth:
            x = _Hidden(self._options(), self.depth - unrolled, name="Hidden")(x)
        return nn.Dense(
            self.outputs,
            kernel_init=initializers.get(self.head_initializer),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="Dense_head",
        )(x.mean((1, 2)))

    def _options(self) -> _Options:
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(_Options)}
        return _Options(**{**options, "activation": activation_for_depth(self.activation, self.depth)})


@dataclasses.dataclass(frozen=True)
class _Options:
    """What the convolutions of a loop need: the options of `CNN` of the same names."""

    channels: int
    activation: str | activations.Activation | Callable[[Array], Array]
    initializer: str | Initializer
    bias: bool | str | Initializer
    padding: Literal["CIRCULAR", "SAME"]
    remat: bool | Literal["segments"]
    dtype: Any
    param_dtype: Any


def _layer(model: CNN, x: Array, index: int, stride: int) -> Array:
    """One convolution and activation within the compact method of `model`."""
    y = nn.Conv(
        model.channels,
        (_WINDOW, _WINDOW),
        strides=stride,
        padding="CIRCULAR" if model.padding == "CIRCULAR" else _WINDOW // 2,
        use_bias=model.bias is not False,
        kernel_init=initializers.get(model.initializer),
        bias_init=bias_initializer(model.bias),
        conv_general_dilated=flax_conv,
        dtype=model.dtype,
        param_dtype=model.param_dtype,
        name=f"Conv_{index}",
    )(x)
    phi = activation_for_depth(model.activation, model.depth)
    return apply_activation(phi, y, suffix="", channelwise=False, param_dtype=model.param_dtype)


class _Hidden(nn.Module):
    """Convolutions of equal shape, one after the other in a loop; their parameters are stacked in `Conv`."""

    options: _Options
    layers: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        options = self.options
        stacked = self.param("Conv", self._draw)
        stacked = jax.tree.map(lambda leaf: leaf.astype(options.dtype), stacked)

        def layer(x: Array, params: dict[str, Array]) -> tuple[Array, None]:
            y = _same_shape(x, params["kernel"], options.padding)
            if "bias" in params:
                y = y + params["bias"]
            return apply_activation(
                options.activation, y, suffix="", channelwise=False, param_dtype=options.param_dtype
            ), None

        if options.remat == "segments":
            return _in_segments(layer, x, stacked, self.layers)
        return lax.scan(jax.checkpoint(layer, prevent_cse=False) if options.remat else layer, x, stacked)[0]

    def _draw(self, key: Array) -> dict[str, Array]:
        """Parameters of all layers, each with a key of its own."""
        options, window = self.options, (_WINDOW, _WINDOW)
        kernel_init, bias_init = initializers.get(options.initializer), bias_initializer(options.bias)

        def one(key: Array) -> dict[str, Array]:
            kernel_key, bias_key = jax.random.split(key)
            shape = (*window, options.channels, options.channels)
            params = {"kernel": kernel_init(kernel_key, shape, options.param_dtype)}
            if options.bias is not False:
                params["bias"] = bias_init(bias_key, (options.channels,), options.param_dtype)
            return params

        return jax.vmap(one)(jax.random.split(key, self.layers))


def _same_shape(x: Array, kernel: Array, padding: str) -> Array:
    """Convolve with as much padding as keeps positions where they are."""
    side = _WINDOW // 2
    if padding == "CIRCULAR":
        x = jnp.pad(x, ((0, 0), (side, side), (side, side), (0, 0)), mode="wrap")
        return conv(x, kernel, padding="VALID")
    return conv(x, kernel, padding=((side, side), (side, side)))


def _in_segments(layer: Callable[..., Any], x: Array, stacked: Any, layers: int) -> Array:
    """Scan over runs of layers whose inputs alone are stored; layers left over make one more, shorter run."""
    length = math.isqrt(layers)
    runs = layers // length

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def run(x: Array, params: Any) -> tuple[Array, None]:
        return lax.scan(layer, x, params)[0], None

    whole = jax.tree.map(lambda leaf: leaf[: runs * length].reshape(runs, length, *leaf.shape[1:]), stacked)
    x, _ = lax.scan(run, x, whole)
    if runs * length < layers:
        x, _ = run(x, jax.tree.map(lambda leaf: leaf[runs * length :], stacked))
    return x
