"""Gradients over time at initialization, where theory says what they are: closed forms, radii, mean field."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

import gradflow as gf
from gradflow.models import cells
from gradflow.models.cells import Cell

FORGET_BIASES = (0.0, 1.0, 2.0)
RADII = (0.5, 0.8, 0.9, 1.0, 1.1, 1.2, 1.5)
RADIUS_CELLS = ("linear", "tanh, weak inputs", "tanh, strong inputs")
WEAK, STRONG = 0.01, 2.0  # variance of W x_t
TINY = 1e-4  # weights so small that a gate is the logistic function of its bias
SIGMAS = (0.5, 0.9, 1.0, 1.1, 1.5)  # of recurrent weights N(0, sigma^2 / n): about their spectral radius
CURVE = tuple(np.linspace(0.4, 1.6, 25).tolist())  # sigmas at which theory is drawn
MEAN_FIELD_INPUT = 0.05
FITTED = 60  # steps of the sequences that rates are fitted on
BATCH = 32
SETTLING, ENDING = 15, 5  # steps left out of a fit at both ends: neither state nor cotangent has settled there


class Draw(NamedTuple):
    """One random network, as numbers.

    Attributes:
        weight_variance: sigma_w^2 of the recurrent weights, N(0, sigma_w^2 / n).
        input_variance: of W x_t in every gate.
        forget_bias: of an LSTM.
        fresh: 1 for recurrent weights drawn anew at every step, 0 for the same ones at all.
    """

    weight_variance: float | Array
    input_variance: float | Array
    forget_bias: float | Array
    fresh: float | Array


@dataclasses.dataclass(frozen=True)
class Theory:
    """What theory knows of random recurrent networks, beside what is measured.

    Attributes:
        retention: rms of dL/dc_t of LSTMs with tiny weights over that of the last step, by forget bias, chrono last.
        retention_theory: what it should be after all steps.
        radius_gradient: dL/dh_t of simple RNNs over that of the last step.
        rnn_rate: factor of the squared gradient a step back.
        rnn_theory: chi_1.
        rnn_curve: chi_1 at `CURVE`.
        gated_names: the LSTM by forget bias, then the GRU.
        gated_rate: with shared weights, then with fresh ones.
        gated_theory: chi.
    """

    retention: Float[np.ndarray, "cells steps+1"]
    retention_theory: Float[np.ndarray, " cells"]
    radius_gradient: Float[np.ndarray, "cells radii steps"]
    rnn_rate: Float[np.ndarray, "sigmas networks"]
    rnn_theory: Float[np.ndarray, " sigmas"]
    rnn_curve: Float[np.ndarray, " points"]
    gated_names: Shaped[np.ndarray, " gated"]
    gated_rate: Float[np.ndarray, "gated 2 networks"]
    gated_theory: Float[np.ndarray, " gated"]


def measure(width: int, steps: int, networks: int, seed: int) -> Theory:
    """Measure all that theory knows of, in two threads: most of the time is compilation.

    Args:
        width: units; half of it for the multiples of an orthogonal matrix.
        steps: that gradients go back.
        networks: random networks for each mean-field rate.
        seed: of everything.
    """
    with ThreadPoolExecutor(max_workers=2) as pool:
        rates = pool.submit(mean_field, width, networks, seed)
        retained = pool.submit(retention, width, steps, seed)
        profiles = pool.submit(radii, width // 2, steps, seed)
        return Theory(*retained.result(), radius_gradient=profiles.result(), **rates.result())


def retention(hidden: int, steps: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Measure dL/dc_t of LSTMs whose weights are tiny, so that gates are what their biases make them.

    Args:
        hidden: units.
        steps: steps that the gradient goes back.
        seed: of weights and inputs.

    Returns:
        `Theory.retention` and `Theory.retention_theory`.
    """
    task = gf.data.sequences.Adding(steps + 1)
    init_key, data_key = jax.random.split(jax.random.key(seed))
    batch = task.sample(data_key, BATCH)
    tiny = jax.nn.initializers.normal(TINY)

    def network(forget_bias: float | None, chrono_steps: int | None) -> gf.models.Recurrent:
        return gf.models.Recurrent(
            "lstm", hidden, 1, forget_bias=forget_bias, chrono_steps=chrono_steps, initializer=tiny,
            recurrent_initializer=tiny,
        )  # fmt: skip

    networks = [*(network(bias, None) for bias in FORGET_BIASES), network(None, steps)]
    loss = gf.training.regression(network(None, None))

    @jax.jit
    def gradient(params: dict[str, dict[str, Array]]) -> Float[Array, " steps"]:
        instrumented = gf.value_grad_and_flow(
            lambda params: loss(params, {}, batch, None)[0], select="*carry_0", statistics="output_grad_rms"
        )
        flow = instrumented(params)[2]
        return flow[flow.carries[0]].output_grad_rms

    @jax.jit
    def drawn(key: PRNGKeyArray) -> list[dict[str, dict[str, Array]]]:
        return [model.init(key, batch.inputs[:2])["params"] for model in networks]

    measured = np.stack([gradient(params) for params in drawn(init_key)])
    theory = [*(_logistic(bias) ** steps for bias in FORGET_BIASES), chrono_retention(steps)[0]]
    return measured / measured[:, -1:], np.array(theory)


