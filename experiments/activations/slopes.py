"""The slopes that parametric ReLU learns, by layer, in a plain convolutional network (He et al. 2015, Table 1)."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

import gradflow as gf
from experiments.framework.stretches import in_stretches, take

RECORDS = 8  # moments at which slopes are recorded, after the start
EVALUATED = 1000  # test images that accuracy is measured on
LOOKS = 500  # steps from one look at the slopes to the next, at most; few of these are kept
PAPER_FIRST = (0.681, 0.596)  # slope of conv1, one slope a layer and one a channel: He et al. 2015, Table 1

Tree = dict[str, Any]


class Setup(NamedTuple):
    """How the network is trained: gradient descent with momentum .9, without weight decay.

    Attributes:
        depth: layers with weights, 6 n + 2.
        stride: every how manieth pixel of an image is taken, in both directions.
        batch: images a step.
        rate: learning rate.
        steps: training steps, a multiple of `RECORDS`.
        networks: how many to train, one after the other.
        seed: of initialization and of the order of images.
    """

    depth: int
    stride: int
    batch: int
    rate: float
    steps: int
    networks: int
    seed: int


@dataclasses.dataclass(frozen=True)
class Slopes:
    """What PReLU learns: mean and quartiles over the channels of each layer; accuracy on test images at the end."""

    steps: Int[np.ndarray, " records"]
    mean: Float[np.ndarray, "networks records layers"]
    low: Float[np.ndarray, "networks records layers"]
    high: Float[np.ndarray, "networks records layers"]
    accuracy: Float[np.ndarray, " networks"]


def build(depth: int) -> gf.models.ResNet:
    """Build a plain network of 3x3 convolutions, PReLU with one slope a channel, no normalization, He's weights.

    Args:
        depth: layers with weights.
    """
    return gf.models.ResNet(
        depth=depth,
        residual=False,
        normalization=None,
        activation="prelu",
        initializer=gf.initializers.he_normal(negative_slope=gf.activations.get("prelu").parameter or 0.0),
    )


def slopes(params: Tree) -> list[Float[Array, " channels"]]:
    """Return the slopes of every convolution, from the first to the last.

    Args:
        params: of a network from `build`.
    """
    found = [params["PReLU_stem"]["negative_slope"]]
    for block in range(sum(name.startswith("Block_") for name in params)):
        inside = params[f"Block_{block}"]
        found += [inside[name]["negative_slope"] for name in ("PReLU_0", "PReLU_out")]
    return found


def measure(data: gf.data.ImageDataset, setup: Setup) -> Slopes:
    """Train, and record the slopes.

    Args:
        data: images.
        setup: of network and training.
    """
    model = build(setup.depth)
    optimizer = optax.sgd(setup.rate, momentum=0.9)
    loss = gf.training.classification(model)
    step = gf.training.make_step(loss, optimizer)
    every, thin = setup.steps // RECORDS, np.s_[:, :: setup.stride, :: setup.stride]
    train_images, test_images = data.train.images[thin], data.test.images[:EVALUATED][thin]
    source = gf.data.on_device(train_images, data.train.labels, setup.batch, normalization=data.normalization())
    test, answers = jnp.asarray(data.normalize(test_images)), data.test.labels[:EVALUATED]
    unit = math.gcd(every, LOOKS)

    @functools.partial(jax.jit, static_argnames="steps")
    def advance(state: Any, key: Array, source: gf.data.OnDevice, *, steps: int) -> Any:
        if state is None:
            state = gf.training.init(model, optimizer, key, test[:2])
        return take(step, state, source, steps, every=unit, record=lambda state: slopes(state.params))

    @jax.jit
    def accuracy_of(state: gf.training.TrainState) -> Float[Array, ""]:
        predicted: Any = model.apply({"params": state.params}, test)
        return jnp.mean(predicted.argmax(-1) == answers)

    records, accuracies = [], []
    for network in range(setup.networks):
        key = jax.random.fold_in(jax.random.key(setup.seed), network)

        def further(state: Any, steps: int, key: Array = key) -> Any:
            return advance(state, key, source, steps=steps)

        accuracy, found = in_stretches(
            f"learned slopes, network {network + 1}", further, steps=setup.steps, every=unit,
            work=6.0 * setup.batch * setup.depth * test[0, ..., 0].size * 9 * 16**2, end=accuracy_of,
        )  # fmt: skip
        records.append(_summary([layer[:: every // unit] for layer in found]))
        accuracies.append(float(accuracy))
    low, mean, high = np.stack(records, 1)
    return Slopes(
        steps=np.arange(RECORDS + 1) * every,
        mean=mean,
        low=low,
        high=high,
        accuracy=np.array(accuracies),
    )


def _summary(found: list[Float[np.ndarray, "records _"]]) -> Float[np.ndarray, "3 records layers"]:
    """Lower quartile, mean and upper quartile of every layer's slopes."""
    parts = [(np.quantile(layer, 0.25, 1), layer.mean(1), np.quantile(layer, 0.75, 1)) for layer in found]
    return np.stack([np.stack(part) for part in parts], -1)
