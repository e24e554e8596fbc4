"""Parts of `isometry` against integration, plain loops and exact decompositions; its claims against false results."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.integrate import solve_ivp

import gradflow as gf
from experiments.isometry import bands
from experiments.isometry import cnn as isometry_cnn
from experiments.isometry import experiment as isometry
from experiments.isometry import linear as isometry_linear
from experiments.isometry import spectrum as isometry_spectrum
from experiments.isometry import training as isometry_training
from experiments.isometry.results import Results
from experiments.isometry.spectrum import NETWORKS, Network
from tests.experiments.nested import made
from tests.experiments.spoiled import claims_that_stand

TINY = dataclasses.replace(
    isometry.PRESETS["smoke"], linear_depths=(3, 6), linear_draws=2, linear_steps=30, saxe_steps=3000,
    spectrum_depths=(1, 2), spectrum_width=40, spectrum_draws=3, depths=(2, 5), width=16, steps=20, rates=(0.01, 0.1),
    cnn_depth=4, cnn_deepest=6, cnn_steps=10, cnn_rate=0.01,
)  # fmt: skip


@pytest.fixture(scope="module")
def results():
    return isometry.run(TINY)


def test_a_run_has_all_that_claims_and_figures_need(results):
    names = {claim.id for claim in isometry.claims(results)}
    assert names == {"saxe-course", "spectrum-moments", "spectrum-edges", "cnn-even", "cnn-signal"}
    assert set(isometry.figures.draw(results)) == {"learning", "spectra", "cnn"}
    assert results.linear.steps.shape == results.linear.loss.shape == (2, 2, 2)
    assert results.spectrum.values.shape == (6, 2, 3, 40)
    assert results.learning.loss.shape == (2, 2, 2, 20)
    assert results.cnn.loss.shape == (2, 10)
    assert results.cnn.forward.shape == results.cnn.backward.shape == results.cnn.theory.shape == (2, 6)


def test_the_closed_form_solves_saxes_equation():
    """The course of a mode, tau du/dt = 2 u (s - u): Saxe et al. 2014, eq. 7."""
    time = np.linspace(0, 4, 50)
    for strength, start in ((3.0, 0.01), (1.0, 0.2), (2.0, 2.5)):
        solved = solve_ivp(
            lambda _, u, s=strength: 2 * u * (s - u), (0, 4), [start], t_eval=time, rtol=1e-10, atol=1e-12
        ).y[0]
        np.testing.assert_allclose(isometry_linear.course(strength, start, time), solved, rtol=1e-6)


def test_gradient_descent_follows_saxe(results):
    error = np.abs(results.saxe.measured - results.saxe.theory).max()
    assert error in bands.saxe(isometry_linear.STRENGTHS, results.saxe.time)
    assert 0.001 < error < 0.01
    np.testing.assert_allclose(results.saxe.measured[0], isometry_linear.START, rtol=1e-4)


def test_linear_losses_are_those_of_a_plain_loop(monkeypatch):
    """One rate of each kind against gradients written out, and the same way to go at every depth."""
    monkeypatch.setattr(isometry_linear, "UNITS", 4)
    monkeypatch.setattr(isometry_linear, "RATES", np.array([0.05, 0.2, 100.0]))
    isometry_linear.losses.clear_cache()
    key, depth, steps = jax.random.key(3), 3, 8
    found = np.asarray(isometry_linear.losses(key, depth=depth, draws=2, steps=steps))
    assert found.shape == (2, 2, 3, steps)
    starts, target = isometry_linear._problem(jax.random.split(key, 2)[1], depth)
    wanted = np.asarray(target, np.float64)
    for kind in range(2):
        weights = [np.asarray(w, np.float64) for w in starts[kind]]
        for number in range(steps):
            error = weights[2] @ weights[1] @ weights[0] - wanted
            assert found[kind, 1, 1, number] == pytest.approx(0.5 * np.sum(error**2) / 4, rel=1e-4)
            gradients = [
                (weights[2] @ weights[1]).T @ error,
                weights[2].T @ error @ weights[0].T,
                error @ (weights[1] @ weights[0]).T,
            ]
            rate = 0.2 * 4 / depth / 4
            weights = [w - rate * g for w, g in zip(weights, gradients, strict=True)]
    limit = isometry_linear._TOO_LARGE * found[..., 2, 0]
    np.testing.assert_allclose(found[..., 2, -1], limit, rtol=1e-5)
    deeper = np.asarray(isometry_linear.losses(key, depth=9, draws=2, steps=1))
    np.testing.assert_allclose(deeper[0, ..., 0], found[0, ..., 0], rtol=1e-4)
    isometry_linear.losses.clear_cache()


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
def test_jacobians_are_those_of_networks(network: Network):
    """Weights have the variance and ensemble that they should; J is autodiff's; singular values are theory's."""
    width, at = 60, isometry_spectrum.point(network)
    settings = isometry_spectrum.settings(network, at)
    keys = jax.random.split(jax.random.key(1), 2)
    found = np.asarray(isometry_spectrum.jacobians(keys, settings, depths=(1, 3), width=width))
    assert found.shape == (2, 2, width, width)
    start_key, layers_key = jax.random.split(keys[1])
    x = settings.input_deviation * jax.random.normal(start_key, (width,))
    init = {"orthogonal": gf.initializers.orthogonal, "gaussian": gf.initializers.gaussian}[network.ensemble](1.0)

    def forward(x):
        for key in jax.random.split(layers_key, 3):
            weight_key, bias_key = jax.random.split(key)
            kernel = settings.deviation * init(weight_key, (width, width), jnp.float32)
            x = x @ kernel + settings.bias_deviation * jax.random.normal(bias_key, (width,))
            x = gf.activations.get(network.activation)(x)
        return x

    np.testing.assert_allclose(found[1, 1], jax.jacobian(forward)(x).T, atol=2e-5)


def test_critical_points_are_critical():
    for network in NETWORKS:
        at = isometry_spectrum.point(network)
        slope = float(gf.theory.moments(network.activation, at.q).slope_square)
        assert at.weight_variance * slope == pytest.approx(1, abs=1e-4)


def test_spectra_of_the_smallest_networks_are_known(results):
    """One layer: sigma_w times a semicircle's edge for Gaussian weights; orthogonal ones have nothing but 1."""
    names = list(results.spectrum.networks)
    linear = names.index("identity, gaussian")
    below = results.spectrum.largest[linear] / np.array([2, np.sqrt(27 / 4)])
    assert ((below > 0.88) & (below < 0.98)).all()  # a width of 40 is far from the edge
    np.testing.assert_allclose(results.spectrum.second[linear], [2, 3], rtol=1e-9)
    assert np.abs(results.spectrum.values[names.index("identity, orthogonal")] - 1).max() < 1e-5
    relu = results.spectrum.values[names.index("relu, orthogonal"), 0]
    assert np.mean(np.minimum(relu, np.abs(relu - np.sqrt(2))) < 1e-4) == 1
    for index, name in enumerate(names[1:], start=1):
        grid, density = results.spectrum.grid, results.spectrum.density[index, 1]
        above = grid > 0.5
        mass = np.trapezoid(density[above], grid[above])
        counted = np.mean(results.spectrum.values[index, 1] > 0.5)
        assert mass == pytest.approx(counted, abs=0.12), name


