"""Training with and without batch normalization: accuracy, distributions, learning rates, smoothness, noise.

One pure function, `forward`, stands for all kinds of network: the noise of Santurkar et al. has no place in a layer
that others would reuse, and a kind that is data, not code, makes one compiled program of all networks. Batch statistics
are used in evaluation too, over all evaluated images at once.
"""

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
from experiments.framework.images import Images, rows, sampled
from experiments.framework.progress import track
from experiments.framework.stretches import in_stretches, take

PERCENTILES = (15, 50, 85)  # as in Ioffe & Szegedy 2015, Fig. 1
LANDSCAPE_RATE = 0.1  # learning rate of the network whose landscape is compared
EPSILON = 1e-5
# Santurkar et al. 2018, appendix A.2: each unit and step has a random mean within +-.5 and a random deviation within
# 1.25, each example a draw of its own around them.
NOISE_MEAN, NOISE_DEVIATION, NOISE_SPREAD = 0.5, 1.25, 0.1
STRETCHES = (0.5, 1.0, 2.0, 4.0)  # step lengths along the gradient, in learning rates

Params = dict[str, dict[str, Array]]


class Kind(NamedTuple):
    """A network as data, so that networks of several kinds run as one program.

    Attributes:
        normalized: 1 for batch normalization before every activation, 0 for none.
        noise: 1 for the noise of Santurkar et al. after it, 0 for none.
    """

    normalized: Float[Array, "*kinds"]
    noise: Float[Array, "*kinds"]


KINDS = ("plain", "batch norm", "noisy batch norm")
FLAGS = ((0.0, 1.0, 1.0), (0.0, 0.0, 1.0))  # `Kind` of each


class Setup(NamedTuple):
    """A network and its training.

    Attributes:
        depth: hidden layers.
        width: units of each.
        activation: name.
        initializer: name.
        batch: images a step.
        steps: training steps.
        records: how often is looked at it, evenly over the steps, the start included.
    """

    depth: int
    width: int
    activation: str
    initializer: str
    batch: int
    steps: int
    records: int

    @property
    def every(self) -> int:
        """Steps from one record to the next."""
        return self.steps // (self.records - 1)

    def work(self, pixels: int) -> float:
        """Floating-point operations of a step, about.

        Args:
            pixels: of an image.
        """
        return 6.0 * self.batch * self.width * (pixels + (self.depth - 1) * self.width)


@dataclasses.dataclass(frozen=True)
class Sigmoid:
    """The network of Ioffe & Szegedy's Fig. 1, plain and normalized; percentiles of every unit of the last layer."""

    steps: Int[np.ndarray, " records"]
    accuracy: Float[np.ndarray, "2 records"]
    percentiles: Float[np.ndarray, "2 records 3 width"]


@dataclasses.dataclass(frozen=True)
class Landscape:
    """The ReLU networks of Santurkar et al., of three kinds at every rate: accuracy, and what `landscape` looks at."""

    rates: Float[np.ndarray, " rates"]
    steps: Int[np.ndarray, " records"]
    accuracy: Float[np.ndarray, "3 rates records"]
    loss_range: Float[np.ndarray, "3 rates records"]
    gradient_change: Float[np.ndarray, "3 rates records"]
    wobble: Float[np.ndarray, "3 rates records"]


def init(key: PRNGKeyArray, setup: Setup, pixels: int) -> Params:
    """Draw a network; scale and offset of the normalization are there in every kind.

    Args:
        key: randomness.
        setup: sizes and initializer.
        pixels: of an image.

    Returns:
        `first`, `hidden` (the other hidden layers, stacked) and `head`.
    """
    scheme, width = gf.initializers.get(setup.initializer), setup.width

    def layer(key: PRNGKeyArray, inputs: int, units: int) -> dict[str, Array]:
        return {"kernel": scheme(key, (inputs, units), jnp.float32), "bias": jnp.zeros(units), "scale": jnp.ones(units)}

    first, hidden, head = jax.random.split(key, 3)
    return {
        "first": layer(first, pixels, width),
        "hidden": jax.vmap(lambda k: layer(k, width, width))(jax.random.split(hidden, setup.depth - 1)),
        "head": layer(head, width, 10),
    }


