"""One network of the zoo: a loss, where it starts, what it is trained on and how."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from experiments.diagnosis.tasks import CLASSES, Batches

__all__ = ["Specimen", "cross_entropy", "of_model", "scaled"]


@dataclasses.dataclass(frozen=True, eq=False)
class Specimen:
    """A network of the zoo.

    Attributes:
        name: what it is, within its family.
        loss: (params, x, y) -> loss.
        logits: (params, x) -> logits.
        params: where it starts.
        batches: (x, y) of each.
        optimizer: that it is trained with.
        chance: loss of a network that knows nothing.
        family: that it was drawn from.
        kinds: findings that would be right, if it is sick; empty where that is not known beforehand.
        places: names within which the fault lies; empty where that is not known beforehand.
    """

    name: str
    loss: Callable[..., Any]
    logits: Callable[..., Any]
    params: Any
    batches: Batches
    optimizer: optax.GradientTransformation
    chance: float = math.log(CLASSES)
    family: str = ""
    kinds: tuple[str, ...] = ()
    places: tuple[str, ...] = ()


def of_model(model: Any, batches: Batches, optimizer: optax.GradientTransformation, seed: int) -> Specimen:
    """Return the specimen of a classifier written in Linen.

    Args:
        model: from inputs to logits.
        batches: (x, y) of each.
        optimizer: that it is trained with.
        seed: of its weights.
    """
    params = _init(model, jax.random.key(seed), batches[0][0])

    def logits(params: Any, x: Any) -> Any:
        return model.apply(params, x)

    def loss(params: Any, x: Any, y: Any) -> Any:
        return cross_entropy(logits(params, x), y)

    return Specimen(type(model).__name__, loss, logits, params, batches, optimizer)


@partial(jax.jit, static_argnums=0)
def _init(model: Any, key: Any, x: Any) -> Any:
    """Compile once for all specimens of one configuration."""
    return model.init(key, x)


def cross_entropy(logits: Float[Array, "batch classes"], y: Int[Array, " batch"]) -> Float[Array, ""]:
    """Return the mean cross-entropy, which is never negative.

    `optax.softmax_cross_entropy_with_integer_labels` takes the right logit from the normalizer. Where logits are 1e9,
    both are rounded to 64, and a training that blew up ends at a loss of -770.

    Args:
        logits: of the classes.
        y: the right ones.
    """
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits.astype(jnp.float32)), y[:, None], axis=-1)
    return -chosen.mean()


def scaled(params: Any, factor: float) -> Any:
    """Return parameters with every matrix and kernel times a factor.

    Args:
        params: of a model.
        factor: of the weights.
    """
    return jax.tree.map(lambda p: factor * p if p.ndim > 1 else p, params)
