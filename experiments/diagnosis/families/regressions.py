"""Regression: large targets that the rate fits, and those that it does not fit or that the output cannot reach."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.diagnosis import tasks
from experiments.diagnosis.families.building import (
    RATES,
    Params,
    Rng,
    chain,
    forward,
    pick,
    regressor,
)
from experiments.diagnosis.specimen import Specimen

__all__ = ["bounded_output", "large_targets", "other_scale"]

WIDTH = 32
DEPTHS = (2, 3, 5)
BOUNDED: dict[str, Callable[[Any], Any]] = {"sigmoid": jax.nn.sigmoid, "tanh": jnp.tanh}


def _network(last: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda params, x: last(forward(params, x, jax.nn.relu))


def _params(rng: Rng, depth: int) -> Params:
    return chain(rng, [tasks.FEATURES, *[WIDTH] * (depth - 1), 1])


def large_targets(rng: Rng) -> Specimen:
    """Draw a network that reaches large targets: its output is multiplied, or its last layer is large at first.

    Where the output is multiplied by s, the loss grows with s^2, and the rate of plain descent is divided by it.

    Args:
        rng: that draws it.
    """
    scale, depth, seed = 10.0 ** float(rng.uniform(1, 5)), pick(rng, DEPTHS), int(rng.integers(2**31))
    way, params = pick(rng, ("sgd", "momentum", "adam", "large last layer")), _params(rng, depth)
    batches, fitting = tasks.targets(seed, scale), scale**-2
    optimizer = {"sgd": optax.sgd(0.03 * fitting), "momentum": optax.sgd(5e-3 * fitting, momentum=0.9)}.get(
        way, RATES["adam"]
    )
    name = f"targets of {scale:.1e}, {depth} layers, {way}"
    if way != "large last layer":
        return regressor(name, _network(lambda x: scale * x), params, batches, optimizer)
    last = max(params)
    params[last] = {"kernel": scale * params[last]["kernel"], "bias": params[last]["bias"]}
    return regressor(name, _network(lambda x: x), params, batches, optimizer)


def other_scale(rng: Rng) -> Specimen:
    """Draw a network whose targets are of a size that neither its weights nor its rate are made for.

    Args:
        rng: that draws it.
    """
    scale, depth, way = 10.0 ** float(rng.uniform(2, 6)), pick(rng, DEPTHS), pick(rng, RATES)
    seed, params = int(rng.integers(2**31)), _params(rng, depth)
    kinds = ("learning_rate", "unstable_update", "exploding", "stalled_layer")
    name = f"targets of {scale:.1e}, {depth} layers, {way}"
    return regressor(name, _network(lambda x: x), params, tasks.targets(seed, scale), RATES[way], kinds=kinds)


def bounded_output(rng: Rng) -> Specimen:
    """Draw a network with a last sigmoid or tanh, and targets far beyond 1, which drive it into its flat parts.

    Args:
        rng: that draws it.
    """
    scale, depth, way = 10.0 ** float(rng.uniform(1.5, 4)), pick(rng, DEPTHS), pick(rng, RATES)
    seed, params, last = int(rng.integers(2**31)), _params(rng, depth), pick(rng, BOUNDED)
    name = f"{last} before targets of {scale:.1e}, {depth} layers, {way}"
    kinds = ("saturation", "vanishing")
    return regressor(name, _network(BOUNDED[last]), params, tasks.targets(seed, scale), RATES[way], kinds=kinds)