def forward(
    params: Params, x: Float[Array, "batch pixels"], kind: Kind, activation: str, key: PRNGKeyArray | None = None
) -> tuple[Float[Array, "batch 10"], Float[Array, "batch width"]]:
    """Logits, and the inputs of the last hidden layer's activation.

    Args:
        params: from `init`.
        x: images.
        kind: of network.
        activation: name.
        key: randomness of the noise; None for no noise, as in evaluation.
    """
    phi = gf.activations.get(activation)

    def hidden(x: Array, layer: dict[str, Array], index: Array | int) -> Array:
        z = x @ layer["kernel"]
        normalized = layer["scale"] * (z - z.mean(0)) / jnp.sqrt(z.var(0) + EPSILON)
        z = jnp.where(kind.normalized > 0, normalized, z) + layer["bias"]
        return z if key is None else _shake(jax.random.fold_in(key, index), z, kind.noise)

    layers = params["hidden"]
    indices = jnp.arange(1, 1 + len(layers["bias"]))
    z = hidden(x, params["first"], 0)
    z, _ = jax.lax.scan(lambda z, layer: (hidden(phi(z), *layer), None), z, (layers, indices))
    return phi(z) @ params["head"]["kernel"] + params["head"]["bias"], z


def _shake(key: PRNGKeyArray, z: Float[Array, "batch width"], noise: Float[Array, ""]) -> Float[Array, "batch width"]:
    """Give every unit a mean and a deviation that change at random from step to step."""
    units, each = jax.random.split(key)
    mean, deviation = jax.random.uniform(units, (2, z.shape[1]))
    shift, stretch = NOISE_SPREAD * jax.random.uniform(each, (2, *z.shape), minval=-1.0, maxval=1.0)
    mean, deviation = NOISE_MEAN * (2 * mean - 1), (NOISE_DEVIATION - 1) * deviation
    return (1 + noise * (deviation + stretch)) * z + noise * (mean + shift)


def loss(params: Params, batch: Images, kind: Kind, activation: str, key: PRNGKeyArray | None) -> Float[Array, ""]:
    """Mean cross-entropy.

    Args:
        params: from `init`.
        batch: images and labels.
        kind: of network.
        activation: name.
        key: randomness of the noise; None for none.
    """
    logits, _ = forward(params, batch.x, kind, activation, key)
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch.y).mean()


def train(
    state: gf.training.TrainState | None,
    key: PRNGKeyArray,
    rate: Float[Array, ""],
    kind: Kind,
    data: Images,
    test: Images,
    *,
    setup: Setup,
    look: Any,
    steps: int,
) -> tuple[gf.training.TrainState, dict[str, Array] | None]:
    """Train by plain gradient descent and record, before training and at even distances.

    Args:
        state: to go on from; None to start.
        key: randomness.
        rate: learning rate.
        kind: of network.
        data: training images.
        test: for accuracy.
        setup: sizes and steps.
        look: (params, rate, kind, key) -> more to record.
        steps: how many to take now.

    Returns:
        The state; and, for whole distances, `accuracy` (records,), and what `look` gives, stacked.
    """
    init_key, order_key, noise_key = jax.random.split(key, 3)

    def loss_fn(params: Params, model_state: Any, batch: tuple[Images, PRNGKeyArray], _: PRNGKeyArray) -> Any:
        images, noise = batch
        return loss(params, images, kind, setup.activation, noise), ({}, model_state)

    def draw(key: PRNGKeyArray, number: Array) -> tuple[Images, PRNGKeyArray]:
        return sampled(data, setup.batch)(key, number), jax.random.fold_in(noise_key, number)

    def record(state: gf.training.TrainState) -> dict[str, Array]:
        # `run` keeps the last finite parameters of a network that diverges; what it learned before is gone.
        params = jax.tree.map(lambda leaf: jnp.where(state.finite, leaf, jnp.nan), state.params)
        logits, _ = forward(params, test.x, kind, setup.activation)
        return {"accuracy": jnp.mean(jnp.argmax(logits, -1) == test.y)} | look(params, rate, kind, order_key)

    optimizer = optax.sgd(rate)
    if state is None:
        state = gf.training.start(init(init_key, setup, data.x.shape[1]), optimizer, order_key)
    step = gf.training.make_step(loss_fn, optimizer)
    return take(step, state, draw, steps, every=setup.every, record=record, data_key=order_key)


def percentiles(test: Images, activation: str) -> Any:
    """Look at the inputs of the last hidden layer's activation, unit by unit.

    Args:
        test: images.
        activation: name.

    Returns:
        A `look` that records `percentiles` (3, width) over the images.
    """

    def look(params: Params, rate: Array, kind: Kind, key: PRNGKeyArray) -> dict[str, Array]:
        last = forward(params, test.x, kind, activation)[1]
        return {"percentiles": jnp.percentile(last, jnp.array(PERCENTILES, jnp.float32), axis=0)}

    return look