def test_both_kinds_train_on_one_stream_as_a_plain_loop():
    data = gf.data.load(TINY.data)
    x = jnp.asarray(data.normalize(data.train.images[:500]).reshape(500, -1))
    y = jnp.asarray(data.train.labels[:500])
    found = np.asarray(isometry_training.train(x, y, depth=2, width=8, steps=3, rates=(0.01, 0.3), seed=4))
    assert found.shape == (2, 2, 3)
    np.testing.assert_allclose(found[:, 0, 0], found[:, 1, 0], rtol=1e-6)
    assert (found[:, 0, 1:] != found[:, 1, 1:]).all()
    assert np.abs(found[0] - found[1]).min() > 1e-4


def test_smoothing_and_times_count_steps():
    loss = np.concatenate([np.full(10, 2.0), np.full(10, 1.0)])
    np.testing.assert_array_equal(isometry_training.smooth(np.append(loss, 9.0)), [2, 1])
    runs = np.stack([loss, loss[::-1], np.full(20, 2.3)])
    results = made(isometry_training.Learning, {"loss": np.stack([runs[[0, 2]], runs[[2, 2]], runs[[0, 1]]])[None]})
    np.testing.assert_array_equal(isometry_training.times(results), [[20, np.inf, 10]])


def test_patches_keep_pixels_together():
    images = np.random.default_rng(0).normal(size=(5, 8, 8, 1)) + 3
    found = isometry_cnn.patches(images)
    assert found.shape == (5, 2, 2, 16)
    centered = images - images.mean(0)
    wanted = centered / np.sqrt(np.mean(centered**2))
    np.testing.assert_allclose(found[1, 0, 1].reshape(4, 4), wanted[1, :4, 4:, 0], rtol=1e-4, atol=1e-6)


