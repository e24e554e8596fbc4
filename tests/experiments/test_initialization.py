"""The parts of `initialization` against plain loops and closed forms; its claims against results made false."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from experiments.framework.images import Images, rows
from experiments.initialization import bands, glorot, training
from experiments.initialization import experiment as initialization
from experiments.initialization import table as initialization_table
from experiments.initialization.results import Results
from tests.experiments.nested import made
from tests.experiments.spoiled import claims_that_stand

LAPTOP = {"learners", "xavier-22", "he-earlier", "xavier-30", "table-mnist"}  # claims that a small run does not carry
TINY = dataclasses.replace(
    initialization.PRESETS["smoke"], glorot_depth=4, glorot_width=24, depths=(3,), width=16, steps=20,
    hanin_depths=(2, 5), hanin_width=40, hanin_networks=100,
)  # fmt: skip


@pytest.fixture(scope="module")
def results():
    return initialization.run(TINY)


@pytest.fixture(scope="module")
def toy():
    batch = Images(jax.random.normal(jax.random.key(1), (6, 5)), jnp.arange(6))
    return glorot.kernels(jax.random.key(0), "standard", [5, 7, 8, 10]), batch


def test_signals_are_those_of_a_hand_written_backward_pass(toy):
    weights, batch = toy
    w = [np.asarray(kernel, np.float64) for kernel in weights]
    h1 = np.tanh(np.asarray(batch.x, np.float64) @ w[0])
    h2 = np.tanh(h1 @ w[1])
    odds = np.exp(h2 @ w[2])
    delta = odds / odds.sum(1, keepdims=True) - np.eye(10)[np.asarray(batch.y)]
    back2 = (delta @ w[2].T) * (1 - h2**2)
    back1 = (back2 @ w[1].T) * (1 - h1**2)
    found = glorot.signals(weights, batch)
    for kind, expected in (
        ("activation", (h1, h2)),
        ("slope", (1 - h1**2, 1 - h2**2)),
        ("gradient", (back1, back2)),
        ("weight_gradient", (batch.x.T @ back1 / 6, h1.T @ back2 / 6, h2.T @ delta / 6)),
    ):
        for value, wanted in zip(found[kind], expected, strict=True):
            np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-6)


def test_singular_values_are_those_of_the_layers_jacobian(toy):
    weights, batch = toy
    h = jnp.tanh(batch.x[0] @ weights[0])
    jacobian = jax.jacobian(lambda h: jnp.tanh(h @ weights[1]))(h)
    slope = 1 - jnp.square(jnp.tanh(h @ weights[1]))
    np.testing.assert_allclose(
        glorot.jacobian_values(weights[1], slope), np.linalg.svd(jacobian, compute_uv=False), rtol=1e-4, atol=1e-6
    )


def test_log_norms_are_those_of_a_loop(monkeypatch):
    found = glorot.log_norms(jax.random.key(3), depths=(1, 4), width=20, networks=3)
    assert found.shape == (2, 3)
    for index, key in enumerate(jax.random.split(jax.random.key(3), 3)):
        x, u = (np.asarray(v, np.float64) for v in jax.random.normal(key, (2, 20)))
        u /= np.linalg.norm(u)
        for layer, layer_key in enumerate(jax.random.split(key, 4), start=1):
            kernel = np.asarray(jax.random.normal(layer_key, (20, 20)), np.float64) * np.sqrt(2 / 20)
            z = x @ kernel
            u, x = (u @ kernel) * (z > 0), np.maximum(z, 0)
            if layer in (1, 4):
                expected = 2 * np.log(np.linalg.norm(u))
                assert found[(1, 4).index(layer), index] == pytest.approx(expected, rel=1e-4)


def test_every_scheme_starts_as_it_should():
    """Deviations of the weights, LSUV's unit variance of every layer, and one order of images for all."""
    data = gf.data.load()
    _, params, variances = training.starts(4, 50, rows(data, data.train), 0)
    deviations = [np.std(p["params"]["Hidden"]["Dense"]["kernel"]) for p in params]
    expected = {"he_normal": (2 / 50) ** 0.5, "xavier_normal": 50**-0.5, "small_gaussian": 0.01}
    for scheme, value in expected.items():
        assert deviations[training.SCHEMES.index(scheme)] == pytest.approx(value, rel=0.05)
    kernel = params[training.SCHEMES.index("orthogonal")]["params"]["Hidden"]["Dense"]["kernel"][0]
    np.testing.assert_allclose(kernel.T @ kernel, 2 * np.eye(50), atol=1e-4)
    assert variances.shape == (5,)
    np.testing.assert_allclose(variances, 1, atol=0.1)


def test_a_run_has_all_that_claims_and_figures_need(results):
    claims = initialization.claims(results)
    assert {claim.id for claim in claims} == {claim.id for claim in initialization.claims(good())} - LAPTOP
    assert set(initialization.figures.draw(results)) == {"depth", "histograms", "flow"}
    assert results.training.accuracy.shape == (1, 5, training.RECORDS)
    assert results.training.steps[-1] == TINY.steps


