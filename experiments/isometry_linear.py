"""Saxe et al. 2014: the exact course of learning in linear networks, and its time at great depth."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.progress import track
from experiments.runner import Results

STRENGTHS = (3.0, 2.0, 1.0)  # singular values of the map that is learnt
START, RATE = 0.01, 1e-3
KINDS: tuple[Literal["orthogonal", "gaussian"], ...] = ("orthogonal", "gaussian")
UNITS = 32
LEARNT = 0.05  # of the loss at the start
RATES = np.geomspace(0.03, 3, 7)
_TOO_LARGE = 10.0  # times the loss at the start: descent has left for good


def course(strength: float, start: float, time: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """u(t) = s e^(2st) / (e^(2st) - 1 + s / u_0), strength of a mode in a network with one hidden layer.

    Saxe et al. 2014, eq. 8, in units of tau = 1 / rate steps.

    Args:
        strength: s, that of the map to be learnt.
        start: u_0.
        time: t.
    """
    growth = np.exp(2 * strength * time)
    return strength * growth / (growth - 1 + strength / start)


def descend(key: Array, steps: int) -> Float[Array, "steps modes"]:
    """Strengths of all modes while a linear network with one hidden layer learns by gradient descent.

    Args:
        key: of the directions of the modes, and of those in the hidden layer.
        steps: of rate `RATE`.
    """
    size = len(STRENGTHS)
    inputs, hidden, outputs = (_orthogonal(k, size) for k in jax.random.split(key, 3))
    target = outputs @ jnp.diag(jnp.asarray(STRENGTHS)) @ inputs.T

    def loss(weights: tuple[Array, Array]) -> Array:
        return 0.5 * jnp.sum(jnp.square(weights[1] @ weights[0] - target))

    def step(weights: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], Array]:
        seen = jnp.diag(outputs.T @ weights[1] @ weights[0] @ inputs)
        return jax.tree.map(lambda w, g: w - RATE * g, weights, jax.grad(loss)(weights)), seen

    root = jnp.sqrt(jnp.float32(START))
    start = (root * hidden @ inputs.T, root * outputs @ hidden.T)
    return jax.jit(lambda start: jax.lax.scan(step, start, length=steps)[1])(start)


def losses(key: Array, depth: int, kind: str, steps: int) -> Float[Array, "rates steps"]:
    """Loss of a deep linear network over gradient descent, at each of `RATES` times units over depth.

    The map to be learnt has singular values from .5 to 2 in random directions; inputs are white. A run whose loss
    exceeds `_TOO_LARGE` times that of the start is stopped there.

    Args:
        key: of the weights and the map.
        depth: number of weight matrices.
        kind: of the weights, one of `KINDS`.
        steps: of descent.
    """
    weight_key, *map_keys = jax.random.split(key, 3)
    keys = jax.random.split(weight_key, depth)
    if kind == "orthogonal":
        start = jax.vmap(lambda k: _orthogonal(k, UNITS))(keys)
    else:
        start = jax.vmap(lambda k: jax.random.normal(k, (UNITS, UNITS)))(keys) / np.sqrt(UNITS).astype(np.float32)
    left, right = (_orthogonal(k, UNITS) for k in map_keys)
    target = (left * jnp.linspace(0.5, 2, UNITS)) @ right

    def loss(weights: Array) -> Array:
        out, _ = jax.lax.scan(lambda x, w: (w @ x, None), jnp.eye(UNITS), weights)
        return 0.5 * jnp.mean(jnp.sum(jnp.square(out - target), 0))

    def one(rate: Array) -> Array:
        first = loss(start)

        def step(state: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], Array]:
            weights, last = state
            now, grad = jax.value_and_grad(loss)(weights)
            fine = jnp.isfinite(now) & (now < _TOO_LARGE * first) & (last < _TOO_LARGE * first)
            now = jnp.where(fine, now, _TOO_LARGE * first)
            return (jnp.where(fine, weights - rate * grad, weights), now), now

        return jax.lax.scan(step, (start, first), length=steps)[1]

    return jax.jit(jax.vmap(one))(jnp.asarray(RATES * UNITS / depth, jnp.float32))


def measure(*, depths: tuple[int, ...], steps: int, saxe_steps: int, seed: int) -> Results:
    """Follow both kinds of network.

    Args:
        depths: numbers of weight matrices.
        steps: of descent in deep networks.
        saxe_steps: of descent with one hidden layer.
        seed: of everything.

    Returns:
        `saxe_time` (points,), `saxe_measured`, `saxe_theory` (points, modes); `linear_kinds`, `linear_depths`;
        `linear_steps` (kinds, depths), fewest steps over rates to `LEARNT` of the loss, infinite if it is not reached;
        `linear_loss` (kinds, depths), the lowest loss at the end over rates, relative to the start.
    """
    key = jax.random.key(seed)
    measured = np.asarray(descend(key, saxe_steps))
    time = RATE * np.arange(saxe_steps)
    theory = np.stack([course(strength, START, time) for strength in STRENGTHS], axis=1)
    every = max(1, saxe_steps // 300)
    times, left = np.full((2, len(KINDS), len(depths)), np.inf)
    pairs = [(i, j) for i in range(len(KINDS)) for j in range(len(depths))]
    for i, j in track(pairs, "linear", lambda ij: f"{depths[ij[1]]} layers, {KINDS[ij[0]]}"):
        loss = np.asarray(losses(jax.random.fold_in(key, 1), depths[j], KINDS[i], steps))
        relative = loss / loss[:, :1]
        reached = relative < LEARNT
        times[i, j] = np.where(reached.any(1), reached.argmax(1), np.inf).min()
        left[i, j] = relative[:, -1].min()
    return {
        "saxe_time": time[::every],
        "saxe_measured": measured[::every],
        "saxe_theory": theory[::every],
        "linear_kinds": np.array(KINDS),
        "linear_depths": np.array(depths),
        "linear_steps": times,
        "linear_loss": left,
    }


def _orthogonal(key: Array, size: int) -> Array:
    return jax.nn.initializers.orthogonal()(key, (size, size), jnp.float32)
