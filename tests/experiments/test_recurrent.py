"""The parts of `recurrent` against plain loops and closed forms; its claims against results made false."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import exp1

import gradflow as gf
from experiments.recurrent import experiment as recurrent
from experiments.recurrent import tasks as recurrent_tasks
from experiments.recurrent import theory as recurrent_theory
from experiments.recurrent import training as recurrent_training
from experiments.recurrent.results import Results
from experiments.recurrent.training import BY_NAME, CHRONO, FORGETFUL, GRU, IRNN, LSTM, RNN, Problem, Setup
from gradflow.data.sequences import Adding, AddingOriginal, CopyMemory
from gradflow.models import cells
from tests.experiments.nested import made
from tests.experiments.spoiled import claims_that_stand

TINY = dataclasses.replace(
    recurrent.PRESETS["smoke"], steps=30, width=16, networks=1, hidden=8, updates=20, every=10, adding_lengths=(6,)
)  # fmt: skip
SETUP = Setup("adding", 6, 1, True, False, hidden=5, updates=4, every=2, clip=0.1)


@pytest.fixture(scope="module", autouse=True)
def _promotion():
    """Optax's Adam raises a float to an integer, which strict promotion forbids; a context would not reach threads."""
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    yield
    jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture(scope="module")
def results(_promotion):
    return recurrent.run(TINY)


def logistic(z):
    return 1 / (1 + np.exp(-z))


def last_hidden(cell, kernel, drives, nudge):
    """The cell as a loop in NumPy; `nudge` (steps, batch, hidden) is added to the state that is carried on."""
    n = kernel.shape[0]
    h = c = np.zeros((drives.shape[1], n))
    for drive, extra in zip(drives, nudge, strict=True):
        into = h @ kernel
        if cell == "rnn":
            h = np.tanh(drive + into) + extra
        elif cell == "gru":
            r, z = (logistic((drive + into)[:, k * n : (k + 1) * n]) for k in range(2))
            h = (1 - z) * np.tanh(drive[:, 2 * n :] + r * into[:, 2 * n :]) + z * h + extra
        else:
            i, f, g, o = ((drive + into)[:, k * n : (k + 1) * n] for k in range(4))
            c = logistic(f) * c + logistic(i) * np.tanh(g) + extra
            h = logistic(o) * np.tanh(c)
    return h


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_gradients_over_time_are_finite_differences(cell):
    hidden, steps, batch = 3, 4, 2
    rng = np.random.default_rng(0)
    width = hidden * len(cells.get(cell).gates)
    kernel, drives = rng.normal(size=(hidden, width)), rng.normal(size=(steps, batch, width))
    readout = rng.normal(size=(batch, hidden))
    small, slopes = 1e-6, np.zeros((steps, batch, hidden))
    for place in np.ndindex(slopes.shape):
        nudge = np.zeros_like(slopes)
        nudge[place] = small
        up, down = (last_hidden(cell, kernel, drives, sign * nudge) for sign in (1, -1))
        slopes[place] = np.sum(readout * (up - down)) / (2 * small)
    kernel, drives, readout = (jnp.asarray(x, jnp.float32) for x in (kernel, drives, readout))
    found = recurrent_theory.gradients(cells.get(cell), lambda _: kernel, drives, readout)
    np.testing.assert_allclose(found, np.sqrt((slopes**2).mean((1, 2))), rtol=1e-4)


def test_gradients_too_small_to_be_squared_are_kept():
    """A linear cell that halves the gradient 100 times: 8e-31, whose square is no float32."""
    kernel, drives = 0.5 * jnp.eye(2), jnp.zeros((101, 1, 2))
    found = recurrent_theory.gradients(cells.get(lambda z: z), lambda _: kernel, drives, jnp.ones((1, 2)))
    np.testing.assert_allclose(found[0], 0.5**100, rtol=1e-5)


def test_fresh_weights_differ_from_step_to_step_and_shared_ones_do_not():
    """With weights and inputs of a step only, h_2 depends on h_1 through the weights of step 2 alone."""
    draw = recurrent_theory.Draw(1.0, 0.0, 0.0, 1.0)
    key, linear = jax.random.key(0), cells.get(lambda z: z)
    fresh = recurrent_theory.random_gradients(linear, key, draw, 64, 3)
    shared = recurrent_theory.random_gradients(linear, key, draw._replace(fresh=0.0), 64, 3)
    kernel_key, _, readout_key = jax.random.split(key, 3)
    readout = jax.random.normal(readout_key, (recurrent_theory.BATCH, 64))

    def back(first, second):
        kernels = [jax.random.normal(jax.random.fold_in(kernel_key, step), (64, 64)) / 8 for step in (first, second)]
        return jnp.sqrt(jnp.mean(jnp.square(readout @ kernels[1].T @ kernels[0].T)))

    np.testing.assert_allclose(fresh[0], back(1, 2), rtol=1e-4)
    np.testing.assert_allclose(shared[0], back(0, 0), rtol=1e-4)


