"""The ledger of the same network in five frameworks, and of their blocks."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from tests.instrument.test_frameworks import FRAMEWORKS, X


@pytest.fixture(scope="module")
def bare():
    loss, params, _ = FRAMEWORKS["bare"]()
    return gf.ledger(loss, params, X)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_framework(framework, bare):
    loss, params, names = FRAMEWORKS[framework]()
    book = gf.ledger(loss, params, X)
    assert [(e.cause, e.where) for e in book.entries if e.cause != "loss"] == [
        ("weights", names[2]), ("activation", names[1]), ("weights", names[1]), ("activation", names[0]),
    ]  # fmt: skip
    np.testing.assert_allclose([e.log10_gain for e in book.entries], [e.log10_gain for e in bare.entries], atol=1e-5)


def test_a_module_keeps_its_state():
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first, self.norm = nnx.Linear(5, 7, rngs=rngs), nnx.BatchNorm(7, rngs=rngs)
            self.drop, self.head = nnx.Dropout(0.5, rngs=rngs), nnx.Linear(7, 3, rngs=rngs)

        def __call__(self, x):
            return self.head(self.drop(nnx.relu(self.norm(self.first(x)))))

    net = Net(nnx.Rngs(0))
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(net, nnx.BatchStat)))
    book = gf.ledger(lambda m, x: jnp.mean(m(x) ** 2), net, X)
    after = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(net, nnx.BatchStat)))
    jax.tree.map(np.testing.assert_array_equal, before, after)
    causes = [(e.cause, e.where) for e in book.entries if e.cause not in ("loss", "other")]
    assert causes == [("weights", "head"), ("activation", "first"), ("normalization", "norm")]


@pytest.mark.slow
def test_linen_transformer_block():
    from flax import linen as nn

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = x + nn.MultiHeadDotProductAttention(num_heads=2)(nn.LayerNorm()(x))
            return x + nn.Dense(8)(nn.gelu(nn.Dense(16)(nn.LayerNorm()(x))))

    class Net(nn.Module):
        @nn.compact
        def __call__(self, tokens):
            x = nn.Embed(9, 8)(tokens)
            for _ in range(2):
                x = nn.remat(Block)()(x)
            return nn.Dense(3)(nn.LayerNorm()(x))

    net, tokens = Net(), jnp.arange(10).reshape(2, 5) % 9
    params = net.init(jax.random.key(0), tokens)
    book = gf.ledger(lambda p, t: jnp.mean(net.apply(p, t) ** 2), params, tokens)
    assert book.first == "Embed_0"
    causes = [e.cause for e in book.entries if e.cause != "loss"]
    assert causes == ["weights", "normalization", "skip", "skip", "skip", "skip"]
    for entry in book.entries:
        if entry.cause == "skip":
            assert "skip" in entry.shares
            assert math.isclose(sum(entry.shares.values()), 1, abs_tol=1e-6)
    assert "residual stream" in book.path


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("cell", ["OptimizedLSTMCell", "GRUCell", "SimpleCell"])
def test_linen_recurrent_cells(cell):
    from flax import linen as nn

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(nn.RNN(getattr(nn, cell)(4))(x)[:, -1])

    net, x = Net(), jax.random.normal(jax.random.key(0), (3, 6, 2))
    params = net.init(jax.random.key(1), x)
    book = gf.ledger(lambda p, x: jnp.mean(net.apply(p, x) ** 2), params, x)
    assert "recurrent state" in book.path
    time = [e for e in book.entries if e.cause == "time"]
    assert time
    gains = [e.log10_gain for e in book.entries if e.cause != "loss"]
    assert math.isclose(math.fsum(gains), book.total, abs_tol=1e-6)
    gates = {name for name, why in book.aside.items() if "exactly 0" in why}
    reset = {"GRUCell_0/hr", "GRUCell_0/ir"}  # r multiplies what comes from a state of 0
    assert gates == (reset if cell == "GRUCell" else set())


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("scan", [False, True])
def test_models_of_gradflow(scan):
    model = gf.models.MLP(depth=4, width=8, outputs=3, activation="tanh", scan=scan)
    params = model.init(jax.random.key(0), X)
    book = gf.ledger(lambda p, x: jnp.mean(model.apply(p, x) ** 2), params, X)
    assert {e.cause for e in book.entries} == {"loss", "weights", "activation"}
    assert ("scan over layers" in book.path) == scan


@pytest.mark.slow
def test_resnet():
    model = gf.models.ResNet(depth=8, outputs=3)
    images = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    variables = model.init(jax.random.key(1), images, train=True)

    def loss(params, images):
        logits, state = model.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
        return jnp.mean(logits**2), state

    book = gf.ledger(loss, variables["params"], images, has_aux=True)
    assert sum(e.cause == "skip" for e in book.entries) == 3
    assert {e.cause for e in book.entries} >= {"skip", "activation", "normalization", "loss"}
