"""The parts of `trainability` against plain loops and closed forms; its claims against results made false."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradflow as gf
from experiments.framework import storage
from experiments.framework.bands import gradient_rate
from experiments.framework.images import rows
from experiments.trainability import experiment as trainability
from experiments.trainability import signal as trainability_signal
from experiments.trainability import training as trainability_training
from experiments.trainability.signal import Profile
from experiments.trainability.training import Network, Training
from tests.experiments.nested import replaced
from tests.experiments.spoiled import claims_that_stand

TINY = dataclasses.replace(
    trainability.PRESETS["smoke"],
    depths=(2, 5),
    weight_variances=(1.0, 1.75, 4.0),
    width=16,
    records=(1, 3),
    remedies=("ReLU", "tanh + batch norm"),
    remedy_depths=(2, 4),
    remedy_variances=(1.0, 2.0),
    signal_depth=6,
    signal_width=100,
    signal_networks=2,
    profiles=("tanh", "relu + batch norm"),
    profile_width=24,
    profile_networks=2,
    profile_images=16,
)


@pytest.fixture(scope="module")
def results():
    return trainability.run(TINY)


@pytest.fixture(scope="module")
def as_theory_says(results):
    """What a full run would give if networks did as theory says, with nothing left to chance."""
    depths, variances = np.array([8, 10, 13, 16, 20, 25, 31, 39, 49, 61, 76, 95, 119]), np.linspace(1, 4, 13)
    _, xi = trainability_signal.fixed_points(variances)
    relative = depths[:, None] / (6 * xi)
    accuracy = np.where(relative < 1, 0.7, 0.12) - 0.005 * np.minimum(relative, 4)
    perfect = {
        f"end.{name}.measured": np.repeat(compared.theory[..., None], 2, -1) for name, compared in results.end.items()
    } | {
        f"signal.{name}.measured": np.repeat(compared.theory[..., None, :], 2, -2)
        for name, compared in results.signal.items()
    }
    profile = np.repeat(results.profile.theory[:, None], 2, 1)
    grid = {"grid.depths": depths, "grid.variances": variances, "grid.accuracy": accuracy[..., None], "grid.xi": xi}
    remedies = {"remedies.accuracy": np.zeros((2, 2, 2)) + np.array([0.2, 0.7])}
    return replaced(results, perfect | grid | remedies | {"profile.measured": profile, "profile_width": 300})


def test_results_and_figures_are_whole(results):
    assert results.grid.accuracy.shape == (2, 3, 2)
    assert results.remedies.accuracy.shape == (2, 2, 2)
    assert results.profile.measured.shape == (7, 2, 20)
    assert results.signal["c"].measured.shape == (4, 3, 2, 6)
    for value in storage.flat(results).values():
        assert value.dtype.kind in "US" or np.isfinite(value).all()
    names = {"heatmap", "steps", "remedies", "fixed_points", "convergence", "profiles"}
    assert set(trainability.figures.draw(results)) == names


def test_every_claim_holds_if_networks_do_as_theory_says_and_can_fail(as_theory_says):
    claims = trainability.claims(as_theory_says)
    assert len(claims) == 11
    assert [claim.id for claim in claims if not claim.holds] == []
    assert claims_that_stand(trainability.claims, as_theory_says, theory=("*.theory", "*.spread")) == []


def test_training_is_a_plain_loop():
    """One network of the vmapped program against steps taken one by one."""
    data = gf.data.load(TINY.data)
    network, training = Network("tanh", 0.05, None, 16), Training(8, 0.1, (2, 12), 5)
    grid = trainability_training.train_grid(data, network, training, [3], [1.0, 2.0], "test")
    train = rows(data, data.train)
    test = rows(data, data.test, trainability_training.EVALUATED)
    model = trainability_training.build(network, 3)
    init_key, order_key = jax.random.split(jax.random.key(5))
    drawn = dict(model.init(init_key, train.x[:2]))

    def loss(params, chosen):
        logits = model.apply(params, train.x[chosen])
        return optax.softmax_cross_entropy_with_integer_labels(logits, train.y[chosen]).mean()

    gradient = jax.jit(jax.grad(loss))
    for column, variance in enumerate((1.0, 2.0)):
        params = trainability_training.scale_kernels(drawn, jnp.float32(variance))
        for number in range(12):
            chosen = jax.random.randint(jax.random.fold_in(order_key, number), (8,), 0, len(train.y))
            params = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient(params, chosen))
            if number + 1 in training.records:
                accuracy = float((model.apply(params, test.x).argmax(-1) == test.y).mean())
                record = training.records.index(number + 1)
                assert grid[0, column, record] == pytest.approx(accuracy, abs=3e-3)


def test_networks_start_where_they_are_told_and_stray_as_foreseen():
    keys = jax.random.split(jax.random.key(0), 200)
    starts = np.array([[0.5, 0.0], [trainability_signal._tanh(2.5).q_star, 0.5]])
    q, c = trainability_signal.follow(keys, starts, 2.5, 4, 150)
    np.testing.assert_allclose(q[:, :, 0], np.repeat(starts[:, :1], 200, 1), rtol=1e-4)
    np.testing.assert_allclose(c[:, :, 0], np.repeat(starts[:, 1:], 200, 1), atol=1e-4)
    predicted = trainability_signal.theory_correlations(2.5, 0.5, 4)
    spread = trainability_signal.correlation_spreads(2.5, predicted, 150)
    # A deviation from 200 networks is known to 5 %; other layers add the part that q's own chance has in c.
    np.testing.assert_allclose(c[1].std(0)[1:], spread[1:], rtol=0.25)
    wide = trainability_signal.variance_spreads(2.5, 0.5, 4, 150)
    np.testing.assert_allclose(q[0].std(0)[1:], wide[1:], rtol=0.25)


def test_predicted_gradients_are_their_closed_forms():
    """ReLU: sigma_w^2 / 2 a layer; with batch norm pi / (pi - 1); and `network_profile`."""
    half = trainability_signal.theory_profile(Profile("relu", None, 0.0, 1.0), 5)
    np.testing.assert_allclose(half, 2.0 ** (-np.arange(5)[::-1] / 2), rtol=1e-9)
    normalized = trainability_signal.theory_profile(Profile("relu", "batch", 0.0, 1.0), 3)
    np.testing.assert_allclose(normalized[0], math.pi / (math.pi - 1), rtol=1e-6)
    tanh = trainability_signal.theory_profile(Profile("tanh", None, 0.05, 2.5), 12)
    profile = gf.theory.network_profile("tanh", 12, 1.0, weight_variance=2.5, bias_variance=0.05)
    np.testing.assert_allclose(tanh, profile.backward_rms, rtol=1e-9)


@pytest.mark.parametrize("profile", [Profile("relu", None, 0.0, 2.0), Profile("tanh", None, 0.05, 1.0)])
def test_fitted_rates_of_random_networks_follow_their_law(profile):
    """Networks in NumPy, one image, nine directions of the gradient."""
    depth, width, networks, rng = 20, 60, 400, np.random.default_rng(0)
    phi = {"relu": lambda z: np.maximum(z, 0), "tanh": np.tanh}[profile.activation]
    slope = {"relu": lambda z: (z > 0) * 1.0, "tanh": lambda z: 1 / np.cosh(z) ** 2}[profile.activation]
    scale = math.sqrt(profile.weight_variance / width)
    kernels = scale * rng.normal(size=(depth, networks, width, width))
    h, slopes = rng.normal(size=(networks, 1, width)), []
    h /= np.sqrt(np.mean(h**2, axis=-1, keepdims=True))
    for kernel in kernels:
        z = h @ kernel + math.sqrt(profile.bias_variance) * rng.normal(size=(networks, 1, width))
        slopes.append(slope(z))
        h = phi(z)
    gradient = rng.normal(size=(networks, trainability.bands.CLASSES - 1, width)) * slopes[-1]
    rms = [np.sqrt(np.mean(gradient**2, axis=(1, 2)))]
    for kernel, behind in zip(kernels[:0:-1], slopes[-2::-1], strict=True):
        gradient = gradient @ kernel.swapaxes(1, 2) * behind
        rms.append(np.sqrt(np.mean(gradient**2, axis=(1, 2))))
    logs = np.log(gradient_rate(np.stack(rms[::-1], 1), trainability_signal.SETTLED))
    mean, spread = trainability.bands.rate_law(profile, depth, width)
    assert logs.mean() == pytest.approx(mean, abs=0.5 / width)  # the law is to first order in 1 / n
    assert logs.std() == pytest.approx(spread, rel=0.2)


def test_depth_of_a_changed_gradient():
    """9 factors of 1/2 are the first beyond e^-6; at criticality nothing changes."""
    assert trainability_signal.gradient_depth(Profile("relu", None, 0.0, 1.0)) == 10
    assert trainability_signal.gradient_depth(Profile("relu", None, 0.0, 2.0), limit=50) == 50


def test_ordering_counts_pairs():
    relative, learnt = np.array([[0.5, 3.0], [1.0, 0.7]]), np.array([[True, False], [False, True]])
    assert trainability.ordering(relative, learnt) == 1
    assert trainability.ordering(relative, ~learnt) == 0
    assert math.isnan(trainability.ordering(relative, learnt | True))
    assert trainability.ordering(np.array([1.0, 2.0, 3.0]), np.array([True, False, True])) == 0.5


def test_the_parting_depth_has_the_fewest_networks_on_the_wrong_side():
    relative = np.array([[0.2, 0.5, 0.8], [1.25, 2.0, 4.0]])
    assert trainability.parting(relative, relative < 1) == pytest.approx(1.0)
    learnt = np.array([[True, True, False], [True, False, False]])  # one on the wrong side, wherever in the middle
    assert trainability.parting(relative, learnt) == pytest.approx(1.0)
    assert trainability.parting(relative, relative > 5) == pytest.approx(0.2)


def test_settings_that_cannot_be_run_are_refused():
    for changes, words in (
        ({"data": "fashion"}, "data set"),
        ({"remedies": ("Relu",)}, "ReLU"),
        ({"depths": (4, 2)}, "ascending"),
        ({"depths": (1, 4)}, "two layers"),
        ({"profile_depth": 10}, "for a fit"),
    ):
        with pytest.raises(ValueError, match=words):
            dataclasses.replace(TINY, **changes)
