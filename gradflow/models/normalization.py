"""Normalization layers by name: batch normalization, and Flax's layer and RMS normalization."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.nn.initializers import ones, zeros
from jaxtyping import Array, Float

from gradflow import _lookup
from gradflow.models.custom_layers import CustomLayer, apply_custom_layer, module_class

__all__ = ["NORMALIZATIONS", "BatchNorm", "normalize"]


class BatchNorm(nn.Module):
    """Batch normalization: y = scale (x - mean) / sqrt(var + epsilon) + bias, mean and variance a channel.

    Ioffe & Szegedy 2015, algorithm 1. In training both are those of the batch, over all axes but the last; outside of
    it the running averages in the collection `batch_stats`, `mean` and `var`, which training moves by
    r <- momentum r + (1 - momentum) batch. The variance is that of the batch (divided by n), as in Flax, for the
    running average too. Parameters and state have Flax's names and shapes.

    Formed as y = a x + b with two numbers a channel, from the sums of x and x^2: one pass over x for the statistics,
    and one over x and the cotangent for the gradients. The variance is known to about 1e-7 (mean^2 + var) in float32.

    Attributes:
        momentum: of the running averages, per step.
        epsilon: added to the variance.
        axis_name: mapped axis over which the batch's statistics are averaged too.
        dtype: of the result; statistics are float32 at least.
        param_dtype: of scale and bias.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    axis_name: str | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch channels"], train: bool) -> Float[Array, "*batch channels"]:
        """Normalize.

        Args:
            x: values, channels on the last axis.
            train: use the batch's statistics and update the running ones.
        """
        channels = x.shape[-1:]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        scale = self.param("scale", ones, channels, self.param_dtype)
        bias = self.param("bias", zeros, channels, self.param_dtype)
        x = x.astype(jnp.float64 if x.dtype == jnp.float64 else jnp.float32)
        if train:
            mean, var = self._statistics(x)
            for running, new in ((running_mean, mean), (running_var, var)):
                if not self.is_initializing():
                    old = running.value
                    running.value = self.momentum * old + (1 - self.momentum) * new.astype(old.dtype)
        else:
            mean, var = running_mean.value.astype(x.dtype), running_var.value.astype(x.dtype)
        factor = scale.astype(x.dtype) * lax.rsqrt(var + self.epsilon)
        return (x * factor + (bias.astype(x.dtype) - mean * factor)).astype(self.dtype)

    def _statistics(self, x: Array) -> tuple[Array, Array]:
        """Mean and variance of the batch, never negative."""
        axes = tuple(range(x.ndim - 1))
        mean, square = x.mean(axes), (x * x).mean(axes)
        if self.axis_name is not None and not self.is_initializing():
            mean, square = lax.pmean((mean, square), self.axis_name)
        return mean, jnp.maximum(square - mean * mean, 0)


NORMALIZATIONS: dict[str, type[nn.Module]] = {
    "batch": BatchNorm,
    "layer": nn.LayerNorm,
    "rms": nn.RMSNorm,
}


def normalize(
    kind: str | CustomLayer,
    x: Array,
    train: bool,
    *,
    suffix: str,
    momentum: float,
    axis_name: str | None,
    dtype: Any,
    param_dtype: Any,
) -> Array:
    """Normalize inside a compact method, by a module of its class's name plus `suffix`, or by a function.

    Args:
        kind: a name in `NORMALIZATIONS`, a function, or a Linen class, partial of one or module.
        x: values, channels on the last axis.
        train: use the batch's statistics and update the running ones; for modules that have any.
        suffix: of the module's name.
        momentum: of the running averages; for modules that have any.
        axis_name: mapped axis to average over as well; for modules with running averages.
        dtype: of the result; statistics are float32 at least.
        param_dtype: of scale and offset.

    Raises:
        ValueError: for an unknown name, or a custom layer that does not keep the shape.
    """
    layer = _lookup.find("normalization", kind, NORMALIZATIONS) if isinstance(kind, str) else kind
    fields: dict[str, Any] = {"param_dtype": param_dtype}
    if hasattr(module_class(layer), "momentum"):  # an axis_name of other classes means the channels' axis
        fields |= {"momentum": momentum, "axis_name": axis_name}
    return apply_custom_layer(
        layer, x, option="normalization", suffix=suffix, shape=x.shape, dtype=dtype, train=train, **fields
    )
