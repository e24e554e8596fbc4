"""The experiment at a size of seconds: what it measures against plain loops, its settings, its bytes."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradflow as gf
from experiments.framework import storage
from experiments.framework.images import rows
from experiments.framework.runner import main
from experiments.vanishing import bands
from experiments.vanishing import experiment as vanishing
from experiments.vanishing import tanh as vanishing_tanh
from experiments.vanishing import training as vanishing_training
from experiments.vanishing.arms import ARMS, BY_NAME, SICK
from experiments.vanishing.results import Results
from experiments.vanishing.theory import predict
from tests.experiments.nested import made
from tests.experiments.spoiled import claims_that_stand

TINY = vanishing.Config(
    arms=("ReLU + He", "batch norm"), depth=3, width=8, batch=4, steps=4, record_every=2,
    tanh_depth=4, tanh_width=8, tanh_seeds=2, seed=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def data():
    whole = gf.data.load()
    few = {name: gf.data.Split(split.images[:40], split.labels[:40]) for name, split in
           (("train", whole.train), ("test", whole.test))}  # fmt: skip
    return dataclasses.replace(whole, **few)


@pytest.fixture(scope="module")
def results():
    return vanishing.run(TINY)


def test_results_have_one_row_an_arm_a_record_and_a_layer(results):
    assert results.arms.tolist() == [SICK.name, "ReLU + He", "batch norm"]
    assert results.training.steps.tolist() == [0, 2, 4]
    for key in ("gradient", "forward", "dead", "saturated"):
        assert getattr(results.training, key).shape == (3, 3, 3), key
    assert results.training.movement.shape == (3, 3, 4)
    for key in ("loss", "train_accuracy", "test_accuracy"):
        assert getattr(results.training, key).shape == (3, 3)
    assert (results.training.movement[:, 0] == 0).all()
    assert (results.training.movement[1, 2] > results.training.movement[1, 1]).all()
    measured = [array for array in storage.flat(results).values() if array.dtype.kind == "f"]
    assert all(np.isfinite(array).all() for array in measured)


def test_training_is_a_plain_loop_of_gradient_descent(data):
    """The same network trained step by step outside of any compiled program."""
    arm, setup = BY_NAME["ReLU + He"], TINY.setup
    train, test = (rows(data, split) for split in (data.train, data.test))
    recorded = vanishing_training.train_arm(arm, setup, train, test)

    init_key, order_key = jax.random.split(jax.random.key(setup.seed))
    model = vanishing_training.network(arm, setup)
    params = start = model.init(init_key, train.x[:2])["params"]

    def loss(params, x, y):
        return optax.softmax_cross_entropy_with_integer_labels(model.apply({"params": params}, x), y).mean()

    for step in range(setup.steps):
        chosen = jax.random.randint(jax.random.fold_in(order_key, step), (setup.batch,), 0, 40)
        grads = jax.grad(loss)(params, train.x[chosen], train.y[chosen])
        params = jax.tree.map(lambda p, g: p - setup.learning_rate * g, params, grads)

    movement = [
        np.linalg.norm(params[f"Dense_{k}"]["kernel"] - start[f"Dense_{k}"]["kernel"])
        / np.linalg.norm(start[f"Dense_{k}"]["kernel"])
        for k in range(4)
    ]
    np.testing.assert_allclose(recorded["movement"][-1], movement, rtol=1e-4)
    assert recorded["loss"][-1] == pytest.approx(float(loss(params, train.x, train.y)), rel=1e-5)
    for split, images in (("train", train), ("test", test)):
        right = np.argmax(model.apply({"params": params}, images.x), -1) == images.y
        assert recorded[f"{split}_accuracy"][-1] == pytest.approx(right.mean())


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.name)
def test_predicted_profile_is_that_of_a_wide_network(arm):
    """Gaussian inputs through a wide random network, the loss a random readout of its logits."""
    depth, width, pixels = 4, 500, 300
    images = jax.random.normal(jax.random.key(0), (128, pixels))
    model = vanishing_training.network(arm, TINY.setup._replace(depth=depth, width=width))
    variables = model.init(jax.random.key(1), images)
    readout = jax.random.normal(jax.random.key(2), (128, 10))

    def loss(params):
        logits, _ = model.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
        return jnp.sum(logits * readout)

    _, _, flow = gf.value_grad_and_flow(loss, statistics=("output_grad_rms",))(variables["params"])
    measured = np.array([flow[layer].output_grad_rms for layer in flow.layers[:-1]])
    predicted = predict(arm, depth, width, pixels, pixel_variance=1.0).profile
    assert predicted[-1] == 1
    np.testing.assert_allclose(measured / measured[-1], predicted, rtol=0.15)


def test_batch_norm_with_skips_grows_like_a_power_of_depth():
    """E[phi'^2] / Var[phi] of ReLU is pi / (pi - 1) (Yang et al. 2019)."""
    arm, rate = BY_NAME["all together"], math.pi / (math.pi - 1)
    profile = predict(arm, 50, 100, 784, 1.0).profile ** 2
    for layer in (
        2,
        10,
        40,
    ):  # layers count from 1; batch norm divides z_(l + 1) by the variance of l branches
        expected = (1 + rate / layer) * layer / (layer - 1)
        assert profile[layer - 1] / profile[layer] == pytest.approx(expected, rel=1e-3)


def test_tanh_networks_start_at_their_fixed_point(data):
    result = vanishing_tanh.measure(data, depth=12, width=300, seeds=2, seed=0)
    assert result.gradient.shape == (5, 2, 11)
    np.testing.assert_allclose(result.theory, [0.759, 0.880, 1.000, 1.134, 1.342], atol=6e-4)
    np.testing.assert_allclose(result.rate.mean(1), result.theory, rtol=0.1)


def test_residual_networks_stray_as_derived():
    """Sigmoids with skips in plain NumPy, a random cotangent at the top: 1,000 networks 40 wide."""
    depth, width, random = 6, 40, np.random.default_rng(0)
    logs = []
    for _ in range(1000):
        kernels = random.normal(size=(depth, width, width)) * math.sqrt(SICK.weight_variance / width)
        x, slopes = random.choice([-1.0, 1.0], width), []
        for layer, kernel in enumerate(kernels):
            branch = 1 / (1 + np.exp(-x @ kernel))
            slopes.append(branch * (1 - branch))
            x = branch + (x if layer else 0)
        g = random.normal(size=width)
        at_top = np.sum((g * slopes[-1]) ** 2)
        for layer in range(depth - 1, 0, -1):
            g = g + kernels[layer] @ (g * slopes[layer])
        logs.append(np.log(np.sum((g * slopes[0]) ** 2) / at_top))
    prediction = predict(BY_NAME["residual"], depth, width, width, pixel_variance=1.0)
    spread = bands.ratio_spread(BY_NAME["residual"], prediction.variance, width)
    assert np.var(logs) == pytest.approx(spread.variance, rel=0.2)
    shift = np.mean(logs) - 2 * math.log(prediction.profile[0])
    assert abs(shift) < abs(spread.shift) + 4 * math.sqrt(spread.variance / 1000)


def good() -> Results:
    """Results of a laptop run in which all is as theory and the pilot runs have it."""
    config, layers, records = vanishing.PRESETS["laptop"], np.arange(59), 3
    predicted = [predict(arm, config.depth, config.width, 784, 0.5) for arm in ARMS]
    profile = np.stack([prediction.profile for prediction in predicted])
    healthy = profile[:, :1] >= bands.CURED
    chi = np.array([0.759, 0.880, 1.000, 1.134, 1.342])
    sick = gf.theory.fixed_point(SICK.activation, weight_variance=SICK.weight_variance, bias_variance=0.0)
    return made(
        Results,
        {
            "arms": np.array([arm.name for arm in ARMS]),
            "depth": config.depth,
            "width": config.width,
            "theory_rate": float(sick.chi_1),
            "theory_profile": profile,
            "theory_variance": np.stack([prediction.variance for prediction in predicted]),
            "training.steps": np.arange(records) * config.steps // (records - 1),
            "training.gradient": np.repeat(profile[:, None], records, axis=1),
            "training.test_accuracy": np.repeat(np.where(healthy, 0.9, 0.1), records, axis=1),
            "training.movement": np.repeat(
                np.where(healthy, 1.0, np.geomspace(1e-17, 1, config.depth + 1))[:, None], records, axis=1
            ),
            "tanh.width": config.tanh_width,
            "tanh.variance": np.array(vanishing_tanh.WEIGHT_VARIANCES),
            "tanh.theory": chi,
            "tanh.rate": np.repeat(chi[:, None], 5, axis=1),
            "tanh.gradient": chi[:, None, None] ** (-layers / 2) * np.ones((5, 5, 1)),
        },
    )


def test_every_claim_holds_where_it_should_and_can_fail():
    claims = vanishing.claims(good())
    assert [claim.id for claim in claims if not claim.holds] == []
    assert len(claims) == 9
    theory = ("theory_*", "tanh.theory", "tanh.variance", "training.steps", "depth", "width", "tanh.width")
    assert claims_that_stand(vanishing.claims, good(), theory) == []


def test_what_is_learnt_in_few_steps_is_not_claimed(results):
    found = {claim.id for claim in vanishing.claims(results)}
    assert found == {claim.id for claim in vanishing.claims(good())} - {
        "cured-accuracy",
        "cured-movement",
        "sick-movement",
    }


def test_every_figure_can_be_drawn_and_has_labels(results, tmp_path):
    figures = vanishing.figures.draw(results)
    assert set(figures) == {
        "overview", "profile", "heatmap", "training", "training_set", "movement", "saturation", "tanh",
    }  # fmt: skip
    for name, figure in figures.items():
        figure.savefig(tmp_path / f"{name}.png", dpi=40)
        assert any(axes.get_xlabel() for axes in figure.axes), name
        assert any(axes.get_ylabel() for axes in figure.axes), name


@pytest.mark.parametrize(
    "change, message",
    [
        ({"arms": ("RELU + He",)}, "Did you mean ReLU \\+ He"),
        ({"data": "fashion_mnist_subsets"}, "Did you mean fashion_mnist_subset"),
        ({"depth": 2}, "depth must be at least 3, got 2"),
        ({"steps": 0}, "steps must be positive"),
        ({"learning_rate": -0.1}, "learning_rate must be positive"),
        ({"steps": 10, "record_every": 3}, "record_every must divide steps; got 3 and 10"),
    ],
)
def test_settings_that_cannot_run_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **change)


def test_presets_are_those_that_the_head_describes():
    assert vanishing.PRESETS["laptop"].depth >= 20
    assert vanishing.PRESETS["laptop"].chosen == ARMS
    assert vanishing.PRESETS["smoke"].chosen[0] is SICK


@pytest.mark.slow
def test_the_smoke_preset_holds_twice_with_the_same_bytes(tmp_path: Path):
    for out in ("first", "second"):
        assert main(vanishing.EXPERIMENT, ["--preset", "smoke", "--out", str(tmp_path / out)]) == 0
        jax.clear_caches()
    first, second = (tmp_path / out / "vanishing" / "smoke" for out in ("first", "second"))
    assert (first / "data.npz").read_bytes() == (second / "data.npz").read_bytes()
    records = json.loads((first / "claims.json").read_text())
    assert len(records) == 5
    assert all(math.isfinite(record["measured"]) for record in records)
