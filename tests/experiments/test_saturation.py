"""The parts of `saturation` against NumPy, its start against theory, and its claims against false results."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from experiments.saturation import bands, training
from experiments.saturation import experiment as saturation
from experiments.saturation.results import Results
from tests.experiments.nested import made
from tests.experiments.spoiled import claims_that_stand

TINY = saturation.PRESETS["smoke"]


@pytest.fixture(scope="module")
def results():
    return saturation.run(TINY)


def test_a_small_run_starts_as_theory_says_and_is_drawn(results):
    found = saturation.claims(results)
    assert len(found) == 1
    assert all(claim.holds for claim in found), found
    assert set(saturation.figures.draw(results)) == {"sigmoid", "percentiles", "histograms", "accuracy"}


def test_shapes_and_shares(results):
    for arm, (_, depth) in saturation.ARMS.items():
        found = results.arms[arm]
        assert found.mean.shape == (1, TINY.records + 1, depth)
        assert found.shares.sum(-1) == pytest.approx(1, abs=1e-5)
        assert (found.low <= found.mean).all()
        assert found.steps[-1] == 200


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "softsign"])
def test_hidden_activations_are_those_of_a_plain_loop(activation):
    phi = {
        "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
        "tanh": np.tanh,
        "softsign": lambda z: z / (1 + np.abs(z)),
    }[activation]
    setup = training.Setup(activation, 3, 7, 4, 0.1, 10, 5)
    model, x = training.build(setup), jax.random.normal(jax.random.key(1), (6, 5))
    params = model.init(jax.random.key(0), x)["params"]
    values = training.hidden(model, params, x)
    rows, dense = np.asarray(x), params["Hidden"]["Dense"]
    layers = [params["Dense_0"], *(jax.tree.map(lambda leaf, k=k: leaf[k], dense) for k in range(2))]
    for layer, found in zip(layers, values, strict=True):
        rows = phi(rows @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"]))
        np.testing.assert_allclose(found, rows, rtol=1e-5, atol=1e-6)
    described = training.describe(values)
    for name, want in (("mean", rows.mean()), ("std", rows.std()), ("high", np.quantile(rows, 0.98))):
        assert described[name][-1] == pytest.approx(want, rel=1e-4)
    counted = np.histogram(rows, training.BINS, training.limits(activation))[0] / rows.size
    np.testing.assert_allclose(training.histogram(values, activation)[-1], counted, atol=1.5 / rows.size)


def test_records_in_which_a_level_is_passed():
    values = np.array([[0.0, 0.0, 0.9], [0.5, 0.0, 0.0], [0.9, 0.1, 0.0]])
    assert saturation.first_passing(values, 0.4).tolist() == [1, 3, 0]
    assert saturation.ordered(np.array([1, 2, 4, 5])) == 1
    assert saturation.ordered(np.array([2, 2, 2])) == 0
    assert saturation.ordered(np.array([3, 1, 2])) == pytest.approx(1 / 3)


def good() -> Results:
    """Results as the paper has them."""
    rows = np.linspace(0, 1, 9)
    found = {"width": 256, "test_images": 10_000}
    for arm, (name, depth) in saturation.ARMS.items():
        found[f"arms.{arm}.steps"] = np.linspace(0, 10_000, 9).astype(int)
        found[f"arms.{arm}.mean"] = np.full((2, 9, depth), 0.5 if name == "sigmoid" else 0.0)
        found[f"arms.{arm}.accuracy"] = np.tile(np.where(rows < 0.5, 0.1, 0.8), (2, 1))
    for depth in (4, 5):
        found[f"arms.sigmoid_{depth}.mean"][:, 4, -1] = 0.03
    found["arms.sigmoid_5.accuracy"][:] = 0.1
    size = np.abs(training.edges("tanh")[:-1] + 1 / training.BINS)
    for name, where in (("tanh", size > 0.9), ("softsign", (size > 0.6) & (size < 0.8))):
        share = where / where.sum()
        found[f"arms.{name}_5.shares"] = np.tile(share, (2, 5, 1)) * np.linspace(1, 0.2, 5)[:, None]
        found[f"predicted.{name}"] = 0.5 ** np.arange(5)
        found[f"arms.{name}_5.std"] = np.tile(0.5 ** np.arange(5), (2, 9, 1))
    found["arms.tanh_5.high"] = np.tile(rows[:, None] > np.arange(5) / 8, (2, 1, 1)) * 0.95
    return made(Results, found)


def test_every_claim_holds_where_it_should_and_can_fail():
    claims = saturation.claims(good())
    assert [claim.id for claim in claims if not claim.holds] == []
    assert len(claims) == 12
    assert claims_that_stand(saturation.claims, good(), ("predicted.*", "width", "test_images", "arms.*.steps")) == []


@pytest.mark.parametrize("activation", ["tanh", "softsign"])
def test_the_start_strays_as_derived(activation):
    """Five layers of plain NumPy, 50 wide, from U(+-1/sqrt(n)): mean square of the last over that of the first."""
    random, width, networks = np.random.default_rng(0), 50, 2000
    phi = np.tanh if activation == "tanh" else lambda z: z / (1 + np.abs(z))
    x, logs = random.choice([-2.0, 2.0], width), []
    for _ in range(networks):
        h, squares = x, []
        for _ in range(5):
            h = phi(h @ random.uniform(-1, 1, (width, width)) / np.sqrt(width))
            squares.append(np.mean(h**2))
        logs.append(np.log(squares[-1] / squares[0]))
    theory = saturation.predicted(activation, 4.0, 5) ** 2
    spread = bands.start_spread(activation, float(theory[0]), 4, width, 1)
    assert np.var(logs) == pytest.approx(spread.variance, rel=0.15)
    assert abs(np.mean(logs) - np.log(theory[-1] / theory[0]) - spread.shift) < 0.02


@pytest.mark.parametrize(
    "options, words",
    [
        ({"steps": 7}, "records must divide steps"),
        ({"width": 0}, "width must be positive"),
        ({"rate": -1}, "rate"),
    ],
)
def test_settings_that_cannot_be_run_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(TINY, **options)
