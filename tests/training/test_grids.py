"""Many runs as one program against one after the other."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradflow import training
from tests.training import problems
from tests.user_errors import without_type_checker

SEEDS, RATES = np.arange(3), np.array([0.01, 0.1], np.float32)


def one(shift, *, seed, rate):
    optimizer = training.with_clipping_and_decay(optax.sgd(rate, momentum=0.9), clip_norm=10 * rate)
    state = problems.start(optimizer)._replace(key=jax.random.key(seed))
    params = jax.tree.map(lambda w: w + shift, state.params)
    step = training.make_step(problems.loss_fn, optimizer)
    state, metrics = training.run(step, state._replace(params=params), problems.batch, 20, every=5)
    return state.params, training.means(metrics)["loss"]


@pytest.fixture(scope="module")
def looped():
    run = jax.jit(lambda seed, rate: one(jnp.float32(0.1), seed=seed, rate=rate))
    rows = [jax.tree.map(lambda *x: np.stack(x), *(run(seed, rate) for rate in RATES)) for seed in SEEDS]
    return jax.tree.map(lambda *x: np.stack(x), *rows)


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("devices", [None, 1, 4])
def test_grid_is_a_loop(looped, devices):
    """Six runs on four devices: two of them are filled up."""
    mesh = None if devices is None else training.data_mesh(jax.devices()[:devices])
    got = training.grid(one, {"seed": SEEDS, "rate": RATES}, jnp.float32(0.1), mesh=mesh)
    assert got[1].shape == (3, 2, 4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), got, looped)
    assert len(np.unique(np.asarray(got[1])[..., -1])) == 6


def test_grid_compiles_once():
    traced = []

    def counted(*, rate):
        traced.append(rate)
        return rate * 2

    for low in (0.0, 1.0):
        got = training.grid(counted, {"rate": low + jnp.arange(3, dtype=jnp.float32)})
    np.testing.assert_array_equal(got, [2, 4, 6])
    assert len(traced) == 1


@pytest.mark.parametrize("axes, words", [({}, "at least one axis"), ({"seed": np.zeros((2, 2))}, "'seed'.*(2, 2)")])
@without_type_checker()
def test_grid_refuses(axes, words):
    with pytest.raises(ValueError, match=words):
        training.grid(one, axes)
