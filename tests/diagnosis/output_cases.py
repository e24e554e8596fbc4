"""Small networks whose output cannot reach its targets, and some whose loss cannot fall far for another reason."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tests.diagnosis.cases import CLASSES, Case, data, forward, mlp


def _through(output, loss, targets, scale=2**0.5, optimizer=None) -> Case:
    """A chain of three layers with an operation behind the last one."""
    case = mlp(3, scale=scale, optimizer=optimizer or optax.adam(1e-2))

    def loss_fn(params, x, y):
        return loss(output(forward(params, x, jax.nn.relu)), y)

    return case._replace(loss=loss_fn, args=(case.args[0], targets))


def _in_half(case: Case, dtype) -> Case:
    """The same in half precision, but for the loss: squares of its gradients are 0 there."""
    half = jax.tree.map(lambda leaf: leaf.astype(dtype), case.params)

    def loss_fn(params, x, y):
        return case.loss(params, x.astype(dtype), y)

    return case._replace(loss=loss_fn, params=half, optimizer=optax.sgd(0.01, momentum=0.9))


def _squared(p, y):
    return jnp.mean((p.astype(jnp.float32) - y) ** 2)


def _squared_share(p, y):
    return _squared(p, y) / 200**2


def _sigmoid_entropy(logits, y):
    return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, y))


def _entropy(logits, y):
    return -jnp.mean(jnp.sum(y * jax.nn.log_softmax(logits), axis=-1))


X, LABELS = data()
HOT = np.eye(CLASSES, dtype=np.float32)[np.asarray(LABELS)]
NUMBERS = np.asarray(X[:, :CLASSES])
SOFT = np.asarray(jax.nn.softmax(NUMBERS))

SICK: dict[str, tuple[str, Callable[[], Case]]] = {
    "softmax before sigmoid": ("saturation", lambda: _through(jax.nn.softmax, _sigmoid_entropy, HOT)),
    "sigmoid for numbers": ("saturation", lambda: _through(jax.nn.sigmoid, _squared, 200 * NUMBERS)),
    "tanh for numbers, sgd": (
        "saturation",
        lambda: _through(jnp.tanh, _squared, 200 * NUMBERS, optimizer=optax.sgd(1e-3)),
    ),
    "sigmoid for numbers, float16": (
        "saturation",
        lambda: _in_half(_through(jax.nn.sigmoid, _squared_share, 200 * NUMBERS), jnp.float16),
    ),
    "sigmoid for numbers, bfloat16": (
        "saturation",
        lambda: _in_half(_through(jax.nn.sigmoid, _squared_share, 200 * NUMBERS), jnp.bfloat16),
    ),
    "all layers behind a stop": ("vanishing", lambda: _through(jax.lax.stop_gradient, _entropy, HOT)),
    "outputs of 1000": (
        "poor_initialization",
        lambda: _through(lambda x: 1e3 * x, _entropy, SOFT, scale=4.0, optimizer=optax.adam(1e-4)),
    ),
}

HEALTHY: dict[str, Callable[[], Case]] = {
    "numbers, float16": lambda: _in_half(_through(lambda x: x, _squared, NUMBERS), jnp.float16),
    "soft targets": lambda: _through(lambda x: x, _entropy, SOFT),
    "soft targets, sgd": lambda: _through(lambda x: x, _entropy, SOFT, optimizer=optax.sgd(0.1)),
    "nearly uniform targets": lambda: _through(lambda x: x, _entropy, np.asarray(jax.nn.softmax(NUMBERS / 10))),
    "doubled softmax": lambda: _through(jax.nn.softmax, _entropy, HOT),
}
