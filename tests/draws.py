"""Gaussian draws outside of jit from three compiled programs: to the bit those of `jax.random.normal`.

Drawn one by one, every new shape compiles a program of its own. That was 45 % of the time in which the tests are
collected. The first n numbers of a draw do not depend on how many there are (`jax_threefry_partitionable`), so a draw
of another shape is the beginning of a longer one. `tests/test_draws.py` holds the two against each other.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["install", "normal", "plain_normal"]

plain_normal = jax.random.normal
LENGTHS = (2**8, 2**12, 2**16)


def install() -> None:
    """Put `normal` in the place of `jax.random.normal`."""
    jax.random.normal = normal


def normal(key: Any, shape: Any = (), dtype: Any = None, **options: Any) -> Any:
    """Draw as `jax.random.normal` does.

    Args:
        key: as there.
        shape: likewise.
        dtype: likewise.
        **options: likewise; with any, the draw is left to JAX.
    """
    length = None if options else _length(key, shape, dtype)
    if length is None:
        return plain_normal(key, shape, dtype, **options)
    long = np.asarray(plain_normal(key, (length,)))
    return jnp.asarray(long[: math.prod(shape)].reshape(shape))


def _length(key: Any, shape: Any, dtype: Any) -> int | None:
    """Return how long a draw to make, None where JAX is to make it: under a trace, on a mesh, of other types."""
    if jax.config.jax_enable_x64 or not (dtype is None or dtype == jnp.float32) or not isinstance(shape, tuple):
        return None
    if not isinstance(key, jax.Array) or isinstance(key, jax.core.Tracer) or key.shape:
        return None
    if isinstance(jnp.zeros(()), jax.core.Tracer) or not jax.sharding.get_abstract_mesh().empty:
        return None
    return next((length for length in LENGTHS if math.prod(shape) <= length), None)
