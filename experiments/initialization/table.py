"""Glorot & Bengio 2010, Table 1: test error of five deep networks, activation by initialization, on two data sets."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Shaped

import gradflow as gf
from experiments.framework.claims import Claim
from experiments.framework.images import load
from experiments.framework.progress import track
from experiments.framework.stretches import in_stretches, take
from experiments.initialization import bands

DEPTH, BATCH, RECORDS = 5, 10, 50
RATES = (0.001, 0.003, 0.01, 0.03, 0.1)
# Images held out, from which rate and number of steps are chosen: of MNIST the paper's 10,000.
VALIDATION = 10_000


class Arm(NamedTuple):
    """One row of the table."""

    name: str
    activation: str
    initializer: str


ARMS = (
    Arm("sigmoid", "sigmoid", "standard"),
    Arm("tanh", "tanh", "standard"),
    Arm("tanh, normalized", "tanh", "glorot_uniform"),
    Arm("softsign", "softsign", "standard"),
    Arm("softsign, normalized", "softsign", "glorot_uniform"),
)
# Test error, %, in the order of `ARMS`.
PAPER = {"mnist": (2.21, 1.76, 1.64, 1.64, 1.72), "cifar10": (57.28, 55.9, 52.92, 55.78, 53.8)}


@dataclasses.dataclass(frozen=True)
class Table:
    """Test error in % of every row of the table, where the validation error is lowest."""

    names: Shaped[np.ndarray, " columns"]
    error: Float[np.ndarray, "columns rows"]


def train(
    name: str, arm: Arm, data: gf.data.ImageDataset, *, width: int, steps: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Train one network at all rates, side by side, and follow its errors.

    Args:
        name: of the data set.
        arm: activation and initialization.
        data: with a validation split.
        width: units a hidden layer.
        steps: of plain gradient descent.
        seed: of weights and order.

    Returns:
        Validation and test error, both (rates, records).
    """
    assert data.validation is not None
    model = gf.models.MLP(depth=DEPTH, width=width, outputs=10, activation=arm.activation, initializer=arm.initializer)
    loss = gf.training.classification(model)
    normalization = data.normalization()
    source = gf.data.on_device(data.train.images, data.train.labels, BATCH, normalization=normalization)
    held_out = [(jnp.asarray(data.normalize(s.images)), jnp.asarray(s.labels)) for s in (data.validation, data.test)]
    key, every = jax.random.key(seed), steps // RECORDS

    # Images are arguments: captured, they would be copied into the program as constants.
    @functools.partial(jax.jit, static_argnames="steps")
    def advance(states: Any, rates: jax.Array, source: gf.data.OnDevice, held_out: Any, steps: int) -> Any:
        def error(state: gf.training.TrainState) -> jax.Array:
            means = [gf.training.means(gf.training.evaluate(loss, state, *split)) for split in held_out]
            # A network that went non-finite is as good as a guess.
            return 1 - jnp.where(state.finite, jnp.stack([mean["accuracy"] for mean in means]), 0.1)

        def one(state: Any, rate: jax.Array) -> Any:
            optimizer = optax.sgd(rate)
            if state is None:
                state = gf.training.init(model, optimizer, key, held_out[0][0][:2])
            step = gf.training.make_step(loss, optimizer)
            return take(step, state, source, steps, every=every, record=error, data_key=key)

        return jax.vmap(one)(states, rates)

    weights = width * (held_out[0][0][0].size + (DEPTH - 1) * width)
    errors = in_stretches(
        f"{name}, {arm.name}", lambda states, count: advance(states, jnp.asarray(RATES), source, held_out, count),
        steps=steps, every=every, work=6.0 * len(RATES) * BATCH * weights, axis=1,
    )[1][:, 1:]  # fmt: skip
    return errors[..., 0], errors[..., 1]


def measure(names: tuple[str, ...], *, width: int, steps: int, seed: int) -> Table:
    """Train every row of the table on some of its columns.

    Args:
        names: columns, keys of `PAPER`.
        width: units a hidden layer.
        steps: of each network, a multiple of `RECORDS`.
        seed: of everything.
    """
    found = []
    for name in names:
        data = load(name, validation=VALIDATION, seed=seed)
        row = []
        for arm in track(ARMS, name, lambda arm: arm.name):
            validation, test = train(name, arm, data, width=width, steps=steps, seed=seed)
            row.append(100 * test.flat[validation.argmin()])
        found.append(row)
    return Table(np.array(names, dtype=str), np.array(found).reshape(len(names), len(ARMS)))


def claims(results: Table) -> list[Claim]:
    """Hold the entries of a column against the paper's.

    Args:
        results: from `measure`.
    """
    found = []
    for name, errors in zip(results.names, results.error, strict=True):
        far = bands.table_errors(errors, np.array(PAPER[str(name)]))
        worst = int(np.abs(far).argmax())
        claim = f"{name}: test error of five networks, worst deviation from the paper's in standard errors"
        found.append(Claim(f"table-{name}", f"{claim} ({ARMS[worst].name})", bands.table(name, len(ARMS)), far[worst]))
    return found