def chrono_retention(steps: int) -> tuple[float, float]:
    """What chrono initialization keeps of the gradient over the longest dependency that it is meant for.

    f = u / (1 + u), u uniform in (1, T - 1): the mean square of f^T tends to e^-2 - 2 E_1(2) = 0.0375 for large T.

    Args:
        steps: T.

    Returns:
        Root of the mean of f^(2T) over units; standard deviation of that mean for one unit, relative to it, with the
        units weighted by squares of a uniform read-out.
    """
    u = np.linspace(1, steps - 1, 200_001)
    kept = (u / (1 + u)) ** (2 * steps)
    return float(np.sqrt(kept.mean())), float(np.sqrt(9 / 5) * kept.std() / kept.mean())


def radii(hidden: int, steps: int, seed: int) -> Float[np.ndarray, "cells radii steps"]:
    """Measure dL/dh_t of simple RNNs whose recurrent matrix is a multiple of an orthogonal one.

    Args:
        hidden: units.
        steps: of the sequences.
        seed: of weights and inputs.
    """
    matrix_key, input_key, readout_key = jax.random.split(jax.random.key(seed), 3)
    rotation = jax.random.orthogonal(matrix_key, hidden)
    inputs = jax.random.normal(input_key, (steps, BATCH, hidden))
    readout = jax.random.normal(readout_key, (BATCH, hidden))

    @functools.partial(jax.jit, static_argnums=0)
    @functools.partial(jax.vmap, in_axes=(None, 0, None))
    def profile(phi: Callable[[Array], Array], radius: Array, variance: Array) -> Float[Array, " steps"]:
        kernel = radius * rotation
        return gradients(cells.get(phi), lambda _: kernel, jnp.sqrt(variance) * inputs, readout)

    settings = ((_linear, WEAK), (jnp.tanh, WEAK), (jnp.tanh, STRONG))
    found = [np.asarray(profile(phi, jnp.asarray(RADII), jnp.float32(variance))) for phi, variance in settings]
    return np.stack(found) / np.stack(found)[..., -1:]


def mean_field(hidden: int, networks: int, seed: int) -> dict[str, np.ndarray]:
    """Measure the rate of the squared gradient of wide random cells, beside mean-field theory.

    Args:
        hidden: units.
        networks: random networks for each rate.
        seed: of weights and inputs.

    Returns:
        The fields of `Theory` that begin with `rnn` and `gated`.
    """
    key = jax.random.key(seed)
    theory = gf.theory
    plain = [Draw(sigma**2, MEAN_FIELD_INPUT, 0.0, 0.0) for sigma in SIGMAS]
    lstm = [Draw(1.0, 1.0, bias, fresh) for bias in FORGET_BIASES for fresh in (0.0, 1.0)]
    gru = [Draw(1.0, 1.0, 0.0, fresh) for fresh in (0.0, 1.0)]
    found = {
        cell: np.asarray(rates(cell, key, _stacked(draws), hidden, FITTED, networks))
        for cell, draws in (("rnn", plain), ("lstm", lstm), ("gru", gru))
    }
    options = {"weight_variance": 1.0, "input_variance": 1.0}

    def chi_1(sigma: float) -> float:
        point = theory.recurrent_fixed_point("tanh", weight_variance=sigma**2, input_variance=MEAN_FIELD_INPUT)
        return float(point.chi_1)

    return {
        "rnn_rate": found["rnn"],
        "rnn_theory": np.array([chi_1(sigma) for sigma in SIGMAS]),
        "rnn_curve": np.array([chi_1(sigma) for sigma in CURVE]),
        "gated_names": np.array([*(f"LSTM, forget bias {bias:g}" for bias in FORGET_BIASES), "GRU"]),
        "gated_rate": np.concatenate([found["lstm"], found["gru"]]).reshape(-1, 2, networks),
        "gated_theory": np.array(
            [
                *(theory.lstm_fixed_point(**options, forget_bias=bias).chi for bias in FORGET_BIASES),
                theory.gru_fixed_point(**options).chi,
            ]
        ),
    }