def test_pooled_patches_are_those_of_means_of_pixels():
    images = np.random.default_rng(1).normal(size=(3, 10, 21, 2))
    small = np.stack([[[x[1 + 2 * i : 3 + 2 * i, 2 + 2 * j : 4 + 2 * j].mean((0, 1)) for j in range(8)]
                       for i in range(4)] for x in images])  # fmt: skip
    np.testing.assert_allclose(isometry_cnn.patches(images, 2), isometry_cnn.patches(small), rtol=1e-4, atol=1e-6)


def test_scaled_inputs_start_where_the_signal_stays():
    best, scale = gf.theory.best_variances("tanh", 300), isometry_cnn.input_scale(300)
    assert best.weight_variance * scale**2 + best.bias_variance == pytest.approx(best.q_star, rel=1e-12)
    signal, gradient = isometry_cnn.predicted(math.sqrt(best.q_star), 300)
    np.testing.assert_allclose(signal, math.sqrt(best.q_star), rtol=1e-3)
    np.testing.assert_allclose(gradient, 1, rtol=1e-2)


@pytest.mark.parametrize("kernel", isometry_cnn.KERNELS)
def test_training_is_a_plain_loop_of_clipped_steps(kernel, monkeypatch):
    """Three steps with a velocity and a norm written out."""
    monkeypatch.setattr(isometry_cnn, "CLIPPED", 0.3)
    count = isometry_cnn.BATCH  # every batch holds all examples
    x, y = jax.random.normal(jax.random.key(0), (count, 2, 2, 5)), jnp.arange(count) % 10
    found = isometry_cnn.train(x, y, kernel, depth=4, channels=6, steps=3, rate=0.5, seed=2)
    model = isometry_cnn.network(kernel, 4, 6, False)
    params = gf.training.init(model, optax.identity(), jax.random.key(2), x[:1]).params

    def loss(params):
        logits = model.apply({"params": params}, x)
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(count), y])

    velocity, norms = jax.tree.map(jnp.zeros_like, params), []
    for number in range(3):
        value, gradient = jax.value_and_grad(loss)(params)
        assert found[number] == pytest.approx(float(value), rel=1e-4)
        norms.append(math.sqrt(sum(float(jnp.sum(g**2)) for g in jax.tree.leaves(gradient))))
        short = min(1.0, 0.3 / norms[-1])
        velocity = jax.tree.map(lambda v, g, short=short: 0.9 * v + short * g, velocity, gradient)
        params = jax.tree.map(lambda p, v: p - 0.5 * v, params, velocity)
    assert max(norms) > 0.3


