"""Training of the grid of `trainability`: depth x weight variance, the networks of one depth as one vmapped program."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

import gradflow as gf
from experiments.framework.images import Images, rows, sampled
from experiments.framework.progress import side_by_side
from experiments.framework.stretches import in_stretches, take

EVALUATED = 1000  # images of the test split that accuracy is measured on
WEIGHTS = 10**8  # of the networks of one program at most: it needs about 20 bytes for each

Tree = dict[str, Any]


class Network(NamedTuple):
    """What all networks of one grid have in common.

    Attributes:
        activation: name.
        bias_variance: sigma_b^2.
        normalization: None or "batch".
        width: units a layer.
    """

    activation: str
    bias_variance: float
    normalization: str | None
    width: int


class Training(NamedTuple):
    """How they are trained: plain gradient descent on the cross-entropy.

    Attributes:
        batch: images a step.
        learning_rate: of every layer.
        records: steps after which accuracy is measured, ascending.
        seed: of initialization and of the order of images.
    """

    batch: int
    learning_rate: float
    records: tuple[int, ...]
    seed: int


def build(network: Network, depth: int) -> gf.models.MLP:
    """Build a network of sigma_w^2 = 1: images (batch, pixels) to logits (batch, 10).

    Args:
        network: its layers.
        depth: hidden layers.
    """
    return gf.models.MLP(
        depth=depth,
        width=network.width,
        outputs=10,
        activation=network.activation,
        initializer=gf.initializers.gaussian(1.0),
        normalization=network.normalization,  # type: ignore[arg-type]
        bias=gf.initializers.small_gaussian(network.bias_variance**0.5),
        scan=True,
    )


def scale_kernels(variables: Tree, weight_variance: Float[Array, ""]) -> Tree:
    """Bring kernels drawn at sigma_w^2 = 1 to another weight variance.

    Args:
        variables: of a network from `build`.
        weight_variance: sigma_w^2.
    """

    def scaled(path: tuple[Any, ...], leaf: Array) -> Array:
        return leaf * jnp.sqrt(weight_variance) if path[-1].key == "kernel" else leaf

    return jax.tree_util.tree_map_with_path(scaled, variables)


def train_grid(
    data: gf.data.ImageDataset,
    network: Network,
    training: Training,
    depths: Sequence[int],
    weight_variances: Sequence[float],
    name: str,
) -> Float[np.ndarray, "depths variances records"]:
    """Train a network of every depth and weight variance on the same images in the same order.

    Args:
        data: images.
        network: what the networks have in common.
        training: how they are trained.
        depths: hidden layers.
        weight_variances: sigma_w^2.
        name: of the grid, shown while it is worked on.

    Returns:
        Test accuracy.
    """
    train, test = rows(data, data.train), rows(data, data.test, EVALUATED)
    variances = jnp.asarray(weight_variances, jnp.float32)

    key, every = jax.random.key(training.seed), math.gcd(*training.records)

    def part(depth: int, weights: int, variances: Array) -> Float[np.ndarray, "variances records"]:
        accuracy = in_stretches(
            f"{name}, {depth} layers, sigma_w^2 from {variances[0]:g}",
            lambda state, steps: advance(state, key, variances, train, test, network, depth, training, steps),
            steps=training.records[-1], every=every, work=6.0 * training.batch * len(variances) * weights,
        )[1]  # fmt: skip
        return accuracy[np.array(training.records) // every].T

    def column(depth: int) -> Float[np.ndarray, "variances records"]:
        weights = network.width * (train.x.shape[1] + (depth - 1) * network.width)
        size = max(1, WEIGHTS // weights)
        return np.concatenate(
            [part(depth, weights, variances[first : first + size]) for first in range(0, len(variances), size)]
        )

    # A third of the time goes into compiling, which keeps one core busy: two depths at a time, the deepest first.
    calls = {depth: functools.partial(column, depth) for depth in sorted(depths, reverse=True)}
    found = side_by_side(calls, name, "{} layers".format)
    return np.stack([found[depth] for depth in depths])


@functools.partial(jax.jit, static_argnames=("network", "depth", "training", "steps"))
def advance(
    state: gf.training.TrainState | None,
    key: PRNGKeyArray,
    weight_variances: Float[Array, " variances"],
    train: Images,
    test: Images,
    network: Network,
    depth: int,
    training: Training,
    steps: int,
) -> tuple[gf.training.TrainState, Float[Array, "records variances"] | None]:
    """Train all networks of one depth side by side.

    Args:
        state: to go on from; None to start.
        key: randomness.
        weight_variances: sigma_w^2.
        train: training images.
        test: test images.
        network: what the networks have in common.
        depth: hidden layers.
        training: how they are trained.
        steps: how many to take now.

    Returns:
        The state, and test accuracy over training where the steps are whole records.
    """
    model = build(network, depth)
    optimizer = optax.sgd(training.learning_rate)
    init_key, order_key = jax.random.split(key)
    drawn: Tree = dict(model.init(init_key, train.x[:2]))
    # The stacked layers keep their own axis first, so that the scan reads them as they lie.
    all_axes = jax.tree_util.tree_map_with_path(lambda path, _: 1 if path[1].key == "Hidden" else 0, drawn)

    def split(variables: Tree) -> tuple[Tree, Tree]:
        return variables["params"], {name: tree for name, tree in variables.items() if name != "params"}

    axes = split(all_axes)

    def loss(params: Tree, statistics: Tree, batch: Images) -> tuple[Array, Tree]:
        variables = {"params": params, **statistics}
        logits: Any
        logits, changed = model.apply(variables, batch.x, train=True, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch.y).mean(), dict(changed)

    def update(params: Tree, statistics: Tree, batch: Images) -> tuple[Tree, Tree]:
        grads, statistics = jax.grad(loss, has_aux=True)(params, statistics, batch)
        updates, _ = optimizer.update(grads, optimizer.init(params), params)
        return optax.apply_updates(params, updates), statistics

    def accuracy(params: Tree, statistics: Tree) -> Float[Array, ""]:
        logits: Any = model.apply({"params": params, **statistics}, test.x)
        # A network that has exploded gives no answer, which is not the answer 0.
        return jnp.mean((jnp.argmax(logits, -1) == test.y) & jnp.isfinite(logits).all(-1))

    def step(state: gf.training.TrainState, batch: Images) -> tuple[gf.training.TrainState, dict[str, Any]]:
        """One step of all networks, whose images are drawn once; one that explodes stops no other."""
        stacked = jax.vmap(update, in_axes=(*axes, None), out_axes=axes)
        params, statistics = stacked(state.params, state.model_state, batch)
        return state._replace(step=state.step + 1, params=params, model_state=statistics), {}

    if state is None:
        scaled = jax.vmap(scale_kernels, in_axes=(None, 0), out_axes=all_axes)(drawn, weight_variances)
        params, statistics = split(scaled)
        state = gf.training.start(params, optimizer, order_key, statistics)
    return take(
        step, state, sampled(train, training.batch), steps, every=math.gcd(*training.records), data_key=order_key,
        record=lambda state: jax.vmap(accuracy, in_axes=axes)(state.params, state.model_state),
    )  # fmt: skip