def good() -> Results:
    """Results of a laptop run in which every claim holds."""
    xavier = training.SCHEMES.index("xavier_normal")
    accuracy = np.full((2, 5, training.RECORDS), 0.1)
    for scheme in ("he_normal", "orthogonal", "lsuv"):
        accuracy[:, training.SCHEMES.index(scheme), 3:] = 0.85
    accuracy[0, xavier, 15:] = 0.6
    accuracy[1, xavier] = 0.2
    mean, variance = np.array([bands.log_norm_moments(depth, 100) for depth in (10, 20)]).T
    normal = np.random.default_rng(0).normal(size=(2, 1000))
    normal = (normal - normal.mean(1, keepdims=True)) / normal.std(1, keepdims=True)
    values = np.array([[0.45, 0.47, 0.48, 0.49], [0.65, 0.71, 0.74, 0.78]])
    signal = np.array([[0.5, 0.3, 0.17, 0.1, 0.06], [0.6, 0.5, 0.45, 0.4, 0.36]])
    gradient = np.array([[0.1, 0.2, 0.4, 0.6, 1.0], [0.4, 0.5, 0.6, 0.8, 1.0]])
    return made(
        Results,
        {
            "test_images": 10_000,
            "glorot.jacobian_mean": values,
            "glorot.jacobian_theory": values,
            "glorot.jacobian_values": np.ones((2, 4, 1000)),
            "glorot.gradient_std": gradient,
            "glorot.gradient_theory": gradient,
            "glorot.weight_gradient_std": np.ones((2, 6)),
            "glorot.activation_std": signal,
            "glorot.activation_theory": signal,
            "glorot.variance": signal**2,
            "training.depths": np.array([22, 30]),
            "training.width": 256,
            "training.steps": np.arange(training.RECORDS) * 40,
            "training.accuracy": accuracy,
            "training.start.30.forward": np.ones((5, 31)),
            "hanin.depths": np.array([10, 20]),
            "hanin.width": 100,
            "hanin.variance": variance,
            "hanin.mean": mean,
            "hanin.logs": np.sqrt(variance)[:, None] * normal + mean[:, None],
            "table.names": np.array(["mnist"]),
            "table.error": np.array([initialization_table.PAPER["mnist"]]),
        },
    )


THEORY = (
    "test_images", "glorot.*_theory", "glorot.variance", "glorot.jacobian_values", "training.depths", "training.width",
    "training.steps", "hanin.depths", "hanin.width", "hanin.variance", "hanin.mean",
)  # fmt: skip


def test_every_claim_holds_where_it_should_and_can_fail():
    claims = initialization.claims(good())
    assert [claim.id for claim in claims if not claim.holds] == []
    assert len(claims) == 14
    assert claims_that_stand(initialization.claims, good(), THEORY) == []


def test_log_norms_have_the_moments_of_drawn_layers():
    """One layer of |D W u|^2, D of fair coins, at a width where first order is off by more than the error."""
    random, width = np.random.default_rng(0), 20
    squares = random.normal(size=(200_000, width)) ** 2 * (random.random((200_000, width)) < 0.5)
    logs = np.log(2 / width * squares.sum(1))
    mean, variance = bands.log_norm_moments(1, width)
    assert logs.mean() == pytest.approx(mean, abs=0.005)
    assert logs.var() == pytest.approx(variance, rel=0.03)
    assert abs(variance - 5 / width) > 0.04 * variance
    depth_mean, depth_variance = bands.log_norm_moments(40, 1000)
    assert (depth_mean, depth_variance) == (pytest.approx(-0.1, rel=0.02), pytest.approx(0.2, rel=0.02))


@pytest.mark.parametrize("q", [1e-6, 0.5, 5.0])
def test_mean_singular_values_are_those_of_drawn_jacobians(q):
    random, width, found = np.random.default_rng(0), 200, []
    for _ in range(12):
        slopes = 1 - np.tanh(np.sqrt(q) * random.normal(size=width)) ** 2
        kernel = random.normal(size=(width, width)) / np.sqrt(width)
        found.append(np.linalg.svd(slopes[:, None] * kernel, compute_uv=False).mean())
    mean = glorot.mean_singular_value(q)
    deviation = bands.jacobian_deviation(q, width)
    assert np.mean(found) == pytest.approx(mean, rel=4 * deviation / np.sqrt(12) + 1 / width)
    assert np.std(found) < 1.5 * deviation * mean
    if q < 1e-3:
        assert mean == pytest.approx(8 / (3 * np.pi), rel=1e-4)


def test_table_trains_all_rates_at_once_and_takes_the_best(results, monkeypatch):
    """Two records of a tiny network on the embedded images: falling error, chosen where validation is best."""
    monkeypatch.setattr(initialization_table, "RECORDS", 2)
    monkeypatch.setattr(initialization_table, "RATES", (1e-6, 0.1))
    data = gf.data.load(validation=1000)
    arm = initialization_table.ARMS[2]
    validation, test = initialization_table.train("toy", arm, data, width=16, steps=600, seed=0)
    assert validation.shape == test.shape == (2, 2)
    assert validation[1, -1] < 0.5 < 0.7 < validation[0].min()
    monkeypatch.setattr(initialization_table, "train", lambda *_, **__: (validation, test))
    monkeypatch.setattr(gf.data, "load", lambda *_, **__: data)
    found = initialization_table.measure(("mnist",), width=16, steps=600, seed=0)
    assert found.error == pytest.approx(np.full((1, 5), 100 * test[1, -1]), abs=10)
    assert "table" in initialization.figures.draw(dataclasses.replace(results, table=found))


@pytest.mark.parametrize(
    "options, words",
    [({"table": ("mnits",)}, "mnist"), ({"depths": (30, 22)}, "growing"), ({"steps": 7}, "multiple of 20"),
     ({"glorot_depth": 3}, "4 or more")],
)  # fmt: skip
def test_settings_that_cannot_be_run_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(TINY, **options)
