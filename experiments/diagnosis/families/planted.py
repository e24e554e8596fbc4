"""Faults that are planted into networks of other structures, with the findings that would be right and where."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

import gradflow as gf
from experiments.diagnosis import tasks
from experiments.diagnosis.families.building import (
    RATES,
    Params,
    Rng,
    affine,
    chain,
    classifier,
    forward,
    layer_norm,
    norm,
    pick,
)
from experiments.diagnosis.families.transformers import draw_sound
from experiments.diagnosis.faults import LARGE, SMALL, one_layer
from experiments.diagnosis.specimen import Specimen, of_model

__all__ = ["cut", "scaled_convolution", "scaled_gates", "scaled_transformer", "softmax_before_sigmoid", "zero_gain"]

WIDTH = 32
ACTIVATIONS: dict[str, Callable[[Any], Any]] = {"relu": jax.nn.relu, "tanh": jnp.tanh}
WAYS = ("sgd", "adam")
BRANCHES = ("inputs", "outputs", "up", "down")  # layers of a transformer's block


def _scaled(rng: Rng, plain: Specimen, among: tuple[str, ...] = ()) -> Specimen:
    """Make one layer small or large."""
    small = bool(rng.integers(2))
    factor = 10.0 ** float(rng.uniform(-6, -2) if small else rng.uniform(2, 4))
    made = one_layer(plain, rng, factor, SMALL if small else LARGE, among)
    return dataclasses.replace(made, name=f"{plain.name}, {made.name}")


def scaled_convolution(rng: Rng) -> Specimen:
    """Draw a convolutional network of which one layer is of another scale.

    Args:
        rng: that draws it.
    """
    depth, way, seed = pick(rng, (3, 4, 6)), pick(rng, WAYS), int(rng.integers(2**31))
    model = gf.models.CNN(depth, 12, tasks.CLASSES, activation=pick(rng, ACTIVATIONS), initializer="he_normal")
    plain = of_model(model, tasks.images(seed), RATES[way], seed)
    return _scaled(rng, dataclasses.replace(plain, name=f"{depth} convolutions, {way}"))


def scaled_gates(rng: Rng) -> Specimen:
    """Draw gated recurrent layers, one over the other, of which one kernel is of another scale.

    Args:
        rng: that draws it.
    """
    steps, way, seed = pick(rng, (5, 15)), pick(rng, WAYS), int(rng.integers(2**31))
    model = gf.models.Recurrent("gru", 16, tasks.CLASSES, layers=2)
    plain = of_model(model, tasks.sequences(seed, steps), RATES[way], seed)
    among = ("Layer_0/input", "Layer_0/recurrent", "Layer_1/input", "Layer_1/recurrent")
    return _scaled(rng, dataclasses.replace(plain, name=f"{steps} steps, {way}"), among)


def scaled_transformer(rng: Rng) -> Specimen:
    """Draw a transformer of which one layer is of another scale, which a norm behind it may undo.

    Args:
        rng: that draws it.
    """
    plain = draw_sound(rng, pick(rng, ("pre", "post")), pick(rng, (1, 2)))
    blocks = [name for name in plain.params if name.startswith("block")]
    return _scaled(rng, plain, tuple(f"{block}/{part}" for block in blocks for part in BRANCHES))


def softmax_before_sigmoid(rng: Rng) -> Specimen:
    """Draw a chain whose softmax is taken for logits by a loss with a sigmoid for each class.

    Chance is the entropy of one class against the others.

    Args:
        rng: that draws it.
    """
    depth, way, activation = pick(rng, (2, 3, 5)), pick(rng, RATES), pick(rng, ACTIVATIONS)
    seed, phi = int(rng.integers(2**31)), ACTIVATIONS[activation]
    params = chain(rng, [tasks.FEATURES, *[WIDTH] * (depth - 1), tasks.CLASSES])

    def network(params: Params, x: Any) -> Any:
        return forward(params, x, phi)

    def loss(params: Params, x: Any, y: Any) -> Any:
        probabilities = jax.nn.softmax(network(params, x))
        return optax.sigmoid_binary_cross_entropy(probabilities, jax.nn.one_hot(y, tasks.CLASSES)).mean()

    share = 1 / tasks.CLASSES
    chance = float(optax.sigmoid_binary_cross_entropy(jnp.log(share / (1 - share)), jnp.asarray(share)))
    plain = classifier(f"{activation}, {depth} layers, {way}", network, params, tasks.vectors(seed), RATES[way])
    return dataclasses.replace(plain, loss=loss, chance=chance)


def cut(rng: Rng) -> Specimen:
    """Draw a chain whose gradient is cut behind one of its layers, in half of them behind the last.

    What lies above a cut may learn all there is, and such a network is as healthy as one with frozen layers.

    Args:
        rng: that draws it.
    """
    depth, way, activation = pick(rng, (3, 4, 6)), pick(rng, RATES), pick(rng, ACTIVATIONS)
    seed, phi = int(rng.integers(2**31)), ACTIVATIONS[activation]
    last = depth - 1 if rng.integers(2) else int(rng.integers(depth - 1))
    params = chain(rng, [tasks.FEATURES, *[WIDTH] * (depth - 1), tasks.CLASSES])

    def network(params: Params, x: Any) -> Any:
        for k in range(depth):
            x = affine(params[f"layer_{k:02}"], x)
            x = phi(x) if k < depth - 1 else x
            x = jax.lax.stop_gradient(x) if k == last else x
        return x

    name = f"{activation}, {depth} layers, cut behind the {last + 1}., {way}"
    places = tuple(f"layer_{k:02}" for k in range(last + 1))
    kinds = ("vanishing", "stalled_layer")
    return classifier(
        name, network, params, tasks.vectors(seed), RATES[way], kinds=kinds, places=places
    )  # fmt: skip


def zero_gain(rng: Rng) -> Specimen:
    """Draw a chain with layer norm, of which one layer has weights of 0, or one norm or all norms a scale of 0.

    Args:
        rng: that draws it.
    """
    depth, way, activation = pick(rng, (3, 4, 6)), pick(rng, RATES), pick(rng, ACTIVATIONS)
    seed, phi, chosen = int(rng.integers(2**31)), ACTIVATIONS[activation], int(rng.integers(1, depth - 1))
    params = chain(rng, [tasks.FEATURES, *[WIDTH] * (depth - 1), tasks.CLASSES])
    params |= {f"norm_{k:02}": norm(WIDTH) for k in range(depth - 1)}
    what = pick(rng, ("layer", "norm", "all norms"))
    zeroed = range(depth - 1) if what == "all norms" else [chosen]
    for k in zeroed:
        name, field = (f"layer_{k:02}", "kernel") if what == "layer" else (f"norm_{k:02}", "scale")
        params[name] = params[name] | {field: jnp.zeros_like(params[name][field])}

    def network(params: Params, x: Any) -> Any:
        for k in range(depth - 1):
            x = phi(layer_norm(params[f"norm_{k:02}"], affine(params[f"layer_{k:02}"], x)))
        return affine(params[f"layer_{depth - 1:02}"], x)

    said = "all norms" if what == "all norms" else f"{what} {chosen + 1}"
    places = tuple(f"{part}_{k:02}" for k in zeroed for part in ("layer", "norm"))
    kinds = ("vanishing", "dead_units", "poor_initialization", "rank_collapse", "stalled_layer")
    name = f"{activation}, {depth} layers, {said} times 0, {way}"
    return classifier(name, network, params, tasks.vectors(seed), RATES[way], kinds=kinds, places=places)
