"""Bands against drawn networks: an average over examples strays less than one example, and no less than it says."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow import theory
from gradflow.theory.tracing.predict import _band

WIDTH, DRAWS = 100, 400


def network(params: list[jax.Array], x: jax.Array) -> list[jax.Array]:
    outs = []
    for k, w in enumerate(params):
        x = (jax.nn.relu(x) if k else x) @ w
        outs.append(x)
    return outs


def draw(key: jax.Array) -> list[jax.Array]:
    return [1.4 * jax.random.normal(k, (WIDTH, WIDTH)) / WIDTH**0.5 for k in jax.random.split(key, 3)]


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("data", ["unlike", "alike", "one example", "few directions"])
def test_bands_are_as_wide_as_drawn_networks_stray(data: str) -> None:
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (1 if data == "one example" else 32, WIDTH))
    if data == "alike":
        x = x + 3.0
    if data == "few directions":
        x = x[:, :2] @ jax.random.normal(keys[1], (2, WIDTH))
    squares = jax.lax.map(
        lambda key: jnp.stack([jnp.mean(z**2) for z in network(draw(key), x)]), jax.random.split(keys[2], DRAWS)
    )
    strays = np.log(np.asarray(squares)).std(0)
    layers = theory.predict(lambda p, x: network(p, x)[-1], draw(jax.random.key(1)), x).layers
    for layer, stray in zip(layers, strays, strict=True):
        deviation = said(layer.output_band)
        assert deviation > 0.8 * stray, (layer.name, deviation, stray)
        assert deviation < 3.0 * stray, (layer.name, deviation, stray)


def said(band: Any) -> float:
    """The standard deviation of the ln of the mean square that a band stands for."""
    low, high = 0.0, 10.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _band(middle**2) < band else (low, middle)
    return math.sqrt(low * high)
