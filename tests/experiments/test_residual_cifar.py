"""He et al.'s recipe for CIFAR-10: its rates, a first step on small images, and claims that can fail."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import gradflow as gf
from experiments.residual import bands
from experiments.residual import cifar as residual_cifar
from experiments.residual import experiment as residual
from experiments.residual import figures as residual_figures
from tests.experiments.nested import made, replaced
from tests.experiments.spoiled import claims_that_stand


def test_rates_are_those_of_the_recipe():
    rates = residual_cifar.schedule(20, 64_000)
    np.testing.assert_allclose(
        [rates(step) for step in (0, 31_999, 32_001, 48_001)], [0.1, 0.1, 0.01, 0.001], rtol=1e-6
    )
    deepest = residual_cifar.schedule(110, 64_000)
    np.testing.assert_allclose([deepest(step) for step in (0, 399, 400, 63_999)], [0.01, 0.01, 0.1, 0.001], rtol=1e-6)


def small():
    """Images of the form of CIFAR-10, few and small."""
    data = gf.data.load()
    parts = {
        name: gf.data.Split(np.repeat(split.images[:16, ::4, ::4], 3, axis=-1), split.labels[:16])
        for name, split in (("train", data.train), ("test", data.test))
    }
    return dataclasses.replace(data, **parts)


def test_a_small_network_trains_and_repeats_itself():
    first, second = (residual_cifar.train(small(), 8, residual=True, steps=4, records=2, seed=3) for _ in range(2))
    assert first["train_error"].shape == first["loss"].shape == (2,)
    assert np.isfinite(first["loss"]).all()
    assert 0 <= first["test_error"] <= 100
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name])


def good() -> residual_cifar.Training:
    """Results in which every claim holds."""
    depths = [*bands.CIFAR, 20, 56]
    values = {
        "depths": np.array(depths),
        "residual": np.array([True] * 5 + [False] * 2),
        "test_error": np.array([*bands.CIFAR.values(), 9.0, 13.0]),
        "steps": np.array([32_000, 64_000]),
        "train_error": np.array([[5.0, 1.0]] * 6 + [[20.0, 8.0]]),
    }
    return made(residual_cifar.Training, values)


def test_claims_hold_on_the_table_and_fail_beside_it():
    claims = residual_cifar.claims(good())
    assert len(claims) == 6
    assert all(claim.holds for claim in claims)
    assert claims_that_stand(residual_cifar.claims, good(), theory=("depths", "steps")) == []


def test_nothing_is_claimed_without_training_or_before_its_end():
    assert residual_cifar.claims(None) == []
    assert residual_cifar.claims(replaced(good(), {"steps": np.array([1, 2])})) == []
    assert residual_cifar.measure("cifar10", (), (), steps=1, seed=0) is None


def test_networks_are_drawn_beside_the_table():
    left, right = residual_figures.cifar10(good()).axes
    assert len(left.get_lines()) == 7
    assert [text.get_text() for text in right.get_xticklabels()][4:6] == ["ResNet-110", "plain-20"]


def test_steps_that_cannot_be_recorded_are_refused():
    with pytest.raises(ValueError, match="cifar_steps"):
        dataclasses.replace(residual.PRESETS["paper"], cifar_steps=100)
