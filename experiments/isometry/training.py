"""Pennington et al. 2017: how fast deep tanh networks learn from orthogonal and from Gaussian weights."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

import gradflow as gf
from experiments.framework.progress import track
from experiments.framework.stretches import in_stretches

ENSEMBLES: tuple[Literal["orthogonal", "gaussian"], ...] = ("orthogonal", "gaussian")
BIAS_VARIANCE = 2e-5  # the paper's 2.01e-5 with sigma_w = 1.05
BATCH, SMOOTHED = 64, 10
REACHED = 1.6  # training loss whose first time is compared; chance is ln 10 = 2.30


@dataclasses.dataclass(frozen=True)
class Learning:
    """Training loss by depth, ensemble and rate; chance from the step on at which a run went non-finite."""

    depths: Int[np.ndarray, " depths"]
    rates: Float[np.ndarray, " rates"]
    loss: Float[np.ndarray, "depths ensembles rates steps"]


def train(
    x: Float[Array, "examples pixels"], y: Int[Array, " examples"], *, depth: int, width: int, steps: int,
    rates: tuple[float, ...], seed: int,
) -> Float[np.ndarray, "ensembles rates steps"]:  # fmt: skip
    """Training losses of both kinds of network at all rates, as one program: same images, plain gradient descent.

    Args:
        x: training images.
        y: their classes.
        depth: hidden layers.
        width: of each.
        steps: training steps.
        rates: learning rates.
        seed: of weights and order.
    """
    critical = [gf.initializers.critical("tanh", bias_variance=BIAS_VARIANCE, kernel=name) for name in ENSEMBLES]
    models = [
        gf.models.MLP(
            depth=depth, width=width, outputs=10, activation="tanh", initializer=c.kernel, bias=c.bias, scan=True
        )
        for c in critical
    ]
    init_key, order_key = jax.random.split(jax.random.key(seed))
    starts = [jax.jit(model.init)(init_key, x[:1]) for model in models]

    loss = gf.training.classification(models[0])
    source = gf.data.on_device(x, y, BATCH)

    @functools.partial(jax.jit, static_argnames="steps")
    def advance(states: Any, starts: dict[str, Array], rates: Array, source: gf.data.OnDevice, steps: int) -> Any:
        def one(state: Any, params: dict[str, Array], rate: Array) -> tuple[gf.training.TrainState, Array]:
            optimizer = optax.sgd(rate)
            if state is None:
                state = gf.training.start(params, optimizer, order_key)
            step = gf.training.make_step(loss, optimizer)
            state, metrics = gf.training.run(step, state, source, steps, data_key=order_key)
            return state, gf.training.means(metrics)["loss"]

        return jax.vmap(jax.vmap(one, (0, None, 0)), (0, 0, None))(states, starts, rates)

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)["params"]
    weights = sum(leaf.size for leaf in jax.tree.leaves(stacked))
    return in_stretches(
        f"{depth} layers", lambda states, count: advance(states, stacked, jnp.asarray(rates), source, count),
        steps=steps, every=1, work=6.0 * BATCH * len(rates) * weights, axis=2, sums=True,
    )[1]  # fmt: skip


def measure(
    data: gf.data.ImageDataset, *, depths: tuple[int, ...], width: int, steps: int, rates: tuple[float, ...], seed: int
) -> Learning:
    """Train both kinds of network at several depths.

    Args:
        data: images.
        depths: numbers of hidden layers.
        width: of each layer.
        steps: training steps.
        rates: learning rates.
        seed: of everything.
    """
    x = jnp.asarray(data.normalize(data.train.images).reshape(len(data.train), -1))
    y = jnp.asarray(data.train.labels)
    found = [
        train(x, y, depth=depth, width=width, steps=steps, rates=rates, seed=seed)
        for depth in track(depths, "training", "{} layers".format)
    ]
    return Learning(
        depths=np.array(depths),
        rates=np.array(rates),
        loss=np.nan_to_num(np.stack(found), nan=np.log(10)),
    )


def smooth(loss: Float[np.ndarray, "*runs steps"]) -> Float[np.ndarray, "*runs records"]:
    """Means over `SMOOTHED` steps.

    Args:
        loss: one number a step.
    """
    records = loss.shape[-1] // SMOOTHED
    return loss[..., : records * SMOOTHED].reshape(*loss.shape[:-1], records, SMOOTHED).mean(-1)


def times(results: Learning) -> Float[np.ndarray, "depths ensembles"]:
    """Fewest steps over rates until the smoothed loss is below `REACHED`; infinite if it never is.

    Args:
        results: from `measure`.
    """
    reached = smooth(results.loss) < REACHED
    first = np.where(reached.any(-1), SMOOTHED * (1 + reached.argmax(-1)), np.inf)
    return first.min(-1)
