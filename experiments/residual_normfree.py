"""Residual networks without normalization: branches that start at nothing (ReZero, SkipInit, Fixup)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

import gradflow as gf
from experiments.progress import track
from experiments.residual_network import Images
from experiments.runner import Results

WIDTH, BATCH, RATE = 128, 128, 0.01
FORMS = {"vanilla": None, "residual": "plain", "ReZero": "rezero"}


def model(residual: Any, depth: int, width: int, outputs: int = 10) -> gf.models.MLP:
    """Build the fully connected network of Bachlechner et al. 2020, section 4: ReLU, He-initialized, no normalization.

    Args:
        residual: a value of `FORMS`.
        depth: hidden layers.
        width: units of each.
        outputs: of the network.
    """
    return gf.models.MLP(depth=depth, width=width, outputs=outputs, residual=residual, scan=True)


def train(residual: Any, data: Images, *, depth: int, steps: int, seed: int) -> Float[Array, " steps"]:
    """Train with Adagrad and return the loss of every step.

    Args:
        residual: a value of `FORMS`.
        data: training images.
        depth: hidden layers.
        steps: training steps.
        seed: of initialization and of the order of images.
    """
    net = model(residual, depth, WIDTH)
    optimizer = optax.adagrad(RATE)
    init_key, order_key = jax.random.split(jax.random.key(seed))

    def loss(params: Any, batch: Images) -> Float[Array, ""]:
        return optax.softmax_cross_entropy_with_integer_labels(net.apply(params, batch.x), batch.y).mean()

    def step(state: Any, number: Array) -> tuple[Any, Array]:
        params, memory = state
        chosen = jax.random.randint(jax.random.fold_in(order_key, number), (BATCH,), 0, len(data.y))
        value, grads = jax.value_and_grad(loss)(params, Images(data.x[chosen], data.y[chosen]))
        updates, memory = optimizer.update(grads, memory, params)
        return (optax.apply_updates(params, updates), memory), value

    @jax.jit
    def run() -> Array:
        params = net.init(init_key, data.x[:1])
        return jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(steps))[1]

    return run()


def stack_jacobian(residual: Any, depth: int, width: int, seed: int) -> Float[np.ndarray, "width width"]:
    """Jacobian of the hidden layers after the first, at initialization and a random positive input.

    First and last layer are made the identity, so that what is left is the stack.

    Args:
        residual: a value of `FORMS`.
        depth: hidden layers.
        width: units of each.
        seed: of the randomness.
    """
    net = model(residual, depth, width, width)
    x = jax.random.uniform(jax.random.key(seed), (width,), minval=0.1)
    params = dict(net.init(jax.random.key(seed + 1), x[None])["params"])
    for end in ("Dense_0", f"Dense_{depth}"):
        params[end] = {"kernel": jnp.eye(width), "bias": jnp.zeros(width)}
    return np.asarray(jax.jit(jax.jacrev(lambda x: net.apply({"params": params}, x[None])[0]))(x))


def measure(data: Images, *, depth: int, steps: int, seed: int) -> Results:
    """Train the vanilla, the residual and the ReZero network.

    Args:
        data: training images.
        depth: hidden layers.
        steps: training steps; 0 to leave training out.
        seed: of everything.

    Returns:
        `normfree_names` (3,), `normfree_loss` (3, steps), empty without training, `rezero_jacobian` (width, width).
    """
    with jax.debug_nans(False):  # a stream that doubles in every block may overflow; that it does is the result
        names = track(list(FORMS) if steps else [], "norm-free")
        losses = {name: np.asarray(train(FORMS[name], data, depth=depth, steps=steps, seed=seed)) for name in names}
    return {
        "normfree_names": np.array(list(losses)),
        "normfree_loss": np.array(list(losses.values())),
        "rezero_jacobian": stack_jacobian("rezero", depth, WIDTH, seed),
    }