def test_fitted_rate_is_exact_on_a_geometric_profile():
    profiles = np.stack([np.sqrt(chi) ** np.arange(40)[::-1] for chi in (0.3, 1.0, 1.2)])
    np.testing.assert_allclose(recurrent_theory.fitted_rates(jnp.asarray(profiles, jnp.float32)), [0.3, 1.0, 1.2], 1e-4)


def test_chrono_keeps_what_the_closed_form_says():
    kept, spread = recurrent_theory.chrono_retention(100_000)
    assert kept**2 == pytest.approx(math.exp(-2) - 2 * exp1(2), rel=1e-3)
    fourth = math.exp(-4) - 4 * exp1(4)
    assert spread == pytest.approx(math.sqrt(1.8 * (fourth / kept**4 - 1)), rel=1e-3)
    assert kept == pytest.approx(0.194, abs=1e-3)


def test_retention_is_the_forget_gate_to_the_power_of_the_steps(results):
    np.testing.assert_allclose(results.theory.retention[:3, 0], [logistic(b) ** 30 for b in (0.0, 1.0, 2.0)], rtol=0.02)


def test_training_is_a_plain_loop_of_adam_with_clipping():
    source = gf.data.generate(Adding(6), 4)
    problem = Problem(source, Adding(6).sample(jax.random.key(9), 10))
    found = recurrent_training.measure([RNN], SETUP, problem, 3)
    model = recurrent_training.network(BY_NAME[RNN], SETUP)
    init_key, data_key = jax.random.split(jax.random.key(3))
    optimizer = optax.chain(optax.clip_by_global_norm(SETUP.clip), optax.adam(BY_NAME[RNN].rate))
    params = jax.jit(lambda key: gf.training.init(model, optimizer, key, problem.held_out.inputs[:2]).params)(init_key)
    state = optimizer.init(params)

    @jax.jit
    def value_and_grad(params, inputs, targets):
        return jax.value_and_grad(lambda p: jnp.mean(jnp.square(model.apply({"params": p}, inputs) - targets)))(params)

    losses = []
    for step in range(4):
        batch = source.batch(data_key, step)
        value, grads = value_and_grad(params, batch.inputs, batch.targets)
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        losses.append(float(value))
    np.testing.assert_allclose(found.loss[0], np.reshape(losses, (2, 2)).mean(1), rtol=1e-5)
    error = np.abs(model.apply({"params": params}, problem.held_out.inputs) - problem.held_out.targets)
    np.testing.assert_allclose(found.test_loss[0], np.mean(error**2), rtol=1e-4)
    assert found.accuracy[0] == np.float32((error < 0.04).mean())
    assert found.gradient.shape == (1, 3, 6)


def test_gradients_are_recorded_of_both_states_of_an_lstm(results):
    h, c = results.adding[6].gradient, results.adding[6].gradient_c
    assert h.shape == c.shape == (2, 3, 6)
    assert (h > 0).all()
    np.testing.assert_array_equal(h[0], c[0])
    assert (h[1] != c[1]).all()


def test_sequences_of_varying_length_are_evaluated_with_their_lengths():
    options = recurrent_tasks.Training(hidden=4, batch=3, updates=2, every=1, seed=0)
    found = recurrent_tasks.original(24, [RNN], options)
    assert found.gradient.shape == (1, 3, 26)
    assert found.baseline == AddingOriginal(24).baseline()
    assert found.loss.shape == (1, 2)


def test_images_are_read_row_by_row():
    options = recurrent_tasks.Training(hidden=4, batch=3, updates=2, every=1, seed=0)
    found = recurrent_tasks.images(gf.data.load("fashion_mnist_subset"), "rows", [RNN], options)
    assert found.gradient.shape == (1, 3, 28)
    assert 0 <= found.accuracy[0] <= 1


def test_figures_are_whole(results, tmp_path):
    figures = recurrent.figures.draw(results)
    assert set(figures) == {"initialization", "over_time", "heatmap", "tasks"}
    for name, figure in figures.items():
        figure.savefig(tmp_path / f"{name}.png", dpi=40)
        assert any(axes.get_xlabel() for axes in figure.axes), name
        assert any(axes.get_ylabel() for axes in figure.axes), name


