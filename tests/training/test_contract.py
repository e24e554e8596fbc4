"""A loss of another form is refused early and in words."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
import pytest

from gradflow import training
from gradflow.training.contract import validate_signature


def fit(loss):
    optimizer = optax.sgd(0.1)
    state = training.start({"w": jnp.ones(3)}, optimizer, jax.random.key(0))
    return training.fit(loss, optimizer, state, lambda key, step: jnp.ones((4, 3)), 2, every=1, progress=False)


def value(params, batch):
    return jnp.mean((batch @ params["w"]) ** 2)


@pytest.mark.parametrize(
    "loss, words",
    [
        (
            value,
            r"got value\(params, batch\).*Fix: lambda params, model_state, batch, key: \(value\(params, batch\), \(",
        ),
        (lambda params, batch, key: 0.0, r"without a key or without model_state.*\(params, batch, key\), \("),
        (lambda params: 0.0, r"a model in place of a loss.*training\.classification"),
    ],
)
def test_a_loss_with_other_arguments(loss, words):
    with pytest.raises(TypeError, match=r"fit: expected loss\(params, model_state, batch, key\).*" + words):
        fit(loss)


@pytest.mark.parametrize(
    "returned, words",
    [
        (lambda loss, state: loss, r"got an array of shape \(\)"),
        (lambda loss, state: (loss, {}), r"got \(loss, dict\)"),
        (lambda loss, state: (loss, {}, state), "got a tuple of 3"),
        (lambda loss, state: (jnp.stack([loss, loss]), ({}, state)), r"float32 of shape \(2,\).*return its mean"),
        (lambda loss, state: (loss, ((), state)), "metrics to be a dict.*got tuple"),
        (lambda loss, state: (loss, ({}, None)), "structure of the old one"),
    ],
)
def test_a_loss_that_returns_something_else(returned, words):
    with pytest.raises(TypeError, match=r"the loss: expected.*" + words):
        fit(lambda params, model_state, batch, key: returned(value(params, batch), model_state))


def test_what_takes_four_arguments_is_taken():
    validate_signature(lambda params, model_state, batch, key, *, train=True: None, "fit")
    validate_signature(lambda *args: None, "fit")
    assert int(fit(lambda params, state, batch, key: (value(params, batch), ({}, state))).state.step) == 2


def test_a_value_in_place_of_the_function():
    with pytest.raises(TypeError, match=r"got float.*the value of a loss"):
        validate_signature(0.5, "fit")
