"""Residual networks without normalization: branches that start at nothing (ReZero, SkipInit, Fixup).

Blocks are x -> skip x + f b(x), 128 wide, f a learned number. A branch b of one layer is relu(W x + c), as in
Bachlechner et al. 2020; one of two is W_2 relu(W_1 relu(x) + c_1) + c_2, as in De & Smith 2020, where f of 0 is
SkipInit. Fixup (Zhang et al. 2019) has W_2 and the output layer 0, W_1 of L blocks He's times L^(-1/2), and single
numbers in place of the biases. What sets networks of the same branches apart is data, so that they run as one program.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

import gradflow as gf
from experiments.framework.images import Images, sampled

WIDTH, BATCH, RATE = 128, 128, 0.01
PROBED = 64  # images that signal and gradient at initialization are measured on

Params = dict[str, Any]


class Form(NamedTuple):
    """Kind of network, as data: factors of what `init` draws, and which parameters there are (1) or not (0).

    Attributes:
        skip: 1 with skip connections, 0 without.
        factor: f, at first.
        kernels: factor of He's weights in each layer of a branch.
        output: factor of the output layer's weights.
        learned: of the parameters that only some forms have: `factor`, `bias` and `shift`, a number before every
            activation and every product.
    """

    skip: Any
    factor: Any
    kernels: Any
    output: Any
    learned: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Network:
    """One network: what `beginning` gives, and the training loss of every step, none without training."""

    signal: Float[np.ndarray, " blocks"]
    gradient: Float[np.ndarray, " blocks"]
    loss: Float[np.ndarray, " steps"]


def forms(depth: int) -> dict[int, dict[str, Form]]:
    """Return the networks of `depth` layers by the layers of their branches, then by name.

    Args:
        depth: layers of all branches together.
    """
    usual = {"factor": 0.0, "bias": 1.0, "shift": 0.0}
    weighed, shifted = usual | {"factor": 1.0}, {"factor": 1.0, "bias": 0.0, "shift": 1.0}
    fixup = (depth // 2) ** -0.5  # L^(-1 / (2 m - 2)), m = 2 layers a branch
    return {
        1: {
            "vanilla": Form(0.0, 1.0, (1.0,), 1.0, usual),
            "ReZero": Form(1.0, 0.0, (1.0,), 1.0, weighed),
        },
        2: {
            "residual": Form(1.0, 1.0, (1.0, 1.0), 1.0, usual),
            "SkipInit": Form(1.0, 0.0, (1.0, 1.0), 1.0, weighed),
            "Fixup": Form(1.0, 1.0, (fixup, 0.0), 0.0, shifted),
        },
    }


def init(key: PRNGKeyArray, form: Form, *, layers: int, depth: int, inputs: int, outputs: int = 10) -> Params:
    """Draw a network with He's weights, biases and shifts 0.

    Args:
        key: randomness.
        form: of the network.
        layers: of a branch.
        depth: of all branches together.
        inputs: entries of an input.
        outputs: of the network.

    Returns:
        `stem` and `output`, each with `kernel` and `bias`; `blocks`, stacked, with `kernel` (blocks, layers, width,
        width), `bias` (blocks, layers, width), `factor` (blocks,) and `shift` (blocks, 2, layers), before activation
        and before the product of each layer.
    """
    blocks = depth // layers
    shapes = ((inputs, WIDTH), (blocks, layers, WIDTH, WIDTH), (WIDTH, outputs))
    sizes = [math.prod(shape) for shape in shapes]
    drawn = jnp.split(jax.random.normal(key, (sum(sizes),)), np.cumsum(sizes)[:-1])  # one draw is quicker to compile
    he = [part.reshape(shape) * math.sqrt(2 / shape[-2]) for part, shape in zip(drawn, shapes, strict=True)]
    scale = jnp.asarray(form.kernels, jnp.float32)[:, None, None]
    return {
        "stem": {"kernel": he[0], "bias": jnp.zeros(WIDTH)},
        "blocks": {
            "kernel": scale * he[1],
            "bias": jnp.zeros((blocks, layers, WIDTH)),
            "factor": jnp.full(blocks, form.factor, jnp.float32),
            "shift": jnp.zeros((blocks, 2, layers)),
        },
        "output": {"kernel": form.output * he[2], "bias": jnp.zeros(outputs)},
    }


def branch(x: Float[Array, "batch width"], block: dict[str, Array]) -> Float[Array, "batch width"]:
    """b(x): an affine layer and ReLU, or two affine layers behind a ReLU each.

    Args:
        x: the stream.
        block: parameters of one block.
    """
    kernels, biases, (before, within) = block["kernel"], block["bias"], block["shift"]
    if len(kernels) == 1:
        return jax.nn.relu((x + within[0]) @ kernels[0] + biases[0] + before[0])
    for kernel, bias, activation_shift, product_shift in zip(kernels, biases, before, within, strict=True):
        x = (jax.nn.relu(x + activation_shift) + product_shift) @ kernel + bias
    return x


def stack(params: Params, x: Float[Array, "batch width"], form: Form) -> Float[Array, "batch width"]:
    """Apply all blocks, with the stream tapped before each.

    Args:
        params: of the network.
        x: the stream that enters.
        form: of the network.
    """

    def block(x: Array, parts: dict[str, Array]) -> tuple[Array, None]:
        x = gf.tap("stream", x)
        return form.skip * x + parts["factor"] * branch(x, parts), None

    return jax.lax.scan(block, x, params["blocks"])[0]


def forward(params: Params, x: Float[Array, "batch inputs"], form: Form) -> Float[Array, "batch outputs"]:
    """Logits.

    Args:
        params: from `init`.
        x: inputs.
        form: of the network.
    """
    x = stack(params, stem(params, x), form)
    return (jax.nn.relu(x) if _activated_first(params) else x) @ params["output"]["kernel"] + params["output"]["bias"]


def stem(params: Params, x: Float[Array, "batch inputs"]) -> Float[Array, "batch width"]:
    """The first layer, whose ReLU is left to the branches where they begin with one.

    Args:
        params: from `init`.
        x: inputs.
    """
    x = x @ params["stem"]["kernel"] + params["stem"]["bias"]
    return x if _activated_first(params) else jax.nn.relu(x)


def _activated_first(params: Params) -> bool:
    return params["blocks"]["kernel"].shape[1] > 1


def train(form: Form, data: Images, *, layers: int, depth: int, steps: int, seed: int) -> Float[Array, " steps"]:
    """Train with Adagrad and return the loss of every step.

    Args:
        form: of the network.
        data: training images.
        layers: of a branch.
        depth: of all branches together.
        steps: training steps.
        seed: of initialization and of the order of images.
    """
    # Parameters that a form does not have get the gradient 0.
    optimizer = optax.chain(optax.stateless(lambda grads, _: learned_only(grads, form)), optax.adagrad(RATE))
    init_key, order_key = jax.random.split(jax.random.key(seed))

    def loss(params: Params, model_state: Any, batch: Images, key: PRNGKeyArray) -> Any:
        value = optax.softmax_cross_entropy_with_integer_labels(forward(params, batch.x, form), batch.y).mean()
        return value, ({"loss": value}, model_state)

    params = init(init_key, form, layers=layers, depth=depth, inputs=data.x.shape[1])
    _, metrics = gf.training.run(
        gf.training.make_step(loss, optimizer), gf.training.start(params, optimizer, order_key), sampled(data, BATCH),
        steps, data_key=order_key,
    )  # fmt: skip
    return metrics["loss"].value


def learned_only(grads: Params, form: Form) -> Params:
    """Put 0 in place of the gradients of parameters that a form does not have.

    Args:
        grads: of a network.
        form: of it.
    """
    blocks = grads["blocks"]
    return grads | {"blocks": blocks | {name: there * blocks[name] for name, there in form.learned.items()}}


def beginning(form: Form, data: Images, *, layers: int, depth: int, seed: int) -> dict[str, Array]:
    """Signal and gradient along the stack at initialization.

    The gradient is that of a random linear function of what leaves the stack, for which an output layer of 0 (Fixup)
    makes no difference.

    Args:
        form: of the network.
        data: images.
        layers: of a branch.
        depth: of all branches together.
        seed: of the randomness.

    Returns:
        `signal`, `gradient` (blocks,), rms of the stream before each block over that before the first, and of the
        gradient there over that after the last.
    """
    init_key, end_key = jax.random.split(jax.random.key(seed))
    params = init(init_key, form, layers=layers, depth=depth, inputs=data.x.shape[1])
    entering = stem(params, data.x[:PROBED])
    end = jax.random.normal(end_key, entering.shape)

    def scalar(params: Params) -> Array:
        return jnp.vdot(end, stack(params, entering, form))

    flow = gf.value_grad_and_flow(scalar, statistics=("output_rms", "output_grad_rms"))(params)[2]["stream"]
    return {
        "signal": flow.output_rms / flow.output_rms[0],
        "gradient": flow.output_grad_rms / jnp.sqrt(jnp.mean(end**2)),
    }


def measure(data: Images, layers: int, *, depth: int, steps: int, seed: int) -> dict[str, Network]:
    """Measure the networks with branches of one length at initialization, and train them, as one program.

    Args:
        data: training images.
        layers: of a branch, 1 or 2.
        depth: of all branches together, even.
        steps: training steps; 0 to leave training out.
        seed: of everything.

    Returns:
        Name to network.
    """
    kinds = forms(depth)[layers]
    stacked = jax.tree.map(lambda *leaves: jnp.asarray(leaves, jnp.float32), *kinds.values())
    options: dict[str, Any] = {"layers": layers, "depth": depth, "seed": seed}
    with jax.debug_nans(False):  # a stream that doubles in every block may overflow; that it does is the result
        found = dict(jax.jit(jax.vmap(functools.partial(beginning, data=data, **options)))(stacked))
        trained = jax.jit(jax.vmap(functools.partial(train, data=data, steps=steps, **options)))
        found["loss"] = trained(stacked) if steps else jnp.zeros((len(kinds), 0))
    return {
        name: Network(**{key: np.asarray(rows[index]) for key, rows in found.items()})
        for index, name in enumerate(kinds)
    }
