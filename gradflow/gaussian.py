"""Expectations over one and over two correlated Gaussian pre-activations, by quadrature that respects kinks.

Gauss-Legendre panels cover ten standard deviations. Panels break where the activation has a kink, and lie close where
it bends (pre-activations of order 1), so that an integrand is smooth within each. In float64 the ReLU family is exact
to rounding, every named activation to 1e-6 for variances up to 1e4. Everything is jittable and differentiable, in the
dtype of the variances given.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

__all__ = ["Function", "Moments", "Scalar", "expectation", "on_host", "pair_expectation"]

Function = Callable[[Array], Array]
Scalar = Float[Array, ""] | float

_REACH = 10.0  # standard deviations; the mass beyond is 1.5e-23
_ORDER = 8
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(_ORDER)
_OF_DENSITY = np.array(
    [-10.0, -7.0, -5.0, -3.5, -2.0, -1.0, 0.0, 1.0, 2.0, 3.5, 5.0, 7.0, 10.0]
)  # in standard deviations
_OF_ACTIVATION = np.array([-16.0, -8.0, -4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0, 8.0, 16.0])  # in pre-activations
_LAYER = np.array([-8.0, -4.0, -1.5, 0.0, 1.5, 4.0, 8.0])  # around a kink smoothed by the inner integral, in its widths


class Moments(NamedTuple):
    """Averages over z ~ N(0, q).

    Attributes:
        mean: E[phi(z)].
        square: E[phi(z)^2].
        slope: E[phi'(z)], which is also E[z phi(z)] / q.
        slope_square: E[phi'(z)^2].
    """

    mean: Scalar
    square: Scalar
    slope: Scalar
    slope_square: Scalar

    @property
    def variance(self) -> Scalar:
        """Var[phi(z)]."""
        return self.square - self.mean**2


def expectation(fn: Function, variance: Scalar = 1.0, *, kinks: Sequence[float] = ()) -> Float[Array, "*values"]:
    """E[fn(z)] over z ~ N(0, variance).

    Args:
        fn: function of an array of z, shape (n,), to values with n on the last axis.
        variance: q, scalar, not negative. Its dtype is that of the computation.
        kinks: values of z where fn or its first derivative jumps.

    Returns:
        The expectation: shape of fn's values, less the last axis.

    Examples:
        >>> round(float(expectation(lambda z: jnp.maximum(z, 0) ** 2, 3.0, kinks=[0.0])), 5)
        1.5
    """
    deviation = _deviation(variance)
    marks = jnp.asarray(np.concatenate([_OF_ACTIVATION, np.asarray(kinks, np.float64)]), deviation.dtype)
    x, weights = _quadrature(marks / deviation)
    return jnp.sum(fn(deviation * x) * weights, axis=-1)


def pair_expectation(
    fn: Function,
    correlation: Scalar,
    variances: tuple[Scalar, Scalar] = (1.0, 1.0),
    *,
    kinks: Sequence[float] = (),
) -> Float[Array, "*values"]:
    """E[fn(z_1) fn(z_2)] over jointly Gaussian z_1, z_2 of mean 0, given variances and correlation.

    With z_1 = s_1 x and z_2 = s_2 (c x + sqrt(1 - c^2) y), the integral over y, whose panels break at the kinks of
    fn(z_2), is done within that over x. Its derivative by c is s_1 s_2 E[fn'(z_1) fn'(z_2)] (Price 1958).

    Args:
        fn: elementwise function.
        correlation: c, scalar, in [-1, 1].
        variances: of z_1 and of z_2, not negative.
        kinks: values where fn or its first derivative jumps.

    Examples:
        >>> round(float(pair_expectation(lambda z: z, 0.3, (4.0, 1.0))), 5)
        0.6
    """
    first, second = _deviation(variances[0]), _deviation(variances[1])
    return _pair(fn, tuple(kinks), jnp.asarray(correlation, first.dtype), first, second)


def on_host(name: str, fn: Callable[..., Array]) -> Callable[..., Any]:
    """Compile fn for doubles, whatever the user's precision and also while something else is being traced.

    Args:
        name: of the activation, for the error.
        fn: function of scalars to a scalar or a vector.

    Returns:
        Function of floats to a float or a tuple of floats.

    Raises:
        ArithmeticError: by the function returned, where a value is not finite.
    """
    compiled = jax.jit(fn)

    def call(*arguments: Any) -> Any:
        with (
            jax.ensure_compile_time_eval(),
            jax.enable_x64(True),
            jax.numpy_dtype_promotion("standard"),
            jax.debug_nans(False),  # the error below says more
        ):
            values = np.asarray(compiled(*(jnp.asarray(x, jnp.float64) for x in arguments)))
        if not np.isfinite(values).all():
            raise ArithmeticError(
                f"the Gaussian averages of {name} at q = {arguments[-1]:g} are not finite. Likely cause: an activation "
                "that overflows or is not defined everywhere, or a variance that explodes. Fix: a smaller weight "
                "variance"
            )
        return tuple(values.tolist()) if values.ndim else float(values)

    return call


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _pair(fn: Function, kinks: tuple[float, ...], correlation: Array, first: Array, second: Array) -> Array:
    """Integrate over both variables; `first` and `second` are their standard deviations."""
    c = jnp.clip(correlation, -1, 1)
    along = jnp.where(jnp.abs(c) < 1e-6, 1e-6, c)  # only to place panels
    inner_width = jnp.sqrt(jnp.maximum(1 - c**2, 4 * jnp.finfo(c.dtype).eps ** 2))
    marks = jnp.asarray(np.concatenate([_OF_ACTIVATION, np.asarray(kinks, np.float64)]), c.dtype)
    corners = jnp.asarray(np.array([0.0, *kinks]), c.dtype) / second
    layers = (corners[:, None] + inner_width * jnp.asarray(_LAYER, c.dtype)) / along
    x, weights = _quadrature(jnp.concatenate([marks / first, marks / second / along, layers.ravel()]))
    y, inner_weights = jax.vmap(lambda centre: _quadrature((marks / second - c * centre) / inner_width))(x)
    inner = jnp.sum(fn(second * (c * x[:, None] + inner_width * y)) * inner_weights, axis=1)
    return jnp.sum(fn(first * x) * inner * weights)


@_pair.defjvp
def _pair_jvp(
    fn: Function, kinks: tuple[float, ...], primals: tuple[Array, ...], tangents: tuple[Array, ...]
) -> tuple[Array, Array]:
    """Differentiate the quadrature; at |c| = 1, where sqrt(1 - c^2) has no slope, by Price's theorem."""
    c, first, second = primals

    def slope(z: Array) -> Array:
        return jax.jvp(fn, (z,), (jnp.ones_like(z),))[1]

    inside, nothing = jnp.abs(c) < 1, jnp.zeros_like(c)
    quadrature = functools.partial(_pair.fun, fn, kinks)
    value, change = jax.jvp(quadrature, primals, (jnp.where(inside, tangents[0], nothing), *tangents[1:]))
    by_price = first * second * _pair(slope, kinks, c, first, second) * tangents[0]
    return value, change + jnp.where(inside, nothing, by_price)


def _deviation(variance: Scalar) -> Float[Array, ""]:
    """Square root that stays away from 0, where it has no derivative and panels no place."""
    q = jnp.asarray(variance)
    if not jnp.issubdtype(q.dtype, jnp.floating):
        q = q.astype(jnp.result_type(float))
    return jnp.sqrt(jnp.maximum(q, 1e-30))


def _quadrature(breaks: Float[Array, " breaks"]) -> tuple[Float[Array, " nodes"], Float[Array, " nodes"]]:
    """Nodes and weights for a standard normal variable, on panels between these breaks and those of the density."""
    dtype = breaks.dtype
    edges = jnp.sort(jnp.concatenate([jnp.asarray(_OF_DENSITY, dtype), jnp.clip(breaks, -_REACH, _REACH)]))
    centres, halves = (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 2
    x = (centres[:, None] + halves[:, None] * jnp.asarray(_NODES, dtype)).ravel()
    density = jnp.exp(-(x**2) / 2) / np.asarray(np.sqrt(2 * np.pi), dtype)
    return x, (halves[:, None] * jnp.asarray(_WEIGHTS, dtype)).ravel() * density
