"""Parts of `clipping` against finite differences, hand computation and Hessians; its claims against false results."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from experiments.clipping import experiment as clipping
from experiments.clipping import figures as clipping_figures
from experiments.clipping import order, smoothness, surface
from gradflow.data.sequences import TemporalOrder
from tests.experiments.nested import replaced
from tests.experiments.spoiled import claims_that_stand

SMOKE = clipping.PRESETS["smoke"]


@pytest.fixture(scope="module")
def results():
    return clipping.run(SMOKE)


def test_the_smoke_preset_holds_and_fills_every_figure(results, tmp_path):
    assert [claim.id for claim in clipping.claims(results) if not claim.holds] == []
    assert results.path.places.shape == (2, SMOKE.path_steps, SMOKE.starts, 2)
    assert results.long.before.shape == results.long.after.shape == (4, SMOKE.runs, 10)
    assert results.smooth.local.shape == results.smooth.gradient.shape == (1, 20)
    drawn = clipping.figures.draw(results)
    assert set(drawn) == {"surface", "norms", "temporal_order", "smoothness"}
    for name, figure in drawn.items():
        figure.savefig(tmp_path / f"{name}.png", dpi=40)
        assert any(axes.get_xlabel() for axes in figure.axes), name


def unit_error(weight, bias):
    """The same unit in float64, step by step."""
    x = surface.STATE
    for _ in range(surface.TIME):
        x = weight / (1 + np.exp(-x)) + bias
    return (1 / (1 + np.exp(-x)) - surface.TARGET) ** 2


def test_surface_and_its_gradient_are_those_of_a_plain_loop(results):
    step, places = 1e-6, [(3.2, -1.4), (4.5, -2.3), (5.5, -2.1), (6.0, -3.8), (4.0, -2.1)]
    found = surface.surface(*(jnp.asarray(column, jnp.float32) for column in zip(*places, strict=True)))
    for index, (w, b) in enumerate(places):
        w, b = np.float64(np.float32(w)), np.float64(np.float32(b))
        by_weight = (unit_error(w + step, b) - unit_error(w - step, b)) / (2 * step)
        by_bias = (unit_error(w, b + step) - unit_error(w, b - step)) / (2 * step)
        assert found.error[index] == pytest.approx(unit_error(w, b), rel=1e-3)
        assert found.by_weight[index] == pytest.approx(by_weight, rel=2e-3)
        assert found.by_bias[index] == pytest.approx(by_bias, rel=2e-3)
        assert found.gradient_norm[index] == pytest.approx(np.hypot(by_weight, by_bias), rel=2e-3)
    w, b = results.surface.weights[130], results.surface.biases[700]
    assert results.surface.error[130, 700] == pytest.approx(unit_error(w, b), rel=1e-3)


def test_descent_is_algorithm_1(results):
    """Each step of the first paths from the place and the gradient before it."""
    for run, limit in ((0, np.inf), (1, surface.LIMIT)):
        places = results.path.places[run, :60, 0]
        np.testing.assert_allclose(places[0], surface.START)
        at = surface.surface(*jnp.asarray(places.T))
        gradient = np.stack([at.by_weight, at.by_bias], -1)
        norm = np.linalg.norm(gradient, axis=1)
        np.testing.assert_allclose(results.path.gradient[run, :60, 0], norm, rtol=0.02)
        wanted = -surface.RATE * gradient * np.minimum(1, limit / norm)[:, None]
        taken = np.diff(places, axis=0)
        # At the cliff the gradient changes by 1e-3 of itself within the rounding of w and b.
        np.testing.assert_allclose(taken, wanted[:-1], rtol=0.02, atol=1e-5)


def test_x_to_the_fourth_by_hand():
    """40 steps written out: clipped by 1 the way is .01 a step; plain the first step already leaves."""
    xs, first = surface.quartic(jnp.asarray([1e30, 1.0, 1.0]), jnp.asarray([0.01, 0.01, 0.5]), steps=40)
    assert xs[1, 0] == pytest.approx(10 - 0.01 * 4 * 1000)
    assert xs[2, 0] == pytest.approx(-30 + 0.01 * 4 * 27000)
    np.testing.assert_allclose(xs[:, 1], 10 - 0.01 * np.arange(40), rtol=1e-5)
    x, passed = 10.0, []
    for _ in range(40):
        passed.append(x)
        x -= 0.5 * min(1.0, 1 / abs(4 * x**3)) * 4 * x**3
    np.testing.assert_allclose(xs[:, 2], passed, rtol=1e-4, atol=1e-5)
    small = np.abs(4 * np.array(passed) ** 3) < surface.QUARTIC_SMALL
    assert list(first) == [40, 40, int(np.argmax(small)) if small.any() else 40]


def test_clipped_descent_on_x_to_the_fourth_takes_the_steps_of_a_loop_in_float64(results):
    """And plain descent at the largest safe rate takes as many more as gradient flow says."""
    x, steps = 10.0, 0
    while 4 * x**3 >= surface.QUARTIC_SMALL:
        x -= 0.01 * min(1.0, 1 / (4 * x**3)) * 4 * x**3
        steps += 1
    lost, safe, clipped = results.quartic.first
    assert clipped == pytest.approx(steps, abs=5)
    assert lost == surface.QUARTIC_STEPS
    end, edge = ((gradient / 4) ** (1 / 3) for gradient in (1e-3, 1.0))
    flow = [(10.0 - edge) + (end**-2 - edge**-2) / 8, (end**-2 - 10.0**-2) / 8 * 1200 * 0.01]
    assert safe / clipped == pytest.approx(flow[1] / flow[0], rel=0.01)


def test_a_lost_run_stays_finite():
    xs, first = surface.quartic(jnp.asarray([1e30]), jnp.asarray([0.01]), steps=20)
    assert np.isfinite(xs).all()
    assert xs[-1] == xs[-2]
    assert abs(float(xs[-1, 0])) > 1e9
    assert first[0] == 20


def test_temporal_order_counts_wrong_classes():
    """The part of sequences that a network puts into a wrong class, and less than 1 % of it is success."""
    arm, task, key = order.Arm(0.1, 1.0, 0.0, 1.0, 1e30, 1e30), TemporalOrder(10), jax.random.key(0)
    network = order.model(arm, task.outputs)
    params = jax.jit(network.init)(key, jnp.zeros((1, 2, task.features)))["params"]
    biased = params | {"Dense_head": {"kernel": jnp.zeros((50, 4)), "bias": jnp.asarray([0.0, 0.0, 1.0, 0.0])}}
    found = jax.jit(lambda params: order.test_error(task, arm, params, key))(biased)
    sample = jax.jit(task.sample, static_argnums=1)
    targets = np.concatenate([sample(each, order.TESTED // 20).targets for each in jax.random.split(key, 20)])
    assert len(targets) == 10_000
    assert found == pytest.approx(np.mean(targets != 2), abs=1e-6)
    assert order.SOLVED == 0.01


@jax.jit
def clipped_step(arm, gradient, params):
    chain = order.optimizer(arm)
    return chain.update(gradient, chain.init(params), params)


def test_arms_are_the_networks_and_limits_that_they_are_called():
    arms = order.stacked([("sigmoid", "none"), ("tanh", "value"), ("smart tanh", "norm")])
    sigmoid, tanh, smart = (jax.tree.map(lambda number, i=i: number[i], arms) for i in range(3))
    x = jnp.linspace(-3, 3, 7)
    np.testing.assert_allclose(order.model(sigmoid, 4).cell(x), jax.nn.sigmoid(x), rtol=1e-5)
    np.testing.assert_allclose(order.model(tanh, 4).cell(x), jnp.tanh(x), rtol=1e-6)
    kernel = np.asarray(jax.jit(lambda key: order.recurrent(smart)(key, (50, 50)))(jax.random.key(0)))
    assert np.abs(np.linalg.eigvals(kernel)).max() == pytest.approx(0.95, rel=1e-4)
    assert ((kernel != 0).sum(0) == 15).all()
    dense = order.recurrent(sigmoid)(jax.random.key(0), (200, 200))
    assert dense.std() == pytest.approx(0.01, rel=0.02)
    gradient = {"w": jnp.asarray([[3.0, -4.0], [0.0, 0.02]]), "b": jnp.asarray([0.0, 0.05])}
    params = {"w": jnp.eye(2), "b": jnp.ones(2)}
    for arm, after in (
        (sigmoid, gradient["w"]),
        (tanh, jnp.clip(gradient["w"], -0.1, 0.1)),
        (smart, gradient["w"] / np.sqrt(25 + 0.02**2 + 0.05**2)),
    ):
        updates, state = clipped_step(arm, gradient, params)
        np.testing.assert_allclose(updates["w"], -order.RATE * after, rtol=1e-5)
        assert state[0].norm == pytest.approx(np.sqrt(25 + 0.02**2 + 0.05**2), rel=1e-6)


def test_local_smoothness_is_that_of_the_hessian():
    """On a quadratic exactly |H d| / |d|; on a small step of a real loss as well."""
    hessian = np.diag([1.0, 5.0, 30.0]).astype(np.float32)
    before, after = jnp.asarray([1.0, -1.0, 2.0]), jnp.asarray([0.9, -1.3, 2.2])
    d = np.asarray(after - before)
    found = smoothness.local_smoothness(lambda x: hessian @ x, before, after)
    assert found == pytest.approx(np.linalg.norm(hessian @ d) / np.linalg.norm(d), rel=1e-4)

    def loss(x):
        return jnp.sum(jnp.tanh(x) ** 2) + jnp.prod(x)

    small = before + 0.02 * jnp.asarray([1.0, 2.0, -1.0])
    exact = jax.jit(jax.hessian(loss))(before) @ (small - before)
    found = jax.jit(lambda *ends: smoothness.local_smoothness(jax.grad(loss), *ends))(before, small)
    assert found == pytest.approx(float(jnp.linalg.norm(exact) / jnp.linalg.norm(small - before)), rel=0.05)


def test_x_to_the_fourth_is_smooth_relative_to_its_gradient():
    """On x^4 between two places: the largest of five quotients, never above 16 + |f'|."""
    for start, end in ((10.0, 9.0), (2.0, 1.99), (0.5, -0.4)):
        before, after = jnp.asarray([start]), jnp.asarray([end])
        found = float(smoothness.local_smoothness(lambda x: 4 * x**3, before, after))
        on_the_way = start + (end - start) * np.arange(1, 6) / 5
        quotients = 4 * (on_the_way**3 - start**3) / (on_the_way - start)
        assert found == pytest.approx(quotients.max(), rel=2e-3)
        assert found <= (16 + 4 * max(abs(start), abs(end)) ** 3) * 1.001


