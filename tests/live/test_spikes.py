"""Spikes: robust scores against their definition, and what a post-mortem says of planted events."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow.live.record import layer_sizes
from gradflow.live.spikes import Detector, Points, robust_scores
from tests.live import problems
from tests.live.problems import Snapshots

LAYERS = ("a", "b", "c")


def run(gradients, losses, history=100, scale=1.0):
    detector, found = Detector(history), []
    for first in range(0, len(losses), 7):  # in pieces, as a run hands them over
        part = slice(first, first + 7)
        steps = np.arange(len(losses))[part]
        found += detector.feed(Points(steps, scale * losses[part], scale * gradients[part], LAYERS))
    return found + detector.finish()


def noise(steps=120, seed=0, spread=0.2):
    random = np.random.default_rng(seed)
    return np.exp(spread * random.normal(size=(steps, 3))), np.exp(0.05 * random.normal(size=steps))


def test_scores_are_robust_and_free_of_scale():
    random = np.random.default_rng(0)
    usual = np.exp(0.5 * random.normal(size=101))
    usual[:20] *= 1e6  # a fifth of outliers moves them little
    logs = np.log(usual)
    median = np.median(logs)
    want = (np.log(30.0) - median) / (1.4826 * np.median(np.abs(logs - median)))
    np.testing.assert_allclose(robust_scores(np.array([30.0]), usual), [want], rtol=1e-12)
    np.testing.assert_allclose(robust_scores(np.array([30e-6]), 1e-6 * usual), [want], rtol=1e-9)
    assert 2 < want < 10
    got = robust_scores(np.array([np.nan, np.inf, 0.0]), usual)
    np.testing.assert_array_equal(got, [np.inf, np.inf, -np.inf])
    np.testing.assert_allclose(robust_scores(np.array([2.0]), np.ones(30)), [np.log(2) / 0.1])
    np.testing.assert_array_equal(robust_scores(np.array([2.0, 0.0]), np.zeros(30)), [0.0, 0.0])


@pytest.mark.parametrize("seed", range(5))
def test_noise_and_slow_changes_are_no_event(seed):
    gradients, losses = noise(400, seed, 0.4)
    assert run(gradients, losses) == []
    decay = 0.97 ** np.arange(400)[:, None]
    assert run(gradients * decay, losses) == []
    shrinking = np.exp(-np.linspace(0, 5, 400))[:, None]
    assert run(gradients * shrinking, losses) == []


@pytest.mark.parametrize("scale", [1.0, 1e6, 1e-12])
def test_the_layer_that_moved_first_is_named_whatever_the_scale(scale):
    gradients, losses = noise()
    gradients[93:, 1] *= 30
    gradients[97:, :] *= 30
    losses[99:] *= 50
    (event,) = run(gradients, losses, scale=scale)
    assert event.kind == "spike"
    assert event.first_layers == ("b",)
    assert event.first_step == 93
    assert event.loss_step == 99
    assert event.sentence == (
        f"Step {event.step}: the gradient grew to {event.factor:.3g} times its usual size. "
        "Layer b moved first, 6 steps before the loss."
    )
    assert 5 < event.factor < 100


def test_a_poisoned_batch_moves_all_at_once():
    gradients, losses = noise()
    gradients[70] *= 40
    losses[70] *= 40
    (event,) = run(gradients, losses)
    assert event.step == event.first_step == event.loss_step == 70
    assert event.sentence.startswith("Step 70: the gradient grew to ")
    assert event.sentence.endswith("furthest) moved first, at the same step as the loss.")
    assert "All 3 layers (" in event.sentence


def test_a_loss_that_moves_first_is_said():
    gradients, losses = noise()
    losses[75:] *= 20
    gradients[80:] *= 40
    (event,) = run(gradients, losses)
    assert event.sentence.endswith(
        "The loss moved first, 5 steps before all 3 layers (" + event.first_layers[0] + " furthest)."
    )


def test_a_loss_that_never_moves_is_said():
    gradients, losses = noise()
    gradients[80:82, 0] *= 100
    (event,) = run(gradients, losses)
    assert event.sentence.endswith("Layer a moved first, at this step; the loss had not moved by step 90.")


def test_values_that_are_not_finite():
    gradients, losses = noise()
    gradients[85:90, 2] *= 1e3
    gradients[90:, 0] = np.nan
    losses[92:] = np.nan
    spike, broken = run(gradients, losses)
    assert spike.step == 85
    assert broken.step == 90
    assert broken.sentence == (
        "Step 90: the gradient of 1 of 3 layers was NaN or Inf. Layer a moved first, 2 steps before the loss."
    )


def test_a_gradient_that_becomes_zero():
    gradients, losses = noise()
    gradients[100:] = 0.0
    (event,) = run(gradients, losses)
    assert event.kind == "collapse"
    assert event.sentence.startswith("Step 100: the gradient became exactly 0. All 3 layers")


def test_before_anything_is_usual_only_what_is_not_finite_counts():
    gradients, losses = noise(12)
    gradients[5] *= 1e6
    assert run(gradients, losses) == []
    gradients[8, 1] = np.inf
    (event,) = run(gradients, losses)
    assert event.sentence == (
        "Step 8: the gradient of 1 of 3 layers was NaN or Inf. Layer b moved first, at this step; "
        "the loss had not moved by step 10."
    )


def test_going_back_to_a_checkpoint_is_no_event():
    detector = Detector(100)
    gradients, losses = noise(60)
    for first in (0, 30):
        part = slice(first, 60)
        assert detector.feed(Points(np.arange(60)[part], losses[part], gradients[part], LAYERS)) == []
    assert len(detector._steps) == 60


def test_a_run_that_goes_back_because_of_an_event_does_not_lose_it():
    detector = Detector(100)
    gradients, losses = noise(60)
    gradients[50, 1] *= 1e4
    assert detector.feed(Points(np.arange(52), losses[:52], gradients[:52], LAYERS)) == []  # what follows is waited for
    (event,) = detector.feed(Points(np.arange(40, 42), losses[:2], gradients[:2], LAYERS))
    assert (event.kind, event.step, event.first_layers) == ("spike", 50, ("b",))
    (again,) = detector.feed(Points(np.arange(42, 60), losses[42:], gradients[42:], LAYERS)) + detector.finish()
    assert (again.kind, again.step) == ("spike", 50)


def test_nan_everywhere_has_no_furthest_layer():
    detector = Detector(100)
    gradients, losses = np.full((3, 3), np.nan), np.full(3, np.nan)
    (event,) = detector.feed(Points(np.arange(3), losses, gradients, LAYERS))
    assert event.sentence == (
        "Step 0: the gradient of 3 of 3 layers was NaN or Inf. All 3 layers moved first, at the same step as the loss."
    )


@pytest.mark.parametrize("factor", [1.0, 1e6])
def test_a_watched_run_with_a_poisoned_batch(factor):
    """Linear, so that a batch a thousand times too large gives a loss and gradients far beyond."""

    def loss_fn(params, x):
        y = x @ params["first"]["kernel"] @ params["head"]["kernel"]
        return factor * jnp.mean(jnp.square(y))

    writer = Snapshots()
    names, widths = ("first", "head"), (5, 4, 2)
    watch = gf.watch(loss_fn, every=50, writers=[writer], statistics="weight_grad_norm", history=60)

    def train_step(step, params, x):
        value, grads, record = watch(step, params, x)
        keep = lambda p, g: p - 1e-9 * g / factor  # noqa: E731
        return jax.tree.map(keep, params, grads), value, record

    run_step, params = watch.jit(train_step), problems.parameters(0, widths, names)
    params = {name: {"kernel": layer["kernel"]} for name, layer in params.items()}
    with watch:
        for step in range(90):
            x = problems.batch(step) * (1e3 if step == 60 else 1.0)
            params, _, record = run_step(step, params, x)
            watch.write(record)
    (event,) = writer.postmortems
    assert watch.postmortems == (event,)
    assert event.step == 60
    assert event.layers == names
    assert event.sentence.endswith("moved first, at the same step as the loss.")
    figure = event.figure()
    assert "Step 60" in figure.get_suptitle()
    assert event.to_record()["first_step"] == 60


def test_without_history_recorded_steps_are_looked_at():
    writer = Snapshots()
    watch = gf.watch(lambda p, x: jnp.mean((x @ p["w"]) ** 2), 1, [writer], statistics="weight_grad_norm")
    record_of = jax.jit(lambda step, x: watch(step, {"w": jnp.ones((5, 2))}, x)[2])
    with watch:
        for step in range(40):
            watch.write(record_of(step, problems.batch(step) * (1e4 if step == 30 else 1.0)))
    (event,) = writer.postmortems
    assert event.step == 30
    assert event.layers == ("w",)


def test_sizes_of_gradients_are_means_over_the_kernels_of_a_layer():
    """Stacked or not, of many shapes and types, at both ends of the range."""
    random = np.random.default_rng(0)
    draw = lambda *shape: random.normal(size=shape).astype(np.float32)  # noqa: E731
    grads = {f"layer_{k}": {"kernel": draw(4, 5), "bias": draw(5)} for k in range(3)}
    grads |= {"large": {"kernel": draw(300, 300)}, "norm": {"scale": draw(5), "bias": draw(5)}}
    grads |= {
        "cell": {"kernel": draw(4, 5), "recurrent": draw(5, 5)},
        "half": {"kernel": draw(4, 5).astype(np.float16)},
    }
    grads |= {"tiny": {"kernel": 1e-30 * draw(4, 5)}, "huge": {"kernel": 1e37 * draw(4, 5)}}
    layers, sizes = layer_sizes(jax.tree.map(jnp.asarray, grads), ["params"], single=True)
    for name, size in zip(layers, np.asarray(sizes), strict=True):
        leaves = [x for x in grads[name].values() if x.ndim > 1] or list(grads[name].values())
        want = np.mean(np.abs(np.concatenate([x.astype(np.float64).ravel() for x in leaves])))
        np.testing.assert_allclose(size, want, rtol=1e-5, err_msg=name)
