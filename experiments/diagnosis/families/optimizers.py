"""Optimizers, with and without warm-up and clipping, and Adam that does not correct its bias."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.diagnosis import tasks
from experiments.diagnosis.families.building import Family, Rng, chain, classifier, forward, pick
from experiments.diagnosis.specimen import Specimen

__all__ = ["missing_correction", "optimizers", "uncorrected_adam"]

WIDTH = 32
DEPTHS = (2, 4, 8)
ACTIVATIONS: dict[str, Callable[[Any], Any]] = {"relu": jax.nn.relu, "gelu": jax.nn.gelu}
# Each with the rate that one begins with.
OPTIMIZERS: dict[str, tuple[Callable[[Any], optax.GradientTransformation], float]] = {
    "sgd": (optax.sgd, 0.1),
    "momentum": (lambda rate: optax.sgd(rate, momentum=0.9), 0.02),
    "nesterov": (lambda rate: optax.sgd(rate, momentum=0.9, nesterov=True), 0.02),
    "adam": (optax.adam, 3e-3),
    "adamw": (optax.adamw, 3e-3),
    "rmsprop": (optax.rmsprop, 2e-3),
    "lion": (optax.lion, 5e-4),
    "adagrad": (optax.adagrad, 0.03),
}
FACTORS = (1.0, 1.0, 1.0, 1.0, 1e-3, 1e2)  # of that rate
WARM_UPS = (0, 0, 15, 50)  # steps
CLIPS = (math.inf, 1.0)  # of the norm of the whole gradient


def optimizers(activation: str) -> Family:
    """Return the family of chains with all optimizers, most of them with a rate that fits.

    Args:
        activation: of the chain.
    """

    def family(rng: Rng) -> Specimen:
        way, factor, warm, clip = pick(rng, OPTIMIZERS), pick(rng, FACTORS), pick(rng, WARM_UPS), pick(rng, CLIPS)
        make, rate = OPTIMIZERS[way]
        steps = [make(factor * rate)]
        if warm:
            steps.append(optax.scale_by_schedule(optax.linear_schedule(0.0, 1.0, warm)))
        if math.isfinite(clip):
            steps.insert(0, optax.clip_by_global_norm(clip))
        name = f"{way}, {factor:g} of its rate" + (f", {warm} steps of warm-up" if warm else "")
        name += ", clipped" if math.isfinite(clip) else ""
        return _sound(rng, name, activation, optax.chain(*steps))

    return family


def _sound(rng: Rng, name: str, activation: str, optimizer: optax.GradientTransformation, **rest: Any) -> Specimen:
    depth, seed, phi = pick(rng, DEPTHS), int(rng.integers(2**31)), ACTIVATIONS[activation]
    params = chain(rng, [tasks.FEATURES, *[WIDTH] * (depth - 1), tasks.CLASSES])

    def network(params: Any, x: Any) -> Any:
        return forward(params, x, phi)

    return classifier(f"{name}, {depth} layers", network, params, tasks.vectors(seed), optimizer, **rest)


def missing_correction(rng: Rng) -> Specimen:
    """Draw a chain that is trained with Adam without the correction of its bias.

    The first steps are (1 - b1) / sqrt(1 - b2) times too large, 3 for the usual memory and 100 for the longest here.

    Args:
        rng: that draws it.
    """
    rate, memory = 10.0 ** float(rng.uniform(-3, -1.5)), pick(rng, (0.999, 0.9999, 0.999999))
    name = f"Adam without correction, b2 {memory:g}, rate {rate:.1e}"
    kinds = ("learning_rate", "unstable_update")
    return _sound(rng, name, "relu", uncorrected_adam(rate, memory), kinds=kinds)


def uncorrected_adam(rate: float, memory: float, momentum: float = 0.9) -> optax.GradientTransformation:
    """Return Adam (Kingma & Ba 2015) without the division of its means by 1 - b^t.

    Args:
        rate: of learning.
        memory: b2, of the squares.
        momentum: b1.
    """

    def init(params: Any) -> Any:
        return jax.tree.map(jnp.zeros_like, (params, params))

    def update(gradients: Any, state: Any, params: Any = None) -> Any:
        mean = jax.tree.map(lambda m, g: momentum * m + (1 - momentum) * g, state[0], gradients)
        square = jax.tree.map(lambda v, g: memory * v + (1 - memory) * g * g, state[1], gradients)
        steps = jax.tree.map(lambda m, v: -rate * m / (jnp.sqrt(v) + 1e-8), mean, square)
        return steps, (mean, square)

    return optax.GradientTransformation(init, update)
