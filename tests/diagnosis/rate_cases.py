"""Small networks whose rate is the fault, or only looks like one."""

from __future__ import annotations

from collections.abc import Callable

import jax
import optax

from tests.diagnosis.cases import Case, mlp, unscaled, wide_and_narrow

SICK: dict[str, tuple[str, Callable[[], Case]]] = {
    # After 1,000 steps the loss is 1.49, with half of the rate 0.0004. In the first 20 it falls, but less than with a
    # quarter of the rate.
    "a rate twice too large": ("learning_rate", lambda: wide_and_narrow(0.05)),
    "small rate of Adam": ("learning_rate", lambda: mlp(4, optimizer=optax.adam(2e-5))),
    # Forward and backward signal shrink alike, so that all weights get the same gradient, which is too small.
    "small weights, momentum": (
        "vanishing",
        lambda: mlp(16, activation=jax.nn.gelu, scale=1.2, optimizer=optax.sgd(0.02, momentum=0.9)),
    ),
}


def warmed_up():
    """The rate starts from 0: the first steps do nothing, and that is right."""
    return mlp(5, optimizer=optax.adam(optax.linear_schedule(0.0, 1e-2, 2000)))


def trained():
    """A network that has learnt its batch, and goes on at a small rate."""
    case, optimizer = mlp(4), optax.adam(1e-2)

    @jax.jit
    def step(params, state):
        gradients = jax.grad(case.loss)(params, *case.args)
        with jax.numpy_dtype_promotion("standard"):  # optimizers are written for it
            updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), state

    params, state = case.params, optimizer.init(case.params)
    for _ in range(40):
        params, state = step(params, state)
    return case._replace(params=params, optimizer=optax.adam(1e-6))


def flat_and_learning():
    """Units that are flat over data of bytes, in a network that learns in spite of them."""
    return unscaled()._replace(optimizer=optax.adam(1e-2))


HEALTHY: dict[str, Callable[[], Case]] = {
    "warm-up from 0": warmed_up,
    "trained, small rate": trained,
    "flat units that learn": flat_and_learning,
    "rate of Adam of 1e-4": lambda: mlp(4, width=64, optimizer=optax.adam(1e-4)),
}
