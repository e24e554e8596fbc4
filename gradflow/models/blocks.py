"""Blocks of residual networks: branches, shortcuts, and how the two are joined."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import jax.numpy as jnp
from flax import linen as nn
from jax.nn.initializers import Initializer, constant, ones, zeros
from jaxtyping import Array

from gradflow import activations, initializers
from gradflow.models.convolution import flax_conv
from gradflow.models.custom_layers import CustomLayer, apply_custom_layer
from gradflow.models.layers import apply_activation, highway
from gradflow.models.normalization import normalize

__all__ = ["Block", "Normalization", "Operations", "Residual", "Shortcut"]

Residual: TypeAlias = bool | Literal["skipinit", "rezero", "fixup", "highway"] | CustomLayer
Shortcut: TypeAlias = Literal["A", "B"] | CustomLayer
Normalization: TypeAlias = Literal["batch"] | CustomLayer

_EXPANSION = 4  # output channels of a bottleneck block over those of its 3x3 convolution


@dataclasses.dataclass(frozen=True)
class Operations:
    """What blocks are made of: the options of `ResNet` of the same names, and how they are applied.

    Attributes:
        blocks: how many the network has.
    """

    blocks: int
    residual: Residual
    version: Literal[1, 2]
    shortcut: Shortcut
    normalization: Normalization | None
    gate_bias: float
    bottleneck: bool
    activation: str | activations.Activation | Callable[[Array], Array]
    channelwise_prelu: bool
    initializer: str | Initializer
    batch_norm_momentum: float
    axis_name: str | None
    dtype: Any
    param_dtype: Any

    def conv(
        self, x: Array, channels: int, name: str, stride: int = 1, window: int = 3, kernel: Initializer | None = None
    ) -> Array:
        """Convolve with as much padding as keeps positions where they are: `window // 2` on every side."""
        return nn.Conv(
            channels,
            (window, window),
            strides=stride,
            padding=window // 2,
            use_bias=self.normalization is None and self.residual != "fixup",
            kernel_init=kernel or initializers.get(self.initializer),
            conv_general_dilated=flax_conv,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=name,
        )(x)

    def norm(self, x: Array, train: bool, suffix: str) -> Array:
        """Normalize, or not."""
        if self.normalization is None:
            return x
        return normalize(
            self.normalization,
            x,
            train,
            suffix=suffix,
            momentum=self.batch_norm_momentum,
            axis_name=self.axis_name,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )

    def activate(self, module: nn.Module, x: Array, suffix: str) -> Array:
        """Apply phi, with fixup behind a shift."""
        x = self.shift(module, x, suffix)
        return apply_activation(
            self.activation, x, suffix=suffix, channelwise=self.channelwise_prelu, param_dtype=self.param_dtype
        )

    def shift(self, module: nn.Module, x: Array, suffix: str) -> Array:
        """Add the one number that fixup has in place of biases; without fixup nothing."""
        if self.residual != "fixup":
            return x
        return x + module.param("shift" + suffix, zeros, (), self.param_dtype).astype(x.dtype)

    def apply_custom(self, layer: CustomLayer, *inputs: Any, **how: Any) -> Array:
        """Apply a layer of the user's own: see `apply_custom_layer`."""
        return apply_custom_layer(layer, *inputs, **how, dtype=self.dtype, param_dtype=self.param_dtype)

    def convolutions(self, channels: int, stride: int) -> list[tuple[int, int, int, Initializer]]:
        """(channels, stride, window, initializer) of each convolution of a branch."""
        if self.bottleneck:
            layers = [(channels, stride, 1), (channels, 1, 3), (_EXPANSION * channels, 1, 1)]
        else:
            layers = [(channels, stride, 3), (channels, 1, 3)]
        kernel = initializers.get(self.initializer)
        if self.residual != "fixup":
            return [(*layer, kernel) for layer in layers]
        inner = _scaled(kernel, self.blocks ** (-1 / (2 * len(layers) - 2)))
        return [(*layer, inner) for layer in layers[:-1]] + [(*layers[-1], zeros)]


