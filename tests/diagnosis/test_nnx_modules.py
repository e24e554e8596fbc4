"""NNX modules passed whole: every one that `nnx.value_and_grad` takes is diagnosed, and stays as it was."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import gradflow as gf

X = jax.random.normal(jax.random.key(0), (16, 4))


class Nested(nnx.Module):
    """Lists in lists, running averages, a random count, a counter, a layer used twice, a variable made in the call."""

    def __init__(self, rngs):
        blocks = [[nnx.Linear(4, 4, rngs=rngs), nnx.BatchNorm(4, rngs=rngs)] for _ in range(2)]
        self.blocks = nnx.List([nnx.List(block) for block in blocks])
        self.again, self.head = self.blocks[0][0], nnx.Linear(4, 2, rngs=rngs)
        self.drop, self.calls = nnx.Dropout(0.2, rngs=rngs), nnx.Variable(jnp.zeros((), jnp.int32))

    def __call__(self, x):
        self.calls[...] += 1
        for layer, norm in self.blocks:
            x = self.drop(nnx.relu(norm(layer(x))))
        self.last = nnx.Intermediate(x)
        return self.head(nnx.relu(self.again(x)))


def sequential():
    rngs = nnx.Rngs(0)
    return nnx.Sequential(nnx.Linear(4, 8, rngs=rngs), nnx.relu, nnx.Linear(8, 2, rngs=rngs))


def containers():
    return {"body": [nnx.Linear(4, 4, rngs=nnx.Rngs(0)), nnx.Dropout(0.1, rngs=nnx.Rngs(1))], "head": sequential()}


MODULES = {
    "sequential": (sequential, ("layers/0", "layers/2")),
    "one layer": (lambda: nnx.Linear(4, 2, rngs=nnx.Rngs(0)), ("kernel",)),
    "nested": (lambda: Nested(nnx.Rngs(0)), ("again", "blocks/1/0", "again#2", "head")),
    "containers": (containers, ("body/0", "head/layers/0", "head/layers/2")),
}


def loss(model, x):
    if isinstance(model, dict):
        for part in model["body"]:
            x = part(x)
        model = model["head"]
    return jnp.mean((model(x) - 1) ** 2)


def numbers(tree):
    """All that a module holds, as NumPy arrays."""
    keys = [x for x in jax.tree.leaves(tree) if isinstance(x, jax.Array)]
    return [
        np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x).copy() for x in keys
    ]


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("name", MODULES)
def test_a_whole_module_has_the_verdict_of_its_parameters_and_is_not_changed(name):
    make, layers = MODULES[name]
    model = make()
    before = numbers(model)
    found = gf.diagnose(loss, model, X, progress=False)
    book = gf.ledger(loss, model, X)
    for old, new in zip(before, numbers(model), strict=True):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_allclose(found.measurements.value, nnx.value_and_grad(loss)(make(), X)[0], rtol=1e-5)
    assert found.healthy
    assert found.flow.layers == layers
    np.testing.assert_allclose(found.book.total, book.total, atol=1e-4)


def test_a_sick_module_is_found_sick_and_its_layers_are_named():
    rngs, parts = nnx.Rngs(1), []
    for _ in range(10):
        parts += [nnx.Linear(16, 16, rngs=rngs), nnx.sigmoid]
    model = nnx.Sequential(*parts, nnx.Linear(16, 2, rngs=rngs))
    found = gf.diagnose(loss, model, jax.random.normal(jax.random.key(1), (16, 16)), progress=False)
    assert found.findings[0].kind == "vanishing"
    assert set(found.findings[0].layers) <= {f"layers/{k}" for k in range(0, 21, 2)}


def test_modules_among_the_other_arguments_may_change_themselves_too():
    frozen = nnx.BatchNorm(4, rngs=nnx.Rngs(0))

    def with_frozen(model, norm, x, *, rngs):
        return loss(model, norm(x) + 0.01 * jax.random.normal(rngs.noise(), x.shape))

    before = numbers(frozen)
    found = gf.diagnose(with_frozen, sequential(), frozen, X, rngs=nnx.Rngs(2), progress=False)
    assert found.healthy
    np.testing.assert_array_equal(before[0], numbers(frozen)[0])


def test_where_nan_began_in_a_whole_module():
    found = gf.diagnose(lambda model, x: jnp.sqrt(loss(model, 0 * x) - loss(model, 0 * x) - 1), sequential(), X)
    assert found.findings[0].kind == "nonfinite"
    assert "sqrt" in str(found)


def test_treatment_of_a_whole_module_gives_a_state_that_updates_it():
    model = sequential()
    start = nnx.state(model, nnx.Param)
    t = gf.treat(loss, model, X, optimizer=optax.sgd(1e-5), budget=10)
    assert t.improved
    assert jax.tree.structure(t.params) == jax.tree.structure(start)
    nnx.update(model, t.params)
    np.testing.assert_allclose(loss(model, X), t.chosen.outcome.start, rtol=1e-5)