def landscape(batch: Images, activation: str) -> Any:
    """Look along the gradient: how much loss and gradient change within a few steps' length.

    Args:
        batch: images that loss and gradient are taken on.
        activation: name.

    Returns:
        A `look` that records `loss_range` (), largest minus smallest loss over `STRETCHES` learning rates along the
        negative gradient; `gradient_change` (), the largest ||g(x + d) - g(x)|| / ||g(x)||; `wobble` (), the mean over
        units of the deviation of a unit's mean between draws of the noise, over the deviation of the unit.
    """

    def look(params: Params, rate: Array, kind: Kind, key: PRNGKeyArray) -> dict[str, Array]:
        value_and_grad = jax.value_and_grad(lambda p: loss(p, batch, kind, activation, None))
        value, grads = value_and_grad(params)

        def along(stretch: Array) -> tuple[Array, Array]:
            there = jax.tree.map(lambda p, g: p - stretch * rate * g, params, grads)
            value, changed = value_and_grad(there)
            return value, optax.tree.norm(jax.tree.map(jnp.subtract, changed, grads))

        values, changes = jax.lax.map(along, jnp.asarray(STRETCHES))
        values = jnp.append(values, value)
        return {
            "loss_range": values.max() - values.min(),
            "gradient_change": changes.max() / optax.tree.norm(grads),
            "wobble": wobble(params, kind, key),
        }

    def wobble(params: Params, kind: Kind, key: PRNGKeyArray) -> Array:
        def means(key: PRNGKeyArray) -> tuple[Array, Array]:
            last = forward(params, batch.x, kind, activation, key)[1]
            return last.mean(0), last.std(0)

        centres, widths = jax.lax.map(means, jax.random.split(key, 8))
        return jnp.mean(centres.std(0) / (widths.mean(0) + EPSILON))

    return look


def train_all(
    key: PRNGKeyArray, kinds: int, rates: tuple[float, ...], data: Images, test: Images, setup: Setup, look: Any
) -> dict[str, np.ndarray]:
    """Train networks of several kinds at every rate, as one program.

    Args:
        key: randomness.
        kinds: the first so many of `KINDS`.
        rates: learning rates.
        data: training images.
        test: for accuracy.
        setup: sizes and steps.
        look: as `train` takes it.

    Returns:
        The records of `train`, (kinds, rates, records).
    """

    # Images are arguments: captured, they would be copied into the program as constants.
    @functools.partial(jax.jit, static_argnames="steps")
    def advance(state: Any, rates: Array, kinds: Kind, data: Images, test: Images, steps: int) -> Any:
        def one(state: Any, rate: Array, kind: Kind) -> Any:
            return train(state, key, rate, kind, data, test, setup=setup, look=look, steps=steps)

        over_rates = jax.vmap(one, in_axes=(0, 0, None))
        return jax.vmap(over_rates, in_axes=(0, None, 0))(state, rates, kinds)

    def further(state: Any, steps: int) -> Any:
        return advance(state, jnp.asarray(rates, jnp.float32), chosen, data, test, steps)

    chosen = Kind(*(jnp.asarray(flags[:kinds]) for flags in FLAGS))
    work = kinds * len(rates) * setup.work(data.x.shape[1])
    with jax.debug_nans(False):  # too large a rate diverges; that it does is the result
        return in_stretches(setup.activation, further, steps=setup.steps, every=setup.every, work=work, axis=2)[1]


def measure(
    data: gf.data.ImageDataset,
    *,
    steps: int,
    rate: float,
    records: int,
    landscape_steps: int,
    rates: tuple[float, ...],
    seed: int,
) -> tuple[Sigmoid, Landscape]:
    """Train the sigmoid network of Ioffe & Szegedy's Fig. 1 and the ReLU networks of Santurkar et al.

    Args:
        data: images.
        steps: of the sigmoid network.
        rate: of the sigmoid network.
        records: of the sigmoid network.
        landscape_steps: of the ReLU networks.
        rates: learning rates of the ReLU networks, all trained as one program.
        seed: of everything.

    Returns:
        What was recorded of both.
    """
    train_set, test = rows(data, data.train), rows(data, data.test)
    key = jax.random.key(seed)
    sigmoid = Setup(3, 100, "sigmoid", "small_gaussian", 60, steps, records)
    relu = Setup(6, 100, "relu", "he_normal", 60, landscape_steps, 11)
    probe = train_set.first(500)

    programs = {
        "sigmoid": functools.partial(
            train_all, key, 2, (rate,), train_set, test, sigmoid, percentiles(test, "sigmoid")
        ),
        "ReLU": functools.partial(train_all, key, 3, rates, train_set, test, relu, landscape(probe, "relu")),
    }
    found = {name: programs[name]() for name in track(list(programs), "training")}
    shallow, deep = found["sigmoid"], found["ReLU"]
    return (
        Sigmoid(np.linspace(0, steps, records).astype(int), shallow["accuracy"][:, 0], shallow["percentiles"][:, 0]),
        Landscape(rates=np.array(rates), steps=np.linspace(0, landscape_steps, relu.records).astype(int), **deep),
    )
