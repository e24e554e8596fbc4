"""Image sets as rows: what dense networks are trained on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

import gradflow as gf
from experiments.framework import progress
from experiments.framework.commandline import UsageError


class Images(NamedTuple):
    """Normalized images, one a row, with their labels."""

    x: Float[Array, "examples pixels"]
    y: Int[Array, " examples"]

    def first(self, count: int) -> Images:
        """Take the first `count` examples.

        Args:
            count: how many.
        """
        return Images(self.x[:count], self.y[:count])

    def at(self, chosen: Int[Array, " batch"]) -> Images:
        """Take the examples of some numbers.

        Args:
            chosen: their numbers.
        """
        return Images(self.x[chosen], self.y[chosen])


def load(name: str, **options: Any) -> gf.data.ImageDataset:
    """Load a data set for an experiment.

    Args:
        name: as for `gf.data.load`.
        **options: as for `gf.data.load`.

    Raises:
        UsageError: if it is not there, or cannot be read; what to do is said in one line.
    """
    progress.stage(f"loading {name}")
    try:
        return gf.data.load(name, **options)
    except (OSError, ImportError, ValueError) as error:
        raise UsageError(f"data set {name!r}: {' '.join(str(error).split())}") from error


def rows(
    data: gf.data.ImageDataset, split: gf.data.Split, count: int | None = None, *, unit_square: bool = False
) -> Images:
    """Normalize the first images of a split, each laid out as one row.

    Args:
        data: the data set, for its normalization: mean square 1 over all pixels of the training split.
        split: one of its splits.
        count: how many; all by default.
        unit_square: scale every row to mean square 1 of its own.
    """
    chosen = split.images[:count]
    values = data.normalize(chosen).reshape(len(chosen), -1)
    if unit_square:
        values /= np.sqrt(np.square(values).mean(1, keepdims=True))
    return Images(jnp.asarray(values), jnp.asarray(split.labels[:count]))


def sampled(images: Images, batch: int) -> Callable[[PRNGKeyArray, Int[Array, ""]], Images]:
    """Return a source of batches for `gf.training.run`: each is drawn with replacement, anew at every step.

    Args:
        images: what is drawn from.
        batch: images a step.
    """

    def draw(key: PRNGKeyArray, step: Int[Array, ""]) -> Images:
        return images.at(jax.random.randint(jax.random.fold_in(key, step), (batch,), 0, len(images.y)))

    return draw
