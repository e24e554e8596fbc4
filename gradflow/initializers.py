"""Named initialization schemes, each with its reference; `jax.nn.initializers` underneath.

Each function returns an initializer in JAX's sense, `(key, shape, dtype) -> array`, that fits Flax, Haiku and bare JAX.

Normal distributions are plain here. Those of `jax.nn.initializers` (`he_normal`, `lecun_normal`, `glorot_normal`) are
truncated at two standard deviations and widened to the same variance: their second moment agrees with the schemes
below, their fourth does not, and theory of signal propagation assumes the plain ones.

`fan_in` and `fan_out` count what a unit sees and what it feeds: for a kernel `(*window, inputs, outputs)`, window size
times inputs and window size times outputs; `fan_avg` is their mean. Give `in_axis`, `out_axis` for other layouts
(transposed convolutions) and `batch_axis` for kernels stacked along an axis. In a grouped convolution, whose kernel is
`(*window, inputs / groups, outputs)`, fan_in is right as it is; fan_out counts the outputs of all groups.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer

from gradflow import lookup

Axes = int | Sequence[int]
Fan = Literal["fan_in", "fan_out", "fan_avg"]
Distribution = Literal["normal", "uniform"]


def scaled(
    weight_variance: float,
    fan: Fan,
    distribution: Distribution,
    *,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
) -> Initializer:
    """Independent weights of mean 0 and variance `weight_variance / fan`.

    Args:
        weight_variance: n Var[W], positive.
        fan: which n: "fan_in", "fan_out" or "fan_avg", their mean.
        distribution: "normal" (plain, untruncated) or "uniform".
        in_axis: axis or axes of the kernel that count inputs.
        out_axis: axis or axes that count outputs.
        batch_axis: axis or axes along which independent kernels are stacked.

    Raises:
        ValueError: for a weight variance that is not positive.
    """
    if not weight_variance > 0:
        raise ValueError(f"expected a positive weight variance, got {weight_variance}; for zero weights use `zeros`")
    return jax.nn.initializers.variance_scaling(
        weight_variance, fan, distribution, in_axis=in_axis, out_axis=out_axis, batch_axis=batch_axis
    )


def xavier_normal(**axes: Axes) -> Initializer:
    """W ~ N(0, 1 / fan_avg), plain normal: a compromise between forward (1/fan_in) and backward (1/fan_out) variance.

    Glorot & Bengio 2010, equation 12, with a normal distribution.

    Args:
        axes: `in_axis`, `out_axis`, `batch_axis`, as in `scaled`.
    """
    return scaled(1.0, "fan_avg", "normal", **axes)


def glorot_uniform(**axes: Axes) -> Initializer:
    """W ~ U(-a, a), a = sqrt(3 / fan_avg) = sqrt(6 / (fan_in + fan_out)), the "normalized initialization".

    Glorot & Bengio 2010, equation 16.

    Args:
        axes: `in_axis`, `out_axis`, `batch_axis`, as in `scaled`.
    """
    return scaled(1.0, "fan_avg", "uniform", **axes)


def standard(**axes: Axes) -> Initializer:
    """W ~ U(-a, a), a = 1 / sqrt(fan_in): n Var[W] = 1/3, so the signal shrinks in every layer.

    What was common before 2010: Glorot & Bengio 2010, equation 1.

    Args:
        axes: `in_axis`, `out_axis`, `batch_axis`, as in `scaled`.
    """
    return scaled(1 / 3, "fan_in", "uniform", **axes)


def he_normal(negative_slope: float = 0.0, fan: Fan = "fan_in", **axes: Axes) -> Initializer:
    """W ~ N(0, 2 / ((1 + a^2) fan_in)), plain normal: keeps E[z^2] through a rectifier of negative slope a.

    He et al. 2015, equations 10 and 15; `fan="fan_out"` is their backward form, equation 14.

    Args:
        negative_slope: a; 0 for ReLU, 0.25 for PReLU at its start.
        fan: "fan_in", "fan_out" or "fan_avg".
        axes: `in_axis`, `out_axis`, `batch_axis`, as in `scaled`.
    """
    return scaled(2 / (1 + negative_slope**2), fan, "normal", **axes)


def he_uniform(negative_slope: float = 0.0, fan: Fan = "fan_in", **axes: Axes) -> Initializer:
    """W ~ U(-b, b), b = sqrt(6 / ((1 + a^2) fan_in)): the variance of `he_normal`.

    He et al. 2015, equations 10 and 15, with a uniform distribution.

    Args:
        negative_slope: a; 0 for ReLU, 0.25 for PReLU at its start.
        fan: "fan_in", "fan_out" or "fan_avg".
        axes: `in_axis`, `out_axis`, `batch_axis`, as in `scaled`.
    """
    return scaled(2 / (1 + negative_slope**2), fan, "uniform", **axes)


def lecun_normal(**axes: Axes) -> Initializer:
    """W ~ N(0, 1 / fan_in), plain normal: keeps the variance of a linear layer; the scheme of SELU.

    LeCun et al. 1998, "Efficient BackProp", section 4.6; Klambauer et al. 2017.

    Args:
        axes: `in_axis`, `out_axis`, `batch_axis`, as in `scaled`.
    """
    return scaled(1.0, "fan_in", "normal", **axes)


def gaussian(weight_variance: float = 1.0, **axes: Axes) -> Initializer:
    """W ~ N(0, sigma_w^2 / fan_in), plain normal: the parametrization of mean-field theory.

    Poole et al. 2016; Schoenholz et al. 2017.

    Args:
        weight_variance: sigma_w^2, positive.
        axes: `in_axis`, `out_axis`, `batch_axis`, as in `scaled`.
    """
    return scaled(weight_variance, "fan_in", "normal", **axes)


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


def orthogonal(gain: float = 1.0) -> Initializer:
    """W = gain * Q, Q uniform over matrices with orthonormal columns (or rows, if there are fewer).

    Kernels of more than two axes are flattened to (everything else, outputs). Saxe et al. 2014.

    Args:
        gain: factor; all singular values of W equal it.
    """
    return _at_least_float32(jax.nn.initializers.orthogonal(gain))


def delta_orthogonal(gain: float = 1.0) -> Initializer:
    """Convolution kernel that is gain * Q at the window's centre and 0 elsewhere; needs outputs >= inputs.

    Xiao et al. 2018.

    Args:
        gain: factor.
    """
    return _at_least_float32(jax.nn.initializers.delta_orthogonal(gain))


def _at_least_float32(init: Initializer) -> Initializer:
    """Draw in float32 where the dtype is narrower, in which JAX has no QR factorization."""

    def wide(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32, out_sharding: Any = None) -> jax.Array:
        drawn = dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32
        return init(key, shape, drawn).astype(dtype)

    return wide


def scaled_identity(scale: float = 1.0) -> Initializer:
    """W = scale * I, for the recurrent matrix of an IRNN.

    Le et al. 2015.

    Args:
        scale: factor.

    Raises:
        ValueError: when called for a kernel that is not a square matrix.
    """

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32, out_sharding: Any = None) -> jax.Array:
        if len(shape) != 2 or shape[0] != shape[1]:
            raise ValueError(
                f"expected a square matrix, got shape {tuple(shape)}. Likely cause: the identity used for an input "
                "projection. Fix: use it for the recurrent kernel"
            )
        return scale * jnp.eye(shape[0], dtype=dtype)

    return init


def zeros() -> Initializer:
    """W = 0: biases, and the last layer of a residual branch (Zhang et al. 2019)."""
    return jax.nn.initializers.zeros


SCHEMES: dict[str, Callable[..., Initializer]] = {
    scheme.__name__: scheme
    for scheme in (
        xavier_normal,
        glorot_uniform,
        standard,
        he_normal,
        he_uniform,
        lecun_normal,
        gaussian,
        small_gaussian,
        orthogonal,
        delta_orthogonal,
        scaled_identity,
        zeros,
    )
}


def get(scheme: str | Initializer, **options: Any) -> Initializer:
    """Return an initializer by the name of its scheme; an initializer comes back as it is.

    Args:
        scheme: a name in `SCHEMES`, or a function `(key, shape, dtype) -> array`.
        options: arguments of the scheme, for a name only.

    Raises:
        ValueError: for an unknown name, with the nearest known one.
        TypeError: for anything that is neither name nor function, or options beside a function.

    Examples:
        >>> import jax
        >>> get("gaussian", weight_variance=1.5)(jax.random.key(0), (3, 2)).shape
        (3, 2)
    """
    if isinstance(scheme, str):
        return lookup.find("initializer", scheme, SCHEMES)(**options)
    if not callable(scheme):
        raise TypeError(f"expected the name of a scheme or a function (key, shape, dtype) -> array, got {scheme!r}")
    if scheme in SCHEMES.values():
        raise TypeError(
            f"expected an initializer, got the scheme {scheme.__name__} itself; "  # type: ignore[attr-defined]
            "call it first: he_normal()"
        )
    if options:
        raise TypeError(f"options {sorted(options)} belong to a scheme given by name; got a function")
    return scheme