def test_profiles_are_those_of_the_gradient():
    """Signal and gradient of a few convolutions against the network applied by hand, with offsets to differentiate."""
    x = jax.random.normal(jax.random.key(0), (4, 2, 2, 5))
    y = jnp.array([1, 2, 3, 4])
    found = isometry_cnn.profile(x, y, "delta_orthogonal", 4, 6, 0)
    params = isometry_cnn.network("delta_orthogonal", 4, 6, False).init(jax.random.key(0), x)["params"]

    def conv(x, kernel):
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="wrap")
        return sum(padded[:, i : i + 2, j : j + 2] @ kernel[i, j] for i in range(3) for j in range(3))

    def loss(offsets):
        h, seen = x, []
        layers = [params["Conv_0"], *(jax.tree.map(lambda w, i=i: w[i], params["Hidden"]["Conv"]) for i in range(3))]
        for layer, offset in zip(layers, offsets, strict=True):
            z = conv(h, layer["kernel"]) + offset
            seen.append(jnp.sqrt(jnp.mean(z**2)))
            h = jnp.tanh(z + layer["bias"])
        head = params["Dense_head"]
        logits = h.mean((1, 2)) @ head["kernel"] + head["bias"]
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(4), y]), seen

    gradients, seen = jax.grad(loss, has_aux=True)([jnp.zeros((4, 2, 2, 6))] * 4)
    np.testing.assert_allclose(found["forward"], seen, rtol=1e-4)
    # The instrument's gradient is that of each example's own loss, not of the mean over examples.
    ratios = found["backward"] / np.array([jnp.sqrt(jnp.mean(g**2)) for g in gradients])
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-4)


def test_predicted_profile_starts_where_it_is_told_and_falls_to_zero():
    signal, gradient = isometry_cnn.predicted(0.7, 50)
    assert signal[0] == pytest.approx(0.7, rel=1e-6)
    assert (np.diff(signal) < 0).all()
    assert gradient[-1] == 1
    best = gf.theory.best_variances("tanh", 50)
    q = np.float64(signal[0] ** 2)
    following = gf.theory.variance_map("tanh", q, best.weight_variance, best.bias_variance)
    assert signal[1] ** 2 == pytest.approx(float(following), rel=1e-9)


def test_the_largest_singular_value_lies_below_the_edge_as_tracy_and_widom_say():
    """A square Gaussian matrix: the density is a quarter of a circle of radius 2."""
    width, random = 50, np.random.default_rng(0)
    largest = np.linalg.norm(random.normal(size=(400, width, width)) / np.sqrt(width), ord=2, axis=(1, 2))
    density = np.sqrt(4 - 1.99**2) / np.pi
    expected = isometry_spectrum.tracy_widom(2.0, 1.99, density, width)
    assert largest.mean() == pytest.approx(expected, abs=3 * largest.std() / np.sqrt(400) + 1 / width)
    assert 2 - largest.mean() > 3 / width


def test_a_finite_width_shifts_the_second_moment_of_linear_networks_by_half_of_what_is_allowed():
    width, depth, draws = 12, 3, 4000
    product = np.eye(width)
    random = np.random.default_rng(0)
    for _ in range(depth):
        product = random.normal(size=(draws, width, width)) / np.sqrt(width) @ product
    squares = product @ product.swapaxes(1, 2)
    a, b = np.trace(squares @ squares, axis1=1, axis2=2) / width, (np.trace(squares, axis1=1, axis2=2) / width) ** 2
    recursion = np.linalg.matrix_power(np.array([[1 + 1 / width, 1], [2 / width**2, 1]]), depth) @ np.ones(2)
    np.testing.assert_allclose([a.mean(), b.mean()], recursion, rtol=0.05)
    allowed = bands.allowance(1 + 1e-12 * np.arange(5), "identity", depth, width, 1)
    assert np.log(recursion[0] / recursion[1] / (depth + 1)) < allowed == pytest.approx(depth / width)


def test_a_random_walk_ranges_as_seldom_beyond_the_band_as_it_should():
    walks = np.cumsum(np.random.default_rng(0).normal(size=(4000, 400)), axis=1) / 20
    ranges = np.maximum(walks.max(1), 0) - np.minimum(walks.min(1), 0)
    assert np.mean(ranges > bands.even_gradient().high) == pytest.approx(0.0027, abs=0.002)


