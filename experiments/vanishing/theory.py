"""What mean-field theory predicts for the arms of `vanishing`: the gradient over layers at initialization."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

import gradflow as gf
from experiments.vanishing.arms import Arm
from gradflow.theory import Moments


class Layer(NamedTuple):
    """One hidden layer.

    Attributes:
        slope: E[phi'^2] / s^2, s the scale that batch norm divides by (1 without).
        weight_variance: sigma_w^2.
        variance: of what the activation is applied to.
    """

    slope: float
    weight_variance: float
    variance: float


class Prediction(NamedTuple):
    """What theory says of one arm: rms of dL/dz relative to the last layer, and variance ahead of the activation."""

    profile: Float[np.ndarray, " depth"]
    variance: Float[np.ndarray, " depth"]


def predict(arm: Arm, depth: int, width: int, pixels: int, pixel_variance: float) -> Prediction:
    """Predict the rms of dL/dz by hidden layer, relative to the last one, at initialization.

    Forward, x_l = phi(z_l / s_l), z_l = W_l x_(l-1), plus x_(l-1) with a skip connection; z_l ~ N(0, q_l),
    q_l = sigma_w^2 E[x_(l-1)^2] over random weights (Poole et al. 2016). Batch norm sets s_l^2 to the
    variance of z_l over the batch, sigma_w^2 Var[x_(l-1)]; without it s_l = 1. A skip connection adds up
    means and variances of the branches (De & Smith 2020).

    Backward, with G_l the mean square of dL/dx_l: that of dL/dz_l is G_l E[phi'^2] / s_l^2, and G_(l-1) is
    sigma_w^2 G_l E[phi'^2] / s_l^2, plus G_l with a skip connection (Schoenholz et al. 2017; Yang et al. 2019
    for batch norm, of which the terms of order 1 / batch are left out here).

    So a plain network decays or grows exponentially; batch norm alone brings the rate to
    E[phi'^2] / Var[phi], near 1 for a sigmoid; both with ReLU grow by 1 + pi / ((pi - 1) l) at
    layer l, a power of depth.

    Args:
        arm: the network.
        depth: number of hidden layers.
        width: units of each.
        pixels: inputs of the first layer, normalized to mean square 1.
        pixel_variance: variance of a pixel over images, mean over pixels, after that normalization.

    Returns:
        The profile, 1 at the last layer, and the variances.
    """
    layers = _forward(arm, depth, _first_weight_variance(arm, width, pixels), pixel_variance)
    squared_gradient, squares = 1.0, []
    for number, layer in reversed(list(enumerate(layers))):
        squares.append(squared_gradient * layer.slope)
        skipped = 1.0 if arm.residual and number > 0 else 0.0
        squared_gradient *= layer.weight_variance * layer.slope + skipped
    profile = np.sqrt(squares[::-1])
    return Prediction(profile / profile[-1], np.array([layer.variance for layer in layers]))


def _forward(arm: Arm, depth: int, first_variance: float, pixel_variance: float) -> list[Layer]:
    """Follow mean and variance of the signal from layer to layer."""
    mean_square, variance = 1.0, pixel_variance
    mean, weight_variance = 0.0, first_variance
    layers = []
    for number in range(depth):
        if arm.batch_norm:
            scale_square, pre_activation = weight_variance * variance, 1.0
        else:
            scale_square, pre_activation = 1.0, weight_variance * mean_square
        branch_mean, branch_variance, slope_square = _moments(arm.activation, pre_activation)
        layers.append(Layer(slope_square / scale_square, weight_variance, pre_activation))
        if arm.residual and number > 0:
            mean, variance = mean + branch_mean, variance + branch_variance
        else:
            mean, variance = branch_mean, branch_variance
        mean_square = mean**2 + variance
        weight_variance = arm.weight_variance
    return layers


def _first_weight_variance(arm: Arm, width: int, pixels: int) -> float:
    """Variance n Var[W] of the first layer, whose fan_in is the number of pixels."""
    if arm.initializer in ("xavier_normal", "glorot_uniform"):
        return 2 * pixels / (pixels + width)
    return arm.weight_variance


def _moments(activation: str, variance: float) -> tuple[float, float, float]:
    """Return E[phi], Var[phi] and E[phi'^2] over z ~ N(0, variance)."""
    moments = _compiled_moments(activation)(variance)
    return float(moments.mean), float(moments.variance), float(moments.slope_square)


@functools.cache
def _compiled_moments(activation: str) -> Callable[[float], Moments]:
    return jax.jit(functools.partial(gf.theory.moments, activation))
