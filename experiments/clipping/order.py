"""Recurrent networks learning temporal order, from three initializations, with gradients clipped in several ways."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped

import gradflow as gf
from experiments.framework.progress import side_by_side
from experiments.framework.stretches import in_stretches
from gradflow.data.sequences import Task, TemporalOrder

NONE = 1e30  # a limit that nothing reaches; inf would give inf * 0
BY_NORM, BY_VALUE, BY_UNIT = 1.0, 0.1, 0.01
RATE, BATCH, HIDDEN = 0.01, 20, 50
TESTED, SOLVED = 10_000, 0.01  # sequences, and the part of them that may be wrong
LOOKS = 3000  # updates of a record where none is kept, at most


class Arm(NamedTuple):
    """One way of training, as numbers, so that all of them are one program.

    Attributes:
        std: of input and output weights, and of recurrent weights that are not sparse.
        smart: 1 for recurrent weights by `gf.initializers.smart_tanh`.
        logistic: 1 for sigmoid units in place of tanh.
        norm: limit of the norm of the whole gradient.
        value: limit of each entry.
        unit: limit of the norm of a unit's gradient, relative to that of its weights.
    """

    std: float | Array
    smart: float | Array
    logistic: float | Array
    norm: float | Array
    value: float | Array
    unit: float | Array


INITS = {"sigmoid": (0.01, 0.0, 1.0), "tanh": (0.1, 0.0, 0.0), "smart tanh": (0.1, 1.0, 0.0)}
LIMITS = {
    "none": (NONE, NONE, NONE),
    "norm": (BY_NORM, NONE, NONE),
    "value": (NONE, BY_VALUE, NONE),
    "adaptive": (NONE, NONE, BY_UNIT),
}
ARMS = (
    *((init, clip) for init in INITS for clip in ("none", "norm")),
    ("smart tanh", "value"),
    ("smart tanh", "adaptive"),
)


class NormState(NamedTuple):
    """Norm of the gradient that passed last."""

    norm: Float[Array, ""]


@dataclasses.dataclass(frozen=True)
class ByLength:
    """Part of wrongly classified sequences of each of `ARMS`, by length."""

    inits: Shaped[np.ndarray, " arms"]
    clips: Shaped[np.ndarray, " arms"]
    lengths: Int[np.ndarray, " lengths"]
    updates: int
    error: Float[np.ndarray, "lengths arms runs"]


@dataclasses.dataclass(frozen=True)
class AtLength:
    """Long training at one length, clipped in each way of `LIMITS`: see `train`, and errors at the end."""

    length: int
    every: int
    error: Float[np.ndarray, "kinds runs"]
    loss: Float[np.ndarray, "kinds runs records"]
    before: Float[np.ndarray, "kinds runs records"]
    after: Float[np.ndarray, "kinds runs records"]


def watched() -> Any:
    """Return an optax transformation that changes nothing and keeps the norm of what passes: `NormState`."""
    import optax

    def init(params: Any) -> NormState:
        return NormState(jnp.zeros(()))

    def update(updates: Any, state: NormState, params: Any = None) -> tuple[Any, NormState]:
        return updates, NormState(optax.tree.norm(updates))

    return optax.GradientTransformation(init, update)


def optimizer(arm: Arm) -> Any:
    """Return plain gradient descent behind the clipping of an arm, with the norm kept before and after it.

    Args:
        arm: limits.
    """
    import optax

    clips = (optax.clip_by_global_norm(arm.norm), optax.clip(arm.value), optax.adaptive_grad_clip(arm.unit))
    return optax.chain(watched(), *clips, watched(), optax.sgd(RATE))


def model(arm: Arm, outputs: int) -> gf.models.Recurrent:
    """Return the network of an arm.

    Args:
        arm: initialization and activation.
        outputs: classes.
    """

    def phi(x: Array) -> Array:
        """Tanh, or by the same function sigma(x) = (1 + tanh(x / 2)) / 2."""
        shrink = 1 - arm.logistic / 2
        return shrink * jnp.tanh(shrink * x) + arm.logistic / 2

    return gf.models.Recurrent(phi, HIDDEN, outputs, initializer=normal(arm), recurrent_initializer=recurrent(arm))


def normal(arm: Arm) -> Any:
    """Return the initializer N(0, std^2) of an arm; its standard deviation may be traced.

    Args:
        arm: standard deviation.
    """

    def draw(key: PRNGKeyArray, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        return arm.std * jax.random.normal(key, shape, dtype)

    return draw


def recurrent(arm: Arm) -> Any:
    """Return the initializer of an arm's recurrent weights: sparse, or as the input weights.

    Args:
        arm: which of the two, and the standard deviation.
    """
    smart, gaussian = gf.initializers.smart_tanh(), normal(arm)

    def draw(key: PRNGKeyArray, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        return jnp.where(arm.smart > 0, smart(key, shape, dtype), gaussian(key, shape, dtype))

    return draw


def start(network: gf.models.Recurrent, arm: Arm, task: Task, key: PRNGKeyArray) -> gf.training.TrainState:
    """Return the state before the first update; output weights are drawn like input weights.

    Args:
        network: of the arm.
        arm: the arm.
        task: that is learned.
        key: of the weights.
    """
    init_key, head_key = jax.random.split(key)
    params = network.init(init_key, jnp.zeros((1, 2, task.features)))["params"]
    head = params["Dense_head"]
    head = head | {"kernel": normal(arm)(head_key, head["kernel"].shape)}
    return gf.training.start(params | {"Dense_head": head}, optimizer(arm), key)


def train(
    state: gf.training.TrainState | None, task: Task, arm: Arm, key: PRNGKeyArray, updates: int, every: int
) -> tuple[gf.training.TrainState, dict[str, Array]]:
    """Train one network on fresh sequences; pure, for `vmap` over arms and keys.

    Args:
        state: to go on from; None to start.
        task: that is learned.
        arm: how.
        key: of weights and sequences; arms that share it share the sequences.
        updates: how many, a multiple of `every`.
        every: of them a record.

    Returns:
        The state; `loss`, `before`, `after` (records,): mean loss, and the largest norm of the gradient
        before and after clipping among the updates of a record.
    """
    network = model(arm, task.outputs)
    step = gf.training.make_step(gf.training.classification(network), optimizer(arm))
    source = gf.data.generate(task, BATCH)
    start_key, data_key = jax.random.split(key)

    def update(state: Any, _: None) -> tuple[Any, tuple[Array, Array, Array]]:
        state, metrics = step(state, source.batch(data_key, state.step))
        return state, (metrics["loss"].value, state.opt_state[0].norm, state.opt_state[4].norm)

    def record(state: Any, _: None) -> tuple[Any, dict[str, Array]]:
        state, (loss, before, after) = jax.lax.scan(update, state, length=every)
        return state, {"loss": loss.mean(), "before": before.max(), "after": after.max()}

    if state is None:
        state = start(network, arm, task, start_key)
    return jax.lax.scan(record, state, length=updates // every)


@functools.partial(jax.jit, static_argnames=("length", "updates", "every"))
def advance(
    states: gf.training.TrainState | None, length: int, arms: Arm, keys: PRNGKeyArray, updates: int, every: int
) -> tuple[gf.training.TrainState, dict[str, Float[Array, "arms keys records"]]]:
    """Train every arm from every key, as one program.

    Args:
        states: to go on from, (arms, keys); None to start.
        length: of the sequences.
        arms: numbers with an axis in front.
        keys: of weights and sequences.
        updates: how many.
        every: of them a record.

    Returns:
        What `train` returns.
    """

    def one(state: Any, arm: Arm, key: PRNGKeyArray) -> Any:
        return train(state, TemporalOrder(length), arm, key, updates, every)

    return _crossed(one)(states, arms, keys)


@functools.partial(jax.jit, static_argnames="length")
def errors(length: int, params: Any, arms: Arm, keys: PRNGKeyArray) -> Float[Array, "arms keys"]:
    """Return the part of 10,000 new sequences that every network of `advance` classifies wrongly.

    Args:
        length: of the sequences.
        params: of the networks.
        arms: as `advance` takes them.
        keys: the same.
    """

    def one(params: Any, arm: Arm, key: PRNGKeyArray) -> Float[Array, ""]:
        return test_error(TemporalOrder(length), arm, params, jax.random.fold_in(key, 1))

    return _crossed(one)(params, arms, keys)


def _crossed(one: Any) -> Any:
    """Map (network, arm, key) over every arm with every key, with axes (arms, keys)."""
    return jax.vmap(jax.vmap(one, (0, 0, None)), (1, None, 0), 1)


def test_error(task: Task, arm: Arm, params: Any, key: PRNGKeyArray) -> Float[Array, ""]:
    """Return the part of 10,000 new sequences that is classified wrongly.

    Args:
        task: that was learned.
        arm: of the network.
        params: of the network.
        key: of the sequences.
    """
    network = model(arm, task.outputs)

    def part(key: PRNGKeyArray) -> Array:
        inputs, targets, *_ = task.sample(key, TESTED // 20)
        logits = jnp.asarray(network.apply({"params": params}, inputs))
        return jnp.mean(jnp.argmax(logits, -1) != targets)

    return jnp.mean(jax.lax.map(part, jax.random.split(key, 20)))


def stacked(arms: Sequence[tuple[str, str]]) -> Arm:
    """Return arms as arrays.

    Args:
        arms: name of initialization, name of clipping.
    """
    rows = jnp.asarray([(*INITS[init], *LIMITS[clip]) for init, clip in arms], jnp.float32)
    return Arm(*rows.T)


def compare(
    lengths: Sequence[int], arms: Sequence[tuple[str, str]], keys: PRNGKeyArray, updates: int, every: int
) -> dict[int, dict[str, np.ndarray]]:
    """Train arms, half of them on each of two cores: the networks are too small to share one out.

    Args:
        lengths: of the sequences.
        arms: name of initialization, name of clipping; an even number.
        keys: of weights and sequences.
        updates: how many.
        every: of them a record.

    Returns:
        What `train` returns of every length, (arms, keys, records), and `error`, (arms, keys).
    """
    halves = arms[: len(arms) // 2], arms[len(arms) // 2 :]
    parts = {
        f"T = {length}, {', '.join(map(' '.join, half))}": functools.partial(
            _trained, length, half, keys, updates, every
        )
        for length in lengths
        for half in halves
    }
    found = list(side_by_side(parts, "training").values())
    pairs = zip(found[::2], found[1::2], strict=True)
    joined = (jax.tree.map(lambda *both: np.concatenate(both), *pair) for pair in pairs)
    return dict(zip(lengths, joined, strict=True))


def _trained(
    length: int, arms: Sequence[tuple[str, str]], keys: PRNGKeyArray, updates: int, every: int
) -> dict[str, np.ndarray]:
    chosen = stacked(arms)

    def further(states: Any, updates: int) -> Any:
        return advance(states, length, chosen, keys, updates, every)

    names = ", ".join(" ".join(arm) for arm in arms)
    work = 6.0 * len(arms) * keys.size * length * BATCH * HIDDEN * HIDDEN
    error, found = in_stretches(
        f"T = {length}, {updates} updates, {names}", further, steps=updates, every=every, work=work, axis=2, sums=True,
        end=lambda states: errors(length, states.params, chosen, keys),
    )  # fmt: skip
    return {**found, "error": error}


def by_length(lengths: Sequence[int], runs: int, updates: int, seed: int) -> ByLength:
    """Train every arm on sequences of every length.

    Args:
        lengths: T; none, and nothing is trained.
        runs: networks of each kind.
        updates: of each.
        seed: of everything.
    """
    keys = jax.random.split(jax.random.key(seed), runs)
    found = compare(lengths, ARMS, keys, updates, math.gcd(updates, LOOKS))
    return ByLength(
        inits=np.array([init for init, _ in ARMS]),
        clips=np.array([clip for _, clip in ARMS]),
        lengths=np.array(lengths, int),
        updates=updates,
        error=np.array([each["error"] for each in found.values()]).reshape(len(lengths), len(ARMS), runs),
    )


def at_length(length: int, runs: int, updates: int, every: int, seed: int) -> AtLength:
    """Train networks with sparse weights for longer, without clipping and with all kinds of it.

    Args:
        length: T.
        runs: networks of each kind.
        updates: of each.
        every: of them a record.
        seed: of everything.
    """
    keys = jax.random.split(jax.random.key(seed), runs)
    arms = [("smart tanh", clip) for clip in LIMITS]
    return AtLength(length, every, **compare([length], arms, keys, updates, every)[length])
