"""Batch normalization against NumPy: values, statistics, running averages, gradients, and a batch cut over devices."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import PartitionSpec as P

from gradflow.models import MLP, BatchNorm, ResNet

CHANNELS = 3
PARAMS = {"scale": jnp.array([0.5, 2.0, -1.0]), "bias": jnp.array([0.1, 0.0, 3.0])}
close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)


def inputs(shape=(8, 4, 5)):
    """Channels of different mean and spread."""
    return jax.random.normal(jax.random.key(1), (*shape, CHANNELS)) * jnp.array([0.3, 1.0, 5.0]) + jnp.array(
        [1.0, 0, -9]
    )


def wide(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def normalized(x, mean, var, params):
    return (x - mean) / np.sqrt(var + 1e-5) * params["scale"] + params["bias"]


@pytest.mark.parametrize("shape", [(8,), (8, 4), (8, 4, 5)])
def test_batch_norm_is_that_of_numpy(shape):
    """Ioffe & Szegedy 2015, algorithms 1 and 2, over three steps of training and then outside of it."""
    model, x = BatchNorm(momentum=0.8), inputs(shape)
    state = model.init(jax.random.key(0), x, True)["batch_stats"]
    close(state["mean"], np.zeros(CHANNELS))  # making the parameters is no step
    mean, var, params = np.zeros(CHANNELS), np.ones(CHANNELS), wide(PARAMS)
    axes = tuple(range(len(shape)))
    for step in range(3):
        batch = x * (step + 1) + step
        y, changed = model.apply({"params": PARAMS, "batch_stats": state}, batch, True, mutable=["batch_stats"])
        plain = wide(batch)
        close(y, normalized(plain, plain.mean(axes), plain.var(axes), params))
        mean, var = 0.8 * mean + 0.2 * plain.mean(axes), 0.8 * var + 0.2 * plain.var(axes)
        state = changed["batch_stats"]
        close(state["mean"], mean)
        close(state["var"], var)
    close(model.apply({"params": PARAMS, "batch_stats": state}, x, False), normalized(wide(x), mean, var, params))


def test_gradient_is_the_papers():
    """Ioffe & Szegedy 2015, section 3: dl/dx by the chain rule through mean and variance, written out."""
    x = inputs((16,))
    g = jax.random.normal(jax.random.key(2), x.shape)
    model = BatchNorm()
    state = model.init(jax.random.key(0), x, True)["batch_stats"]

    def loss(params, x):
        return (model.apply({"params": params, "batch_stats": state}, x, True, mutable=["batch_stats"])[0] * g).sum()

    got_params, got_x = jax.grad(loss, argnums=(0, 1))(PARAMS, x)
    x, g, params = wide(x), wide(g), wide(PARAMS)
    deviation = np.sqrt(x.var(0) + 1e-5)
    unit = (x - x.mean(0)) / deviation
    dunit = g * params["scale"]
    close(got_params["bias"], g.sum(0))
    close(got_params["scale"], (g * unit).sum(0), rtol=1e-3)
    close(got_x, (dunit - dunit.mean(0) - unit * (dunit * unit).mean(0)) / deviation, rtol=1e-3)


def test_it_is_that_of_flax_with_its_names():
    x = inputs()
    ours, theirs = BatchNorm(), nn.BatchNorm(momentum=0.9)
    variables = ours.init(jax.random.key(0), x, True)
    with jax.numpy_dtype_promotion("standard"):
        expected = theirs.init(jax.random.key(0), x, use_running_average=False)
        jax.tree.map(np.testing.assert_array_equal, variables, expected)
        want = theirs.apply(variables, x, use_running_average=False, mutable=["batch_stats"])
    jax.tree.map(close, ours.apply(variables, x, True, mutable=["batch_stats"]), want)


def test_a_constant_channel_has_no_variance_below_zero():
    x = jnp.full((7, CHANNELS), 1234.5)
    model = BatchNorm()
    y, _ = model.apply(model.init(jax.random.key(0), x, True), x, True, mutable=["batch_stats"])
    assert np.isfinite(y).all()


def test_narrow_inputs_have_wide_statistics():
    x = inputs().astype(jnp.bfloat16)
    model = BatchNorm(dtype=jnp.bfloat16)
    variables = model.init(jax.random.key(0), x, True)
    y, changed = model.apply(variables, x, True, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(changed)} == {jnp.dtype(jnp.float32)}
    close(changed["batch_stats"]["mean"], 0.1 * wide(x.astype(jnp.float32)).mean((0, 1, 2)))


MODELS = {
    "mlp": (MLP(3, 5, 2, normalization="batch", axis_name="data"), (8, 6)),
    "mlp scan": (MLP(3, 5, 2, normalization="batch", axis_name="data", scan=True), (8, 6)),
    "resnet": (ResNet(depth=8, outputs=2, axis_name="data"), (8, 6, 6, 3)),
    "resnet of stock batch norm": (
        ResNet(depth=8, outputs=2, normalization=nn.BatchNorm, axis_name="data"),
        (8, 6, 6, 3),
    ),
}


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("name", MODELS)
def test_a_batch_cut_over_four_devices_is_the_batch(name):
    """Statistics by the name of the mapped axis: outputs, running averages and gradients of the whole batch."""
    model, shape = MODELS[name]
    whole = model.clone(axis_name=None)
    x = 2 * jax.random.normal(jax.random.key(1), shape) + 0.5
    x = x * jnp.arange(1.0, 9.0).reshape(8, *[1] * (len(shape) - 1))  # so that parts differ from the whole
    variables = jax.jit(whole.init)(jax.random.key(0), x)

    def run(model, params, x):
        y, state = model.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
        return y, state

    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    cut = jax.shard_map(functools.partial(run, model), mesh=mesh, in_specs=(P(), P("data")), out_specs=(P("data"), P()))

    def graded(run):
        def loss(params):
            y, state = run(params, x)
            return (y**2).mean(), (y, state)

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])

    (_, got), grads = graded(cut)
    (_, expected), expected_grads = graded(functools.partial(run, whole))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), (got, grads), (expected, expected_grads)
    )
    parts = jax.jit(jax.vmap(functools.partial(run, whole), in_axes=(None, 0)))(
        variables["params"], x.reshape(4, 2, *shape[1:])
    )
    assert not np.allclose(parts[0].reshape(8, 2), expected[0], rtol=1e-2)  # which the parts by themselves are not
