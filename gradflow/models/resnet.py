"""Residual networks in the form for small images (CIFAR), and the plain networks they are compared with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.nn.initializers import Initializer, zeros
from jaxtyping import Array, Float

from gradflow import activations, initializers
from gradflow.models.blocks import Block, Normalization, Operations, Residual, Shortcut
from gradflow.models.layers import activation_for_depth, as_floating, check_model

__all__ = ["STAGES", "ResNet"]

STAGES = (16, 32, 64)  # channels of the three stages, the last two at half the resolution of the one before


class ResNet(nn.Module):
    """Residual network of three stages of n blocks, depth 6n + 2 (bottleneck: 9n + 2), or its plain counterpart.

    A 3x3 convolution to 16 channels, stages of 16, 32 and 64 channels, the second and third starting with stride 2,
    mean over positions, a linear layer. Version 1 (He et al. 2016a): phi(x + f(x)), f = norm conv phi norm conv.
    Version 2 (He et al. 2016b): x + f(x), f = conv phi norm conv phi norm, and a last norm and phi before the mean.
    Where the shape changes, the shortcut is option "A", every second position with zeros for the new channels (no
    parameters), or "B", a 1x1 convolution.

    Without normalization there are three ways to keep a deep residual network trainable, by `residual`. "skipinit" (De
    & Smith 2020) and "rezero" (Bachlechner et al. 2020): x + alpha f(x), alpha learned, one a block, and 0 at first.
    "fixup" (Zhang, Dauphin & Ma 2019): the last convolution of each of the L branches and the linear layer are 0 at
    first, the other m - 1 convolutions of a branch are scaled by L^(-1 / (2m - 2)); branches have a learned factor, 1
    at first, and a learned number in place of each bias stands before every convolution, activation and linear layer.
    With or without normalization, "highway" (Srivastava et al. 2015; the exclusive gating of He et al. 2016b) is
    T(x) f(x) + (1 - T(x)) x with T = sigmoid of a 1x1 convolution, its bias `gate_bias` at first.

    Parameters are `Conv_stem`, `BatchNorm_stem`, `Block_i` (`Conv_j`, `BatchNorm_j`, `Conv_shortcut`,
    `BatchNorm_shortcut`, `Gate`, `residual_scale`, `shift_...`), `BatchNorm_head`, `Dense_head`. Convolutions have a
    bias only where nothing is normalized.

    A custom layer may stand for a name, as in `MLP`: a function, or a Flax Linen class, partial of
    one or module, of which every place gets its own.

    Attributes:
        depth: layers with weights, 6n + 2, or 9n + 2 with `bottleneck`.
        outputs: number of classes.
        residual: True for skip connections, False for the plain network; "skipinit", "rezero", "fixup" (with
            normalization=None only) or "highway"; or a custom layer (shortcut, branch) -> y that joins the two.
        version: 1, or 2 for pre-activation.
        shortcut: "A" or "B"; or a custom layer (x, channels, stride) -> shortcut, for the two blocks that change the
            shape (all first blocks of a stage, with `bottleneck`).
        normalization: "batch" (running averages in the collection `batch_stats`), None, or a custom layer y -> norm(y).
        gate_bias: for "highway": bias of the gates at first, the lower the deeper the network, usually -1 to -7.
        bottleneck: blocks of 1x1, 3x3 and 1x1 convolutions with four times the channels at their ends.
        activation: name, record or custom layer x -> phi(x); "tailored_leaky_relu" in the plain network only.
        channelwise_prelu: whether "prelu" learns one slope a channel rather than one a layer.
        initializer: of every kernel; name or function.
        batch_norm_momentum: of the running averages, per step.
        axis_name: mapped axis over which batch statistics are averaged too.
        remat: recompute blocks during the backward pass instead of storing their insides.
        dtype: of computation.
        param_dtype: of parameters.
    """

    depth: int = 20
    outputs: int = 10
    residual: Residual = True
    version: Literal[1, 2] = 1
    shortcut: Shortcut = "A"
    normalization: Normalization | None = "batch"
    gate_bias: float = -2.0
    bottleneck: bool = False
    activation: str | activations.Activation | Callable[[Array], Array] = "relu"
    channelwise_prelu: bool = True
    initializer: str | Initializer = "he_normal"
    batch_norm_momentum: float = 0.9
    axis_name: str | None = None
    remat: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        choices = {
            "residual": (True, False, "skipinit", "rezero", "fixup", "highway"),
            "version": (1, 2),
            "shortcut": ("A", "B"),
            "normalization": (None, "batch"),
        }
        if isinstance(self.activation, str) and self.activation in activations.FAMILIES and self.residual is not False:
            raise ValueError(
                f"ResNet(activation={self.activation!r}): expected residual=False: its slope is solved for layers one "
                "after the other, without skip connections. Fix: residual=False, or a record made for your own depth"
            )
        replaceable = ("residual", "shortcut", "normalization")
        check_model(self, ("depth", "outputs"), choices, replaceable=replaceable, depth=self.depth)
        period = 9 if self.bottleneck else 6
        if self.depth < period + 2 or (self.depth - 2) % period:
            below = max(1, (self.depth - 2) // period)
            raise ValueError(
                f"ResNet(depth=...): expected {period}n + 2, got {self.depth}. Fix: the nearest are "
                f"{period * below + 2} and {period * (below + 1) + 2}"
            )
        if self.residual == "fixup" and self.normalization is not None:
            raise ValueError(
                f"ResNet(residual='fixup'): expected no normalization, which fixup replaces, got "
                f"{self.normalization!r}. Fix: normalization=None"
            )
        super().__post_init__()

    @nn.compact
    def __call__(
        self, x: Float[Array | np.ndarray, "batch height width channels"], train: bool = False
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
        blocks_a_stage = (self.depth - 2) // (9 if self.bottleneck else 6)
        ops = self._operations(len(STAGES) * blocks_a_stage)
        x = ops.conv(x, STAGES[0], "Conv_stem")
        if self.version == 1:
            x = ops.activate(self, ops.norm(x, train, "_stem"), "_stem")
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        for index in range(ops.blocks):
            stage, position = divmod(index, blocks_a_stage)
            stride = 2 if stage > 0 and position == 0 else 1
            x = block(ops, STAGES[stage], stride, name=f"Block_{index}")(x, train)
        if self.version == 2:
            x = ops.activate(self, ops.norm(x, train, "_head"), "_head")
        return nn.Dense(
            self.outputs,
            kernel_init=zeros if self.residual == "fixup" else initializers.get(self.initializer),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="Dense_head",
        )(ops.shift(self, x.mean((1, 2)), "_head_dense"))

    def _operations(self, blocks: int) -> Operations:
        options = {f.name: getattr(self, f.name) for f in dataclasses.fields(Operations) if f.name != "blocks"}
        options["activation"] = activation_for_depth(self.activation, self.depth - 1)
        return Operations(blocks=blocks, **options)