class Block(nn.Module):
    """One block: branch and shortcut.

    Attributes:
        ops: what it is made of.
        channels: of its 3x3 convolutions.
        stride: of the first convolution.
    """

    ops: Operations
    channels: int
    stride: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Apply the block.

        Args:
            x: (batch, height, width, channels).
            train: as for `ResNet`.
        """
        return self._version_1(x, train) if self.ops.version == 1 else self._version_2(x, train)

    def _version_1(self, x: Array, train: bool) -> Array:
        ops = self.ops
        layers = ops.convolutions(self.channels, self.stride)
        y = source = ops.shift(self, x, "_conv_0")
        for index, (channels, stride, window, kernel) in enumerate(layers):
            if index > 0:
                y = ops.shift(self, ops.activate(self, y, f"_{index - 1}"), f"_conv_{index}")
            y = ops.norm(ops.conv(y, channels, f"Conv_{index}", stride, window, kernel), train, f"_{index}")
        if ops.residual:
            y = self._joined(x, source, y, train)
        return ops.activate(self, y, "_out")

    def _version_2(self, x: Array, train: bool) -> Array:
        ops, y, source = self.ops, x, x
        for index, (channels, stride, window, kernel) in enumerate(ops.convolutions(self.channels, self.stride)):
            y = ops.activate(self, ops.norm(y, train, f"_{index}"), f"_{index}")
            y = ops.shift(self, y, f"_conv_{index}")
            if index == 0:
                source = y
            y = ops.conv(y, channels, f"Conv_{index}", stride, window, kernel)
        return self._joined(x, source, y, train) if ops.residual else y

    def _joined(self, x: Array, source: Array, y: Array, train: bool) -> Array:
        """Join the shortcut of x and the branch y; a projection sees what the branch's first convolution sees."""
        ops, skip = self.ops, self._shortcut(x, source, y, train)
        if ops.residual is True:
            return skip + y
        if callable(ops.residual):
            return ops.apply_custom(ops.residual, skip, y, option="residual", suffix="_join", shape=y.shape)
        if ops.residual == "highway":
            gate = nn.Conv(
                y.shape[-1],
                (1, 1),
                strides=self.stride,
                kernel_init=initializers.get(ops.initializer),
                bias_init=constant(ops.gate_bias),
                dtype=ops.dtype,
                param_dtype=ops.param_dtype,
                name="Gate",
            )(x)
            return highway(skip, y, gate)
        first = ones if ops.residual == "fixup" else zeros
        return skip + self.param("residual_scale", first, (), ops.param_dtype).astype(y.dtype) * y

    def _shortcut(self, x: Array, source: Array, y: Array, train: bool) -> Array:
        """Bring x to the shape of y."""
        ops = self.ops
        if x.shape == y.shape:
            return x
        if callable(ops.shortcut):
            channels = y.shape[-1]
            return ops.apply_custom(
                ops.shortcut, x, channels, self.stride, option="shortcut", suffix="_shortcut", shape=y.shape
            )
        if ops.shortcut == "A":
            more = y.shape[-1] - x.shape[-1]
            return jnp.pad(x[:, :: self.stride, :: self.stride], ((0, 0), (0, 0), (0, 0), (0, more)))
        projected = ops.conv(source, y.shape[-1], "Conv_shortcut", self.stride, 1)
        return ops.norm(projected, train, "_shortcut") if ops.version == 1 else projected


def _scaled(initializer: Initializer, factor: float) -> Initializer:
    def init(key: Array, shape: Sequence[int], dtype: Any = jnp.float32, out_sharding: Any = None) -> Array:
        placed = {} if out_sharding is None else {"out_sharding": out_sharding}
        kernel = initializer(key, shape, dtype, **placed)
        return kernel * jnp.asarray(factor, kernel.dtype)

    return init
