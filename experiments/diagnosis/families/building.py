"""What networks of the zoo are built of: layers as dictionaries, chains of them, losses as specimens."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from experiments.diagnosis.specimen import Specimen, cross_entropy
from experiments.diagnosis.tasks import Batches

__all__ = [
    "HE", "LECUN", "MILD", "RATES", "Family", "Network", "Params", "Rng", "affine", "chain", "classifier", "dense",
    "forward", "layer_norm", "norm", "normal", "pick", "regressor", "standardized",
]  # fmt: skip

Rng: TypeAlias = np.random.Generator
Params: TypeAlias = dict[str, dict[str, Array]]
Network: TypeAlias = Callable[[Any, Any], Any]
Family: TypeAlias = Callable[[Rng], Specimen]

HE, LECUN = 2.0, 1.0  # variance of a weight times its fan-in
RATES = {"sgd": optax.sgd(0.1), "momentum": optax.sgd(0.02, momentum=0.9), "adam": optax.adam(3e-3)}
MILD = (0.8, 1.0, 1.0, 1.25)  # factors of weights that a sound network bears
EPSILON = 1e-5  # beside a variance


def pick(rng: Rng, choices: Any) -> Any:
    """Return one of some choices.

    Args:
        rng: that draws it.
        choices: of which the keys count, if it is a mapping.
    """
    return list(choices)[int(rng.integers(len(choices)))]


def normal(rng: Rng, shape: tuple[int, ...], deviation: float) -> Float[Array, "*shape"]:
    """Return normal numbers in single precision.

    Args:
        rng: that draws them.
        shape: of the array.
        deviation: of each.
    """
    return jnp.asarray((deviation * rng.standard_normal(shape)).astype(np.float32))


def dense(rng: Rng, fan_in: int, units: int, gain: float = HE) -> dict[str, Array]:
    """Return a layer with weights of variance gain / fan_in and biases of 0.

    Args:
        rng: that draws it.
        fan_in: width of its input.
        units: width of its output.
        gain: variance of a weight times its fan-in.
    """
    return {"kernel": normal(rng, (fan_in, units), math.sqrt(gain / fan_in)), "bias": jnp.zeros(units)}


def chain(rng: Rng, widths: Sequence[int], gain: float = HE) -> Params:
    """Return dense layers, one after the other, the last one with a gain of 1.

    Args:
        rng: that draws them.
        widths: of the input and of each layer.
        gain: of the others.
    """
    count = len(widths) - 1
    return {
        f"layer_{k:02}": dense(rng, widths[k], widths[k + 1], gain if k < count - 1 else LECUN) for k in range(count)
    }


def affine(layer: dict[str, Array], x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch units"]:
    """Return what a layer makes of its input.

    Args:
        layer: with kernel and bias.
        x: its input.
    """
    return x @ layer["kernel"] + layer["bias"]


def forward(params: Params, x: Float[Array, "batch inputs"], activation: Callable[[Any], Any]) -> Any:
    """Return what a chain of layers makes of its input.

    Args:
        params: from `chain`.
        x: its input.
        activation: behind every layer but the last.
    """
    *hidden, last = sorted(params)
    for name in hidden:
        x = activation(affine(params[name], x))
    return affine(params[last], x)


def norm(units: int) -> dict[str, Array]:
    """Return the scale and the shift behind a normalization.

    Args:
        units: of the layer.
    """
    return {"scale": jnp.ones(units), "bias": jnp.zeros(units)}


def standardized(x: Float[Array, "..."], axis: int) -> Float[Array, "..."]:
    """Return an array of mean 0 and variance 1 along an axis.

    Args:
        x: the array.
        axis: 0 for the statistics of a batch, -1 for those of a layer.
    """
    centred = x - x.mean(axis, keepdims=True)
    return centred / jnp.sqrt(jnp.square(centred).mean(axis, keepdims=True) + EPSILON)


def layer_norm(params: dict[str, Array], x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return a normalized layer (Ba et al. 2016).

    Args:
        params: from `norm`.
        x: the layer.
    """
    return standardized(x, -1) * params["scale"] + params["bias"]


def classifier(
    name: str, network: Network, params: Any, batches: Batches, optimizer: optax.GradientTransformation, **rest: Any
) -> Specimen:
    """Return a network that is trained with cross-entropy.

    Args:
        name: of the specimen.
        network: (params, x) -> logits.
        params: where it starts.
        batches: (x, y) of each, y the number of the class.
        optimizer: that it is trained with.
        rest: other attributes of the specimen.
    """

    def loss(params: Any, x: Any, y: Any) -> Any:
        return cross_entropy(network(params, x), y)

    return Specimen(name, loss, network, params, batches, optimizer, **rest)


def regressor(
    name: str, network: Network, params: Any, batches: Batches, optimizer: optax.GradientTransformation, **rest: Any
) -> Specimen:
    """Return a network that is trained with the squared loss.

    One that knows nothing answers with the mean of the targets, so chance is their variance.

    Args:
        name: of the specimen.
        network: (params, x) -> predictions.
        params: where it starts.
        batches: (x, y) of each, y the targets.
        optimizer: that it is trained with.
        rest: other attributes of the specimen.
    """

    def loss(params: Any, x: Any, y: Any) -> Any:
        return jnp.square(network(params, x) - y).mean()

    targets = np.concatenate([y for _, y in batches]).astype(np.float64)
    chance = float(np.square(targets - targets.mean(0)).mean())
    return Specimen(name, loss, network, params, batches, optimizer, chance, **rest)
