"""ReLU networks that are dead before training: how often, against depth and width, and between which bounds.

Without biases and with one input, a network is positively homogeneous: all it does is fixed by its values at x = 1
and x = -1, two rays. It is born dead (Lu et al. 2019) if some hidden layer is 0 on both, so that the output is 0 for
every x. Only the directions of the two hidden vectors matter from layer to layer, so they are scaled to largest entry
1, and nothing underflows however deep the network is.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

import gradflow as gf

CHUNK = 10_000  # networks drawn at a time


def upper_bound(width: int, layers: int) -> float:
    """1 - (1 - 2^-N)^(L - 1): the probability that one ray, x > 0, is dead.

    Exact for that ray: while it lives, all N units of the next layer are off with probability 2^-N. A dead network has
    two dead rays, so it is an upper bound on being born dead. Lu et al. 2019.

    Args:
        width: N.
        layers: L, the linear output layer included.
    """
    return 1 - (1 - 2.0**-width) ** (layers - 1)


def lower_bound(width: int, layers: int) -> float:
    """Lower bound on being born dead, one input and no bias; exact for L <= 3, and for N = 1.

    1 - a_1^(L-2) + (1 - 2^(1-N)) (1 - 2^-N) / (1 + (N-1) 2^-N) (a_2^(L-2) - a_1^(L-2)), a_1 = 1 - 2^-N,
    a_2 = 1 - 2^(1-N) - (N-1) 4^-N. Lu et al. 2019. As if the two rays were orthogonal, hence both dead with probability
    4^-N a layer, until one dies or both share one unit and no other.

    Args:
        width: N.
        layers: L, the linear output layer included, at least 2.
    """
    half = 2.0**-width
    one, two = 1 - half, 1 - 2 * half - (width - 1) * half**2
    share = (1 - 2 * half) * (1 - half) / (1 + (width - 1) * half)
    return 1 - one ** (layers - 2) + share * (two ** (layers - 2) - one ** (layers - 2))


def three_layers(width: int) -> float:
    """Exact probability for L = 3, from scratch.

    After the first layer one ray is 0 with probability 2^(1-N), and the other dies in the second with 2^-N. Else the
    two hidden vectors share no unit, so the second layer's pre-activations are independent, and all 2 N of them are
    negative with probability 4^-N.

    Args:
        width: N.
    """
    single = 2.0 ** (1 - width)
    return single * 2.0**-width + (1 - single) * 4.0**-width


@dataclasses.dataclass(frozen=True)
class Shares:
    """Shares of `networks` networks that are born dead, by width and number of layers.

    Attributes:
        widths: N.
        layers: L, from 2 on.
        networks: drawn of each width.
        share: born dead.
        ray: dead for x > 0.
        lower: bound of `share`.
        upper: bound of `share`.
    """

    widths: Int[np.ndarray, " widths"]
    layers: Int[np.ndarray, " layers"]
    networks: int
    share: Float[np.ndarray, "widths layers"]
    ray: Float[np.ndarray, "widths layers"]
    lower: Float[np.ndarray, "widths layers"]
    upper: Float[np.ndarray, "widths layers"]


def measure(widths: Sequence[int], layers: int, networks: int, seed: int) -> Shares:
    """Draw networks and count the dead.

    Args:
        widths: N, ascending.
        layers: the largest L.
        networks: how many to draw for each width, a multiple of `CHUNK`.
        seed: of the draws.
    """
    keys = jax.random.split(jax.random.key(seed), networks // CHUNK)
    alive = np.arange(max(widths)) < np.array(widths)[:, None]
    counts = np.asarray(count_dead(keys, jnp.asarray(alive), layers - 1), np.float64)
    depths = range(2, layers + 1)
    return Shares(
        widths=np.array(widths),
        layers=np.array(depths),
        networks=networks,
        share=counts[..., 0] / networks,
        ray=counts[..., 1] / networks,
        lower=np.array([[lower_bound(width, depth) for depth in depths] for width in widths]),
        upper=np.array([[upper_bound(width, depth) for depth in depths] for width in widths]),
    )


@functools.partial(jax.jit, static_argnames="hidden")
def count_dead(keys: PRNGKeyArray, units: Bool[Array, "widths largest"], hidden: int) -> Int[Array, "widths hidden 2"]:
    """Count dead networks after every hidden layer, `CHUNK` of them for each key and width.

    Args:
        keys: one for each chunk.
        units: which units a network of each width has.
        hidden: number of hidden layers, L - 1.

    Returns:
        Networks dead on both rays, and networks dead for x > 0.
    """

    def of_width(units: Bool[Array, " largest"]) -> Int[Array, "hidden 2"]:
        return jax.lax.map(lambda key: _count_chunk(key, units, hidden), keys).sum(0)

    return jax.lax.map(of_width, units)


def _count_chunk(key: PRNGKeyArray, units: Bool[Array, " largest"], hidden: int) -> Int[Array, "hidden 2"]:
    initializer, largest = gf.initializers.get("he_normal"), len(units)

    def layer(rays: Float[Array, "chunk 2 largest"], key: PRNGKeyArray) -> tuple[Array, Array]:
        # One wide kernel is as good as many small ones: its scale has no say.
        kernels = initializer(key, (largest, CHUNK * largest), jnp.float32).reshape(largest, CHUNK, largest)
        rays = jnp.where(units, jax.nn.relu(jnp.einsum("nri,ino->nro", rays, kernels)), 0.0)
        height = rays.max(-1, keepdims=True)
        dead = height[..., 0] == 0
        counts = jnp.stack([dead.all(-1).sum(), dead[:, 0].sum()])
        return rays / jnp.where(height > 0, height, 1.0), counts

    # The input itself is the first unit of a layer before the first.
    inputs = jnp.zeros((CHUNK, 2, largest)).at[:, :, 0].set(jnp.array([1.0, -1.0]))
    return jax.lax.scan(layer, inputs, jax.random.split(key, hidden))[1]
