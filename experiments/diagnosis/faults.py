"""Faults that are planted into sound networks, with the findings that would be right and where."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.diagnosis.specimen import Specimen, cross_entropy

__all__ = ["FAULTS", "LARGE", "SMALL", "Fault", "one_layer"]

Rng = np.random.Generator
HUNDREDFOLD = 255.0  # an image of bytes
SMALL = ("vanishing", "stalled_layer")  # findings that would be right of a layer of small weights
LARGE = ("exploding", "saturation", "learning_rate", "unstable_update", "stalled_layer")  # and of large ones


@dataclasses.dataclass(frozen=True)
class Fault:
    """A fault.

    Attributes:
        plant: from a sound specimen to a faulty one.
        activations: of the networks that it is planted into.
    """

    plant: Callable[[Specimen, Rng], Specimen]
    activations: tuple[str, ...] = ("relu", "tanh", "gelu")


def _leaves(params: Any, change: Callable[[str, Any], Any]) -> Any:
    def changed(path: Any, leaf: Any) -> Any:
        return change("/".join(str(getattr(key, "key", key)) for key in path), leaf)

    return jax.tree_util.tree_map_with_path(changed, params)


def _weights(specimen: Specimen, value: float) -> Specimen:
    params = _leaves(specimen.params, lambda name, p: jnp.full_like(p, value) if p.ndim > 1 else p)
    name = "zero weights" if value == 0 else f"all weights {value:g}"
    return dataclasses.replace(specimen, name=name, params=params, kinds=("poor_initialization",))


def one_layer(
    specimen: Specimen, rng: Rng, factor: float, kinds: tuple[str, ...], among: tuple[str, ...] = ()
) -> Specimen:
    """Return a specimen with one layer of another scale.

    Args:
        specimen: that is changed.
        rng: that draws the layer.
        factor: of its weights.
        kinds: findings that would be right.
        among: layers to choose from; by default all but the first and the last of a chain.
    """
    names: list[str] = []
    _leaves(specimen.params, lambda name, p: names.append(name) if p.ndim > 1 else None)
    inner = [name for name in names if _layer(name) in among] if among else names[1:-1]
    chosen = inner[int(rng.integers(len(inner)))]
    params = _leaves(specimen.params, lambda name, p: factor * p if name == chosen else p)
    place = _layer(chosen)
    return dataclasses.replace(specimen, name=f"{place} times {factor:g}", params=params, kinds=kinds, places=(place,))


def _layer(name: str) -> str:
    """Return the layer of a parameter, without the collection that Linen keeps it in."""
    return name.rpartition("/")[0].removeprefix("params/")


def _small_layer(specimen: Specimen, rng: Rng) -> Specimen:
    return one_layer(specimen, rng, 10.0 ** float(rng.uniform(-6, -2)), SMALL)


def _large_layer(specimen: Specimen, rng: Rng) -> Specimen:
    return one_layer(specimen, rng, 10.0 ** float(rng.uniform(2, 4)), LARGE)


def _negative_biases(specimen: Specimen, rng: Rng) -> Specimen:
    shift = float(rng.uniform(2, 20))
    params = _leaves(specimen.params, lambda name, p: p - shift if p.ndim == 1 else p)
    return dataclasses.replace(specimen, name=f"biases {-shift:.1f}", params=params, kinds=("dead_units", "vanishing"))


def _raw_pixels(specimen: Specimen, rng: Rng) -> Specimen:
    batches = [(np.float32(HUNDREDFOLD) * x, y) for x, y in specimen.batches]
    kinds = ("saturation", "exploding", "shattered", "learning_rate", "unstable_update")
    return dataclasses.replace(specimen, name="inputs times 255", batches=batches, kinds=kinds)


def _through(specimen: Specimen, name: str, of_logits: Callable[[Any], Any], kinds: tuple[str, ...]) -> Specimen:
    def loss(params: Any, x: Any, y: Any) -> Any:
        return cross_entropy(of_logits(specimen.logits(params, x)), y)

    return dataclasses.replace(specimen, name=name, loss=loss, kinds=kinds)


def _argmax(specimen: Specimen, rng: Rng) -> Specimen:
    def hard(logits: Any) -> Any:
        return 5.0 * jax.nn.one_hot(jnp.argmax(logits, -1), logits.shape[-1]) + 0.0 * logits

    return _through(specimen, "argmax of the logits", hard, ("vanishing",))


def _wrong_axis(specimen: Specimen, rng: Rng) -> Specimen:
    def normalized(logits: Any) -> Any:
        z = logits[..., None]  # the axis of one entry, over which the mean is all there is
        return ((z - z.mean(-1, keepdims=True)) / jnp.sqrt(z.var(-1, keepdims=True) + 1e-5))[..., 0]

    return _through(specimen, "a norm over an axis of one", normalized, ("batch_norm",))


def _doubled_softmax(specimen: Specimen, rng: Rng) -> Specimen:
    return _through(specimen, "softmax before softmax", jax.nn.softmax, ())


def _summed(specimen: Specimen, rng: Rng) -> Specimen:
    def loss(params: Any, x: Any, y: Any) -> Any:
        return float(y.shape[0]) * specimen.loss(params, x, y)

    kinds = ("learning_rate", "unstable_update")
    chance = len(specimen.batches[0][1]) * specimen.chance
    return dataclasses.replace(specimen, name="sum over the batch", loss=loss, chance=chance, kinds=kinds)


def _frozen(specimen: Specimen, rng: Rng) -> Specimen:
    def loss(params: Any, x: Any, y: Any) -> Any:
        kept = _leaves(params, lambda name, p: jax.lax.stop_gradient(p) if "Dense_0" in name else p)
        return specimen.loss(kept, x, y)

    return dataclasses.replace(specimen, name="first layer frozen", loss=loss)


def _small_batch(specimen: Specimen, rng: Rng) -> Specimen:
    count = int(rng.integers(1, 4))
    return dataclasses.replace(
        specimen, name=f"batch of {count}", batches=[(x[:count], y[:count]) for x, y in specimen.batches]
    )


FAULTS = {
    "constant weights": Fault(lambda specimen, rng: _weights(specimen, float(rng.uniform(0.02, 0.2)))),
    "zero weights": Fault(lambda specimen, rng: _weights(specimen, 0.0)),
    "a small layer": Fault(_small_layer),
    "a large layer": Fault(_large_layer),
    "negative biases": Fault(_negative_biases, ("relu",)),
    "raw pixels": Fault(_raw_pixels),
    "argmax": Fault(_argmax),
    "wrong axis": Fault(_wrong_axis),
    "sum for mean": Fault(_summed),
    "doubled softmax": Fault(_doubled_softmax),
    "frozen layers": Fault(_frozen),
    "small batch": Fault(_small_batch),
}