def test_fits_are_exact_on_exact_data():
    back = np.arange(200)[::-1]
    profiles = np.stack([radius**back for radius in (0.8, 1.05)])
    np.testing.assert_allclose(smoothness.fitted_rates(profiles), [0.8, 1.05], rtol=1e-9)
    radii = np.array([0.8, 0.9, 1.2])
    assert smoothness.critical_radius(radii, radii / 1.1) == pytest.approx(1.1)
    assert np.isnan(smoothness.critical_radius(radii, radii / 2))
    assert np.isnan(smoothness.critical_radius(radii, radii[::-1]))
    gradient = np.geomspace(0.1, 10, 30)
    assert smoothness.fitted_power(gradient, 3 * gradient**1.5) == pytest.approx((1.5, 1.0))


def test_gradients_over_time_are_those_of_autodiff(results):
    """RMS of dL/dh_t of the instrument against derivatives with respect to something added to each state."""
    found = results.radius.gradient[1, smoothness.RADII.index(0.95)]
    assert found.shape == (smoothness.RADIUS_STEPS,)
    assert found[-1] == 1
    init_key, data_key = jax.random.split(jax.random.split(jax.random.key(SMOKE.seed), SMOKE.smooth_runs)[0])
    task = TemporalOrder(smoothness.RADIUS_STEPS)
    sparse = gf.initializers.smart_tanh(spectral_radius=0.95)
    network = gf.models.Recurrent(jnp.tanh, smoothness.RADIUS_HIDDEN, 4, recurrent_initializer=sparse)
    batch = task.sample(data_key, order.BATCH)
    params = jax.jit(network.init)(init_key, batch.inputs[:1, :2])["params"]
    layer, head = params["Layer_0"], params["Dense_head"]

    def loss(added):
        def step(h, given):
            x, offset = given
            z = x @ layer["input"]["kernel"] + layer["input"]["bias"] + h @ layer["recurrent"]["kernel"]
            return jnp.tanh(z) + offset, None

        h, _ = jax.lax.scan(step, jnp.zeros((order.BATCH, 50)), (jnp.swapaxes(batch.inputs, 0, 1), added))
        logits = h @ head["kernel"] + head["bias"]
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(order.BATCH), batch.targets])

    gradient = jax.jit(jax.grad(loss))(jnp.zeros((smoothness.RADIUS_STEPS, order.BATCH, 50)))
    wanted = jnp.sqrt(jnp.mean(gradient**2, (1, 2)))
    np.testing.assert_allclose(found, wanted / wanted[-1], rtol=1e-3)