@pytest.fixture
def good(results):
    """Results as a good run has them, also of tasks that `TINY` leaves out."""
    theory = results.theory
    back = np.arange(100)[::-1]
    open_end, closed = np.ones((1, 100)), (0.5**back)[None]
    before = np.concatenate([closed, np.where(back > 0, math.sqrt(0.5), 1)[None], closed, closed])
    gradient = np.stack([before, np.concatenate([closed, *[0.1 + 0.9 * open_end * (back == 0)] * 3])], 1)
    names, losses = ("arms", "loss", "baseline", "gradient_c", "accuracy"), np.ones(4)
    tasks = {
        "adding.100": (
            np.array([RNN, IRNN, GRU, FORGETFUL]), np.array([[1 / 6], [0.004], [0.001], [0.001]]) * losses, 1 / 6,
            gradient, np.zeros(4),
        ),
        "original.100": (
            np.array([RNN, CHRONO]), np.ones((2, 400)), 0.0377, np.ones((2, 1, 1)), np.array([0.1, 0.999]),
        ),
        "copy.20": (
            np.array([RNN, LSTM, CHRONO]), np.array([[1.0], [0.82], [0.8]]) * CopyMemory(20).baseline() * losses,
            CopyMemory(20).baseline(), np.ones((3, 1, 1)), np.zeros(3),
        ),
        "images.rows": (
            np.array([RNN, IRNN, GRU, LSTM]), np.ones((4, 4)), np.nan, np.ones((4, 1, 1)),
            np.array([0.7, 0.78, 0.8, 0.8]),
        ),
    }  # fmt: skip
    values = {f"{task}.{name}": value for task, row in tasks.items() for name, value in zip(names, row, strict=True)}
    radius = np.ones((3, len(recurrent_theory.RADII), 1)) * np.array([1.5, 1.05, 0.7])[:, None, None] ** back
    gated = theory.gated_theory[:, None, None] * np.array([1.188, 1.0])[:, None] * np.ones(2)
    values |= {
        "theory.retention": np.stack([theory.retention_theory, np.ones(4)], 1),
        "theory.retention_theory": theory.retention_theory,
        "theory.radius_gradient": radius,
        "theory.rnn_rate": 1.018 * np.repeat(theory.rnn_theory[:, None], 2, 1),
        "theory.rnn_theory": theory.rnn_theory,
        "theory.gated_rate": gated * 1.001,
        "theory.gated_theory": theory.gated_theory,
    }
    return made(Results, values | {"steps": 30, "width": 16, "hidden": 64, "batch": 50, "every": 100})


def test_every_claim_holds_on_a_good_run_and_can_fail(good):
    claims = recurrent.claims(good)
    assert [claim.id for claim in claims if not claim.holds] == []
    assert len({claim.id for claim in claims}) == len(claims) == 17
    assert claims_that_stand(recurrent.claims, good, theory=("theory.*_theory", "*.baseline")) == []


def test_laptop_sees_as_many_sequences_as_the_lstm_of_1997():
    laptop = recurrent.PRESETS["laptop"]
    assert laptop.original_lengths == (100,)
    assert 74_000 <= laptop.original_updates * laptop.batch < 76_000


def test_steps_of_orthogonal_recurrent_weights(results):
    """Linear units: exactly the radius a step. Tanh units, whose slope is at most 1: never more."""
    gradient = results.theory.radius_gradient.astype(np.float64)
    factors = gradient[..., :-1] / gradient[..., 1:] / np.array(recurrent_theory.RADII)[:, None]
    np.testing.assert_allclose(factors[0], 1, rtol=1e-4)
    assert factors[1:].max() < 1 + 1e-5


@pytest.mark.parametrize(
    "change, message",
    [
        ({"arms": ("Tanh RNN",)}, "Did you mean tanh RNN"),
        ({"readings": ("row",)}, "Did you mean rows"),
        ({"adding_lengths": (8, 6)}, "growing"),
        ({"adding_lengths": ()}, "at least one"),
        ({"copy_updates": 15}, "copy_updates must be a multiple of every=10, got 15"),
        ({"steps": 10}, "steps must be at least 30"),
    ],
)
def test_settings_that_cannot_be_run_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **change)


def test_arms_are_those_that_the_heads_of_figures_name():
    assert LSTM == "LSTM, forget bias 1"
    assert [BY_NAME[name].cell for name in recurrent.FEW] == ["rnn", "irnn", "gru", "lstm"]
