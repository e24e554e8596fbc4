"""A cliff in the error surface of one recurrent unit, and descent that meets it; descent on x^4.

x_t = w sigma(x_(t-1)) + b, E = (sigma(x_n) - .7)^2: Pascanu et al. 2013, Fig. 6. Derivatives come by the chain rule
over time, forward: dx_t/dw = sigma(x_(t-1)) + w sigma'(x_(t-1)) dx_(t-1)/dw, and the same for b.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

STATE, TARGET, TIME = 0.5, 0.7, 50
WEIGHTS, BIASES = (3.0, 7.0), (-4.0, 0.0)
LIMIT = 1.0  # of the gradient's norm
RATE = 0.05
START = (5.5, -2.1)  # of the first paths
SPREAD = 0.2  # half the side of the square that other starts are drawn from
UNLIMITED = 1e30  # a limit that nothing reaches; inf would give inf * 0

QUARTIC_START, QUARTIC_RATE, QUARTIC_SMALL = 10.0, 0.01, 1e-3
QUARTIC_STEPS = 40_000


class Surface(NamedTuple):
    """Error of the unit, and its gradient.

    Attributes:
        error: E.
        by_weight: dE/dw.
        by_bias: dE/db.
    """

    error: Float[Array, "*points"]
    by_weight: Float[Array, "*points"]
    by_bias: Float[Array, "*points"]

    @property
    def gradient_norm(self) -> Float[Array, "*points"]:
        """Norm of the gradient."""
        return jnp.hypot(self.by_weight, self.by_bias)


def surface(weight: Float[Array, "*points"], bias: Float[Array, "*points"], steps: int = TIME) -> Surface:
    """Evaluate error and gradient.

    Args:
        weight: w.
        bias: b.
        steps: n, how often the unit is applied.
    """
    zero = jnp.zeros_like(weight)

    def step(carry: tuple[Array, Array, Array], _: None) -> tuple[tuple[Array, Array, Array], None]:
        x, by_weight, by_bias = carry
        y = jax.nn.sigmoid(x)
        factor = weight * y * (1 - y)
        return (weight * y + bias, y + factor * by_weight, 1 + factor * by_bias), None

    (x, by_weight, by_bias), _ = jax.lax.scan(step, (zero + STATE, zero, zero), length=steps)
    y = jax.nn.sigmoid(x)
    outer = 2 * (y - TARGET) * y * (1 - y)
    return Surface(jnp.square(y - TARGET), outer * by_weight, outer * by_bias)


@functools.partial(jax.jit, static_argnames="steps")
def descend(
    starts: Float[Array, "paths 2"], limits: Float[Array, " paths"], rate: float, steps: int
) -> tuple[Float[Array, "steps paths 2"], Float[Array, "steps paths"], Float[Array, "steps paths"]]:
    """Follow the gradient down the surface, its norm clipped: Algorithm 1 of the paper.

    Args:
        starts: (w, b) of each path.
        limits: largest norm of a gradient; longer ones are scaled to it.
        rate: learning rate.
        steps: how many.

    Returns:
        (w, b), E and the gradient's norm before each step.
    """

    def step(place: Array, _: None) -> tuple[Array, tuple[Array, Array, Array]]:
        at = surface(place[:, 0], place[:, 1])
        scale = jnp.minimum(1.0, limits / jnp.maximum(at.gradient_norm, 1e-30))
        gradient = jnp.stack([at.by_weight, at.by_bias], -1)
        return place - rate * scale[:, None] * gradient, (place, at.error, at.gradient_norm)

    return jax.lax.scan(step, starts, length=steps)[1]


@dataclasses.dataclass(frozen=True)
class Grid:
    """Error and norm of the gradient over the plane of w and b."""

    weights: Float[np.ndarray, " points"]
    biases: Float[np.ndarray, " points"]
    error: Float[np.ndarray, "points points"]
    gradient: Float[np.ndarray, "points points"]


@dataclasses.dataclass(frozen=True)
class Descent:
    """Paths of descent, plain first, then clipped."""

    places: Float[np.ndarray, "2 steps paths 2"]
    error: Float[np.ndarray, "2 steps paths"]
    gradient: Float[np.ndarray, "2 steps paths"]


@dataclasses.dataclass(frozen=True)
class Quartic:
    """Descent on x^4, plain, plain at the rate 1 / (12 x_0^2), clipped: x, and steps until |gradient| < 1e-3."""

    x: Float[np.ndarray, "steps 3"]
    first: Int[np.ndarray, "3"]


def measure(points: int, paths: int, steps: int, seed: int) -> tuple[Grid, Descent]:
    """Evaluate the surface, and descend on it with and without clipping.

    Args:
        points: on each side of the grid.
        paths: starts; the first is `START`, others are drawn around it.
        steps: of descent.
        seed: of the starts.

    Returns:
        Both.
    """
    weights, biases = np.linspace(*WEIGHTS, points), np.linspace(*BIASES, points)
    mesh = jnp.meshgrid(jnp.float32(weights), jnp.float32(biases), indexing="ij")
    at = jax.jit(surface)(*mesh)
    around = jax.random.uniform(jax.random.key(seed), (paths, 2), minval=-SPREAD, maxval=SPREAD)
    starts = jnp.asarray(START) + around.at[0].set(0.0)
    limits = jnp.repeat(jnp.asarray([UNLIMITED, LIMIT]), paths)
    found = descend(jnp.tile(starts, (2, 1)), limits, RATE, steps)
    places, errors, norms = (np.stack(np.split(np.asarray(x), 2, axis=1)) for x in found)
    grid = Grid(weights, biases, np.asarray(at.error), np.asarray(at.gradient_norm))
    return grid, Descent(places, errors, norms)


@functools.partial(jax.jit, static_argnames="steps")
def quartic(
    limits: Float[Array, " runs"], rates: Float[Array, " runs"], steps: int = QUARTIC_STEPS
) -> tuple[Float[Array, "steps runs"], Int[Array, " runs"]]:
    """Descend on x^4 from x = 10, the gradient clipped: x <- x - rate min(1, limit / |4 x^3|) 4 x^3.

    The curvature 12 x^2 has no bound, but 12 x^2 <= 16 + |4 x^3|: x^4 is (L0, L1)-smooth (Zhang et al. 2020).

    Args:
        limits: of |4 x^3|.
        rates: learning rates.
        steps: how many.

    Returns:
        x before each step, and at which step |4 x^3| first is below 1e-3; `steps` where it never is. A run that
        leaves the range of float32 stays where it was last.
    """

    def step(x: Array, _: None) -> tuple[Array, tuple[Array, Bool[Array, " runs"]]]:
        gradient = 4 * x**3
        after = x - rates * jnp.minimum(1.0, limits / jnp.maximum(jnp.abs(gradient), 1e-30)) * gradient
        lost = jnp.abs(x) > 1e9  # of which the next gradient would still be finite
        return jnp.where(lost, x, after), (x, jnp.abs(gradient) < QUARTIC_SMALL)

    _, (xs, small) = jax.lax.scan(step, jnp.full(limits.shape, QUARTIC_START), length=steps)
    first = jnp.where(small.any(0), jnp.argmax(small, axis=0), steps)
    return xs, first


def measure_quartic() -> Quartic:
    """Descend on x^4: at the rate .01 plain and clipped, and at the largest rate that is stable without clipping."""
    slow = 1 / (12 * QUARTIC_START**2)
    found = quartic(jnp.asarray([UNLIMITED, UNLIMITED, LIMIT]), jnp.asarray([QUARTIC_RATE, slow, QUARTIC_RATE]))
    return Quartic(np.asarray(found[0]), np.asarray(found[1]))
