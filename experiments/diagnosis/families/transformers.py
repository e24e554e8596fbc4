"""Small transformers with the norm before or behind each branch."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from experiments.diagnosis import tasks
from experiments.diagnosis.families.building import (
    LECUN,
    RATES,
    Family,
    Params,
    Rng,
    affine,
    classifier,
    dense,
    layer_norm,
    norm,
    normal,
    pick,
)
from experiments.diagnosis.specimen import Specimen, scaled

__all__ = ["Transformer", "draw_sound", "transformer"]

LENGTH, VOCABULARY = 8, 40
DEPTHS = (1, 2, 4, 8)
UNROLLED = 2  # blocks that are written one by one at most
FACTORS = (0.2, 0.5, 1.0, 1.0, 1.0, 2.0, 4.0)  # of LeCun's weights
TABLES = 0.5  # deviation of embeddings and positions


@dataclasses.dataclass(frozen=True)
class Transformer:
    """An encoder that reads a class off the mean over positions.

    With the norm before a branch a block is x + f(norm(x)), and a last norm stands before the mean. With the norm
    behind it, a block is norm(x + f(x)): Vaswani et al. 2017; Xiong et al. 2020 compare both.

    Attributes:
        depth: number of blocks, each of attention and two dense layers.
        position: of the norm.
        width: of the stream.
        heads: of attention.
        stacked: whether the blocks are a loop over stacked parameters, whose compilation does not depend on depth.
    """

    depth: int
    position: Literal["pre", "post"]
    width: int = 16
    heads: int = 2
    stacked: bool = False

    def init(self, rng: Rng, factor: float = 1.0) -> Any:
        """Draw the parameters.

        Args:
            rng: that draws them.
            factor: of all matrices.
        """
        n = self.width
        params: Any = {
            "embedding": {"table": normal(rng, (VOCABULARY, n), TABLES)},
            "positions": {"table": normal(rng, (LENGTH, n), TABLES)},
            "last_norm": norm(n),
            "head": dense(rng, n, tasks.CLASSES, LECUN),
        }
        blocks = [
            {
                "first_norm": norm(n),
                "inputs": dense(rng, n, 3 * n, LECUN),
                "outputs": dense(rng, n, n, LECUN),
                "second_norm": norm(n),
                "up": dense(rng, n, 2 * n, LECUN),
                "down": dense(rng, 2 * n, n, LECUN),
            }
            for _ in range(self.depth)
        ]
        params, blocks = scaled((params, blocks), factor)
        if self.stacked:
            return params | {"blocks": jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)}
        return params | {f"block_{k}": block for k, block in enumerate(blocks)}

    def __call__(self, params: Any, tokens: Int[Array, "batch length"]) -> Float[Array, "batch classes"]:
        """Return logits.

        Args:
            params: from `init`.
            tokens: of each sequence.
        """
        x = params["embedding"]["table"][tokens] + params["positions"]["table"]
        if self.stacked:
            x, _ = jax.lax.scan(lambda x, block: (self._block(block, x), None), x, params["blocks"])
        else:
            for k in range(self.depth):
                x = self._block(params[f"block_{k}"], x)
        if self.position == "pre":
            x = layer_norm(params["last_norm"], x)
        return affine(params["head"], x.mean(1))

    def _block(self, block: Params, x: Float[Array, "batch length width"]) -> Float[Array, "batch length width"]:
        first, second = block["first_norm"], block["second_norm"]
        if self.position == "pre":
            x = x + self._attention(block, layer_norm(first, x))
            return x + _expanded(block, layer_norm(second, x))
        x = layer_norm(first, x + self._attention(block, x))
        return layer_norm(second, x + _expanded(block, x))

    def _attention(self, block: Params, x: Float[Array, "batch length width"]) -> Float[Array, "batch length width"]:
        shape = (*x.shape[:2], self.heads, self.width // self.heads)
        query, key, value = (part.reshape(shape) for part in jnp.split(affine(block["inputs"], x), 3, axis=-1))
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / math.sqrt(shape[-1])
        mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), value)
        return affine(block["outputs"], mixed.reshape(x.shape))


def _expanded(block: Params, x: Float[Array, "batch length width"]) -> Float[Array, "batch length width"]:
    return affine(block["down"], jax.nn.gelu(affine(block["up"], x)))


def draw_sound(rng: Rng, position: Literal["pre", "post"], depth: int) -> Specimen:
    """Draw a transformer with weights of LeCun's size, trained with Adam.

    Args:
        rng: that draws it.
        position: of the norm.
        depth: number of blocks.
    """
    network, seed = Transformer(depth, position), int(rng.integers(2**31))
    batches = tasks.tokens(seed, LENGTH, VOCABULARY)
    return classifier(f"{depth} blocks", network, network.init(rng), batches, RATES["adam"])


def transformer(position: Literal["pre", "post"]) -> Family:
    """Return the family of transformers over depth, size of the weights and optimizer.

    Args:
        position: of the norm.
    """

    def family(rng: Rng) -> Specimen:
        depth, factor, way = pick(rng, DEPTHS), pick(rng, FACTORS), pick(rng, RATES)
        network, seed = Transformer(depth, position, stacked=depth > UNROLLED), int(rng.integers(2**31))
        name = f"{depth} blocks, {factor:g} of LeCun, {way}"
        batches = tasks.tokens(seed, LENGTH, VOCABULARY)
        return classifier(name, network, network.init(rng, factor), batches, RATES[way])

    return family
