"""The parts of `batchnorm` against plain loops, NumPy and closed forms; its claims against results made false."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from experiments.batchnorm import experiment as batchnorm
from experiments.batchnorm import initialization as batchnorm_init
from experiments.batchnorm import training as batchnorm_training
from experiments.batchnorm.training import FLAGS, KINDS, Kind, Setup
from experiments.framework.images import Images
from tests.experiments.nested import changed, replaced

TINY = dataclasses.replace(
    batchnorm.PRESETS["smoke"], steps=20, records=3, landscape_steps=20,
    depth=13, width=16, batch=16, networks=2, blocks=3,
)  # fmt: skip
SETUP = Setup(depth=3, width=5, activation="tanh", initializer="he_normal", batch=4, steps=4, records=3)


def kind(name: str) -> Kind:
    return Kind(*(jnp.asarray(flags[KINDS.index(name)]) for flags in FLAGS))


@pytest.fixture(scope="module")
def results():
    return batchnorm.run(TINY)


@pytest.fixture(scope="module")
def toy():
    x = jax.random.normal(jax.random.key(1), (12, 7))
    return Images(x, jnp.arange(12) % 10), batchnorm_training.init(jax.random.key(2), SETUP, 7)


def test_forward_is_a_plain_loop_over_layers(toy):
    batch, params = toy
    for name in ("plain", "batch norm"):
        x = np.asarray(batch.x, np.float64)
        layers = [params["first"], *(jax.tree.map(lambda p, i=i: p[i], params["hidden"]) for i in range(2))]
        for layer in layers:
            z = x @ np.asarray(layer["kernel"])
            if name == "batch norm":
                z = (z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5)
            x = np.tanh(z)
        logits, entering = batchnorm_training.forward(params, batch.x, kind(name), "tanh")
        np.testing.assert_allclose(entering, z, rtol=2e-4, atol=1e-5)
        np.testing.assert_allclose(logits, x @ np.asarray(params["head"]["kernel"]), rtol=2e-4, atol=1e-5)


def test_noise_shakes_the_noisy_kind_only_and_within_its_limits(toy):
    batch, params = toy
    key = jax.random.key(3)
    for name in KINDS:
        calm = batchnorm_training.forward(params, batch.x, kind(name), "tanh")[0]
        shaken = batchnorm_training.forward(params, batch.x, kind(name), "tanh", key)[0]
        assert np.allclose(calm, shaken, rtol=1e-5, atol=1e-5) == (name != "noisy batch norm")
    z = jnp.ones((1000, 40))
    shaken = batchnorm_training._shake(key, z, jnp.float32(1))
    means = np.asarray(shaken.mean(0))
    assert ((means > 1 - 0.5) & (means < 1.25 + 0.5)).all()
    assert means.std() > 0.1
    spread = np.asarray(shaken.std(0))  # two uniform draws in +-.1
    np.testing.assert_allclose(spread, np.sqrt(2 * 0.1**2 / 3), rtol=0.1)


def test_training_is_a_plain_loop_of_gradient_descent(toy):
    batch, _ = toy
    key, rate, form = jax.random.key(4), jnp.float32(0.3), kind("noisy batch norm")
    recorded = batchnorm_training.train(key, rate, form, batch, batch, SETUP, lambda p, r, k, key: {"params": p})
    init_key, order_key, noise_key = jax.random.split(key, 3)
    params = batchnorm_training.init(init_key, SETUP, 7)
    for step in range(4):
        chosen = jax.random.randint(jax.random.fold_in(order_key, step), (4,), 0, 12)
        drawn = Images(batch.x[chosen], batch.y[chosen])
        noise = jax.random.fold_in(noise_key, step)
        grads = jax.grad(batchnorm_training.loss)(params, drawn, form, "tanh", noise)
        params = jax.tree.map(lambda p, g: p - rate * g, params, grads)
    for ours, plain in zip(jax.tree.leaves(recorded["params"]), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(ours[-1], plain, rtol=1e-4, atol=1e-6)


def test_the_landscape_of_a_quadratic_valley_is_known(toy, monkeypatch):
    """With loss |p|^2 / 2 the gradient at p - s r g is (1 - s r) times that at p."""

    def quadratic(params, *_):
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params)) / 2

    monkeypatch.setattr(batchnorm_training, "loss", quadratic)
    batch, params = toy
    seen = batchnorm_training.landscape(batch, "tanh")(params, jnp.float32(0.1), kind("plain"), jax.random.key(0))
    assert float(seen["gradient_change"]) == pytest.approx(0.4, rel=1e-4)
    start = float(quadratic(params))
    assert float(seen["loss_range"]) == pytest.approx(start * (1 - 0.6**2), rel=1e-4)
    assert float(seen["wobble"]) < 1e-6


def test_the_gradient_profile_is_that_of_perturbations():
    options = {"activation": "tanh", "depth": 3, "width": 6, "batch": 8}
    key = jax.random.key(5)
    profile = batchnorm_init.gradient_profile(key, normalization="batch", **options)
    model = gf.models.MLP(
        depth=3, width=6, outputs=1, activation="tanh", initializer="lecun_normal", normalization="batch", bias=False,
        scan=True,
    )  # fmt: skip
    keys = jax.random.split(key, 3)
    x, direction = jax.random.normal(keys[0], (8, 6)), jax.random.normal(keys[1], (8, 1))
    params = model.init(keys[2], x)["params"]
    kernels = [params["Dense_0"]["kernel"], *params["Hidden"]["Dense"]["kernel"]]

    def loss(added):
        y = x
        for kernel, more in zip(kernels, added, strict=True):
            z = y @ kernel + more
            y = jnp.tanh((z - z.mean(0)) / jnp.sqrt(z.var(0) + 1e-5))
        return jnp.sum(y @ params["Dense_3"]["kernel"] * direction)

    cotangents = jax.grad(loss)([jnp.zeros((8, 6))] * 3)
    expected = [float(jnp.sqrt(jnp.mean(c**2))) for c in cotangents]
    np.testing.assert_allclose(profile, expected, rtol=1e-3)


def test_results_and_figures_are_whole(results):
    assert results.sigmoid.percentiles.shape == (2, 3, 3, 100)
    assert (np.diff(results.sigmoid.percentiles, axis=2) >= 0).all()
    assert results.landscape.gradient_change.shape == (3, 2, 11)
    assert results.explosion.rate.shape == (1, 2)
    assert set(batchnorm.figures.draw(results)) == {"training", "landscape", "initialization"}


@pytest.mark.parametrize(
    "name, change, words",
    [
        ("sigmoid.accuracy", lambda x: x[::-1], "batch norm: accuracy after"),
        ("landscape.gradient_change", lambda x: np.ones_like(x), "change of the gradient"),
        ("explosion.rate", lambda x: x * 0 + 1, "squared gradient a layer, relu"),
        ("streams.plain", lambda x: x * 0 + 1, "without, over"),
    ],
)
def test_claims_fail_on_results_that_are_false(results, name, change, words):
    claims = batchnorm.claims(changed(results, name, change))
    assert not all(claim.holds for claim in claims if words in claim.claim)


def test_settings_that_cannot_be_run_are_refused():
    for changes, words in (({"depth": 5}, "depth"), ({"rates": (1.0,)}, "rates"), ({"steps": 7}, "multiple")):
        with pytest.raises(ValueError, match=words):
            dataclasses.replace(TINY, **changes)


def test_two_rates_are_no_sweep_and_three_are(results):
    def claimed(found):
        return [claim.holds for claim in batchnorm.claims(found) if "largest rate" in claim.claim]

    assert claimed(results) == []
    rates = np.array([0.01, batchnorm.LANDSCAPE_RATE, 1.0])
    names = ("accuracy", "loss_range", "gradient_change", "wobble")
    repeated = {name: np.repeat(getattr(results.landscape, name)[:, :1], 3, 1) for name in names}
    three = dataclasses.replace(results, landscape=dataclasses.replace(results.landscape, rates=rates, **repeated))
    accuracy = repeated["accuracy"] * 0
    accuracy[0, 0] = accuracy[1] = 0.9
    assert claimed(replaced(three, {"landscape.accuracy": accuracy})) == [True]
    assert claimed(replaced(three, {"landscape.accuracy": accuracy[::-1]})) == [False]
