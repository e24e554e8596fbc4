"""The parts of `initialization` against plain loops and closed forms; its claims against results made false."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from experiments.framework.images import Images, rows
from experiments.initialization import experiment as initialization
from experiments.initialization import glorot, training
from experiments.initialization import table as initialization_table
from experiments.initialization.results import Results
from tests.experiments.nested import changed, made

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
    assert len({claim.claim for claim in claims}) == len(claims) == 17
    assert set(initialization.figures.draw(results)) == {"depth", "histograms", "flow"}
    assert results.training.accuracy.shape == (1, 5, training.RECORDS)
    assert results.training.steps[-1] == TINY.steps


def good() -> Results:
    """Results in which every claim holds, as a full run gives them."""
    layers = np.arange(31)
    growth = {"he_normal": 0.0, "xavier_normal": -0.5, "orthogonal": 0.0, "lsuv": 0.0}
    growth["small_gaussian"] = np.log2(0.01 * np.sqrt(128))
    accuracy = np.full((2, 5, training.RECORDS), 0.1)
    for scheme in ("he_normal", "orthogonal", "lsuv"):
        accuracy[:, training.SCHEMES.index(scheme), 3:] = 0.8
    accuracy[0, training.SCHEMES.index("xavier_normal"), 15:] = 0.6
    variance = np.array([0.5, 1.0])
    normal = np.random.default_rng(0).normal(size=(2, 1000))
    normal = (normal - normal.mean(1, keepdims=True)) / normal.std(1, keepdims=True)
    return made(
        Results,
        {
            "glorot.jacobian_mean": np.array([[0.3, 0.4, 0.45, 0.49], [0.6, 0.71, 0.74, 0.76]]),
            "glorot.schemes": np.array(["standard", "normalized"]),
            "glorot.gradient_std": np.array([[0.1, 1.0], [0.4, 1.0]]),
            "glorot.gradient_theory": np.array([[0.1, 1.0], [0.4, 1.0]]),
            "glorot.weight_gradient_std": np.ones((2, 6)),
            "glorot.activation_std": np.array([[0.05], [0.4]]),
            "training.depths": np.array([22, 30]),
            "training.width": 256,
            "training.steps": np.arange(training.RECORDS) * 40,
            "training.accuracy": accuracy,
            "training.start.30.forward": np.stack([2.0 ** (growth[scheme] * layers) for scheme in training.SCHEMES]),
            "training.start.30.lsuv_variance": np.ones(31),
            "hanin.depths": np.array([10, 20]),
            "hanin.width": 100,
            "hanin.variance": variance,
            "hanin.mean": -variance / 2,
            "hanin.logs": np.sqrt(variance)[:, None] * normal - variance[:, None] / 2,
            "table.names": np.array(["mnist"]),
            "table.error": np.array([initialization_table.PAPER["mnist"]]),
        },
    )


FALSE = (
    ("glorot.jacobian_mean", lambda v: v[::-1] * 1.5),
    ("glorot.jacobian_mean", lambda v: v + 0.2),
    ("glorot.gradient_std", lambda v: np.ones_like(v)),
    ("glorot.weight_gradient_std", lambda v: v * np.geomspace(1, 10, 6)),
    ("glorot.activation_std", lambda v: v[::-1]),
    ("training.accuracy", lambda v: np.concatenate([v[..., :1], 0.9 - v[..., 1:]], -1)),
    ("training.accuracy", lambda v: np.concatenate([v[..., :-1], 0.2 * v[..., -1:]], -1)),
    ("training.start.30.forward", lambda v: v[[1, 0, 2, 4, 3]]),
    ("training.start.30.lsuv_variance", lambda v: 1.2 * v),
    ("hanin.logs", lambda v: 1.5 * v),
    ("table.error", lambda v: v + 2),
)


def test_claims_hold_where_they_should_and_fail_where_they_should_not():
    assert [claim.claim for claim in initialization.claims(good()) if not claim.holds] == []
    broken = set()
    for name, change in FALSE:
        failed = {c.claim for c in initialization.claims(changed(good(), name, change)) if not c.holds}
        assert failed, name
        broken |= failed
    left = {claim.claim for claim in initialization.claims(good())} - broken
    assert not left, "nothing makes these fail"


def test_table_trains_all_rates_at_once_and_takes_the_best(results, monkeypatch):
    """Two records of a tiny network on the embedded images: falling error, chosen where validation is best."""
    monkeypatch.setattr(initialization_table, "RECORDS", 2)
    monkeypatch.setattr(initialization_table, "RATES", (1e-6, 0.1))
    data = gf.data.load(validation=1000)
    arm = initialization_table.ARMS[2]
    validation, test = initialization_table.train(arm, data, width=16, steps=600, seed=0)
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
