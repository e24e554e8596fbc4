"""The same network written in five frameworks and by hand: same names' order, same statistics, same gradients."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from tests import oracles

SIZES = (5, 7, 6, 3)
KERNELS = [np.asarray(jax.random.normal(jax.random.key(i), SIZES[i : i + 2])) / 2 for i in range(3)]
BIASES = [np.asarray(jax.random.normal(jax.random.key(10 + i), (SIZES[i + 1],))) / 4 for i in range(3)]
X = jax.random.normal(jax.random.key(99), (8, 5))


def objective(y):
    return jnp.mean(y**2)


def bare():
    params = [{"w": jnp.asarray(w), "b": jnp.asarray(b)} for w, b in zip(KERNELS, BIASES, strict=True)]

    def loss(params, x):
        for i, layer in enumerate(params):
            x = x @ layer["w"] + layer["b"]
            x = jnp.tanh(x) if i < 2 else x
        return objective(x)

    return loss, params, ("0", "1", "2")


def linen():
    from flax import linen as nn

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            for width in SIZES[1:3]:
                x = jnp.tanh(nn.Dense(width)(x))
            return nn.Dense(SIZES[3])(x)

    net = Net()
    params = {
        "params": {
            f"Dense_{i}": {"kernel": jnp.asarray(w), "bias": jnp.asarray(b)}
            for i, (w, b) in enumerate(zip(KERNELS, BIASES, strict=True))
        }
    }
    return lambda p, x: objective(net.apply(p, x)), params, ("Dense_0", "Dense_1", "Dense_2")


def nnx_module():
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(5, 7, rngs=rngs)
            self.second = nnx.Linear(7, 6, rngs=rngs)
            self.head = nnx.Linear(6, 3, rngs=rngs)

        def __call__(self, x):
            return self.head(jnp.tanh(self.second(jnp.tanh(self.first(x)))))

    net = Net(nnx.Rngs(0))
    for layer, w, b in zip((net.first, net.second, net.head), KERNELS, BIASES, strict=True):
        layer.kernel[...] = jnp.asarray(w)
        layer.bias[...] = jnp.asarray(b)
    graph, params = nnx.split(net, nnx.Param)
    return lambda p, x: objective(nnx.merge(graph, p)(x)), params, ("first", "second", "head")


def haiku():
    import haiku as hk

    net = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP(SIZES[1:], activation=jnp.tanh)(x)))
    params = {
        f"mlp/~/linear_{i}": {"w": jnp.asarray(w), "b": jnp.asarray(b)}
        for i, (w, b) in enumerate(zip(KERNELS, BIASES, strict=True))
    }
    names = tuple(f"mlp/~/linear_{i}" for i in range(3))
    return lambda p, x: objective(net.apply(p, x)), params, names


def equinox():
    import equinox as eqx

    net = eqx.nn.MLP(5, 3, 7, 2, activation=jnp.tanh, key=jax.random.key(0))
    layers = []
    for i, (w, b) in enumerate(zip(KERNELS, BIASES, strict=True)):
        layer = eqx.nn.Linear(*SIZES[i : i + 2], key=jax.random.key(0))
        layers.append(eqx.tree_at(lambda m: (m.weight, m.bias), layer, (jnp.asarray(w.T), jnp.asarray(b))))
    net = eqx.tree_at(lambda m: m.layers, net, tuple(layers))
    params, static = eqx.partition(net, eqx.is_inexact_array)
    return (
        lambda p, x: objective(jax.vmap(eqx.combine(p, static))(x)),
        params,
        ("layers/0", "layers/1", "layers/2"),
    )


def keras():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import keras

        net = keras.Sequential(
            [
                keras.layers.Input((5,)),
                keras.layers.Dense(7, activation="tanh", name="first"),
                keras.layers.Dense(6, activation="tanh", name="second"),
                keras.layers.Dense(3, name="head"),
            ]
        )
    params = [jnp.asarray(a) for w, b in zip(KERNELS, BIASES, strict=True) for a in (w, b)]
    state = [v.value for v in net.non_trainable_variables]
    return (
        lambda p, x: objective(net.stateless_call(p, state, x)[0]),
        params,
        ("first", "second", "head"),
    )


FRAMEWORKS = {"bare": bare, "linen": linen, "nnx": nnx_module, "haiku": haiku, "equinox": equinox, "keras": keras}


@pytest.fixture(scope="module")
def expected():
    def loss(probe, params, x):
        for i, (w, b) in enumerate(params):
            x = probe(str(i), lambda x, w=w: x @ w, x) + b
            x = jnp.tanh(x) if i < 2 else x
        return objective(x)

    params = [(jnp.asarray(w), jnp.asarray(b)) for w, b in zip(KERNELS, BIASES, strict=True)]
    return [oracles.statistics(r) for r in oracles.probed(loss, params, X).values()]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_framework(framework, expected):
    loss, params, names = FRAMEWORKS[framework]()
    value, grads, flow = jax.jit(gf.value_grad_and_flow(loss))(params, X)
    oracles.assert_same_gradients(loss, value, grads, params, X)
    assert flow.layers == names
    for name, want, kernel in zip(names, expected, KERNELS, strict=True):
        oracles.assert_layer(flow[name], want)
        np.testing.assert_allclose(flow[name].weight_rms, oracles.rms(kernel), rtol=1e-5)


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("cell", ["LSTMCell", "OptimizedLSTMCell", "GRUCell", "SimpleCell"])
def test_linen_recurrent_cells(cell):
    from flax import linen as nn

    net = nn.RNN(getattr(nn, cell)(4))
    x = jax.random.normal(jax.random.key(0), (3, 6, 2))
    params = net.init(jax.random.key(1), x)

    def loss(p, x):
        return jnp.mean(net.apply(p, x)[:, -1] ** 2)

    value, grads, flow = jax.jit(gf.value_grad_and_flow(loss))(params, x)
    oracles.assert_same_gradients(loss, value, grads, params, x)
    # SimpleCell has a layer h.
    states = {"LSTMCell": ("c", "h"), "OptimizedLSTMCell": ("c", "h"), "GRUCell": ("h",), "SimpleCell": ("carry_0",)}
    assert flow.carries == tuple(f"cell/{name}" for name in states[cell])
    assert all(flow[name].output_grad_rms.shape == (6,) for name in (*flow.layers, *flow.carries))
    assert all(name.startswith("cell/") for name in flow.layers)


def test_nnx_recurrent_cell():
    from flax import nnx

    net = nnx.RNN(nnx.LSTMCell(2, 4, rngs=nnx.Rngs(0)))
    x = jax.random.normal(jax.random.key(0), (3, 6, 2))
    graph, params, rest = nnx.split(net, nnx.Param, ...)
    start = (jnp.zeros((3, 4)), jnp.zeros((3, 4)))  # the default draws from a key that no other trace may advance

    def loss(params, x):
        return jnp.mean(nnx.merge(graph, params, rest)(x, initial_carry=start)[:, -1] ** 2)

    _, _, flow = jax.jit(gf.value_grad_and_flow(loss))(params, x)
    assert flow.carries == ("cell/c", "cell/h")
    assert all(flow[name].output_grad_rms.shape == (6,) for name in (*flow.layers, *flow.carries))


def test_linen_attention_and_embedding():
    from flax import linen as nn

    class Net(nn.Module):
        @nn.compact
        def __call__(self, tokens):
            x = nn.Embed(9, 8)(tokens)
            x = x + nn.MultiHeadDotProductAttention(num_heads=2)(nn.LayerNorm()(x))
            return nn.DenseGeneral(3)(x)

    net = Net()
    tokens = jax.random.randint(jax.random.key(0), (2, 5), 0, 9)
    params = net.init(jax.random.key(1), tokens)
    run = gf.value_grad_and_flow(lambda p, t: jnp.mean(net.apply(p, t) ** 2), activations=True)
    _, _, flow = jax.jit(run)(params, tokens)
    kinds = {name: flow[name].kind for name in flow.layers}
    assert kinds["Embed_0"] == "embedding"
    assert sum(kind == "activation" for kind in kinds.values()) == 2
    for part in ("query", "key", "value", "out"):
        assert f"MultiHeadDotProductAttention_0/{part}" in flow
    assert flow["MultiHeadDotProductAttention_0/query"].shape == (2, 5, 2, 4)


def test_batch_norm_state_as_aux():
    from flax import linen as nn

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.BatchNorm(use_running_average=False)(nn.Dense(6)(x))
            return nn.Dense(2)(nn.relu(x))

    net = Net()
    variables = net.init(jax.random.key(0), X)

    def loss(params, state, x):
        y, updates = net.apply({"params": params, "batch_stats": state}, x, mutable=["batch_stats"])
        return jnp.mean(y**2), updates

    run = jax.jit(gf.value_grad_and_flow(loss, has_aux=True))
    (_, updates), grads, flow = run(variables["params"], variables["batch_stats"], X)
    assert flow.layers == ("Dense_0", "Dense_1")
    assert jax.tree.structure(grads) == jax.tree.structure(variables["params"])
    assert set(updates) == {"batch_stats"}


def test_weight_and_spectral_normalization_keep_their_layer():
    from flax import linen as nn

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.tanh(nn.WeightNorm(nn.Dense(6))(x))
            return nn.SpectralNorm(nn.Dense(2))(x, update_stats=True)

    net = Net()
    variables = net.init(jax.random.key(0), X)
    params = {"params": variables["params"]}
    state = {k: v for k, v in variables.items() if k != "params"}

    def loss(params, x):
        y, _ = net.apply({**params, **state}, x, mutable=list(state))
        return jnp.mean(y**2)

    _, _, flow = jax.jit(gf.value_grad_and_flow(loss))(params, X)
    assert len(flow.layers) == 2
    assert flow.layers[1].endswith("Dense_1") or "Dense" in flow.layers[1]
