"""The size of the steps: what counts as learnt, which rates are tried, and what is said of them."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradflow as gf
from gradflow.diagnosis import rate_rules, rules, thresholds
from gradflow.diagnosis.look import Look
from gradflow.diagnosis.objective import Objective
from gradflow.diagnosis.trial import LARGER, SMALLER, take_steps
from gradflow.diagnosis.walk import Walk
from tests.diagnosis.cases import mlp


@pytest.fixture(scope="module")
def measured():
    case = mlp(2)
    return gf.diagnose(
        case.loss, case.params, *case.args, optimizer=optax.sgd(0.1), steps=4, progress=False
    ).measurements


def with_trial(measured, **changes):
    return dataclasses.replace(measured, trial=dataclasses.replace(measured.trial, **changes))


def losses(trial, learned):
    """Return by multiple the loss of which a part is gone."""
    reference = min(float(np.mean(trial.before)), float(np.mean(trial.blank)))
    return {multiple: (1 - part) * reference for multiple, part in learned.items()}


def kinds(found):
    return [finding.cause for finding in found]


@pytest.mark.parametrize(
    ("rates", "growth", "small"),
    [
        ({1.0: 0.01, 4.0: 0.05, 16.0: 0.2, 64.0: 0.6}, 1.0, True),
        ({1.0: 0.01, 4.0: 0.05, 16.0: 0.6}, 1.0, True),
        ({1.0: 0.01, 4.0: 0.31, 16.0: 0.6}, 1.0, False),  # half of what 16 times the rate learns
        ({1.0: 0.01, 4.0: 0.05, 16.0: 0.6}, 7 / 3, False),  # a warm-up
        ({1.0: 0.01, 4.0: 0.02, 16.0: 0.1, 64.0: -3.0}, 1.0, False),  # no rate learns: not the rate's fault
        ({1.0: 0.9}, math.nan, False),
        ({1.0: -2.0, 0.25: 0.4}, 1.0, False),  # too large
        ({1.0: math.nan}, math.nan, False),  # a loss that is not positive
    ],
)
def test_rate_is_too_small_where_sixteen_times_it_is_needed(measured, rates, growth, small):
    m = with_trial(measured, before=measured.trial.blank, growth=growth, rates=losses(measured.trial, rates))
    assert kinds(rate_rules.too_small(m)) == ["a rate that is too small"] * small
    trained = with_trial(m, before=0.1 * m.trial.blank)
    assert not kinds(rate_rules.too_small(trained))


@pytest.mark.parametrize(
    ("rates", "change", "said"),
    [
        ({1.0: -3.0, 0.25: 0.4}, 1.0, ["a rate that is too large"]),
        ({1.0: -3.0, 0.25: 0.1}, 1.0, []),
        ({1.0: 0.1, 0.25: 0.4}, -1.0, ["a rate that is too large for the curvature"]),
        ({1.0: 0.4, 0.25: 0.45}, -1.0, ["a rate that is too large for the curvature"]),
        ({1.0: 0.4, 0.25: 0.44}, -1.0, []),  # both may have learnt all there is
        ({1.0: 0.1, 0.25: 0.2}, -1.0, []),  # the quarter does not learn enough, either
        ({1.0: 0.6, 0.25: 0.9}, -1.0, []),  # half of the loss is learnt
        ({1.0: 0.0, 0.25: 0.9}, 0.0, ["a rate that is too large for the curvature"]),
        ({1.0: 0.4}, -1.0, []),
    ],
)
def test_rate_is_too_large_where_a_smaller_one_learns(measured, rates, change, said):
    t = measured.trial
    m = with_trial(
        measured, before=t.blank, rates=losses(t, rates), after=t.blank + change, probe=np.zeros_like(t.probe)
    )
    assert kinds(rate_rules.too_large(m)) == said


@pytest.mark.parametrize(
    ("adam", "tried", "found"),
    [
        (0.6, {1.0: 0.01, 4.0: 0.05, 16.0: -1.0}, True),
        (0.6, {1.0: 0.01, 4.0: 0.07, 16.0: -1.0}, False),
        (0.1, {1.0: 0.001, 4.0: 0.002, 16.0: -1.0}, False),
        (0.6, {1.0: 0.01, 4.0: 0.02, 16.0: 0.03, 64.0: 0.04, 256.0: 0.05}, False),  # larger ones were not tried
        (0.6, {1.0: -9.0, 0.25: -1.0, 0.0625: 0.01}, False),  # smaller ones were not tried
    ],
)
def test_no_rate_suits_all_where_adam_goes_ten_times_as_far(measured, adam, tried, found):
    t = measured.trial
    rates = losses(t, tried)
    m = with_trial(measured, before=t.blank, rates=rates, growth=1.0, adam=losses(t, {1.0: adam})[1.0])
    assert kinds(rate_rules.uneven(m)) == ["no one rate suits all weights"] * found


def test_complaints_about_the_start_are_withdrawn_where_the_steps_learn(measured, monkeypatch):
    said = []
    monkeypatch.setattr(rules, "OF_THE_START", (lambda m: said.append(m) or iter(()),))
    for learned, count in ((1.1 * thresholds.LEARNT, 0), (0.9 * thresholds.LEARNT, 1)):
        said.clear()
        rates = losses(measured.trial, {1.0: 0.0, 4.0: learned})
        rules.findings(with_trial(measured, rates=rates, growth=1.0))
        assert len(said) == count


def walk_of(loss, params, optimizer, steps=20):
    objective = Objective.of(loss, params, (), {}, False)
    look = Look.compiled(objective)
    return objective, look, Walk(objective, look, optimizer, [objective.arrays], steps)


def quadratic(params):
    return jnp.sum(jnp.square(params["w"] @ jnp.ones((3, 2)))) + 1.0


W = {"w": jnp.full((4, 3), 0.5)}


@pytest.mark.parametrize(
    ("optimizer", "growth"),
    [
        (optax.sgd(1e-6), 1.0),
        (optax.adam(1e-6), 1.0),
        (optax.sgd(1e-6, momentum=0.9), 1.49),
        (optax.sgd(optax.linear_schedule(0.0, 1e-6, 1000)), 17 / 7),
    ],
)
def test_growth_is_that_of_the_optimizer(optimizer, growth):
    """Steps 15 to 19 over 5 to 9: 17/7 for a line from 0; momentum as by its sum."""
    _, _, walk = walk_of(quadratic, W, optimizer)
    assert walk.growth() == pytest.approx(growth, rel=0.04)


@pytest.mark.parametrize(
    ("rate", "tried"), [(1e-6, {0.25, 1.0, *LARGER}), (1.0, {1.0, *SMALLER}), (0.1, {0.25, 1.0, 4.0})]
)
def test_rates_that_are_tried(rate, tried):
    """A step multiplies the way to the minimum by 1 - 12 * rate. There the loss is what it is with all parameters 0."""
    objective, look, _ = walk_of(quadratic, W, optax.sgd(rate))
    trial = take_steps(objective, look, optax.sgd(rate), [objective.arrays], 5)
    assert set(trial.rates) == tried
    np.testing.assert_allclose(trial.blank, 1.0)
    assert trial.learned(trial.rates[1.0]) <= 0


@pytest.mark.parametrize(("kept", "tried"), [(0.6, {0.25, 1.0}), (0.4, {1.0})])
def test_a_quarter_of_the_rate_is_tried_where_the_steps_learn_less_than_half(kept, tried):
    """A step multiplies the way to the minimum by 1 - 2 * rate."""

    def loss(params):
        return jnp.sum(jnp.square(params["w"] - 2.0)) + 1e-3

    params = {"w": jnp.zeros((4, 3))}
    rate = (1 - kept**0.5) / 2
    objective, look, _ = walk_of(loss, params, optax.sgd(rate))
    trial = take_steps(objective, look, optax.sgd(rate), [objective.arrays], 1)
    assert trial.learned(trial.rates[1.0]) == pytest.approx(1 - kept, abs=1e-3)
    assert set(trial.rates) == tried


def test_what_is_learnt_is_counted_from_what_a_blank_network_knows():
    def loss(params):
        return jnp.square(params["w"] @ jnp.ones((3, 2)) - 1.0).mean()

    params = {"w": jnp.full((4, 3), 3.0)}  # loss 64 at the start, 1 at 0
    objective, look, _ = walk_of(loss, params, optax.sgd(0.1))
    few = take_steps(objective, look, optax.sgd(0.1), [objective.arrays], 1)
    many = take_steps(objective, look, optax.sgd(0.1), [objective.arrays], 20)
    np.testing.assert_allclose((few.before, few.blank), ([64.0], [1.0]))
    assert few.learned(few.rates[1.0]) == pytest.approx(1 - float(few.after[0]))
    assert few.learned(few.rates[1.0]) < 0 < many.learned(many.rates[1.0])
    assert not few.trained
    jax.tree.map(np.testing.assert_array_equal, params, {"w": jnp.full((4, 3), 3.0)})


@pytest.mark.parametrize("factor", [1e-9, 1e6])
def test_scale_of_the_loss_changes_nothing_that_is_learnt(factor):
    def loss(params, factor=1.0):
        return factor * jnp.square(params["w"] @ jnp.ones((3, 2)) - 1.0).mean()

    params, learned = {"w": jnp.full((4, 3), 0.01)}, []
    for scale in (1.0, factor):
        optimizer = optax.sgd(1e-7 / scale)
        objective, look, _ = walk_of(lambda params, scale=scale: loss(params, scale), params, optimizer)
        trial = take_steps(objective, look, optimizer, [objective.arrays], 20)
        learned.append([trial.learned(end) for end in (*trial.rates.values(), trial.adam)])
    assert learned[0][-1] > 0.5
    np.testing.assert_allclose(*learned, rtol=1e-4, atol=1e-6)
