"""The network of `residual`: blocks x -> skip x + W relu(norm(x)), one pure function for plain and residual ones.

That a network has skip connections, and whether it is normalized, is data and not code, so that networks which are
compared run as one program. Batch statistics are used in evaluation too, over all evaluated images at once.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

import gradflow as gf
from experiments.framework.images import Images

EPSILON = 1e-5
RECORDS = 20  # means of the training loss that are kept

Params = dict[str, dict[str, Array]]


class Form(NamedTuple):
    """Kind of network, as data.

    Attributes:
        skip: 1 with skip connections, 0 without.
        normalized: 1 with batch normalization before every ReLU, 0 without.
        branch_scale: factor of every branch.
    """

    skip: Float[Array, "*forms"]
    normalized: Float[Array, "*forms"]
    branch_scale: Float[Array, "*forms"]


def form(*, skip: bool, normalized: bool, branch_scale: float = 1.0) -> Form:
    """Describe one kind of network.

    Args:
        skip: with skip connections.
        normalized: with batch normalization.
        branch_scale: factor of every branch.
    """
    return Form(*(jnp.asarray(value, jnp.float32) for value in (skip, normalized, branch_scale)))


def init(key: PRNGKeyArray, blocks: int, width: int, inputs: int, outputs: int = 10) -> Params:
    """Draw a network: variance 1/fan_in at both ends, He's 2/fan_in in the blocks, scale 1 and offset 0.

    Args:
        key: randomness.
        blocks: number of blocks.
        width: of the stream.
        inputs: entries of an input.
        outputs: of the network.

    Returns:
        `stem`, `blocks` (stacked) and `head`.
    """
    shapes = {"stem": (inputs, width), "blocks": (blocks, width, width), "head": (width, outputs)}
    deviations = {"stem": (1 / inputs) ** 0.5, "blocks": (2 / width) ** 0.5, "head": (1 / width) ** 0.5}
    # All in one draw: to compile three would take longer than the network itself.
    sizes = [math.prod(shape) for shape in shapes.values()]
    parts = jnp.split(jax.random.normal(key, (sum(sizes),)), np.cumsum(sizes)[:-1])
    kernels = {
        name: part.reshape(shape) * deviations[name] for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }
    return {
        "stem": {"kernel": kernels["stem"]},
        "blocks": {
            "kernel": kernels["blocks"],
            "scale": jnp.ones((blocks, width)),
            "offset": jnp.zeros((blocks, width)),
        },
        "head": {"kernel": kernels["head"], "scale": jnp.ones(width), "offset": jnp.zeros(width)},
    }


def activate(x: Float[Array, "batch width"], layer: dict[str, Array], kind: Form) -> Float[Array, "batch width"]:
    """relu(norm(x)).

    Args:
        x: the stream.
        layer: scale and offset.
        kind: of network.
    """
    normalized = layer["scale"] * (x - x.mean(0)) / jnp.sqrt(x.var(0) + EPSILON)
    return jax.nn.relu(jnp.where(kind.normalized > 0, normalized, x) + layer["offset"])


def branch(x: Float[Array, "batch width"], layer: dict[str, Array], kind: Form) -> Float[Array, "batch width"]:
    """W relu(norm(x)), times the branch's factor.

    Args:
        x: the stream.
        layer: one block's parameters.
        kind: of network.
    """
    return kind.branch_scale * (activate(x, layer, kind) @ layer["kernel"])


def forward(
    params: Params, x: Float[Array, "batch inputs"], kind: Form, keep: Float[Array, " blocks"] | None = None
) -> tuple[Float[Array, "batch outputs"], Float[Array, " blocks"]]:
    """Logits, and the response of every block: the deviation of what its branch adds.

    Args:
        params: from `init`.
        x: inputs.
        kind: of network.
        keep: 0 for a block to be deleted, so that its input passes through unchanged; else 1.
    """
    blocks = params["blocks"]
    keep = jnp.ones(len(blocks["scale"])) if keep is None else keep

    def block(x: Array, layer: tuple[dict[str, Array], Array]) -> tuple[Array, Array]:
        x = gf.tap("stream", x)
        added = branch(x, layer[0], kind)
        there = kind.skip * x + added
        return jnp.where(layer[1] > 0, there, x), added.std()

    x, responses = jax.lax.scan(block, x @ params["stem"]["kernel"], (blocks, keep))
    return activate(x, params["head"], kind) @ params["head"]["kernel"], responses


def loss(params: Params, batch: Images, kind: Form) -> Float[Array, ""]:
    """Mean cross-entropy.

    Args:
        params: from `init`.
        batch: images and labels.
        kind: of network.
    """
    return optax.softmax_cross_entropy_with_integer_labels(forward(params, batch.x, kind)[0], batch.y).mean()


class Plan(NamedTuple):
    """How networks are trained: gradient descent with momentum .9.

    Attributes:
        steps: number of them, a multiple of `RECORDS`.
        batch: images a step.
        rate: learning rate.
    """

    steps: int
    batch: int
    rate: float


def train(
    state: gf.training.TrainState | None, start: Params, data: Images, kind: Form, key: PRNGKeyArray, plan: Plan,
    steps: int,
) -> tuple[gf.training.TrainState, Float[Array, " steps"]]:  # fmt: skip
    """Take some steps of training.

    Args:
        state: to go on from; None to start.
        start: parameters to start from.
        data: training images.
        kind: of network.
        key: of the order of images.
        plan: of the whole training.
        steps: how many to take now.

    Returns:
        The state; the loss of every step.
    """
    optimizer = optax.sgd(plan.rate, momentum=0.9)
    order = jax.random.randint(key, (plan.steps, plan.batch), 0, len(data.y))

    def loss_fn(params: Params, model_state: Any, batch: Images, key: PRNGKeyArray) -> Any:
        value = loss(params, batch, kind)
        return value, ({"loss": value}, model_state)

    if state is None:
        state = gf.training.start(start, optimizer, key)
    step = gf.training.make_step(loss_fn, optimizer)
    state, metrics = gf.training.run(step, state, lambda _, number: data.at(order[number]), steps)
    return state, metrics["loss"].value
