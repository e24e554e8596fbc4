"""The share of a layer's activations that pass on almost no gradient."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

import gradflow as gf


def saturated_fraction(phi: Callable[[Array], Array], z: Float[Array, "examples units"]) -> Float[Array, ""]:
    """Fraction of pre-activations at which |phi'| is below a tenth of its largest value.

    Args:
        phi: activation, of which |phi'| is largest near 0.
        z: pre-activations.
    """

    def slope(x: Array) -> Array:
        return jnp.abs(jax.jvp(phi, (x,), (jnp.ones_like(x),))[1])

    largest = slope(jnp.linspace(-4.0, 4.0, 801)).max()
    return jnp.mean(slope(z) < gf.activations.SATURATED * largest)
