"""Saxe et al. 2014: the exact course of learning in linear networks, and its time at great depth."""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

import gradflow as gf
from experiments.framework.progress import track

STRENGTHS = (3.0, 2.0, 1.0)  # singular values of the map that is learnt
START, RATE = 0.01, 1e-3
KINDS: tuple[Literal["orthogonal", "gaussian"], ...] = ("orthogonal", "gaussian")
UNITS = 32
LEARNT = 0.05  # of the loss at the start
RATES = np.geomspace(0.02, 0.8, 18)  # the best ones of all depths lie inside
_TOO_LARGE = 10.0  # times the loss at the start: descent has left for good


def course(strength: float, start: float, time: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """u(t) = s e^(2st) / (e^(2st) - 1 + s / u_0), strength of a mode in a network with one hidden layer.

    Saxe et al. 2014, eq. 12, in units of tau = 1 / rate steps.

    Args:
        strength: s, that of the map to be learnt.
        start: u_0.
        time: t.
    """
    growth = np.exp(2 * strength * time)
    return strength * growth / (growth - 1 + strength / start)


@functools.partial(jax.jit, static_argnames="steps")
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
    return jax.lax.scan(step, (root * hidden @ inputs.T, root * outputs @ hidden.T), length=steps)[1]


@functools.partial(jax.jit, static_argnames=("depth", "draws", "steps"))
def losses(key: Array, *, depth: int, draws: int, steps: int) -> Float[Array, "kinds draws rates steps"]:
    """Loss of deep linear networks over gradient descent, at each of `RATES` times units over depth.

    The map to be learnt is what an orthogonal network computes at the start, times one of singular values from .5 to 2
    in random directions: with one key, networks of every depth have the same way to go. Inputs are white. A run whose
    loss exceeds `_TOO_LARGE` times that of the start is stopped there.

    Args:
        key: of the weights and the maps.
        depth: number of weight matrices.
        draws: networks of each of `KINDS`, every one with a map of its own.
        steps: of descent.
    """
    starts, targets = jax.lax.map(lambda key: _problem(key, depth), jax.random.split(key, draws))
    rates = jnp.asarray(RATES * UNITS / depth, jnp.float32)
    descent = functools.partial(_descent, steps=steps)
    over_rates = jax.vmap(descent, (None, None, 0))
    over_kinds = jax.vmap(over_rates, (0, None, None))
    return jnp.swapaxes(jax.vmap(over_kinds, (0, 0, None))(starts, targets, rates), 0, 1)


def _problem(key: Array, depth: int) -> tuple[Float[Array, "kinds depth units units"], Float[Array, "units units"]]:
    weight_key, left_key, right_key = jax.random.split(key, 3)
    gaussian = jax.random.normal(weight_key, (depth, UNITS, UNITS)) / np.sqrt(UNITS).astype(np.float32)
    orthogonal = jax.vmap(_orthogonal, (0, None))(jax.random.split(weight_key, depth), UNITS)
    stretched = _orthogonal(left_key, UNITS) * jnp.linspace(0.5, 2, UNITS) @ _orthogonal(right_key, UNITS)
    return jnp.stack([orthogonal, gaussian]), stretched @ _product(orthogonal)


def _product(weights: Float[Array, "depth units units"]) -> Float[Array, "units units"]:
    return jax.lax.scan(lambda x, w: (w @ x, None), jnp.eye(UNITS), weights)[0]


def _descent(
    start: Float[Array, "depth units units"], target: Float[Array, "units units"], rate: Float[Array, ""], *, steps: int
) -> Float[Array, " steps"]:
    def loss(weights: Array) -> Array:
        return 0.5 * jnp.mean(jnp.sum(jnp.square(_product(weights) - target), 0))

    limit = _TOO_LARGE * loss(start)

    def step(state: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], Array]:
        weights, last = state
        now, grad = jax.value_and_grad(loss)(weights)
        fine = jnp.isfinite(now) & (now < limit) & (last < limit)
        now = jnp.where(fine, now, limit)
        return (jnp.where(fine, weights - rate * grad, weights), now), now

    return jax.lax.scan(step, (start, limit / _TOO_LARGE), length=steps)[1]


@dataclasses.dataclass(frozen=True)
class Saxe:
    """The course of every mode of a linear network with one hidden layer."""

    time: Float[np.ndarray, " records"]
    measured: Float[np.ndarray, "records modes"]
    theory: Float[np.ndarray, "records modes"]


@dataclasses.dataclass(frozen=True)
class Deep:
    """Steps that deep linear networks take at their best rate, infinite where they do not learn, and the loss left."""

    kinds: Shaped[np.ndarray, " kinds"]
    depths: Int[np.ndarray, " depths"]
    steps: Float[np.ndarray, "kinds depths draws"]
    loss: Float[np.ndarray, "kinds depths draws"]


def measure(*, depths: tuple[int, ...], draws: int, steps: int, saxe_steps: int, seed: int) -> tuple[Saxe, Deep]:
    """Follow both kinds of network.

    Args:
        depths: numbers of weight matrices.
        draws: deep networks of each kind.
        steps: of descent in deep networks.
        saxe_steps: of descent with one hidden layer.
        seed: of everything.

    Returns:
        Both.
    """
    key = jax.random.key(seed)
    measured = np.asarray(descend(key, saxe_steps))
    time = RATE * np.arange(saxe_steps)
    theory = np.stack([course(strength, START, time) for strength in STRENGTHS], axis=1)
    every = max(1, saxe_steps // 300)
    times, left = [], []
    for depth in track(depths, "linear", "{} layers".format):
        loss = np.asarray(losses(jax.random.fold_in(key, 1), depth=depth, draws=draws, steps=steps))
        relative = loss / loss[..., :1]
        reached = relative < LEARNT
        times.append(np.where(reached.any(-1), reached.argmax(-1), np.inf).min(-1))
        left.append(relative[..., -1].min(-1))
    saxe = Saxe(time=time[::every], measured=measured[::every], theory=theory[::every])
    return saxe, Deep(kinds=np.array(KINDS), depths=np.array(depths), steps=np.stack(times, 1), loss=np.stack(left, 1))


def _orthogonal(key: Array, size: int) -> Array:
    return gf.initializers.orthogonal()(key, (size, size), jnp.float32)
