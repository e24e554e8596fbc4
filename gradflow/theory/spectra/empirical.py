"""Singular values of the Jacobian of any JAX function: all of a small one, the extreme ones and moments of a large one.

Works on a whole network, on one layer, or on any part that is a function of one array. `free_probability` predicts what
comes out for wide networks at initialization.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

__all__ = ["Function", "MomentEstimate", "extreme_singular_values", "singular_value_moments", "singular_values"]

Function = Callable[[Array], Array]

_SMALL = 64  # below this the Jacobian is formed, whatever is asked for


class MomentEstimate(NamedTuple):
    """Stochastic estimates of moments of the squared singular values s^2, each with its standard error.

    Attributes:
        mean: of s^2, over the inputs of the function.
        second: mean of s^4.
        mean_error: standard error of `mean`.
        second_error: standard error of `second`.
    """

    mean: Float[Array, ""]
    second: Float[Array, ""]
    mean_error: Float[Array, ""]
    second_error: Float[Array, ""]


def singular_values(fn: Function, x: Float[Array, "*input"]) -> Float[Array, " values"]:
    """All singular values of the Jacobian of fn at x, in descending order, from the Jacobian itself.

    Forms the matrix, of size(fn(x)) by size(x) entries. Pure and jittable; `jax.vmap` over x for a batch.

    Args:
        fn: function of one array to one array, of any shapes.
        x: where.

    Returns:
        min(size(x), size(fn(x))) values.

    Raises:
        TypeError: if x or fn(x) is not one floating-point array.

    Examples:
        >>> singular_values(lambda x: jnp.array([3.0, 4.0]) * x, jnp.ones(2)).tolist()
        [4.0, 3.0]
    """
    out = _checked(fn, x)
    # Forward mode costs one pass an input, reverse mode one an output.
    jacobian = (jax.jacfwd if x.size <= out.size else jax.jacrev)(fn)(x)
    return jnp.linalg.svd(jacobian.reshape(out.size, x.size), compute_uv=False)


def extreme_singular_values(
    fn: Function, x: Float[Array, "*input"], count: int = 1, *, smallest: bool = False, seed: int = 0
) -> Float[np.ndarray, " count"]:
    """The largest (or smallest) singular values of the Jacobian, in descending order, without forming it.

    Lanczos iterations (ARPACK, through SciPy) on Jacobian-vector and vector-Jacobian products, each one pass of fn, so
    that memory is that of a few copies of x. Runs on the host: not inside `jit`. The smallest converge slowly where
    they lie close together.

    Args:
        fn: function of one array to one array, of any shapes.
        x: where.
        count: how many.
        smallest: the other end of the spectrum.
        seed: of the vector that the iteration starts from.

    Returns:
        `count` values, to about the rounding of x's dtype.

    Raises:
        TypeError: if x or fn(x) is not one floating-point array.
        ValueError: for a count that the smaller side of the Jacobian does not have.
        ArithmeticError: if the iteration does not converge.

    Examples:
        >>> big = jnp.arange(1.0, 201.0)
        >>> extreme_singular_values(lambda x: big * x, jnp.ones(200), 2).round(2).tolist()
        [200.0, 199.0]
    """
    from scipy.sparse.linalg import ArpackError, LinearOperator, svds

    out = _checked(fn, x)
    sides = (math.prod(out.shape), x.size)
    if not 1 <= count <= min(sides):
        raise ValueError(f"expected a count between 1 and {min(sides)}, the Jacobian's smaller side, got {count}")
    if min(sides) <= _SMALL or count >= min(sides) - 1:
        values = np.asarray(jax.jit(lambda x: singular_values(fn, x))(x))
        return values[-count:] if smallest else values[:count]
    forward = jax.jit(lambda u: jax.jvp(fn, (x,), (u.reshape(x.shape),))[1].ravel())
    backward = jax.jit(lambda v: jax.vjp(fn, x)[1](v.reshape(out.shape))[0].ravel())
    operator = LinearOperator(
        sides,
        matvec=lambda u: np.asarray(forward(np.asarray(u, x.dtype).ravel())),
        rmatvec=lambda v: np.asarray(backward(np.asarray(v, x.dtype).ravel())),
        dtype=np.dtype(x.dtype),
    )
    start = np.random.default_rng(seed).standard_normal(min(sides)).astype(x.dtype)
    try:
        values = svds(operator, k=count, which="SM" if smallest else "LM", v0=start, return_singular_vectors=False)
    except ArpackError as error:
        raise ArithmeticError(
            f"Lanczos iteration for the {'smallest' if smallest else 'largest'} singular values failed: {error} Likely "
            "cause: values that lie close together (an isometry, or a rank below full). Fix: a larger count, float64, "
            "or `singular_values` if the Jacobian fits into memory"
        ) from error
    return np.sort(np.asarray(values))[::-1]


def singular_value_moments(
    fn: Function, x: Float[Array, "*input"], key: PRNGKeyArray, samples: int = 64
) -> MomentEstimate:
    """Mean of s^2 and of s^4 over the spectrum of the Jacobian, by random probes, without forming it.

    With u of independent signs, E|J u|^2 = tr(J^T J) and E|J^T J u|^2 = tr((J^T J)^2); divided by size(x) (Hutchinson
    1990). Pure and jittable; one forward and one backward pass a sample, in turn.

    Args:
        fn: function of one array to one array, of any shapes.
        x: where.
        key: of the probes.
        samples: how many.

    Returns:
        The estimates; `mean` is what the squared gradient grows by from output to input, for equal widths.

    Raises:
        TypeError: if x or fn(x) is not one floating-point array.
        ValueError: for fewer than 2 samples.

    Examples:
        >>> float(singular_value_moments(lambda x: 2 * x, jnp.ones(100), jax.random.key(0)).second)
        16.0
    """
    _checked(fn, x)
    if samples < 2:
        raise ValueError(f"expected at least 2 samples, for a standard error, got {samples}")
    _, forward = jax.linearize(fn, x)
    backward = jax.linear_transpose(forward, x)

    def probe(key: PRNGKeyArray) -> tuple[Array, Array]:
        pushed = forward(jax.random.rademacher(key, x.shape, x.dtype))
        return jnp.sum(pushed**2) / x.size, jnp.sum(backward(pushed)[0] ** 2) / x.size

    first, second = jax.lax.map(probe, jax.random.split(key, samples))
    root = math.sqrt(samples)
    return MomentEstimate(first.mean(), second.mean(), jnp.std(first, ddof=1) / root, jnp.std(second, ddof=1) / root)


def _checked(fn: Function, x: Array) -> jax.ShapeDtypeStruct:
    """Shape and dtype of fn(x), or an error."""
    if not (hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)):
        raise TypeError(f"expected a floating-point array to differentiate at, got {x!r}")
    out = jax.eval_shape(fn, x)
    if not isinstance(out, jax.ShapeDtypeStruct) or not jnp.issubdtype(out.dtype, jnp.floating):
        raise TypeError(
            f"expected a function to one floating-point array, got one to {out}. Likely cause: it also returns "
            "something else, or logits in a tuple. Fix: a lambda that picks the array"
        )
    return out
