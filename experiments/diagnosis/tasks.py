"""Tasks that a sound network solves within a hundred steps, so that one that does not is not sound."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

__all__ = ["CLASSES", "FEATURES", "images", "sequences", "vectors"]

BATCHES, BATCH = 8, 32
CLASSES, FEATURES, SIDE, SIGNALS = 5, 24, 8, 4
NOISE = 0.5  # deviation around a class's own pattern, whose entries have deviation 1

Batches = list[tuple[Any, Any]]


def vectors(seed: int) -> Batches:
    """Return batches of vectors, each a pattern of its class with noise, of mean square 1.

    Args:
        seed: of patterns and noise.
    """
    return _patterns(seed, (FEATURES,))


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


def _patterns(seed: int, shape: tuple[int, ...]) -> Batches:
    rng = np.random.default_rng(seed)
    patterns: Float[np.ndarray, "classes ..."] = rng.standard_normal((CLASSES, *shape))
    out = []
    for _ in range(BATCHES):
        y = rng.integers(0, CLASSES, BATCH)
        x = (patterns[y] + NOISE * rng.standard_normal((BATCH, *shape))) / np.hypot(1, NOISE)
        out.append((x.astype(np.float32), y.astype(np.int32)))
    return out
