"""The verdict does not hang on the framework; models of other libraries are diagnosed as they come."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
import pytest

import gradflow as gf
from tests.instrument.test_frameworks import FRAMEWORKS, X

DEPTH, WIDTH, CLASSES = 12, 24, 4
INPUTS = jax.random.normal(jax.random.key(0), (32, 12))
LABELS = jnp.argmax(INPUTS[:, :CLASSES], axis=1)
ACTIVATIONS = {"sigmoid": jax.nn.sigmoid, "relu": jax.nn.relu}


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_same_verdict_in_every_framework(framework):
    loss, params, _ = FRAMEWORKS[framework]()
    assert gf.diagnose(loss, params, X, progress=False).healthy
    shrunk = jax.tree.map(lambda p: 1e-4 * p if getattr(p, "ndim", 0) == 2 else p, params)
    assert gf.diagnose(loss, shrunk, X, progress=False).findings[0].kind == "vanishing"


def cross_entropy(logits):
    return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()


def of_equinox(activation):
    import equinox as eqx

    net = eqx.nn.MLP(12, CLASSES, WIDTH, DEPTH, activation=ACTIVATIONS[activation], key=jax.random.key(1))
    arrays, static = eqx.partition(net, eqx.is_array)
    return lambda p, x: cross_entropy(jax.vmap(eqx.combine(p, static))(x)), arrays


def of_nnx(activation):
    from flax import nnx

    rngs, parts = nnx.Rngs(1), []
    for k in range(DEPTH):
        init = nnx.initializers.he_normal()
        parts += [nnx.Linear(12 if k == 0 else WIDTH, WIDTH, kernel_init=init, rngs=rngs), ACTIVATIONS[activation]]
    net = nnx.Sequential(*parts, nnx.Linear(WIDTH, CLASSES, rngs=rngs))
    graph, params = nnx.split(net, nnx.Param)
    return lambda p, x: cross_entropy(nnx.merge(graph, p)(x)), params


def of_keras(activation):
    import keras

    dense = [keras.layers.Dense(WIDTH, activation, kernel_initializer="he_normal") for _ in range(DEPTH)]
    net = keras.Sequential([keras.Input((12,)), *dense, keras.layers.Dense(CLASSES)])
    rest = [v.value for v in net.non_trainable_variables]
    return lambda p, x: cross_entropy(net.stateless_call(p, rest, x)[0]), [v.value for v in net.trainable_variables]


MODELS = {"equinox": of_equinox, "nnx": of_nnx, "keras": of_keras}


@pytest.mark.slow
@pytest.mark.parametrize("library", MODELS)
def test_deep_networks_of_other_libraries(library):
    with jax.numpy_dtype_promotion("standard"):
        loss, params = MODELS[library]("sigmoid")
        d = gf.diagnose(loss, params, INPUTS, progress=False)
        assert d.findings[0].kind == "vanishing"
        assert "the activations" in d.findings[0].cause
        loss, params = MODELS[library]("relu")
        d = gf.diagnose(loss, params, INPUTS, progress=False)
    # Equinox draws U(+-1/sqrt(fan_in)), a third of the variance that rectifiers keep: 12 layers lose e^-6 by that, and
    # its biases make examples alike.
    kinds = {finding.kind for finding in d.findings}
    assert kinds == ({"vanishing", "rank_collapse"} if library == "equinox" else set())
