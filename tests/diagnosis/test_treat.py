"""Treatment: what is returned is what was tried, it is never worse than nothing, and it beats a random remedy."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradflow as gf
from gradflow.diagnosis.objective import Objective
from gradflow.diagnosis.treatment import CHANGES, Arm, Plan
from gradflow.diagnosis.treatment.changes import ADAM, RATES, STARTS, promising
from gradflow.diagnosis.treatment.therapy import _best, _made_certain, _worth
from gradflow.diagnosis.treatment.trials import Outcome, Trials
from tests.diagnosis.cases import CLASSES, INPUTS, cross_entropy, forward, layers, mlp

BUDGET = 40


def batches(count=4, batch=32):
    keys = jax.random.split(jax.random.key(7), count)
    xs = [jax.random.normal(key, (batch, INPUTS)) for key in keys]
    return [(x, jnp.argmax(x[:, :CLASSES], axis=-1)) for x in xs]


@pytest.fixture(scope="module")
def sick():
    case = mlp(6, scale=0.4, width=16)
    return case, gf.treat(
        case.loss, case.params, *case.args, optimizer=optax.sgd(0.1), batches=batches(), budget=BUDGET
    )


@pytest.mark.slow
def test_a_network_that_does_not_learn_is_brought_to_learn(sick):
    _, treatment = sick
    untreated, chosen = treatment.untreated.outcome, treatment.chosen.outcome
    assert chosen.gains.min() > 10 * untreated.gains.max()
    assert treatment.chosen.changes[0].touches == "initialization"
    assert treatment.improved
    assert "Treat by: " in str(treatment)
    by_chance = [arm for arm in treatment.trials if arm.random]
    assert len(by_chance) <= 1


def test_what_is_returned_is_what_was_tried(sick):
    """Training by hand from the parameters, with the optimizer, ends where the trial ended."""
    case, treatment = sick
    params, optimizer = treatment.params, treatment.optimizer
    state, data = optimizer.init(params), batches()
    order = np.random.default_rng(0)
    for number in range(BUDGET):
        if number % len(data) == 0:
            turn = order.permutation(len(data))
        grads = jax.grad(case.loss)(params, *data[turn[number % len(data)]])
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    end = np.mean([float(case.loss(params, *batch)) for batch in data])
    assert end == pytest.approx(treatment.chosen.outcome.ends[0], rel=1e-3)


def test_a_letter_that_recommends_nothing_says_of_what_a_tenth_is_too_little(sick):
    _, treatment = sick
    text = str(dataclasses.replace(treatment, chosen=treatment.untreated)).replace("\n", " ")
    outcome = treatment.untreated.outcome
    assert f"a network that knows nothing is {outcome.ignorance:.3g}" in text
    assert f"at the start it is {outcome.start:.3g}. After {BUDGET} steps it is:" in text


@pytest.mark.slow
def test_a_healthy_network_is_left_alone_or_improved():
    case = mlp(4)
    treatment = gf.treat(case.loss, case.params, *case.args, optimizer=optax.adam(1e-2), budget=BUDGET, seeds=1)
    assert treatment.chosen.loss <= treatment.untreated.loss
    assert treatment.diagnosis.healthy
    assert "(drawn by chance)" in str(treatment)


@pytest.mark.slow
def test_a_version_of_the_model_is_tried():
    case = mlp(8, activation=jax.nn.sigmoid, scale=1.0)
    rectified = lambda params, x, y: cross_entropy(forward(params, x, jax.nn.relu), y)  # noqa: E731
    start = layers([INPUTS] + [32] * 7 + [CLASSES], 2**0.5)
    treatment = gf.treat(
        case.loss, case.params, *case.args, optimizer=optax.sgd(0.1), budget=BUDGET,
        variants={"rectifiers": (rectified, start)},
    )  # fmt: skip
    assert treatment.chosen.name == "rectifiers"
    assert jax.tree.structure(treatment.params) == jax.tree.structure(start)


@pytest.mark.parametrize(
    "options", [{}, {"rate": 0.1}, {"clip": 0.5}, {"warm_up": 3}, {"clip": 0.5, "warm_up": 3, "rate": 10.0}]
)
def test_optimizer_of_a_plan_does_what_its_trial_does(options):
    case = mlp(3)
    objective = Objective.of(case.loss, case.params, case.args, {}, False)
    plan = Plan(objective, objective.leaves, **options)
    outcome = Trials(optax.adam(1e-2), [objective.arrays], 5, 1).run(plan)
    optimizer, params = plan.optimizer(optax.adam(1e-2)), case.params
    state = optimizer.init(params)
    for number in range(5):
        grads = jax.grad(case.loss)(params, *case.args)
        assert outcome.norms[0, number] == pytest.approx(float(optax.tree.norm(grads)), rel=1e-4)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    assert outcome.ends[0] == pytest.approx(float(case.loss(params, *case.args)), rel=1e-4)


def test_scaled_loss_gives_back_flushed_gradients():
    case = mlp(3)

    def loss(params, x, y):
        half = jax.tree.map(lambda p: p.astype(jnp.float16), params)
        logits = forward(half, x.astype(jnp.float16), jax.nn.relu)
        return 2.0**-20 * cross_entropy(logits, y).astype(jnp.float32)

    objective = Objective.of(loss, case.params, case.args, {}, False)
    trials = Trials(optax.sgd(1e5), [objective.arrays], 1, 1)
    plain = trials.run(Plan(objective, objective.leaves)).norms[0, 0]
    scaled = trials.run(Plan(objective, objective.leaves, loss_scale=2.0**12)).norms[0, 0]
    exact = float(optax.tree.norm(jax.grad(case.loss)(case.params, *case.args))) * 2.0**-20
    assert scaled == pytest.approx(exact, rel=0.02)
    assert plain < 0.9 * exact


def arm(start, ends, blank=math.nan):
    objective = Objective.of(lambda w: w**2, jnp.float32(1.0), (), {}, False)
    norms = np.zeros((len(ends), 1))
    return Arm((), Plan(objective, objective.leaves), Outcome(start, np.asarray(ends), norms, blank))


@pytest.mark.parametrize(
    ("start", "blank", "untreated", "treated", "worth"),
    [
        (2.3, 2.3, 0.5, 0.4, False),  # .1 of 1.9
        (2.3, 2.3, 0.5, 0.1, True),
        (1e5, 0.69, 24.1, 0.52, True),  # a start far off hides nothing
        (1e5, 0.69, 10.001, 10.0, False),  # and nothing is made of it
        (1e5, 0.69, 1e3, 10.0, True),
        (2.3, math.inf, 2.2, 1.0, True),
        (2.3, math.nan, 1.05, 1.0, False),
        (-1.0, 0.0, -2.0, -4.0, True),
    ],
)
def test_what_is_worth_a_change(start, blank, untreated, treated, worth):
    arms = arm(start, [treated] * 3, blank), arm(start, [untreated] * 3, blank)
    assert _worth(*arms) is worth


def test_blank_loss_is_that_of_zeros():
    case = mlp(3)
    objective = Objective.of(case.loss, case.params, case.args, {}, False)
    outcome = Trials(optax.sgd(0.1), [objective.arrays], 1, 1).run(Plan(objective, objective.leaves))
    zeros = jax.tree.map(jnp.zeros_like, case.params)
    assert outcome.blank == pytest.approx(float(case.loss(zeros, *case.args)), rel=1e-6)
    assert outcome.ignorance == min(outcome.start, outcome.blank)


def test_limits_are_those_of_students_t():
    from scipy import stats

    rng = np.random.default_rng(0)
    one, other = rng.standard_normal((2, 5))
    arms = [arm(0.0, one), arm(0.0, other)]
    low, high = arms[0].better_by(arms[1])
    expected = stats.ttest_rel(other, one).confidence_interval(0.95)
    np.testing.assert_allclose((low, high), (expected.low, expected.high))


def test_an_arm_that_left_its_range_is_worse():
    finite, lost = arm(1.0, [0.5, 0.5]), arm(1.0, [0.4, math.inf])
    assert finite.better_by(lost) == (math.inf, math.inf)
    assert lost.better_by(finite) == (-math.inf, -math.inf)
    assert lost.better_by(lost)[0] < 0


def test_what_no_finding_promised_is_tried_over_one_order_and_the_best_of_it_over_all(sick):
    """Nothing is promised by a diagnosis that found nothing, and still the network is brought to learn."""
    case, known = sick
    nothing = dataclasses.replace(known.diagnosis, findings=())
    found = gf.treat(
        case.loss, case.params, *case.args, optimizer=optax.sgd(0.1), batches=batches(), budget=BUDGET,
        diagnosis=nothing,
    )  # fmt: skip
    assert found.improved
    assert found.chosen.loss == pytest.approx(known.chosen.loss, rel=1e-3)
    alone = [arm for arm in found.trials if len(arm.changes) == 1 and not arm.random]
    assert {arm.changes[0] for arm in alone} == {*STARTS, ADAM, *RATES}
    best = min(alone, key=lambda arm: arm.outcome.ends[0])
    tried = [len(arm.outcome.ends) for arm in alone]
    assert len(best.outcome.ends) in (3, 6)
    assert sorted(tried)[:-1] == [1] * (len(tried) - 1)


class Again(Trials):
    """Trials of three orders, whose further orders end as it is said, or at the mean loss of those before."""

    def __init__(self, arms, ends=None):
        self.seeds, self.arms, self.ends = 3, arms, ends or {}

    def run(self, plan, seeds=None):
        (known,) = (a.outcome for a in self.arms if a.plan is plan)
        ends = np.asarray(self.ends.get(id(plan), np.full(len(seeds), known.ends.mean())))
        return dataclasses.replace(known, ends=ends, norms=np.zeros((len(seeds), 1)))


def test_what_is_better_but_not_for_certain_is_tried_over_as_many_orders_again():
    untreated, mild, unsure = arm(2.0, [1.0, 1.0, 1.0]), arm(2.0, [0.8, 0.8, 0.8]), arm(2.0, [0.1, 0.2, 0.7])
    by_chance, short = dataclasses.replace(arm(2.0, [0.0, 0.0, 0.9]), random=True), arm(2.0, [0.0])
    arms = [untreated, unsure, mild, by_chance, short]
    trials = Again(arms)
    assert unsure.better_by(untreated)[0] < 0
    found = _made_certain(trials, arms)
    assert [len(a.outcome.ends) for a in found] == [6, 6, 3, 3, 1]
    assert found[1].better_by(found[0])[0] > 0
    assert _best(found, trials) is found[1]
    assert _made_certain(trials, [untreated, mild]) == [untreated, mild]
    # The lowest one stays unsure over six orders, and the next one does not.
    wild, steady = arm(2.0, [0.0, 0.0, 1.5]), arm(2.0, [0.6, 0.6, 0.96])
    arms = [untreated, steady, wild]
    trials = Again(arms, {id(wild.plan): [0.0, 0.0, 1.5]})
    found = _made_certain(trials, arms)
    assert [len(a.outcome.ends) for a in found] == [6, 6, 6]
    assert _best(found, trials) is found[1]
    assert _best([untreated, arm(2.0, [1.2, 0.9, 1.1]), short, by_chance], trials) is untreated


def test_every_change_says_what_it_is():
    assert len({change.name for change in CHANGES}) == len(CHANGES)
    for change in CHANGES:
        assert change.why
        assert change.effect
        assert change.code
        assert dataclasses.is_dataclass(change)
    assert promising(()) == ()


@pytest.mark.parametrize("options", [{"budget": 0}, {"seeds": 0}])
def test_bad_arguments(options):
    case = mlp(3)
    with pytest.raises(ValueError, match="at least 1"):
        gf.treat(case.loss, case.params, *case.args, optimizer=optax.sgd(0.1), **options)
