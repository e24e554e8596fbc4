"""Tasks that a sound network solves within a hundred steps, so that one that does not is not sound."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

__all__ = ["CLASSES", "FEATURES", "SIGNALS", "graphs", "images", "sequences", "targets", "tokens", "vectors"]

BATCHES, BATCH = 8, 32
CLASSES, FEATURES, SIDE, SIGNALS = 5, 24, 8, 4
NOISE = 0.5  # deviation around a class's own pattern, whose entries have deviation 1
GRAPHS, NODES, LINKED = 6, 16, (0.8, 0.02)  # links among nodes of one class, and of two
LOUD = 0.6  # deviation of a node's noise, which hides its class unless neighbours are asked
TOLD = 0.6  # share of tokens that tell the class
OFFSET = 0.5  # mean of targets over their deviation

Batches = list[tuple[Any, Any]]


def vectors(seed: int, shares: Sequence[float] | None = None) -> Batches:
    """Return batches of vectors, each a pattern of its class with noise, of mean square 1.

    Args:
        seed: of patterns and noise.
        shares: of the classes; None for equal ones.
    """
    return _patterns(seed, (FEATURES,), shares)


def images(seed: int) -> Batches:
    """Return batches of small images of one channel, each a pattern of its class with noise.

    Args:
        seed: of patterns and noise.
    """
    return _patterns(seed, (SIDE, SIDE, 1))


def sequences(seed: int, steps: int) -> Batches:
    """Return batches of noise whose first step tells the class: it has to be kept to the end.

    Args:
        seed: of patterns and noise.
        steps: of a sequence.
    """
    rng = np.random.default_rng(seed)
    patterns = 2 * rng.standard_normal((CLASSES, SIGNALS))
    out = []
    for _ in range(BATCHES):
        y = rng.integers(0, CLASSES, BATCH)
        x = NOISE * rng.standard_normal((BATCH, steps, SIGNALS))
        x[:, 0] += patterns[y]
        out.append((x.astype(np.float32), y.astype(np.int32)))
    return out


def tokens(seed: int, length: int, vocabulary: int) -> Batches:
    """Return batches of sequences of tokens; over half of each are of the few that belong to its class.

    Args:
        seed: of the tokens.
        length: of a sequence.
        vocabulary: number of different tokens.
    """
    rng, own = np.random.default_rng(seed), vocabulary // (2 * CLASSES)
    out = []
    for _ in range(BATCHES):
        y = rng.integers(0, CLASSES, BATCH)
        told = own * y[:, None] + rng.integers(0, own, (BATCH, length))
        others = rng.integers(0, vocabulary, (BATCH, length))
        x = np.where(rng.random((BATCH, length)) < TOLD, told, others)
        out.append((x.astype(np.int32), y.astype(np.int32)))
    return out


def graphs(seed: int) -> Batches:
    """Return batches of graphs whose nodes are to be classified, and which links join nodes of one class more often.

    A row of x is what a node shows, and behind it its row of the adjacency, the node among its own neighbours, which
    is normalized to a sum of 1. The classes of all nodes are in one axis.

    Args:
        seed: of patterns, links and noise.
    """
    rng = np.random.default_rng(seed)
    patterns = 2 * rng.standard_normal((CLASSES, SIGNALS))
    out = []
    for _ in range(BATCHES):
        y = rng.integers(0, CLASSES, (GRAPHS, NODES))
        shown = patterns[y] + LOUD * rng.standard_normal((GRAPHS, NODES, SIGNALS))
        likely = np.where(y[:, :, None] == y[:, None, :], *LINKED)
        above = np.triu(rng.random((GRAPHS, NODES, NODES)) < likely, 1)
        links = (above | above.transpose(0, 2, 1)) + np.eye(NODES)
        x = np.concatenate([shown, links / links.sum(-1, keepdims=True)], axis=-1)
        out.append((x.astype(np.float32), y.reshape(-1).astype(np.int32)))
    return out


def targets(seed: int, scale: float) -> Batches:
    """Return batches of vectors with a target each: smooth in the vector, with a mean and a deviation of some size.

    Args:
        seed: of vectors and of what the target depends on.
        scale: deviation of the targets.
    """
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((FEATURES, 2)) / np.sqrt(FEATURES)
    out = []
    for _ in range(BATCHES):
        x = rng.standard_normal((BATCH, FEATURES))
        linear, bent = (x @ directions).T
        y = scale * (OFFSET + 0.9 * linear + 0.6 * np.sin(bent))[:, None]
        out.append((x.astype(np.float32), y.astype(np.float32)))
    return out


def _patterns(seed: int, shape: tuple[int, ...], shares: Sequence[float] | None = None) -> Batches:
    rng = np.random.default_rng(seed)
    patterns: Float[np.ndarray, "classes ..."] = rng.standard_normal((CLASSES, *shape))
    out = []
    for _ in range(BATCHES):
        y = rng.integers(0, CLASSES, BATCH) if shares is None else rng.choice(CLASSES, BATCH, p=shares)
        x = (patterns[y] + NOISE * rng.standard_normal((BATCH, *shape))) / np.hypot(1, NOISE)
        out.append((x.astype(np.float32), y.astype(np.int32)))
    return out
