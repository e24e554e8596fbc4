"""Schemes of independent weights whose variance follows from the fans, and critical ones from mean-field theory."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
from jax.nn.initializers import Initializer
from jaxtyping import Array

from gradflow import _lookup, activations
from gradflow.initializers.layout import Layout
from gradflow.initializers.structured import delta_orthogonal, orthogonal
from gradflow.theory.mean_field.criticality import critical_weight_variance

__all__ = [
    "Critical",
    "Distribution",
    "Fan",
    "critical",
    "gaussian",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "lecun_normal",
    "scaled",
    "small_gaussian",
    "standard",
    "xavier_normal",
    "zeros",
]

Fan = Literal["fan_in", "fan_out", "fan_avg"]
Distribution = Literal["normal", "uniform"]


def scaled(weight_variance: float, fan: Fan, distribution: Distribution, **layout: Any) -> Initializer:
    """Independent weights of mean 0 and variance `weight_variance / fan`.

    Args:
        weight_variance: n Var[W], positive.
        fan: which n: "fan_in", "fan_out" or "fan_avg", their mean.
        distribution: "normal" (plain, untruncated) or "uniform".
        layout: of the kernel, fields of `Layout`: `groups`, `stacked`, `transposed`, `upsampling`, or axes.

    Raises:
        ValueError: for a weight variance that is not positive; when called, for a shape without fans.
    """
    if not weight_variance > 0:
        raise ValueError(
            f"expected a positive weight variance, got {weight_variance}. Fix: for zero weights use `zeros`"
        )
    _lookup.find("fan", fan, dict.fromkeys(("fan_in", "fan_out", "fan_avg")))
    own = Layout(**layout)
    plain = dataclasses.replace(own, groups=1, upsampling=1)  # what JAX counts

    def init(key: Array, shape: Sequence[int], dtype: Any = None, out_sharding: Any = None) -> Array:
        scale = weight_variance * getattr(plain.fans(shape), fan) / getattr(own.fans(shape), fan)
        draw = jax.nn.initializers.variance_scaling(scale, fan, distribution, **own.axes())
        return draw(key, shape, dtype, out_sharding)

    return init


def xavier_normal(**layout: Any) -> Initializer:
    """W ~ N(0, 1 / fan_avg), plain normal: a compromise between forward (1/fan_in) and backward (1/fan_out) variance.

    Glorot & Bengio 2010, equation 12, with a normal distribution.

    Args:
        layout: of the kernel, as in `scaled`.
    """
    return scaled(1.0, "fan_avg", "normal", **layout)


def glorot_uniform(**layout: Any) -> Initializer:
    """W ~ U(-a, a), a = sqrt(3 / fan_avg) = sqrt(6 / (fan_in + fan_out)), the "normalized initialization".

    Glorot & Bengio 2010, equation 16.

    Args:
        layout: of the kernel, as in `scaled`.
    """
    return scaled(1.0, "fan_avg", "uniform", **layout)


def standard(**layout: Any) -> Initializer:
    """W ~ U(-a, a), a = 1 / sqrt(fan_in): n Var[W] = 1/3, so the signal shrinks in every layer.

    This was common before 2010: Glorot & Bengio 2010, equation 1.

    Args:
        layout: of the kernel, as in `scaled`.
    """
    return scaled(1 / 3, "fan_in", "uniform", **layout)


def he_normal(
    negative_slope: float = 0.0, fan: Fan = "fan_in", *, activation: activations.Phi | None = None, **layout: Any
) -> Initializer:
    """W ~ N(0, gain^2 / fan_in), plain normal: keeps the signal's variance through an activation, at variance 1.

    He et al. 2015, equations 10 and 15: gain^2 = 2 / (1 + a^2) for a rectifier of negative slope a; for any other
    activation 1 / E[phi(z)^2] stands in (`Activation.gain`). `fan="fan_out"` is their backward form, equation 14, with
    1 / E[phi'(z)^2] (`Activation.backward_gain`; the same for rectifiers).

    Args:
        negative_slope: a; 0 for ReLU, 0.25 for PReLU at its start.
        fan: "fan_in", "fan_out" or "fan_avg" (which takes the forward gain).
        activation: name, record or function; instead of a slope.
        layout: of the kernel, as in `scaled`.

    Raises:
        ValueError: for both a slope and an activation, or an activation that lets nothing through.
    """
    return scaled(_squared_gain(negative_slope, activation, fan), fan, "normal", **layout)


def he_uniform(
    negative_slope: float = 0.0, fan: Fan = "fan_in", *, activation: activations.Phi | None = None, **layout: Any
) -> Initializer:
    """W ~ U(-b, b), b = sqrt(3 gain^2 / fan_in): the variance of `he_normal`.

    He et al. 2015, equations 10 and 15, with a uniform distribution.

    Args:
        negative_slope: a; 0 for ReLU, 0.25 for PReLU at its start.
        fan: "fan_in", "fan_out" or "fan_avg" (which takes the forward gain).
        activation: name, record or function; instead of a slope.
        layout: of the kernel, as in `scaled`.

    Raises:
        ValueError: for both a slope and an activation, or an activation that lets nothing through.
    """
    return scaled(_squared_gain(negative_slope, activation, fan), fan, "uniform", **layout)


def _squared_gain(negative_slope: float, activation: activations.Phi | None, fan: Fan) -> float:
    if activation is None:
        return 2 / (1 + negative_slope**2)
    if negative_slope:
        raise ValueError(
            f"expected a negative slope or an activation, got both ({negative_slope} and {activation!r}). Fix: for "
            "leaky rectifiers give the slope, else the activation"
        )
    record = activations.get(activation)
    return (record.backward_gain if fan == "fan_out" else record.gain) ** 2


def lecun_normal(**layout: Any) -> Initializer:
    """W ~ N(0, 1 / fan_in), plain normal: keeps the variance of a linear layer; the scheme of SELU.

    LeCun et al. 1998, "Efficient BackProp", section 4.6; Klambauer et al. 2017.

    Args:
        layout: of the kernel, as in `scaled`.
    """
    return scaled(1.0, "fan_in", "normal", **layout)


def gaussian(weight_variance: float = 1.0, **layout: Any) -> Initializer:
    """W ~ N(0, sigma_w^2 / fan_in), plain normal: the parametrization of mean-field theory.

    Poole et al. 2016; Schoenholz et al. 2017.

    Args:
        weight_variance: sigma_w^2, positive.
        layout: of the kernel, as in `scaled`.
    """
    return scaled(weight_variance, "fan_in", "normal", **layout)


def small_gaussian(std: float = 0.01) -> Initializer:
    """W ~ N(0, std^2), plain normal, whatever the fan.

    Krizhevsky et al. 2012 (std 0.01). As a bias initializer: N(0, sigma_b^2) with std = sigma_b.

    Args:
        std: standard deviation, not negative.

    Raises:
        ValueError: for a negative standard deviation.
    """
    if not std >= 0:
        raise ValueError(f"expected a standard deviation of at least 0, got {std}")
    return jax.nn.initializers.normal(std)


def zeros() -> Initializer:
    """W = 0: biases, and the last layer of a residual branch (Zhang et al. 2019)."""
    return jax.nn.initializers.zeros


class Critical(NamedTuple):
    """Initializers of a network at the edge of chaos.

    Attributes:
        kernel: of weights with sigma_w^2 / fan_in, or orthogonal with gain sigma_w.
        bias: N(0, sigma_b^2).
        weight_variance: sigma_w^2.
        bias_variance: sigma_b^2.
    """

    kernel: Initializer
    bias: Initializer
    weight_variance: float
    bias_variance: float


def critical(
    activation: activations.Phi,
    *,
    bias_variance: float = 0.0,
    kernel: Literal["gaussian", "orthogonal", "delta_orthogonal"] = "gaussian",
    **layout: Any,
) -> Critical:
    """Weights and biases for which sigma_w^2 E[phi'(z)^2] = 1 at the fixed point: gradients neither vanish nor explode.

    Poole et al. 2016; Schoenholz et al. 2017; orthogonal: Pennington et al. 2017; delta-orthogonal: Xiao et al. 2018.

    Args:
        activation: name, record or function.
        bias_variance: sigma_b^2; with 0, tanh-like activations sit at q* = 0.
        kernel: scheme of the weights.
        layout: as the scheme takes it: see `scaled`; for the orthogonal ones `stacked`.

    Raises:
        ValueError: where the activation has no critical point at this bias variance (ReLU with bias).

    Examples:
        >>> round(critical("relu").weight_variance, 6)
        2.0
    """
    sigma = critical_weight_variance(activation, bias_variance=bias_variance)
    schemes: dict[str, Callable[[], Initializer]] = {
        "gaussian": lambda: gaussian(sigma, **layout),
        "orthogonal": lambda: orthogonal(math.sqrt(sigma), **layout),
        "delta_orthogonal": lambda: delta_orthogonal(math.sqrt(sigma), **layout),
    }
    weights = _lookup.find("kernel scheme", kernel, schemes)()
    return Critical(weights, small_gaussian(math.sqrt(bias_variance)), sigma, bias_variance)
