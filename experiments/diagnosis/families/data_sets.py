"""Sound networks on data that looks unsound: rare tokens, padding, classes of unequal size, few examples."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.diagnosis import tasks
from experiments.diagnosis.families.building import (
    LECUN,
    RATES,
    Params,
    Rng,
    affine,
    chain,
    classifier,
    dense,
    forward,
    normal,
    pick,
)
from experiments.diagnosis.specimen import Specimen

__all__ = ["embeddings", "imbalanced", "low_rank", "padding", "small_data"]

WIDTH = 24
HIDDEN = -1e9  # score of a position that is not to be looked at
RARE = {"adam": optax.adam(1e-2), "adagrad": optax.adagrad(0.3), "momentum": optax.sgd(0.3, momentum=0.9)}


def embeddings(rng: Rng) -> Specimen:
    """Draw a bag of words: of some thousand rows of its table a batch uses one in a hundred.

    Args:
        rng: that draws it.
    """
    vocabulary, way, seed = pick(rng, (5000, 10000)), pick(rng, RARE), int(rng.integers(2**31))
    deviation = pick(rng, (0.1, 0.3, 1.0))
    params = {"embedding": {"table": normal(rng, (vocabulary, WIDTH), deviation)}}
    params |= chain(rng, [WIDTH, WIDTH, tasks.CLASSES])

    def network(params: Params, tokens: Any) -> Any:
        mean = params["embedding"]["table"][tokens].mean(1)
        return forward({name: layer for name, layer in params.items() if name != "embedding"}, mean, jax.nn.relu)

    # Fewer words than the table has rows, so that each is seen a few times.
    batches = [(50 * x, y) for x, y in tasks.tokens(seed, 6, vocabulary // 50)]
    return classifier(f"{vocabulary} rows of {deviation:g}, {way}", network, params, batches, RARE[way])


def padding(rng: Rng) -> Specimen:
    """Draw attention over sequences of unequal length, in batches of which the last examples are only padding.

    Args:
        rng: that draws it.
    """
    length, way, seed = pick(rng, (8, 16)), pick(rng, ("adam", "momentum")), int(rng.integers(2**31))
    params = {
        "embedding": {"table": normal(rng, (40, WIDTH), 1.0)},
        **{name: dense(rng, WIDTH, WIDTH, LECUN) for name in ("query", "key", "value")},
        "up": dense(rng, WIDTH, WIDTH),
        "head": dense(rng, WIDTH, tasks.CLASSES, LECUN),
    }

    def network(params: Params, tokens: Any) -> Any:
        there, x = tokens > 0, params["embedding"]["table"][tokens]
        query, key, value = (affine(params[name], x) for name in ("query", "key", "value"))
        scores = jnp.einsum("bqd,bkd->bqk", query, key) / math.sqrt(WIDTH)
        x = x + jnp.einsum("bqk,bkd->bqd", jax.nn.softmax(jnp.where(there[:, None], scores, HIDDEN)), value)
        kept = there[..., None].astype(x.dtype)
        mean = (kept * x).sum(1) / jnp.maximum(kept.sum(1), 1.0)
        return affine(params["head"], jax.nn.relu(affine(params["up"], mean)))

    def loss(params: Params, tokens: Any, y: Any) -> Any:
        logs = jax.nn.log_softmax(network(params, tokens))
        there = (tokens[:, 0] > 0).astype(logs.dtype)
        return -(there * jnp.take_along_axis(logs, y[:, None], axis=-1)[:, 0]).sum() / there.sum()

    batches = _padded(rng, tasks.tokens(seed, length, 39))
    plain = classifier(f"length up to {length}, {way}", network, params, batches, RATES[way])
    return dataclasses.replace(plain, loss=loss)


def _padded(rng: Rng, batches: tasks.Batches) -> tasks.Batches:
    """Cut sequences and batches short; 0 is what they are filled up with."""
    out = []
    for x, y in batches:
        lengths = rng.integers(4, x.shape[1] + 1, len(x))
        lengths[int(rng.integers(len(x) // 2, len(x))) :] = 0
        out.append((np.where(np.arange(x.shape[1]) < lengths[:, None], x + 1, 0).astype(np.int32), y))
    return out


def imbalanced(rng: Rng) -> Specimen:
    """Draw a chain on classes of which one has 80 to 95 % of the examples; chance is the entropy of the shares.

    Args:
        rng: that draws it.
    """
    share, depth, way = float(rng.uniform(0.8, 0.95)), pick(rng, (2, 4, 6)), pick(rng, RATES)
    seed = int(rng.integers(2**31))
    batches = tasks.vectors(seed, [share, *[(1 - share) / (tasks.CLASSES - 1)] * (tasks.CLASSES - 1)])
    params = chain(rng, [tasks.FEATURES, *[32] * (depth - 1), tasks.CLASSES])
    shares = np.bincount(np.concatenate([y for _, y in batches])) / sum(len(y) for _, y in batches)
    chance = -sum(p * math.log(p) for p in shares.tolist() if p > 0)
    name = f"{share:.0%} of one class, {depth} layers, {way}"
    return classifier(name, _relu, params, batches, RATES[way], chance=chance)


def small_data(rng: Rng) -> Specimen:
    """Draw a chain on 4 to 32 examples, which it may learn by heart.

    Args:
        rng: that draws it.
    """
    count, depth, way = pick(rng, (4, 8, 16, 32)), pick(rng, (2, 4, 6)), pick(rng, RATES)
    seed = int(rng.integers(2**31))
    params = chain(rng, [tasks.FEATURES, *[32] * (depth - 1), tasks.CLASSES])
    x, y = tasks.vectors(seed)[0]
    batches = [(x[:count], y[:count])]
    return classifier(f"{count} examples, {depth} layers, {way}", _relu, params, batches, RATES[way])


def low_rank(rng: Rng) -> Specimen:
    """Draw what is learnt beside weights that stay: B A of low rank, B = 0 at first (Hu et al. 2022, LoRA).

    The weights that stay are constants of the program, or parameters behind a stop.

    Args:
        rng: that draws it.
    """
    rank, depth, rate = pick(rng, (2, 4, 8)), pick(rng, (2, 4, 6)), pick(rng, (3e-3, 1e-2))
    seed, constant = int(rng.integers(2**31)), bool(rng.integers(2))
    widths = [tasks.FEATURES, *[32] * (depth - 1), tasks.CLASSES]
    base, names = chain(rng, widths), [f"layer_{k:02}" for k in range(depth)]
    learnt = {
        f"{name}_a": {"kernel": normal(rng, (widths[k], rank), widths[k] ** -0.5)} for k, name in enumerate(names)
    }
    learnt |= {f"{name}_b": {"kernel": jnp.zeros((rank, widths[k + 1]))} for k, name in enumerate(names)}

    def network(params: Params, x: Any) -> Any:
        own = jax.lax.stop_gradient(base if constant else {name: params[name] for name in names})
        for k, name in enumerate(names):
            beside = x @ params[f"{name}_a"]["kernel"] @ params[f"{name}_b"]["kernel"]
            x = affine(own[name], x) + beside
            x = jax.nn.relu(x) if k < depth - 1 else x
        return x

    kept = "as constants" if constant else "behind a stop"
    name = f"rank {rank} beside {depth} layers {kept}, Adam at {rate:g}"
    params = learnt if constant else base | learnt
    return classifier(name, network, params, tasks.vectors(seed), optax.adam(rate))


def _relu(params: Params, x: Any) -> Any:
    return forward(params, x, jax.nn.relu)
