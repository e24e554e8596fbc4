"""Small transformers of each framework, with fresh weights, as people write them there.

Each function returns a model, its parameters, and names of the projections of attention: queries, keys, values, and the
one behind them, about which theory says nothing.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gradflow import theory

os.environ.setdefault("KERAS_BACKEND", "jax")

__all__ = ["LENGTH", "MODELS", "VOCABULARY", "LanguageModel", "outside_attention"]

VOCABULARY, WIDTH, HEADS, LENGTH = 64, 64, 4, 16

LanguageModel: TypeAlias = tuple[Callable[..., Any], Any, tuple[str, ...]]


class NnxBlock(nnx.Module):
    """Pre-normalized attention and perceptron."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.norm1, self.norm2 = nnx.LayerNorm(WIDTH, rngs=rngs), nnx.LayerNorm(WIDTH, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs)
        self.up, self.down = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs), nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.attention(self.norm1(x), mask=nnx.make_causal_mask(x[..., 0]))
        return x + self.down(nnx.gelu(self.up(self.norm2(x))))


class NnxModel(nnx.Module):
    """GPT-2 (Radford et al. 2019) with a head of its own."""

    def __init__(self, blocks: int, rngs: nnx.Rngs) -> None:
        self.embed = nnx.Embed(VOCABULARY, WIDTH, rngs=rngs)
        self.positions = nnx.Embed(LENGTH, WIDTH, rngs=rngs)
        self.blocks = nnx.List([NnxBlock(rngs) for _ in range(blocks)])
        self.norm, self.head = nnx.LayerNorm(WIDTH, rngs=rngs), nnx.Linear(WIDTH, VOCABULARY, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.embed(tokens) + self.positions(jnp.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def flax_nnx(blocks: int, seed: int) -> LanguageModel:
    graph, params = nnx.split(NnxModel(blocks, nnx.Rngs(seed)), nnx.Param)
    return lambda params, tokens: nnx.merge(graph, params)(tokens), params, ("attention",)


class EquinoxBlock(eqx.Module):
    """Pre-normalized attention and perceptron, for one sequence."""

    norm1: eqx.nn.LayerNorm
    norm2: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self, key: jax.Array) -> None:
        keys = jax.random.split(key, 3)
        self.norm1, self.norm2 = eqx.nn.LayerNorm(WIDTH), eqx.nn.LayerNorm(WIDTH)
        self.attention = eqx.nn.MultiheadAttention(HEADS, WIDTH, key=keys[0])
        self.up = eqx.nn.Linear(WIDTH, 4 * WIDTH, key=keys[1])
        self.down = eqx.nn.Linear(4 * WIDTH, WIDTH, key=keys[2])

    def __call__(self, x: jax.Array) -> jax.Array:
        h, mask = jax.vmap(self.norm1)(x), jnp.tril(jnp.ones((len(x), len(x)), bool))
        x = x + self.attention(h, h, h, mask=mask)
        return x + jax.vmap(lambda t: self.down(jax.nn.gelu(self.up(self.norm2(t)))))(x)


class EquinoxModel(eqx.Module):
    """GPT-2 with learned positions."""

    embed: eqx.nn.Embedding
    positions: jax.Array
    blocks: list[EquinoxBlock]
    norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear

    def __init__(self, blocks: int, key: jax.Array) -> None:
        keys = jax.random.split(key, blocks + 3)
        self.embed = eqx.nn.Embedding(VOCABULARY, WIDTH, key=keys[0])
        self.positions = 0.02 * jax.random.normal(keys[1], (LENGTH, WIDTH))
        self.blocks = [EquinoxBlock(k) for k in keys[3:]]
        self.norm, self.head = eqx.nn.LayerNorm(WIDTH), eqx.nn.Linear(WIDTH, VOCABULARY, key=keys[2])

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = jax.vmap(self.embed)(tokens) + self.positions
        for block in self.blocks:
            x = block(x)
        return jax.vmap(lambda t: self.head(self.norm(t)))(x)


def equinox(blocks: int, seed: int) -> LanguageModel:
    params, static = eqx.partition(EquinoxModel(blocks, jax.random.key(seed)), eqx.is_inexact_array)
    return lambda params, tokens: jax.vmap(eqx.combine(params, static))(tokens), params, ("attention",)


def haiku(blocks: int, seed: int) -> LanguageModel:
    def norm(x: jax.Array) -> jax.Array:
        return hk.LayerNorm(-1, create_scale=True, create_offset=True)(x)

    def model(tokens: jax.Array) -> jax.Array:
        x = hk.Embed(VOCABULARY, WIDTH)(tokens)
        x = x + hk.get_parameter("positions", (LENGTH, WIDTH), init=hk.initializers.RandomNormal(0.02))
        mask = jnp.tril(jnp.ones((1, 1, LENGTH, LENGTH), bool))
        for _ in range(blocks):
            h, init = norm(x), hk.initializers.VarianceScaling(1.0)
            x = x + hk.MultiHeadAttention(HEADS, WIDTH // HEADS, w_init=init, name="attention")(h, h, h, mask)
            x = x + hk.Linear(WIDTH)(jax.nn.gelu(hk.Linear(4 * WIDTH)(norm(x))))
        return hk.Linear(VOCABULARY)(norm(x))

    transformed = hk.without_apply_rng(hk.transform(model))
    tokens = np.zeros((2, LENGTH), np.int32)
    return transformed.apply, transformed.init(jax.random.key(seed), tokens), ("attention",)


def keras(blocks: int, seed: int) -> LanguageModel:
    import keras as framework
    from keras import layers

    framework.utils.set_random_seed(seed)
    tokens = framework.Input((LENGTH,), dtype="int32")
    x = layers.Embedding(VOCABULARY, WIDTH, embeddings_initializer="normal")(tokens)
    for _ in range(blocks):
        h = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(HEADS, WIDTH // HEADS)(h, h, use_causal_mask=True)
        h = layers.Dense(4 * WIDTH, activation="gelu")(layers.LayerNormalization()(x))
        x = x + layers.Dense(WIDTH)(h)
    model = framework.Model(tokens, layers.Dense(VOCABULARY, name="head")(layers.LayerNormalization()(x)))
    state = [v.value for v in model.non_trainable_variables]
    params = {v.path: np.asarray(v.value) for v in model.trainable_variables}

    def apply(params: Any, tokens: jax.Array) -> jax.Array:
        return model.stateless_call([params[v.path] for v in model.trainable_variables], state, tokens)[0]

    return apply, params, ("attention",)


def rotated(x: jax.Array) -> jax.Array:
    """Rotary embedding (Su et al. 2021)."""
    first, second = jnp.split(x, 2, -1)
    count = first.shape[-1]
    angles = jnp.arange(x.shape[1], dtype=jnp.float32)[:, None, None] / 100.0 ** jnp.linspace(0.0, 1.0, count)
    return jnp.concatenate(
        [first * jnp.cos(angles) - second * jnp.sin(angles), second * jnp.cos(angles) + first * jnp.sin(angles)], -1
    )


def plain_jax(blocks: int, seed: int) -> LanguageModel:
    """Llama (Touvron et al. 2023): rms norm as a power, rotary positions, gated perceptron, blocks in a scan."""
    shapes = {
        "query": (WIDTH, HEADS, WIDTH // HEADS),
        "key": (WIDTH, HEADS, WIDTH // HEADS),
        "value": (WIDTH, HEADS, WIDTH // HEADS),
        "out": (HEADS, WIDTH // HEADS, WIDTH),
        "gate": (WIDTH, 3 * WIDTH),
        "up": (WIDTH, 3 * WIDTH),
        "down": (3 * WIDTH, WIDTH),
    }

    def normal(key: jax.Array, shape: tuple[int, ...], fan: int) -> jax.Array:
        return jax.random.normal(key, shape) / np.sqrt(np.float32(fan))

    keys = iter(jax.random.split(jax.random.key(seed), 16))
    fans = {"out": WIDTH, "down": 3 * WIDTH}
    params = {
        "embed": normal(next(keys), (VOCABULARY, WIDTH), 1),
        "blocks": {n: normal(next(keys), (blocks, *s), fans.get(n, WIDTH)) for n, s in shapes.items()},
        "norms": jnp.ones((blocks, 2, WIDTH)),
        "head": normal(next(keys), (WIDTH, VOCABULARY), WIDTH),
    }

    def norm(x: jax.Array, scale: jax.Array | float = 1.0) -> jax.Array:
        return x * jnp.power(jnp.mean(x**2, -1, keepdims=True) + 1e-6, -0.5) * scale

    def block(x: jax.Array, layer: Any) -> tuple[jax.Array, None]:
        w, scales = layer
        h = norm(x, scales[0])
        q, k, v = (jnp.einsum("btd,dhk->bthk", h, w[n]) for n in ("query", "key", "value"))
        scores = jnp.einsum("bthk,bshk->bhts", rotated(q), rotated(k)) / np.sqrt(np.float32(WIDTH // HEADS))
        scores = jnp.where(jnp.tril(jnp.ones(scores.shape[-2:], bool)), scores, -1e9)
        mixed = jnp.einsum("bhts,bshk->bthk", jax.nn.softmax(scores), v)
        x = x + jnp.einsum("bthk,hkd->btd", mixed, w["out"])
        h = norm(x, scales[1])
        return x + (jax.nn.silu(h @ w["gate"]) * (h @ w["up"])) @ w["down"], None

    def apply(params: Any, tokens: jax.Array) -> jax.Array:
        x, _ = jax.lax.scan(block, params["embed"][tokens], (params["blocks"], params["norms"]))
        return norm(x) @ params["head"]

    return apply, params, ("query", "key", "value", "out")


MODELS: dict[str, Callable[[int, int], LanguageModel]] = {
    "Flax NNX": flax_nnx,
    "Equinox": equinox,
    "Haiku": haiku,
    "Keras": keras,
    "plain JAX, Llama in a scan": plain_jax,
}


def outside_attention(prediction: theory.Prediction, attention: tuple[str, ...]) -> theory.Prediction:
    """Return a prediction without the projections of attention."""
    layers = tuple(row for row in prediction.layers if not any(name in row.name for name in attention))
    return dataclasses.replace(prediction, layers=layers)