def good() -> Results:
    """Results in which every claim holds, as a full run gives them."""
    count, moments = len(NETWORKS), np.array([1.0, 11, 1.4, 11.4, 11, 21])
    # Squared singular values 1 +- sqrt(m - 1), weighted so that none is negative: two-point laws of the right moments.
    values = np.ones((count, 1, 3, 1000))
    for index, moment in enumerate(moments):
        if moment > 1:
            values[index, 0] = np.where(np.arange(1000) < round(1000 / moment), np.sqrt(moment), 0)
    squares = np.mean(values**2, (2, 3))
    steps = np.maximum(2.3 - 0.03 * np.arange(200), 0.5)
    slow = np.maximum(2.3 - 0.004 * np.arange(200), 0.5 / 0.6 + 0.2)
    time = isometry_linear.RATE * np.arange(0, 3000, 10)
    course = np.stack([isometry_linear.course(s, isometry_linear.START, time) for s in isometry_linear.STRENGTHS], 1)
    return made(
        Results,
        {
            "saxe.time": time,
            "saxe.theory": course,
            "saxe.measured": course - bands.saxe(isometry_linear.STRENGTHS, time).expected,
            "linear.depths": np.array([3, 10, 100]),
            "linear.steps": np.array([[[7.0], [15], [20]], [[13], [30], [99]]]),
            "linear.loss": np.array([[[0.0], [0], [0]], [[0.0], [0.2], [0.8]]]),
            "spectrum.depths": np.array([10]),
            "spectrum.networks": np.array([network.name for network in NETWORKS]),
            "spectrum.values": values,
            "spectrum.second": np.mean(values**4, (2, 3)) / squares**2,
            "spectrum.largest": values.max((2, 3)) / np.sqrt(squares),
            "learning.depths": np.array([25, 100, 200]),
            "learning.loss": np.stack([np.stack([steps, slow])] * 3)[:, :, None],
            "cnn.depth": 1000,
            "cnn.loss": np.stack([np.linspace(2.3, 2.0, 100), np.full(100, 2.31)]),
            "cnn.forward": np.ones((2, 10_000)),
            "cnn.theory": np.ones((2, 10_000)),
            "cnn.spread": np.full(10_000, 0.5),
            "cnn.signal_shift": 0.0,
            "cnn.signal_spread": 0.015,
            "cnn.backward": np.stack([np.linspace(1, 3, 10_000), np.geomspace(1, 1000, 10_000)]),
        },
    )


def test_every_claim_holds_on_good_results_and_fails_on_some_spoiled_ones():
    claims = isometry.claims(good())
    assert [claim.id for claim in claims if not claim.holds] == []
    assert len(claims) == 13
    given = ("*.theory", "*.depths", "*.second", "*.largest", "*.spread", "*.signal_*", "cnn.depth", "saxe.time")
    assert claims_that_stand(isometry.claims, good(), theory=given) == []


@pytest.mark.parametrize(
    "options, words",
    [({"depths": (30, 22)}, "growing"), ({"steps": 7}, "at least 10"), ({"cnn_steps": 3}, "at least 10"),
     ({"cnn_deepest": 1}, "from 2 on")],
)  # fmt: skip
def test_settings_that_cannot_be_run_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(TINY, **options)


def test_signal_of_narrow_orthogonal_networks_settles_above_the_mean_field():
    rng = np.random.default_rng(0)
    channels, networks = 16, 200
    best = gf.theory.best_variances("tanh", 10_000)
    sigma_w, sigma_b = best.weight_variance**0.5, best.bias_variance**0.5
    q = float(gf.theory.fixed_point(
        "tanh", weight_variance=best.weight_variance, bias_variance=best.bias_variance
    ).q_star)  # fmt: skip
    rotations = np.linalg.qr(rng.standard_normal((500, channels, channels)))[0]
    h = q**0.5 * rng.standard_normal((networks, channels))
    for _ in range(1500):
        turned = np.einsum("bij,bj->bi", rotations[rng.integers(0, 500, networks)], np.tanh(h))
        h = sigma_w * turned + sigma_b * rng.standard_normal((networks, channels))
    logs = np.log(np.mean(h**2, axis=1) / q) / 2
    expected = isometry_cnn.spreads(10_000, channels)
    assert logs.mean() == pytest.approx(expected["signal_shift"], abs=4 * logs.std() / networks**0.5 + 0.1 / channels)
    assert logs.std() == pytest.approx(expected["signal_spread"], rel=0.3)
