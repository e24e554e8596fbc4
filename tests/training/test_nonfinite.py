"""Training stops at the first bad step, says where it began, and keeps what was good."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradflow as gf
from gradflow import training
from gradflow.training import Checkpoints, NonFiniteError
from tests.training import problems

BAD = 9  # number of the bad step, in the middle of a dispatch of four


@pytest.fixture(autouse=True)
def _nan_is_allowed():
    with jax.debug_nans(False):
        yield


@jax.custom_vjp
def explode(x, when):
    """An identity whose cotangent is Inf where told so."""
    return x


explode.defvjp(lambda x, when: (x, when), lambda when, g: (jnp.where(when, jnp.inf, g), None))


def loss_at(place):
    """A network of three layers that goes bad at a place once the batch says so."""

    def loss(params, model_state, batch, key):
        x, bad = batch
        nan = jnp.where(bad, jnp.nan, 0.0).astype(jnp.float32)
        h = jnp.tanh(x @ params["Dense_0"]["kernel"]) + (nan if place == "forward" else 0)
        h = h @ params["Dense_1"]["kernel"]
        h = explode(h, bad) if place == "backward" else h
        y = jnp.tanh(h) @ params["Dense_2"]["kernel"]
        average = model_state["mean"] + (nan if place == "average" else 0)
        return jnp.mean(y**2) + (nan if place == "loss" else 0), ({"loss": jnp.mean(y**2)}, {"mean": average})

    return loss


def source_at(place):
    def source(key, step):
        x, _ = problems.batch(key, step)
        return x + jnp.where((step == BAD) & (place == "batch"), jnp.nan, 0).astype(x.dtype), step == BAD

    return source


def optimizer_at(place):
    def update(updates, state, params=None):
        scale = jnp.where((state == BAD) & (place == "update"), jnp.inf, -0.01).astype(jnp.float32)
        return jax.tree.map(lambda g: scale * g, updates), state + 1

    return optax.GradientTransformation(lambda params: jnp.int32(0), update)


@pytest.fixture(scope="module")
def good():
    """Parameters after the last good step."""
    optimizer = optimizer_at("nowhere")
    step = training.make_step(loss_at("nowhere"), optimizer)
    run = jax.jit(lambda state: training.run(step, state, source_at("nowhere"), BAD)[0])
    return run(problems.start(optimizer)).params


@pytest.mark.quick_cases(3)
@pytest.mark.parametrize(
    "place, words, cause",
    [
        ("batch", "the batch itself holds NaN or Inf", "missing values"),
        ("forward", "forward, in the output of layer Dense_1", "division by 0, log or sqrt"),
        ("loss", "forward, in the loss, behind the last layer", "log_softmax or logsumexp"),
        ("backward", "backward, at the output of layer Dense_1", "jnp.where does not take"),
        ("average", "in the running average mean", "a statistic of the batch"),
        ("update", "in the optimizer's update of Dense_0/", "a rate or schedule that is not finite"),
    ],
)
def test_it_says_where_and_why_and_keeps_what_was_good(tmp_path, good, place, words, cause):
    loss, source, optimizer = loss_at(place), source_at(place), optimizer_at(place)
    with pytest.raises(NonFiniteError, match=f"non-finite at step {BAD}: .*{words}") as info:
        training.fit(
            loss,
            optimizer,
            problems.start(optimizer),
            source,
            40,
            every=4,
            watch=gf.watch(every=2, statistics=("output_rms",)),
            checkpoints=Checkpoints(tmp_path, every_steps=4),
            progress=False,
        )
    assert cause in str(info.value)
    assert "learning rate" not in str(info.value)
    assert (info.value.origin is None) == (place in ("average", "update"))  # loss and gradients are finite there
    assert place != "backward" or "of explode" in info.value.origin.rule
    assert place != "batch" or info.value.origin.leaf == "batch/0"
    assert f"the last good checkpoint, of step 8, is in {tmp_path}" in str(info.value)
    fitted = info.value.fitted
    assert info.value.step == int(fitted.state.step) == BAD
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), fitted.state.params, good)
    np.testing.assert_array_equal(fitted.curve.steps, [4, 8, BAD])
    np.testing.assert_array_equal(fitted.curve.counts["loss"], [4, 4, BAD - 8])
    assert np.isfinite(fitted.curve["loss"]).all()
    np.testing.assert_array_equal(fitted.flow.steps, [0, 2, 4, 6, 8])
    assert np.isfinite(fitted.flow.values["output_rms"]).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["4", "8"]


def test_a_learning_rate_that_is_too_large_is_caught_in_a_flax_model():
    """Weights of 1e30 after one step overflow the forward pass of the next one in its second layer."""
    model = gf.models.MLP(depth=2, width=4, outputs=2, activation="relu")
    optimizer = optax.sgd(1e30)
    x = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    data = jnp.asarray(x), jnp.zeros(8, jnp.int32)
    state = training.init(model, optimizer, jax.random.key(1), data[0])
    with pytest.raises(NonFiniteError, match=r"at step 1: forward, in the .*no checkpoints.*growth.*rate"):
        training.fit(
            training.classification(model), optimizer, state, lambda key, step: data, 8, every=4, progress=False
        )


def test_a_model_without_layers_is_told_apart_too():
    def loss(w, model_state, batch, key):
        return jnp.log(w), ({}, model_state)

    state = training.start(jnp.float32(1), optax.sgd(1.5), jax.random.key(0))
    with pytest.raises(NonFiniteError, match="at step 1: forward, in the loss"):
        training.fit(loss, optax.sgd(1.5), state, lambda key, step: step, 4, every=4, progress=False)


def fitted_once(loss, params, optimizer=None):
    optimizer = optax.sgd(0.1) if optimizer is None else optimizer
    state = training.start(params, optimizer, jax.random.key(0))
    training.fit(loss, optimizer, state, lambda key, step: jnp.ones((4, 3)), 2, every=2, progress=False)


class Unhashable:
    """A loss whose derivative at 0 is not finite, though its value is."""

    __hash__ = None  # type: ignore[assignment]

    def __call__(self, params, model_state, batch, key):
        y = batch @ params["head"]["kernel"]
        return jnp.sqrt(jnp.sum(y**2)), ({}, model_state)


def test_a_loss_that_cannot_be_hashed_and_a_root_at_0():
    """The kernel is 0, so that the loss is 0 and its derivative 0/0."""
    with pytest.raises(NonFiniteError, match=r"at step 0: backward, at .* layer head.*sqrt, norm.*where") as info:
        fitted_once(Unhashable(), {"head": {"kernel": jnp.zeros((3, 2))}})
    assert (info.value.origin.operation, info.value.origin.layer) == ("norm at 0", "head")
    assert info.value.origin.line.startswith(f"{__file__}:")


def test_parameters_that_were_bad_from_the_start():
    def loss(params, model_state, batch, key):
        return jnp.mean((batch @ params["head"]["kernel"]) ** 2), ({}, model_state)

    with pytest.raises(NonFiniteError, match=r"in the parameter head/kernel.*before this step"):
        fitted_once(loss, {"head": {"kernel": jnp.full((3, 2), jnp.nan)}})


def test_gradients_that_explode_are_told_from_a_derivative_at_0():
    """Signals of 0 in a chain whose every factor is 1e20: forward 0, backward 1e20, 1e40."""

    def loss(params, model_state, batch, key):
        h = 0.0 * batch
        for name in "abc":
            h = 1e20 * jnp.tanh(h @ params[name]["kernel"])
        return jnp.mean(h), ({}, model_state)

    kernels = {name: {"kernel": jnp.eye(3)} for name in "abc"}
    with pytest.raises(NonFiniteError, match=r"backward.*exploding gradients: dL/d\(output\) reaches"):
        fitted_once(loss, kernels)
