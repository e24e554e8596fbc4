"""Training of saturating networks, and the distribution of every layer's activations while they train."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

import gradflow as gf
from experiments.framework.images import Images
from experiments.framework.stretches import in_stretches, take

PROBE = 300  # test images that activations are looked at on, as many as Glorot & Bengio take
BINS = 80  # of the histograms

Tree = dict[str, Any]


class Setup(NamedTuple):
    """What the networks of one arm have in common.

    Attributes:
        activation: name.
        depth: hidden layers.
        width: units of each.
        batch: images a step.
        rate: learning rate.
        steps: training steps, a multiple of `every`.
        every: steps between two records.
    """

    activation: str
    depth: int
    width: int
    batch: int
    rate: float
    steps: int
    every: int


@dataclasses.dataclass(frozen=True)
class History:
    """What was recorded of the networks of one arm.

    Attributes:
        steps: at which there is a record.
        mean: of every layer's activations.
        std: their standard deviation.
        low: their 2nd percentile.
        high: their 98th percentile.
        accuracy: on the test images.
        loss: on `PROBE` training images.
        shares: of each layer's activations after training in each of `BINS` equal bins.
    """

    steps: Int[np.ndarray, " records"]
    mean: Float[np.ndarray, "networks records depth"]
    std: Float[np.ndarray, "networks records depth"]
    low: Float[np.ndarray, "networks records depth"]
    high: Float[np.ndarray, "networks records depth"]
    accuracy: Float[np.ndarray, "networks records"]
    loss: Float[np.ndarray, "networks records"]
    shares: Float[np.ndarray, "networks depth bins"]


def build(setup: Setup) -> gf.models.MLP:
    """Build a network from U(+-1/sqrt(fan_in)), the "standard" initialization of 2010.

    Args:
        setup: its activation and sizes.
    """
    return gf.models.MLP(
        depth=setup.depth, width=setup.width, outputs=10, activation=setup.activation, initializer="standard", scan=True
    )


def limits(activation: str) -> tuple[float, float]:
    """Return the values between which an activation lies.

    Args:
        activation: a bounded one: sigmoid, tanh, softsign.
    """
    return (0.0, 1.0) if activation == "sigmoid" else (-1.0, 1.0)


def edges(activation: str) -> np.ndarray:
    """Return the edges of the bins of `ARM_shares`.

    Args:
        activation: name.
    """
    return np.linspace(*limits(activation), BINS + 1)


def hidden(model: gf.models.MLP, params: Tree, x: Float[Array, "batch pixels"]) -> Float[Array, "depth batch width"]:
    """Return the activations of every hidden layer.

    Args:
        model: from `build`, of two layers or more.
        params: its parameters.
        x: images.
    """
    _, captured = model.apply({"params": params}, x, capture_intermediates=True)
    found: Any = captured["intermediates"]
    z = jnp.concatenate([found["Dense_0"]["__call__"][0][None], found["Hidden"]["Dense"]["__call__"][0]])
    return gf.activations.get(str(model.activation))(z)


def describe(values: Float[Array, "depth batch width"]) -> dict[str, Float[Array, " depth"]]:
    """Return mean, standard deviation, 2nd and 98th percentile of each layer's activations.

    Args:
        values: from `hidden`.
    """
    rows = values.reshape(len(values), -1)
    low, high = jnp.quantile(rows, jnp.array([0.02, 0.98], rows.dtype), axis=1)
    return {"mean": rows.mean(1), "std": rows.std(1), "low": low, "high": high}


def histogram(values: Float[Array, "depth batch width"], activation: str) -> Float[Array, "depth bins"]:
    """Return the share of each layer's activations in each of `BINS` equal bins.

    Args:
        values: from `hidden`.
        activation: name, for the limits.
    """
    rows = values.reshape(len(values), -1)
    counts = jax.vmap(lambda row: jnp.histogram(row, BINS, limits(activation))[0])(rows)
    return counts.astype(jnp.float32) / rows.shape[1]


def train(keys: PRNGKeyArray, train: Images, test: Images, *, setup: Setup) -> dict[str, np.ndarray]:
    """Train one network a key, by plain gradient descent, each on an order of images of its own.

    Args:
        keys: (networks,).
        train: training images.
        test: test images, the first `PROBE` of which activations are looked at on.
        setup: of the networks.

    Returns:
        `mean`, `std`, `low`, `high` (networks, records, depth) as from `describe`; `accuracy` on the test images and
        `loss` on `PROBE` training images (networks, records); `shares` (networks, depth, bins) after training.
    """
    pixels, probe = train.x.shape[1], test.x[:PROBE]

    @jax.jit
    @jax.vmap
    def shares(state: gf.training.TrainState) -> Float[Array, "depth bins"]:
        return histogram(hidden(build(setup), state.params, probe), setup.activation)

    last, found = in_stretches(
        f"{setup.activation}, {setup.depth} layers",
        lambda states, steps: advance(states, keys, train, test, setup=setup, steps=steps),
        steps=setup.steps, every=setup.every, axis=1, end=shares,
        work=6.0 * keys.size * setup.batch * setup.width * (pixels + (setup.depth - 1) * setup.width),
    )  # fmt: skip
    return {**found, "shares": last}


@functools.partial(jax.jit, static_argnames=("setup", "steps"))
def advance(
    states: gf.training.TrainState | None, keys: PRNGKeyArray, train: Images, test: Images, *, setup: Setup, steps: int
) -> tuple[gf.training.TrainState, Any]:
    """Take some steps of `train`.

    Args:
        states: of all networks; None to start.
        keys: as `train` takes them.
        train: training images.
        test: test images.
        setup: of the networks.
        steps: how many.

    Returns:
        The states after them, and the records, (networks, records).
    """
    model, optimizer = build(setup), optax.sgd(setup.rate)
    step = gf.training.make_step(gf.training.classification(model), optimizer)
    source = gf.data.OnDevice(train.x, train.y, None, setup.batch, None, True)

    def observe(params: Tree) -> dict[str, Array]:
        answers: Any = model.apply({"params": params}, test.x)
        seen: Any = model.apply({"params": params}, train.x[:PROBE])
        return describe(hidden(model, params, test.x[:PROBE])) | {
            "accuracy": jnp.mean(jnp.argmax(answers, -1) == test.y),
            "loss": optax.softmax_cross_entropy_with_integer_labels(seen, train.y[:PROBE]).mean(),
        }

    def one(state: Any, key: PRNGKeyArray) -> Any:
        weights, order = jax.random.split(key)
        if state is None:
            state = gf.training.init(model, optimizer, weights, train.x[:2])
        return take(
            step, state, source, steps, every=setup.every, data_key=order, record=lambda state: observe(state.params)
        )

    return jax.vmap(one)(states, keys)