def test_the_mesh_of_the_cliff_has_the_surface_on_it(results):
    w, b, error = clipping_figures.along_the_cliff(results)
    assert w.shape == b.shape == error.shape
    for row, column in ((0, 0), (60, 100), (150, 200), (200, -1)):
        i = np.argmin(np.abs(results.surface.weights - w[row, column]))
        j = np.argmin(np.abs(results.surface.biases - b[row, column]))
        assert error[row, column] == results.surface.error[i, j]
    assert b.min() == -4
    assert b.max() == 0


def full(results):
    """Results in which every claim holds, as a full run gives them, from those of the smoke preset."""
    x, noise = np.random.default_rng(0).normal(size=(2, 1, 2000)) * np.array([1.4, 1.14])[:, None, None]
    errors = {"sigmoid": (0.75, 0.75, 0.75), "tanh": (0.0, 0.2, 0.7), "smart tanh": (0.0, 0.0, 0.1)}
    return replaced(
        results,
        {
            "smooth.gradient": np.exp(x),
            "smooth.local": np.exp(1.5 * x + noise),
            "by_length.lengths": np.array([10, 20, 30]),
            "by_length.updates": 3000,
            "by_length.error": np.stack(
                [np.stack([np.full(5, errors[init][i]) for init, _ in order.ARMS]) for i in range(3)]
            ),
            "long.length": 50,
            "long.every": 100,
            "long.error": np.array([[0.75] * 5, [0.0, 0.0, 0.1, 0.1, 0.5], [0.2] * 5, [0.3] * 5]),
            "long.loss": np.ones((4, 5, 300)),
            "long.before": np.full((4, 5, 300), 50.0),
            "long.after": np.full((4, 5, 300), 1.0),
        },
    )


def test_every_claim_holds_on_a_full_run_and_can_fail(results):
    good = full(results)
    claims = clipping.claims(good)
    assert [claim.id for claim in claims if not claim.holds] == []
    assert len(claims) == 17
    assert claims_that_stand(clipping.claims, good) == []
    assert set(clipping.figures.draw(good)) == {"surface", "norms", "temporal_order", "smoothness"}


@pytest.mark.parametrize(
    "options, words",
    [({"lengths": (20, 10)}, "growing"), ({"long_length": 9}, "from 10 on"), ({"long_updates": 105}, "multiple"),
     ({"smooth_updates": 0}, "multiple"), ({"grid": 1}, "grid must be at least 2"), ({"runs": 0}, "at least 1")],
)  # fmt: skip
def test_settings_that_cannot_be_run_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(SMOKE, **options)
