"""Local smoothness against gradient norm along training: Zhang et al. 2020, Fig. 1; gradients over time by radius."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

import gradflow as gf
from experiments.clipping import order
from experiments.framework.stretches import in_stretches
from gradflow.data.sequences import TemporalOrder

LENGTH = 20
SEQUENCES = 200  # that smoothness is measured on
PARTS = 5  # places between two iterates
ARM = (*order.INITS["smart tanh"], *order.LIMITS["norm"])

RADII = (0.8, 0.95, 1.05, 1.2)
RADIUS_STEPS, RADIUS_HIDDEN = 200, 50
SETTLED = 50  # steps from the end that a rate is fitted without: there the cotangent has not turned yet


@dataclasses.dataclass(frozen=True)
class Smoothness:
    """Norm of the gradient and local smoothness along training."""

    gradient: Float[np.ndarray, "runs records"]
    local: Float[np.ndarray, "runs records"]


@dataclasses.dataclass(frozen=True)
class Radii:
    """dL/dh over time by spectral radius, linear units first."""

    radii: Float[np.ndarray, " radii"]
    gradient: Float[np.ndarray, "2 radii steps"]


def local_smoothness(gradient: Any, before: Array, after: Array, parts: int = PARTS) -> Float[Array, ""]:
    """Estimate the smoothness between two iterates, as Zhang et al. 2020 do (their eq. in section 5).

        max over k = 1 ... parts of |grad f(x + d k / parts) - grad f(x)| / |d k / parts|,  d = x' - x

    Args:
        gradient: of f, from a vector to a vector.
        before: x.
        after: x'.
        parts: places.
    """
    direction, at = after - before, gradient(before)

    def quotient(part: Array) -> Array:
        change = gradient(before + part * direction) - at
        return jnp.linalg.norm(change) / jnp.maximum(part * jnp.linalg.norm(direction), 1e-30)

    return jnp.max(jax.lax.map(quotient, jnp.arange(1, parts + 1) / parts))


def along_training(
    state: gf.training.TrainState | None, key: PRNGKeyArray, updates: int, every: int
) -> tuple[gf.training.TrainState, tuple[Array, Array]]:
    """Train a network, and measure gradient norm and local smoothness now and then.

    Args:
        state: to go on from; None to start.
        key: of weights and sequences.
        updates: how many.
        every: of them between two measurements.

    Returns:
        The state; norm of the gradient and smoothness, (records,), of the loss on 200 sequences that stay the same.
    """
    task, arm = TemporalOrder(LENGTH), order.Arm(*jnp.asarray(ARM, jnp.float32))
    network = order.model(arm, task.outputs)
    loss = gf.training.classification(network)
    step = gf.training.make_step(loss, order.optimizer(arm))
    source = gf.data.generate(task, order.BATCH)
    start_key, data_key, fixed_key = jax.random.split(key, 3)
    if state is None:
        state = order.start(network, arm, task, start_key)
    fixed = task.sample(fixed_key, SEQUENCES)
    unravel = jax.flatten_util.ravel_pytree(state.params)[1]

    def gradient(flat: Array) -> Array:
        return jax.grad(lambda flat: loss(unravel(flat), {}, fixed, None)[0])(flat)

    def update(state: Any, _: None) -> tuple[Any, None]:
        return step(state, source.batch(data_key, state.step))[0], None

    def record(state: Any, _: None) -> tuple[Any, tuple[Array, Array]]:
        before = jax.flatten_util.ravel_pytree(state.params)[0]
        state, _ = update(state, None)
        after = jax.flatten_util.ravel_pytree(state.params)[0]
        found = jnp.linalg.norm(gradient(before)), local_smoothness(gradient, before, after)
        return jax.lax.scan(update, state, length=every - 1)[0], found

    return jax.lax.scan(record, state, length=updates // every)


@jax.jit
def over_time(radius: Array, bend: Array, key: PRNGKeyArray) -> Float[Array, " steps"]:
    """Measure dL/dh_t of a simple RNN whose sparse recurrent matrix has a given spectral radius.

    Args:
        radius: largest |eigenvalue|.
        bend: 1 for tanh units, 0 for linear ones.
        key: of weights and sequences.

    Returns:
        Root mean square of the gradient with respect to the state at each step, relative to the last one.
    """
    unit, task = gf.initializers.smart_tanh(spectral_radius=1.0), TemporalOrder(RADIUS_STEPS)

    def recurrent(key: PRNGKeyArray, shape: Sequence[int], dtype: Any = jnp.float32, out_sharding: Any = None) -> Array:
        return radius * unit(key, shape, dtype, out_sharding)

    def phi(x: Array) -> Array:
        return bend * jnp.tanh(x) + (1 - bend) * x

    init_key, data_key = jax.random.split(key)
    network = gf.models.Recurrent(phi, RADIUS_HIDDEN, task.outputs, recurrent_initializer=recurrent)
    batch = task.sample(data_key, order.BATCH)
    loss = gf.training.classification(network)
    instrumented = gf.value_grad_and_flow(
        lambda params: loss(params, {}, batch, None)[0], select="*carry_0", statistics="output_grad_rms"
    )
    flow = instrumented(network.init(init_key, batch.inputs[:1, :2])["params"])[2]
    profile = flow[flow.carries[0]].output_grad_rms
    return profile / profile[-1]


def measure(runs: int, updates: int, every: int, seed: int) -> tuple[Smoothness, Radii]:
    """Measure smoothness along training, and gradients over time.

    Args:
        runs: networks that are trained.
        updates: of each.
        every: of them between two measurements.
        seed: of everything.

    Returns:
        Both.
    """
    keys = jax.random.split(jax.random.key(seed), runs)

    @functools.partial(jax.jit, static_argnames="updates")
    def advance(states: Any, keys: PRNGKeyArray, updates: int) -> Any:
        return jax.vmap(lambda state, key: along_training(state, key, updates, every))(states, keys)

    looks = 3 * SEQUENCES * (PARTS + 2) / every  # forward passes a step, of sequences that smoothness is measured on
    trained = in_stretches(
        "smoothness", lambda states, updates: advance(states, keys, updates), steps=updates, every=every,
        work=2.0 * runs * LENGTH * order.HIDDEN**2 * (3 * order.BATCH + looks), axis=1, sums=True,
    )[1]  # fmt: skip
    both = jax.vmap(jax.vmap(over_time, (0, None, None)), (None, 0, None))
    profiles = both(jnp.asarray(RADII), jnp.asarray([0.0, 1.0]), keys[0])
    return Smoothness(*map(np.asarray, trained)), Radii(np.array(RADII), np.asarray(profiles))


def fitted_rates(profiles: Float[np.ndarray, "*profiles steps"]) -> Float[np.ndarray, "*profiles"]:
    """Fit the factor of the gradient a step back in time.

    Args:
        profiles: gradient over time.
    """
    logs = np.log(profiles[..., : profiles.shape[-1] - SETTLED].astype(np.float64))
    steps = np.arange(logs.shape[-1])
    slopes = np.polyfit(steps, logs.reshape(-1, steps.size).T, 1)[0]
    return np.exp(-slopes).reshape(profiles.shape[:-1])


def critical_radius(radii: Float[np.ndarray, " radii"], rates: Float[np.ndarray, " radii"]) -> float:
    """Return the spectral radius at which a gradient neither grows nor fades, by interpolation of logarithms.

    Args:
        radii: growing.
        rates: factor of the gradient a step back in time at each.

    Returns:
        NaN where the rates do not cross 1 once, from below.
    """
    x, y = np.log(radii), np.log(rates)
    grows = y > 0
    if grows[0] or np.count_nonzero(np.diff(grows)) != 1:
        return float("nan")
    k = int(grows.argmax())
    return float(np.exp(np.interp(0.0, y[k - 1 : k + 1], x[k - 1 : k + 1])))


def fitted_power(gradients: np.ndarray, smoothness: np.ndarray) -> tuple[float, float]:
    """Fit ln(smoothness) = start + slope ln(gradient).

    Args:
        gradients: norms, any shape.
        smoothness: of the same shape.

    Returns:
        Slope; correlation of the logarithms.
    """
    x, y = np.log(gradients.ravel().astype(np.float64)), np.log(smoothness.ravel().astype(np.float64))
    return float(np.polyfit(x, y, 1)[0]), float(np.corrcoef(x, y)[0, 1])
