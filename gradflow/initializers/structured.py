"""Schemes that draw a matrix as a whole: orthogonal, identity, sparse."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn.initializers import Initializer
from jaxtyping import Array, Float

__all__ = ["delta_orthogonal", "orthogonal", "scaled_identity", "smart_tanh", "sparse"]


def orthogonal(gain: float = 1.0, *, stacked: int = 0) -> Initializer:
    """W = gain * Q, Q uniform over matrices with orthonormal columns (or rows, if there are fewer).

    Kernels of more than two axes are flattened to (everything else, outputs). Saxe et al. 2014.

    Args:
        gain: factor; all singular values of W equal it.
        stacked: number of leading axes along which independent kernels are stacked.
    """
    return _each_kernel(_one_at_a_time(jax.nn.initializers.orthogonal(gain)), stacked)


def delta_orthogonal(gain: float = 1.0, *, stacked: int = 0) -> Initializer:
    """Convolution kernel that is gain * Q at the window's centre and 0 elsewhere; needs outputs >= inputs.

    Q has orthonormal rows. Xiao et al. 2018.

    Args:
        gain: factor.
        stacked: number of leading axes along which independent kernels are stacked.

    Raises:
        ValueError: when called for a kernel that is not of a convolution, or has fewer outputs than inputs.
    """
    draw = _one_at_a_time(jax.nn.initializers.delta_orthogonal(gain))

    def checked(key: Array, shape: Sequence[int], dtype: Any) -> Array:
        if len(shape) not in (3, 4, 5) or shape[-1] < shape[-2]:
            raise ValueError(
                "expected a convolution kernel (*window, inputs, outputs) with 1 to 3 window axes and at least as many "
                f"outputs as inputs, got shape {tuple(shape)}. Likely cause: a layer that narrows, through which no "
                "kernel keeps every norm, or a dense layer. Fix: `orthogonal` there"
            )
        return draw(key, shape, dtype)

    return _each_kernel(checked, stacked)


def _one_at_a_time(draw: Initializer) -> Callable[[Array, Sequence[int], Any], Array]:
    """Draw kernels one after the other under `vmap`.

    On a CPU, QR decompositions of batches wait for JAX's threads inside of these threads (JAX 0.10). As many of them as
    there are threads, side by side in one program, wait for ever.
    """

    def init(key: Array, shape: Sequence[int], dtype: Any) -> Array:
        one: Callable[[Array], Array] = jax.custom_batching.sequential_vmap(lambda key: draw(key, shape, dtype))
        return one(key)

    return init


def scaled_identity(scale: float = 1.0, *, stacked: int = 0) -> Initializer:
    """W = scale * I, for the recurrent matrix of an IRNN.

    Le et al. 2015.

    Args:
        scale: factor.
        stacked: number of leading axes along which matrices are stacked.

    Raises:
        ValueError: when called for a kernel that is not a square matrix.
    """

    def identity(key: Array, shape: Sequence[int], dtype: Any) -> Array:
        _expect_square(shape, "the identity")
        return jnp.asarray(scale, dtype) * jnp.eye(shape[0], dtype=dtype)

    return _each_kernel(identity, stacked)


def sparse(
    connections: int = 15, std: float = 1.0, spectral_radius: float | None = None, *, stacked: int = 0
) -> Initializer:
    """Matrix (inputs, outputs) in which each unit has `connections` incoming weights N(0, std^2), and 0 elsewhere.

    Which inputs, is drawn anew for each unit. Martens 2010, "Deep learning via Hessian-free optimization"; Sutskever et
    al. 2013.

    Args:
        connections: non-zero weights of a unit.
        std: of the non-zero weights, where no spectral radius is asked for.
        spectral_radius: largest |eigenvalue| that the matrix, square then, is scaled to.
        stacked: number of leading axes along which independent matrices are stacked.

    Raises:
        ValueError: for impossible numbers; when called for anything but a matrix with enough inputs (and square).
    """
    if connections < 1 or not std > 0 or not (spectral_radius is None or spectral_radius > 0):
        raise ValueError(
            "expected at least 1 connection, a positive std and a positive spectral radius, got "
            f"{connections}, {std}, {spectral_radius}"
        )

    def draw(key: Array, shape: Sequence[int], dtype: Any) -> Array:
        if len(shape) != 2 or shape[0] < connections:
            raise ValueError(
                f"expected a matrix (inputs, outputs) with at least {connections} inputs, got shape {tuple(shape)}. "
                "Likely cause: a narrow layer, or a convolution. Fix: fewer `connections`, or another scheme"
            )
        places, values = jax.random.split(key)
        ranks = jnp.argsort(jnp.argsort(jax.random.uniform(places, shape), axis=0), axis=0)
        weights = jnp.where(ranks < connections, jax.random.normal(values, shape, dtype), jnp.zeros((), dtype))
        if spectral_radius is None:
            return jnp.asarray(std, dtype) * weights
        _expect_square(shape, "a spectral radius")
        return (jnp.asarray(spectral_radius, dtype) / _spectral_radius(weights)) * weights

    return _each_kernel(draw, stacked)


def smart_tanh(connections: int = 15, spectral_radius: float = 0.95, *, stacked: int = 0) -> Initializer:
    """Recurrent matrix with 15 incoming weights a unit, scaled to spectral radius 0.95.

    "Smart tanh" in Pascanu et al. 2013, "On the difficulty of training recurrent neural networks", figure 7.

    Args:
        connections: non-zero weights of a unit.
        spectral_radius: largest |eigenvalue|.
        stacked: number of leading axes along which independent matrices are stacked.

    Raises:
        ValueError: as `sparse`.
    """
    return sparse(connections, 1.0, spectral_radius, stacked=stacked)


def _each_kernel(draw: Callable[[Array, Sequence[int], Any], Array], stacked: int) -> Initializer:
    """Draw each of the stacked kernels by itself, in float32 where the dtype is narrower: JAX has no QR in those."""

    def init(key: Array, shape: Sequence[int], dtype: Any = jnp.float32, out_sharding: Any = None) -> Array:
        if out_sharding is not None:
            raise NotImplementedError(
                "expected no out_sharding: the factorization behind this scheme runs on one device, as in "
                "jax.nn.initializers. Fix: draw without, then jax.device_put"
            )
        if len(shape) - stacked < 2:
            raise ValueError(f"expected a kernel of at least {stacked + 2} axes, got shape {tuple(shape)}")
        drawn = dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32
        if not stacked:
            return draw(key, shape, drawn).astype(dtype)
        keys = jax.random.split(key, math.prod(shape[:stacked]))
        return jax.vmap(lambda k: draw(k, shape[stacked:], drawn))(keys).reshape(shape).astype(dtype)

    return init


def _expect_square(shape: Sequence[int], what: str) -> None:
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ValueError(
            f"expected a square matrix for {what}, got shape {tuple(shape)}. Likely cause: a scheme for recurrent "
            "weights used for an input projection. Fix: use it for the recurrent kernel"
        )


def _spectral_radius(matrix: Float[Array, "n n"]) -> Float[Array, ""]:
    """Largest |eigenvalue|, as lim |A^k|^(1/k) over k = 2^24 by repeated squaring: JAX has no `eigvals` off the CPU."""

    def square(power: Array, _: None) -> tuple[Array, Array]:
        size = jnp.linalg.norm(power)
        unit = power / size
        return jnp.matmul(unit, unit, precision=jax.lax.Precision.HIGHEST), size

    sizes = jax.lax.scan(square, matrix, length=25)[1]
    return jnp.exp(jnp.sum(jnp.log(sizes) * jnp.asarray(0.5 ** np.arange(25), sizes.dtype)))
