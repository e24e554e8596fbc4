"""Residual networks in the form for small images (CIFAR), and the plain networks they are compared with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
from flax import linen as nn
from jax.nn.initializers import Initializer, zeros
from jaxtyping import Array, Float

from gradflow import activations, initializers, lookup
from gradflow.models.layers import apply_activation, as_floating, check_size
from gradflow.models.normalization import normalize

STAGES = (16, 32, 64)  # channels of the three stages, the last two at half the resolution of the one before
_EXPANSION = 4  # output channels of a bottleneck block over those of its 3x3 convolution


class ResNet(nn.Module):
    """Residual network of three stages of n blocks, depth 6n + 2 (bottleneck: 9n + 2), or its plain counterpart.

    A 3x3 convolution to 16 channels, stages of 16, 32 and 64 channels, the second and third starting with stride 2,
    mean over positions, a linear layer. Version 1 (He et al. 2016a): phi(x + f(x)), f = norm conv phi norm conv.
    Version 2 (He et al. 2016b): x + f(x), f = conv phi norm conv phi norm, and a last norm and phi before the mean.
    Where the shape changes, the shortcut is option "A", every second position with zeros for the new channels (no
    parameters), or "B", a 1x1 convolution.

    Parameters are `Conv_stem`, `BatchNorm_stem`, `Block_i` (`Conv_j`, `BatchNorm_j`, `Conv_shortcut`,
    `BatchNorm_shortcut`, `residual_scale`), `BatchNorm_head`, `Dense_head`. Convolutions have a bias only where nothing
    is normalized.

    Attributes:
        depth: layers with weights, 6n + 2, or 9n + 2 with `bottleneck`.
        outputs: number of classes.
        residual: True for skip connections, False for the plain network; "skipinit" (De & Smith 2020) or "rezero"
            (Bachlechner et al. 2020) for x + alpha f(x), alpha learned, one a block, and 0 at first.
        version: 1, or 2 for pre-activation.
        shortcut: "A" or "B".
        normalization: "batch" (running averages in the collection `batch_stats`) or None.
        bottleneck: blocks of 1x1, 3x3 and 1x1 convolutions with four times the channels at their ends.
        activation: name, record or elementwise function.
        initializer: of every kernel; name or function.
        batch_norm_momentum: of the running averages, per step.
        axis_name: mapped axis over which batch statistics are averaged too.
        remat: recompute blocks during the backward pass instead of storing their insides.
        dtype: of computation.
        param_dtype: of parameters.
    """

    depth: int = 20
    outputs: int = 10
    residual: bool | Literal["skipinit", "rezero"] = True
    version: Literal[1, 2] = 1
    shortcut: Literal["A", "B"] = "A"
    normalization: Literal["batch"] | None = "batch"
    bottleneck: bool = False
    activation: str | activations.Activation | Callable[[Array], Array] = "relu"
    initializer: str | Initializer = "he_normal"
    batch_norm_momentum: float = 0.9
    axis_name: str | None = None
    remat: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        check_size("ResNet", "outputs", self.outputs)
        check_size("ResNet", "depth", self.depth)
        period = 9 if self.bottleneck else 6
        if self.depth < period + 2 or (self.depth - 2) % period:
            below = max(1, (self.depth - 2) // period)
            raise ValueError(
                f"ResNet(depth=...): expected {period}n + 2, got {self.depth}; the nearest are "
                f"{period * below + 2} and {period * (below + 1) + 2}"
            )
        if not isinstance(self.residual, bool):
            lookup.find("residual", str(self.residual), dict.fromkeys(("skipinit", "rezero")))
        if self.version not in (1, 2):
            raise ValueError(f"ResNet(version=...): expected 1 or 2 (pre-activation), got {self.version!r}")
        lookup.find("shortcut", self.shortcut, dict.fromkeys("AB"))
        if self.normalization is not None:
            lookup.find("normalization", self.normalization, {"batch": None})
        initializers.get(self.initializer)
        if isinstance(self.activation, str):
            activations.get(self.activation)
        super().__post_init__()

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch outputs"]:
        """Map images to logits.

        Args:
            x: images, floating-point.
            train: whether batch normalization uses the batch's own statistics and updates the running averages, which
                then have to be mutable: `apply(..., mutable=["batch_stats"])`.

        Raises:
            TypeError: for images that are not floating-point.
            ValueError: for inputs that do not have four axes.
        """
        x = as_floating(x, 4, "(batch, height, width, channels)", self.dtype)
        ops = _Operations(**{field.name: getattr(self, field.name) for field in dataclasses.fields(_Operations)})
        x = ops.conv(x, STAGES[0], "Conv_stem")
        if self.version == 1:
            x = ops.activate(ops.norm(x, train, "_stem"), "_stem")
        block = nn.remat(_Block, static_argnums=(2,)) if self.remat else _Block
        blocks_a_stage = (self.depth - 2) // (9 if self.bottleneck else 6)
        for index in range(len(STAGES) * blocks_a_stage):
            stage, position = divmod(index, blocks_a_stage)
            stride = 2 if stage > 0 and position == 0 else 1
            x = block(ops, STAGES[stage], stride, name=f"Block_{index}")(x, train)
        if self.version == 2:
            x = ops.activate(ops.norm(x, train, "_head"), "_head")
        return nn.Dense(
            self.outputs,
            kernel_init=initializers.get(self.initializer),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="Dense_head",
        )(x.mean((1, 2)))


@dataclasses.dataclass(frozen=True)
class _Operations:
    """What blocks are made of: the options of `ResNet` of the same names, and how they are applied."""

    residual: bool | Literal["skipinit", "rezero"]
    version: Literal[1, 2]
    shortcut: Literal["A", "B"]
    normalization: Literal["batch"] | None
    bottleneck: bool
    activation: str | activations.Activation | Callable[[Array], Array]
    initializer: str | Initializer
    batch_norm_momentum: float
    axis_name: str | None
    dtype: Any
    param_dtype: Any

    def conv(self, x: Array, channels: int, name: str, stride: int = 1, window: int = 3) -> Array:
        """Convolve with as much padding as keeps positions where they are: `window // 2` on every side."""
        return nn.Conv(
            channels,
            (window, window),
            strides=stride,
            padding=window // 2,
            use_bias=self.normalization is None,
            kernel_init=initializers.get(self.initializer),
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

    def activate(self, x: Array, suffix: str) -> Array:
        """Apply phi."""
        return apply_activation(
            self.activation, x, name="PReLU" + suffix, channelwise=True, param_dtype=self.param_dtype
        )

    def convolutions(self, channels: int, stride: int) -> list[tuple[int, int, int]]:
        """(channels, stride, window) of each convolution of a block."""
        if self.bottleneck:
            return [(channels, stride, 1), (channels, 1, 3), (_EXPANSION * channels, 1, 1)]
        return [(channels, stride, 3), (channels, 1, 3)]


class _Block(nn.Module):
    """One block: branch and shortcut."""

    ops: _Operations
    channels: int
    stride: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        return self._version_1(x, train) if self.ops.version == 1 else self._version_2(x, train)

    def _version_1(self, x: Array, train: bool) -> Array:
        ops, y = self.ops, x
        layers = ops.convolutions(self.channels, self.stride)
        for index, (channels, stride, window) in enumerate(layers):
            y = ops.conv(y, channels, f"Conv_{index}", stride, window)
            y = ops.norm(y, train, f"_{index}")
            if index < len(layers) - 1:
                y = ops.activate(y, f"_{index}")
        if ops.residual:
            y = self._shortcut(x, y, train) + self._scaled(y)
        return ops.activate(y, "_out")

    def _version_2(self, x: Array, train: bool) -> Array:
        ops, y = self.ops, x
        for index, (channels, stride, window) in enumerate(ops.convolutions(self.channels, self.stride)):
            y = ops.activate(ops.norm(y, train, f"_{index}"), f"_{index}")
            if index == 0:
                activated = y
            y = ops.conv(y, channels, f"Conv_{index}", stride, window)
        if not ops.residual:
            return y
        # A projection sees the activated input, as in the authors' code; the identity does not.
        source = activated if ops.shortcut == "B" and x.shape != y.shape else x
        return self._shortcut(source, y, train) + self._scaled(y)

    def _scaled(self, y: Array) -> Array:
        if self.ops.residual is True:
            return y
        return self.param("residual_scale", zeros, (), self.ops.param_dtype).astype(y.dtype) * y

    def _shortcut(self, x: Array, y: Array, train: bool) -> Array:
        """Bring x to the shape of y."""
        if x.shape == y.shape:
            return x
        if self.ops.shortcut == "A":
            more = y.shape[-1] - x.shape[-1]
            return jnp.pad(x[:, :: self.stride, :: self.stride], ((0, 0), (0, 0), (0, 0), (0, more)))
        projected = self.ops.conv(x, y.shape[-1], "Conv_shortcut", self.stride, 1)
        return self.ops.norm(projected, train, "_shortcut") if self.ops.version == 1 else projected
