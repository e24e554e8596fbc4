"""The parts of `batchnorm` against plain loops, NumPy and closed forms; its claims against results made false."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from experiments.batchnorm import bands
from experiments.batchnorm import experiment as batchnorm
from experiments.batchnorm import initialization as batchnorm_init
from experiments.batchnorm import training as batchnorm_training
from experiments.batchnorm.results import Results
from experiments.batchnorm.training import FLAGS, KINDS, Kind, Setup
from experiments.framework.images import Images
from tests.experiments.nested import made
from tests.experiments.spoiled import claims_that_stand

TINY = dataclasses.replace(
    batchnorm.PRESETS["smoke"], steps=20, records=3, landscape_steps=20,
    depth=13, width=16, batch=16, networks=4, blocks=3,
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
    _, recorded = batchnorm_training.train(
        None, key, rate, form, batch, batch, setup=SETUP, look=lambda p, r, k, key: {"params": p}, steps=SETUP.steps
    )
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
    assert results.explosion.rate.shape == (1, 4)
    assert set(batchnorm.figures.draw(results)) == {"training", "landscape", "initialization"}


def good() -> Results:
    """Results in which every claim holds, as a full run gives them."""
    ones, spread = np.ones((3, 3, 4)), np.exp(0.01 * np.array([-1.0, 1.0, -1.0, 1.0]))
    accuracy = 0.8 * ones
    accuracy[0, 1:], accuracy[2] = 0.5, 0.8 + 0.01
    plain_first = np.array([1.1, 1.0, 1.0])[:, None, None] * ones
    normalized, plain = 0.8, 0.1
    theory, linear = np.array([1.48, 1.18]), np.array([1.2, 1.08])
    values = {
        "batch": 128, "width": 512,
        "sigmoid.steps": np.array([0, 100, 500]),
        "sigmoid.accuracy": np.array([[0.1, 0.1, plain], [0.1, normalized, normalized]]),
        "landscape.steps": np.array([0, 250, 250, 500]),
        "landscape.rates": np.array([0.01, batchnorm.LANDSCAPE_RATE, 1.0]),
        "landscape.accuracy": accuracy,
        "landscape.loss_range": np.where(plain_first > 1, plain_first * 3, 1),
        "landscape.gradient_change": np.where(plain_first > 1, plain_first * 3, 1),
        "landscape.wobble": 0.25 * ones,
        "explosion.activations": np.array(["relu", "tanh"]),
        "explosion.theory": theory,
        "explosion.rate": theory[:, None] * spread,
        "explosion.plain": np.ones(30),
        "linear.batches": np.array([8, 16]),
        "linear.theory": linear,
        "linear.rate": linear[:, None] * spread,
        "streams.normalized": np.tile(np.arange(2.0, 22.0), (4, 1)),
        "streams.plain": np.tile(2.0 ** np.arange(1, 21), (4, 1)),
    }  # fmt: skip
    return made(Results, values)


def test_every_claim_holds_on_good_results_and_fails_on_some_spoiled_ones():
    claims = batchnorm.claims(good())
    assert [claim.id for claim in claims if not claim.holds] == []
    assert len(claims) == 13
    given = ("*.theory", "*.steps", "*.batches", "batch", "width")
    assert claims_that_stand(batchnorm.claims, good(), theory=given) == []


def test_two_rates_are_no_sweep_and_few_steps_no_landscape(results):
    assert not {"largest-rate", "smoother-loss"} & {claim.id for claim in batchnorm.claims(results)}


def test_streams_spread_as_their_bands_say():
    """200 networks: with batch norm the mean and its variance; without, one example's logarithm."""
    blocks, width, networks = 5, 32, 200
    normalized = batchnorm_init.measure_streams(blocks, width, 16, networks, 3).normalized[:, -1]
    band = bands.normalized_stream(blocks, width, 16, 1)
    assert normalized.mean() == pytest.approx(blocks + 1, abs=(band.high - band.low) / 2 / np.sqrt(networks))
    assert normalized.std() == pytest.approx((band.high - band.low) / 6, rel=0.2)
    logs = np.log(batchnorm_init.measure_streams(blocks, 96, 1, networks, 4).plain[:, -1] / 2.0**blocks)
    variance = bands.plain_stream_variance(blocks, 96)
    assert logs.var() == pytest.approx(variance, rel=0.3)
    assert logs.mean() == pytest.approx(-variance / 2, abs=3 * np.sqrt(variance / networks))


def test_settings_that_cannot_be_run_are_refused():
    for changes, words in (({"depth": 5}, "depth"), ({"rates": (1.0,)}, "rates"), ({"steps": 7}, "multiple")):
        with pytest.raises(ValueError, match=words):
            dataclasses.replace(TINY, **changes)
