"""A residual network as a sum over paths (Veit et al. 2016): the gradient by path length, all paths or a sample.

The Jacobian of L blocks is the product of (I + J_l), and multiplied out a sum over 2^L paths, each of which takes the
branch of some blocks and the skip of the others. The part of the gradient that comes by all paths through k branches
is the coefficient of t^k in the product of (I + t J_l), which one pass over the blocks gives for every k at once.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from experiments.framework.images import Images
from experiments.residual import network
from experiments.residual.network import Form, Params


@dataclasses.dataclass(frozen=True)
class Paths:
    """The gradient of a trained network by path length.

    Attributes:
        exact: norm of the gradient by all paths of each length.
        lengths: of the paths that were drawn.
        sampled: ln of the norm by single paths over that of the path through skips alone.
    """

    exact: Float[np.ndarray, " blocks+1"]
    lengths: Int[np.ndarray, " lengths"]
    sampled: Float[np.ndarray, "lengths paths"]


def inputs_of_blocks(params: Params, batch: Images, kind: Form) -> tuple[Array, Float[Array, "blocks batch width"]]:
    """Run forward and keep what enters every block.

    Args:
        params: of the network.
        batch: images and labels.
        kind: of network, with skip connections.

    Returns:
        dL/dx of the last block's output (batch, width), and the stream before each block.
    """

    def block(x: Array, layer: dict[str, Array]) -> tuple[Array, Array]:
        return x + network.branch(x, layer, kind), x

    last, entering = jax.lax.scan(block, batch.x @ params["stem"]["kernel"], params["blocks"])

    def head(x: Array) -> Array:
        logits = network.activate(x, params["head"], kind) @ params["head"]["kernel"]
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(len(batch.y)), batch.y])

    return jax.grad(head)(last), entering


def by_length(params: Params, batch: Images, kind: Form) -> Float[Array, "lengths batch width"]:
    """Split dL/dx of the first block's input exactly by the length of the paths it came by.

    v_k <- v_k + J_l^T v_(k-1) for every k, from the last block to the first.

    Args:
        params: of the network.
        batch: images and labels.
        kind: of network, with skip connections.

    Returns:
        One gradient for each length 0 ... blocks; their sum is the gradient.
    """
    cotangent, entering = inputs_of_blocks(params, batch, kind)
    parts = jnp.zeros((len(entering) + 1, *cotangent.shape)).at[0].set(cotangent)

    def through(parts: Array, block: tuple[dict[str, Array], Array]) -> tuple[Array, None]:
        layer, x = block
        back = jax.vjp(lambda x: network.branch(x, layer, kind), x)[1]
        by_branch = jax.vmap(lambda v: back(v)[0])(parts[:-1])
        return parts.at[1:].add(by_branch), None

    parts, _ = jax.lax.scan(through, parts, (params["blocks"], entering), reverse=True)
    return parts


def sampled(params: Params, batch: Images, kind: Form, taken: Bool[Array, "paths blocks"]) -> Float[Array, " paths"]:
    """Log of the norm of the gradient that comes by single paths, less that of the path through no branch.

    The norm is taken out after every block, because what is left after dozens of branches is no float32.

    Args:
        params: of the network.
        batch: images and labels.
        kind: of network, with skip connections.
        taken: which blocks a path takes the branch of.
    """
    cotangent, entering = inputs_of_blocks(params, batch, kind)

    def one(taken: Array) -> Array:
        def through(carry: tuple[Array, Array], block: tuple[dict[str, Array], Array, Array]) -> tuple[Any, None]:
            (v, log_norm), (layer, x, by_branch) = carry, block
            back = jax.vjp(lambda x: network.branch(x, layer, kind), x)[1]
            v = jnp.where(by_branch, back(v)[0], v)
            norm = jnp.linalg.norm(v)
            return (v / norm, log_norm + jnp.log(norm)), None

        start = (cotangent / jnp.linalg.norm(cotangent), jnp.zeros(()))
        return jax.lax.scan(through, start, (params["blocks"], entering, taken), reverse=True)[0][1]

    return jax.lax.map(one, taken)


def draw_paths(key: PRNGKeyArray, blocks: int, lengths: np.ndarray, count: int) -> Bool[Array, "paths blocks"]:
    """Draw paths of given lengths, all sets of branches of one length alike likely.

    Args:
        key: randomness.
        blocks: number of blocks.
        lengths: branches that a path takes.
        count: paths of each length.
    """
    drawn = jax.random.uniform(key, (len(lengths), count, blocks))
    places = jnp.argsort(jnp.argsort(drawn, -1), -1)
    return (places < jnp.asarray(lengths)[:, None, None]).reshape(-1, blocks)


def binomial(blocks: int) -> Float[np.ndarray, " lengths"]:
    """Part of all 2^L paths that has each length, C(L, k) / 2^L.

    Args:
        blocks: L.
    """
    return np.array([math.comb(blocks, k) / 2**blocks for k in range(blocks + 1)])


def effective(weights: Float[np.ndarray, " lengths"], mass: float = 0.95) -> tuple[int, int]:
    """Lengths that the middle part of a distribution lies between.

    Args:
        weights: of each length 0, 1, ..., not negative.
        mass: the part.

    Returns:
        Lowest and highest length.
    """
    total = np.cumsum(weights) / weights.sum()
    low, high = np.searchsorted(total, [(1 - mass) / 2, (1 + mass) / 2])
    return int(low), int(high)


def decay(found: Paths, blocks: int) -> tuple[float, float, np.ndarray]:
    """Fit the decay of the gradient by a path with its length, and weigh lengths by their number of paths.

    Args:
        found: lengths and gradients of single paths.
        blocks: of the network.

    Returns:
        Factor a branch; R^2 of the fit; gradient by all paths of each length, norms added up (Veit et al. Fig. 6).
    """
    logs = np.log(np.exp(found.sampled.astype(np.float64)).mean(1))
    slope, start = np.polyfit(found.lengths, logs, 1)
    explained = np.corrcoef(found.lengths, logs)[0, 1] ** 2
    weights = binomial(blocks) * np.exp(start + slope * np.arange(blocks + 1))
    return float(np.exp(slope)), float(explained), weights
