"""He et al. 2015, Figs 2 and 3: deep ReLU networks from several initializations, trained alike."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Shaped

import gradflow as gf
from experiments.framework.images import Images, sampled
from experiments.framework.progress import track
from experiments.framework.stretches import in_stretches, take

SCHEMES = ("he_normal", "xavier_normal", "orthogonal", "small_gaussian", "lsuv")
LABELS = {
    "he_normal": "He",
    "xavier_normal": "Xavier",
    "orthogonal": "orthogonal, gain √2",
    "small_gaussian": "N(0, .01²)",
    "lsuv": "LSUV",
}
RECORDS, BATCH = 21, 64
LSUV_IMAGES = 256


@dataclasses.dataclass(frozen=True)
class Start:
    """A network of one depth before training: rms of outputs and of gradients there, and variances after LSUV."""

    forward: Float[np.ndarray, "schemes layers"]
    backward: Float[np.ndarray, "schemes layers"]
    lsuv_variance: Float[np.ndarray, " layers"]


@dataclasses.dataclass(frozen=True)
class Training:
    """Networks of several depths, trained from every scheme; `start` is by depth."""

    schemes: Shaped[np.ndarray, " schemes"]
    depths: Int[np.ndarray, " depths"]
    width: int
    steps: Int[np.ndarray, " records"]
    accuracy: Float[np.ndarray, "depths schemes records"]
    start: dict[int, Start]


def starts(depth: int, width: int, data: Images, seed: int) -> tuple[gf.models.MLP, list[Any], np.ndarray]:
    """Draw the network once for each scheme.

    Args:
        depth: hidden ReLU layers.
        width: units of each.
        data: images, for LSUV.
        seed: of the weights.

    Returns:
        The model, parameters for each of `SCHEMES`, and the variance of every layer's output (depth + 1,) after LSUV.
    """
    key = jax.random.key(seed)
    found = []
    for scheme in SCHEMES:
        name = "he_normal" if scheme == "lsuv" else scheme
        init = gf.initializers.orthogonal(np.sqrt(2)) if name == "orthogonal" else gf.initializers.get(name)
        model = gf.models.MLP(depth=depth, width=width, outputs=10, initializer=init, scan=True)
        params = model.init(key, data.x[:1])
        if scheme == "lsuv":
            params, report = gf.lsuv(model.apply, params, data.x[:LSUV_IMAGES], key=key)
            variances = np.concatenate([np.atleast_1d(layer.variance_after) for layer in report])
        found.append(params)
    return gf.models.MLP(depth=depth, width=width, outputs=10, scan=True), found, variances


def train(
    model: gf.models.MLP, params: Any, train_set: Images, test: Images, *, steps: int, rate: float, seed: int
) -> dict[str, Float[np.ndarray, "schemes _"]]:
    """Train all starts as one program: the same images in the same order, momentum .9.

    Args:
        model: the network.
        params: stacked over schemes.
        train_set: training images.
        test: test images.
        steps: training steps, a multiple of `RECORDS` - 1.
        rate: learning rate.
        seed: of the order of images.

    Returns:
        `accuracy` on the test images over training; `forward` and `backward` (schemes, layers), rms of every layer's
        output and of the loss's gradient there, at the start.
    """
    optimizer, every = optax.sgd(rate, momentum=0.9), steps // (RECORDS - 1)
    key = jax.random.key(seed)

    def loss(params: Any, model_state: Any, batch: Images, key: Array) -> tuple[Array, tuple[Any, Any]]:
        logits = model.apply(params, batch.x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch.y).mean(), ({}, model_state)

    def profiles(params: Any, first: Images) -> dict[str, Array]:
        instrumented = gf.value_grad_and_flow(loss, has_aux=True, statistics=("output_rms", "output_grad_rms"))
        _, _, flow = instrumented(params, {}, first, key)
        return {
            name: jnp.concatenate([jnp.atleast_1d(getattr(flow[layer], f"output_{kind}")) for layer in flow.layers])
            for name, kind in (("forward", "rms"), ("backward", "grad_rms"))
        }

    @functools.partial(jax.jit, static_argnames="steps")
    def advance(state: Any, params: Any, train_set: Images, test: Images, steps: int) -> Any:
        def accuracy(state: gf.training.TrainState) -> Array:
            return (jnp.argmax(jnp.asarray(model.apply(state.params, test.x)), -1) == test.y).mean()

        def one(state: Any, params: Any) -> Any:
            if state is None:
                state = gf.training.start(params, optimizer, key)
            step, source = gf.training.make_step(loss, optimizer), sampled(train_set, BATCH)
            return take(step, state, source, steps, every=every, record=accuracy, data_key=key)

        return jax.vmap(one)(state, params)

    recorded = in_stretches(
        f"{model.depth} layers", lambda state, count: advance(state, params, train_set, test, count), steps=steps,
        every=every, work=6.0 * BATCH * sum(leaf.size for leaf in jax.tree.leaves(params)), axis=1,
    )[1]  # fmt: skip
    start = jax.jit(jax.vmap(profiles, (0, None)))(params, train_set.first(256))
    return {"accuracy": recorded, **jax.device_get(start)}


def measure(
    train_set: Images, test: Images, *, depths: tuple[int, ...], width: int, steps: int, rate: float, seed: int
) -> Training:
    """Train networks of several depths from every scheme.

    Args:
        train_set: training images.
        test: test images.
        depths: numbers of hidden layers.
        width: units of each.
        steps: training steps.
        rate: learning rate.
        seed: of everything.
    """
    accuracy, found = [], {}
    for depth in track(depths, "training", "{} layers".format):
        model, params, variances = starts(depth, width, train_set, seed)
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
        run = train(model, stacked, train_set, test, steps=steps, rate=rate, seed=seed)
        accuracy.append(np.asarray(run["accuracy"]))
        found[depth] = Start(np.asarray(run["forward"]), np.asarray(run["backward"]), variances)
    return Training(
        schemes=np.array(SCHEMES),
        depths=np.array(depths),
        width=width,
        steps=np.linspace(0, steps, RECORDS).astype(int),
        accuracy=np.stack(accuracy),
        start=found,
    )
