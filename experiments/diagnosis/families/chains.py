"""Chains of dense layers: of one width or of very different ones, with batch norm, dropout, tied weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.diagnosis import tasks
from experiments.diagnosis.families.building import (
    LECUN,
    MILD,
    RATES,
    Params,
    Rng,
    affine,
    chain,
    classifier,
    dense,
    forward,
    norm,
    pick,
    regressor,
    standardized,
)
from experiments.diagnosis.specimen import Specimen, scaled

__all__ = ["batch_norm", "dropout", "tied", "uneven_widths", "widths"]

ACTIVATIONS: dict[str, Callable[[Any], Any]] = {"relu": jax.nn.relu, "tanh": jnp.tanh}


def _drawn(rng: Rng, inner: list[int], factors: tuple[float, ...]) -> Specimen:
    activation, factor, way = pick(rng, ACTIVATIONS), pick(rng, factors), pick(rng, RATES)
    phi, seed = ACTIVATIONS[activation], int(rng.integers(2**31))
    gain = 2.0 if activation == "relu" else LECUN
    params = scaled(chain(rng, [tasks.FEATURES, *inner, tasks.CLASSES], gain), factor)
    name = f"{activation}, widths {'-'.join(map(str, inner))}, {factor:g} of the weights, {way}"
    return classifier(name, lambda params, x: forward(params, x, phi), params, tasks.vectors(seed), RATES[way])


def widths(rng: Rng) -> Specimen:
    """Draw a chain of one width, 8 to 256.

    Args:
        rng: that draws it.
    """
    width, depth = pick(rng, (8, 16, 32, 64, 128, 256)), pick(rng, (1, 3, 6))
    return _drawn(rng, [width] * depth, (0.2, 0.5, 1.0, 1.0, 1.0, 2.0, 4.0))


def uneven_widths(rng: Rng) -> Specimen:
    """Draw a chain whose widths differ by a factor of up to 64.

    Args:
        rng: that draws it.
    """
    inner = [pick(rng, (12, 16, 32, 128, 512)) for _ in range(pick(rng, (3, 4, 6)))]
    inner[0], inner[int(rng.integers(1, len(inner)))] = 12, 768
    return _drawn(rng, inner, MILD)


def batch_norm(rng: Rng) -> Specimen:
    """Draw a chain with a norm over the batch before each activation, over depth, size of weights and optimizer.

    Args:
        rng: that draws it.
    """
    depth, factor, way = pick(rng, (2, 4, 8, 16)), pick(rng, (0.2, 0.5, 1.0, 1.0, 2.0, 4.0)), pick(rng, RATES)
    activation, seed = pick(rng, ACTIVATIONS), int(rng.integers(2**31))
    params = chain(rng, [tasks.FEATURES, *[24] * (depth - 1), tasks.CLASSES])
    params = scaled(params, factor) | {f"norm_{k:02}": norm(24) for k in range(depth - 1)}

    def network(params: Params, x: Any) -> Any:
        for k in range(depth - 1):
            own = params[f"norm_{k:02}"]
            x = standardized(affine(params[f"layer_{k:02}"], x), 0) * own["scale"] + own["bias"]
            x = ACTIVATIONS[activation](x)
        return affine(params[f"layer_{depth - 1:02}"], x)

    name = f"{activation}, {depth} layers, {factor:g} of He, {way}"
    return classifier(name, network, params, tasks.vectors(seed), RATES[way])


def dropout(rng: Rng) -> Specimen:
    """Draw a chain with dropout, whose key is folded from the batch, so that the loss is a function of its arguments.

    Args:
        rng: that draws it.
    """
    depth, dropped, way = pick(rng, (2, 3, 5)), pick(rng, (0.05, 0.1, 0.2, 0.4)), pick(rng, RATES)
    seed = int(rng.integers(2**31))
    params = chain(rng, [tasks.FEATURES, *[96] * (depth - 1), tasks.CLASSES])

    def network(params: Params, x: Any) -> Any:
        key = jax.random.fold_in(jax.random.key(seed), jax.lax.bitcast_convert_type(x[0, 0], jnp.uint32))

        for k in range(depth - 1):
            x = jax.nn.relu(affine(params[f"layer_{k:02}"], x))
            kept = jax.random.bernoulli(jax.random.fold_in(key, k), 1 - dropped, x.shape)
            x = jnp.where(kept, x / (1 - dropped), 0.0)
        return affine(params[f"layer_{depth - 1:02}"], x)

    name = f"{depth} layers, {dropped:.0%} dropped, {way}"
    return classifier(name, network, params, tasks.vectors(seed), RATES[way])


def tied(rng: Rng) -> Specimen:
    """Draw a chain that uses one layer several times, or an autoencoder whose decoder is its encoder turned over.

    Args:
        rng: that draws it.
    """
    return _repeated(rng) if rng.integers(2) else _autoencoder(rng)


def _repeated(rng: Rng) -> Specimen:
    times, factor, way, seed = pick(rng, (2, 4, 8)), pick(rng, MILD), pick(rng, RATES), int(rng.integers(2**31))
    params = {
        "inputs": dense(rng, tasks.FEATURES, 32, LECUN),
        "shared": dense(rng, 32, 32, LECUN),
        "head": dense(rng, 32, tasks.CLASSES, LECUN),
    }

    def network(params: Params, x: Any) -> Any:
        x = jnp.tanh(affine(params["inputs"], x))
        for _ in range(times):
            x = jnp.tanh(affine(params["shared"], x))
        return affine(params["head"], x)

    name = f"one layer used {times} times, {factor:g} of LeCun, {way}"
    return classifier(name, network, scaled(params, factor), tasks.vectors(seed), RATES[way])


def _autoencoder(rng: Rng) -> Specimen:
    units, way, seed = pick(rng, (12, 16, 20)), pick(rng, ("momentum", "adam")), int(rng.integers(2**31))
    params = {"encoder": dense(rng, tasks.FEATURES, units, LECUN), "decoder": {"bias": jnp.zeros(tasks.FEATURES)}}

    def network(params: Params, x: Any) -> Any:
        code = jnp.tanh(affine(params["encoder"], x))
        return code @ params["encoder"]["kernel"].T + params["decoder"]["bias"]

    batches = [(x, x) for x, _ in tasks.vectors(seed)]
    return regressor(f"autoencoder of {units} units, {way}", network, params, batches, RATES[way])