@functools.partial(jax.jit, static_argnames=("cell", "hidden", "steps", "networks"))
def rates(
    cell: str, key: PRNGKeyArray, draws: Draw, hidden: int, steps: int, networks: int
) -> Float[Array, "draws networks"]:
    """Measure the factor of the squared gradient a step back in time.

    Args:
        cell: name of the cell.
        key: randomness; network k of every draw has the same.
        draws: numbers with an axis in front.
        hidden: units.
        steps: of the sequences.
        networks: random networks for each draw.
    """

    def one(draw: Draw, key: PRNGKeyArray) -> Float[Array, " steps"]:
        return random_gradients(cells.get(cell), key, draw, hidden, steps)

    keys = jax.random.split(key, networks)
    return fitted_rates(jax.lax.map(lambda draw: jax.lax.map(functools.partial(one, draw), keys), draws))


def random_gradients(cell: Cell, key: PRNGKeyArray, draw: Draw, hidden: int, steps: int) -> Float[Array, " steps"]:
    """Measure the gradient over time of one wide random cell whose inputs are noise.

    Args:
        cell: the cell.
        key: randomness.
        draw: variances, bias, and whether weights are shared over time.
        hidden: units.
        steps: of the sequences.
    """
    kernel_key, input_key, readout_key = jax.random.split(key, 3)
    width = hidden * len(cell.gates)
    bias = jnp.zeros(width)
    if "f" in cell.gates:
        start = cell.gates.index("f") * hidden
        bias = bias.at[start : start + hidden].set(draw.forget_bias)
    drives = bias + jnp.sqrt(draw.input_variance) * jax.random.normal(input_key, (steps, BATCH, width))

    def kernel(step: Array) -> Float[Array, "hidden width"]:
        drawn = jax.random.fold_in(kernel_key, jnp.where(draw.fresh > 0, step, 0))
        return jnp.sqrt(draw.weight_variance / hidden) * jax.random.normal(drawn, (hidden, width))

    return gradients(cell, kernel, drives, jax.random.normal(readout_key, (BATCH, hidden)))


def gradients(
    cell: Cell,
    kernel: Callable[[Array], Float[Array, "hidden width"]],
    drives: Float[Array, "steps batch width"],
    readout: Float[Array, "batch hidden"],
) -> Float[Array, " steps"]:
    """Measure the rms of dL/ds_t over time, s the state that a cell carries on (c of an LSTM), L = sum(readout h_T).

    Args:
        cell: simple RNN, LSTM or GRU.
        kernel: recurrent weights of a step.
        drives: W x_t + b.
        readout: dL/dh_T.
    """
    zeros = jnp.zeros_like(readout)
    extra = {"recurrent/bias": zeros[0]}

    def loss(nudges: Float[Array, "steps batch hidden"]) -> Array:
        def body(states: cells.States, inputs: tuple[Array, Array, Array]) -> tuple[cells.States, None]:
            step, drive, nudge = inputs
            pre = cell.meet(drive, states[-1] @ kernel(step))
            return cell.step(
                states, pre, extra, lambda name, value: value + nudge if name == cell.states[0] else value
            ), None

        steps = jnp.arange(len(drives))
        states, _ = jax.lax.scan(body, (zeros,) * len(cell.states), (steps, drives, nudges))
        return jnp.sum(readout * states[-1])

    found = jax.grad(loss)(jnp.zeros((len(drives), *readout.shape)))
    largest = jnp.max(jnp.abs(found), (1, 2), keepdims=True)  # the square of a vanished gradient is no float32
    scale = jnp.where(largest > 0, largest, 1.0)
    return scale[:, 0, 0] * jnp.sqrt(jnp.mean(jnp.square(found / scale), (1, 2)))


def fitted_rates(profiles: Float[Array, "... steps"]) -> Float[Array, "..."]:
    """Fit the factor of the squared gradient a step back in time.

    Args:
        profiles: rms of the gradient over time.
    """
    logs = jnp.log(profiles[..., SETTLING:-ENDING])
    time = jnp.arange(logs.shape[-1], dtype=jnp.float32)
    time = time - time.mean()
    return jnp.exp(-2 * (logs @ time) / jnp.sum(jnp.square(time)))


def _linear(z: Array) -> Array:
    return z


def _logistic(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


def _stacked(draws: list[Draw]) -> Draw:
    return jax.tree.map(lambda *numbers: jnp.asarray(numbers, jnp.float32), *draws)
