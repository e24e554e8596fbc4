"""Training of the arms of `vanishing`: one program an architecture, the flow recorded every few steps."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util
from jaxtyping import Array, Float, Int, PRNGKeyArray

import gradflow as gf
from experiments.framework.images import Images, rows, sampled
from experiments.framework.progress import side_by_side
from experiments.framework.saturation import saturated_fraction
from experiments.framework.stretches import in_stretches, take
from experiments.vanishing.arms import Arm

STATISTICS = ("output_rms", "output_grad_rms", "dead_fraction")
PROBE = 256  # training images that the flow is measured on, the same ones at every record
EVALUATED = 1000  # images of each split that accuracy is measured on

Tree = dict[str, Any]
Record = dict[str, np.ndarray]


class Setup(NamedTuple):
    """What every arm has in common.

    Attributes:
        depth: hidden layers.
        width: units of each.
        batch: images a step.
        learning_rate: of plain gradient descent.
        steps: training steps.
        record_every: steps between two records.
        seed: of initialization and of the order of images.
    """

    depth: int
    width: int
    batch: int
    learning_rate: float
    steps: int
    record_every: int
    seed: int


@dataclasses.dataclass(frozen=True)
class History:
    """What was recorded of every arm; `movement` is that of the output layer too, as the last."""

    steps: Int[np.ndarray, " records"]
    loss: Float[np.ndarray, "arms records"]
    train_accuracy: Float[np.ndarray, "arms records"]
    test_accuracy: Float[np.ndarray, "arms records"]
    gradient: Float[np.ndarray, "arms records depth"]
    forward: Float[np.ndarray, "arms records depth"]
    dead: Float[np.ndarray, "arms records depth"]
    saturated: Float[np.ndarray, "arms records depth"]
    movement: Float[np.ndarray, "arms records layers"]


def network(arm: Arm, setup: Setup) -> gf.models.MLP:
    """Build the network of an arm: images (batch, pixels) to logits (batch, 10).

    Args:
        arm: what is changed.
        setup: depth and width.
    """
    return gf.models.MLP(
        depth=setup.depth,
        width=setup.width,
        outputs=10,
        activation=arm.activation,
        initializer=arm.initializer,
        residual="plain" if arm.residual else None,
        normalization="batch" if arm.batch_norm else None,
    )


def measure(data: gf.data.ImageDataset, arms: tuple[Arm, ...], setup: Setup) -> History:
    """Train every arm on the same images in the same order, and record its flow.

    Args:
        data: images.
        arms: networks.
        setup: sizes, rate, steps.
    """
    train, test = rows(data, data.train), rows(data, data.test)
    groups: dict[tuple[str, bool, bool], list[Arm]] = {}
    for arm in arms:
        groups.setdefault((arm.activation, arm.residual, arm.batch_norm), []).append(arm)

    def train_group(group: list[Arm]) -> dict[str, Record]:
        return {arm.name: train_arm(arm, setup, train, test) for arm in group}

    # Most of the time goes into compiling, which keeps one core busy: two groups at a time, one program each.
    calls = {", ".join(arm.name for arm in group): functools.partial(train_group, group) for group in groups.values()}
    recorded: dict[str, Record] = {}
    for found in side_by_side(calls, "training").values():
        recorded |= found
    records = [recorded[arm.name] for arm in arms]
    stacked = {name: np.stack([record[name] for record in records]) for name in records[0]}
    return History(steps=np.arange(0, setup.steps + 1, setup.record_every), **stacked)


def train_arm(arm: Arm, setup: Setup, train: Images, test: Images) -> Record:
    """Train one arm.

    Args:
        arm: the network.
        setup: sizes, rate, steps.
        train: training images.
        test: test images.

    Returns:
        The records that `measure` stacks, without the axis of arms.
    """
    init_key, order_key = jax.random.split(jax.random.key(setup.seed))
    variables = network(arm, setup).init(init_key, train.x[:2])
    # The initializer is used up now: networks that differ in nothing else share one compiled program.
    model = network(dataclasses.replace(arm, initializer="standard"), setup)
    return in_stretches(
        arm.name,
        lambda state, steps: _advance(state, variables, order_key, train, test, model, setup, steps),
        steps=setup.steps, every=setup.record_every,
        work=6.0 * setup.batch * sum(leaf.size for leaf in jax.tree.leaves(variables)),
    )[1]  # fmt: skip


@functools.partial(jax.jit, static_argnames=("model", "setup", "steps"))
def _advance(
    state: gf.training.TrainState | None, variables: Tree, key: PRNGKeyArray, train: Images, test: Images,
    model: gf.models.MLP, setup: Setup, steps: int,
) -> tuple[gf.training.TrainState, Any]:  # fmt: skip
    optimizer = optax.sgd(setup.learning_rate)
    initial = variables["params"]
    probe, seen, unseen = train.first(PROBE), train.first(EVALUATED), test.first(EVALUATED)

    def loss(params: Tree, statistics: Tree, batch: Images, key: PRNGKeyArray) -> tuple[Array, tuple[Tree, Tree]]:
        logits, changed = model.apply({"params": params, **statistics}, batch.x, train=True, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch.y).mean(), ({}, dict(changed))

    def record(state: gf.training.TrainState) -> dict[str, Array]:
        instrumented = gf.value_grad_and_flow(loss, has_aux=True, statistics=STATISTICS)
        (value, _), _, flow = instrumented(state.params, state.model_state, probe, key)
        return {
            "loss": value,
            "movement": relative_movement(kernels(initial, flow.layers), kernels(state.params, flow.layers)),
            **evaluate(model, {"params": state.params, **state.model_state}, seen, unseen),
            **profiles(flow),
        }

    if state is None:
        statistics = {name: tree for name, tree in variables.items() if name != "params"}
        state = gf.training.start(initial, optimizer, key, statistics)
    step = gf.training.make_step(loss, optimizer)
    return take(step, state, sampled(train, setup.batch), steps, every=setup.record_every, record=record, data_key=key)


def kernels(params: Tree, layers: Sequence[str]) -> list[Float[Array, "inputs units"]]:
    """Pick the weight matrices of some layers.

    Args:
        params: parameters of the network.
        layers: names as in a `Flow`, paths into the parameters.
    """
    leaves = traverse_util.flatten_dict(params, sep="/")
    return [leaves[f"{layer}/kernel"] for layer in layers]


def profiles(flow: gf.Flow) -> dict[str, Float[Array, " depth"]]:
    """Line up a flow's statistics over the hidden layers.

    Args:
        flow: flow of one evaluation; its last layer is the output layer.
    """
    fields = {"gradient": "output_grad_rms", "forward": "output_rms", "dead": "dead_fraction"}
    hidden = flow.layers[:-1]
    return {name: jnp.stack([getattr(flow[layer], field) for layer in hidden]) for name, field in fields.items()}


def relative_movement(
    before: Sequence[Float[Array, "inputs units"]], now: Sequence[Float[Array, "inputs units"]]
) -> Float[Array, " layers"]:
    """||W_t - W_0|| / ||W_0|| (Frobenius) of each weight matrix.

    Args:
        before: the matrices at initialization.
        now: the same matrices later.
    """
    norm = jnp.linalg.norm
    return jnp.stack([norm(w - w_0) / norm(w_0) for w_0, w in zip(before, now, strict=True)])


def evaluate(model: gf.models.MLP, variables: Tree, train: Images, test: Images) -> dict[str, Array]:
    """Accuracy on both splits and saturation on the test images: one forward pass with running averages.

    Args:
        model: the network.
        variables: its parameters and running averages.
        train: training images.
        test: test images.

    Returns:
        `train_accuracy`, `test_accuracy` (); `saturated` (depth,), the part of units and test images at which
        |phi'| is below a tenth of its largest value.
    """
    both = jnp.concatenate([train.x, test.x])
    logits, captured = model.apply(variables, both, train=False, capture_intermediates=True)
    right = jnp.argmax(logits, -1) == jnp.concatenate([train.y, test.y])
    kind = "Dense" if model.normalization is None else "BatchNorm"
    phi, saturated = gf.activations.get(model.activation), []
    for layer in range(model.depth):
        z = captured["intermediates"][f"{kind}_{layer}"]["__call__"][0][len(train.y) :]
        learned = jax.tree.leaves(variables["params"].get(f"PReLU_{layer}", {}))
        saturated.append(saturated_fraction(functools.partial(_apply, phi, learned), z))
    return {
        "train_accuracy": right[: len(train.y)].mean(),
        "test_accuracy": right[len(train.y) :].mean(),
        "saturated": jnp.stack(saturated),
    }


def _apply(phi: gf.activations.Activation, learned: list[Array], x: Array) -> Array:
    return phi.fn(x, *learned)
