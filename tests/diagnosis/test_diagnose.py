"""The verdict: every kind of fault is found, what only looks like one is not, and no scale changes either."""

from __future__ import annotations

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradflow as gf
from gradflow.diagnosis import KINDS, Diagnosis
from gradflow.diagnosis.thresholds import dead_limit
from tests.diagnosis import cases, output_cases, rate_cases
from tests.diagnosis.cases import Case, mlp, too_steep

SICK = cases.SICK | rate_cases.SICK | output_cases.SICK
HEALTHY = cases.HEALTHY | rate_cases.HEALTHY | output_cases.HEALTHY


def diagnosed(case: Case, **options) -> Diagnosis:
    arguments = {"optimizer": case.optimizer, "batches": case.batches, "progress": False} | options
    return gf.diagnose(case.loss, case.params, *case.args, **arguments)


# Where two names for one fault are both right, the one that is asked for may come second.
SECOND = ("alike",)


@pytest.mark.quick_cases(7)
@pytest.mark.parametrize("name", SICK)
def test_fault_is_named(name):
    kind, make = SICK[name]
    d = diagnosed(make())
    kinds = [finding.kind for finding in d.findings]
    assert kind in kinds[: 2 if name in SECOND else 1]
    assert not d.healthy
    json.loads(d.to_json())
    for finding in d.findings:
        assert finding.cause
        assert finding.remedies
        for what, value, low, high in finding.evidence:
            assert what
            assert finding.kind in ("nonfinite", "unstable_update") or not low <= value <= high


@pytest.mark.quick_cases(5)
@pytest.mark.parametrize("name", HEALTHY)
def test_what_only_looks_like_a_fault_is_healthy(name):
    d = diagnosed(HEALTHY[name]())
    assert d.healthy, str(d)
    assert str(d).startswith("Healthy.")


def test_every_kind_has_a_case():
    assert {kind for kind, _ in SICK.values()} == set(KINDS)


VERDICTS = {"small weights": SICK["small weights"][1], "He": lambda: mlp(6), "bent": SICK["bent too much"][1]}


def _scaled(case: Case, factor: float) -> Case:
    return case._replace(loss=lambda *args: factor * case.loss(*args))


@pytest.mark.slow
@pytest.mark.parametrize("name", VERDICTS)
def test_scale_of_the_loss_changes_no_verdict(name):
    case = VERDICTS[name]()
    plain = _verdict(diagnosed(case))
    assert all(_verdict(diagnosed(_scaled(case, factor))) == plain for factor in (1e-6, 1e6))


@pytest.mark.slow
@pytest.mark.parametrize("rate", [1e-7, 0.05, 1e6])
def test_scale_of_the_loss_and_its_rate_change_no_verdict(rate):
    case = mlp(4)
    plain = _verdict(diagnosed(case, optimizer=optax.sgd(rate)))
    for factor in (1e-6, 1e6):
        assert _verdict(diagnosed(_scaled(case, factor), optimizer=optax.sgd(rate / factor))) == plain


@pytest.mark.slow
@pytest.mark.parametrize(("scale", "kinds"), [(0.3, ["vanishing"]), (2**0.5, [])])
@pytest.mark.parametrize("change", [{"batch": 1}, {"batch": 256}, {"width": 16}, {"width": 256}])
def test_batch_and_width_change_no_verdict(change, scale, kinds):
    assert _kinds(diagnosed(mlp(12, scale=scale, **change))) == kinds


def _verdict(d):
    return [(finding.kind, finding.layers, finding.severity) for finding in d.findings]


def _kinds(d):
    return [finding.kind for finding in d.findings]


def test_cause_and_place_come_from_the_ledger():
    def weaken(params):
        return params | {"layer_04": params["layer_04"] | {"w": 1e-4 * params["layer_04"]["w"]}}

    d = diagnosed(mlp(6, change=weaken))
    (finding,) = d.findings
    assert finding.kind == "vanishing"
    assert finding.layers[0] == "layer_04"
    assert finding.over == "depth"
    assert "weights'" in finding.cause
    assert "lsuv" in finding.remedies[0].code


def test_a_gradient_that_is_only_rounding_is_not_called_shattered():
    """Softmax does not change with a bias of all keys, so that its gradient is 0, but for rounding."""
    keys = jax.random.split(jax.random.key(0), 4)
    params = {name: jax.random.normal(key, (32, 32)) / 32**0.5 for name, key in zip("qkv", keys, strict=False)}
    params |= {"bias": 0.1 * jax.random.normal(keys[3], (4, 8))}

    def loss(params, x):
        q, k, v = ((x @ params[name]).reshape(4, 16, 4, 8) for name in "qkv")
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k + params["bias"])
        return jnp.mean(jnp.square(jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v) - 1))

    d = gf.diagnose(loss, params, jax.random.normal(keys[0], (4, 16, 32)), progress=False)
    assert math.isnan(d.measurements.leaves["bias"].coherence)
    assert d.measurements.leaves["q"].coherence > 0.9
    assert d.healthy, str(d)


def test_rate_is_judged_against_the_curvature():
    """Gradient descent on a quadratic converges below 2 / the largest curvature, and not above."""
    case = too_steep()
    x, _ = case.args
    largest = float(2 / (2 * jnp.linalg.eigvalsh(x.T @ x / len(x))[-1]))
    assert diagnosed(case, optimizer=optax.sgd(0.8 * largest)).healthy
    assert _kinds(diagnosed(case, optimizer=optax.sgd(1.3 * largest))) == ["learning_rate"]


def test_nothing_that_was_passed_is_changed():
    case = mlp(4, optimizer=optax.adam(1e-2))
    before = jax.tree.map(np.array, case.params)
    diagnosed(case)
    jax.tree.map(np.testing.assert_array_equal, before, case.params)


def test_batches_are_taken_in_turn_and_once():
    case = mlp(4, optimizer=optax.sgd(0.05))
    taken = []

    def batches():
        for k in range(100):
            taken.append(k)
            yield case.args

    d = diagnosed(case, batches=batches(), steps=3)
    assert len(taken) in (3, 4)
    assert d.measurements.trial is not None
    assert len(d.measurements.trial.losses) == 4


def test_aux_and_keywords():
    case = mlp(3)

    def loss(params, x, *, y):
        return case.loss(params, x, y), {"accuracy": 0.5}

    x, y = case.args
    assert gf.diagnose(loss, case.params, x, y=y, has_aux=True).healthy


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": -1}, "steps"),
        ({"batches": [], "optimizer": optax.sgd(0.1)}, "at least one batch"),
        ({"batches": [jnp.zeros(3)], "optimizer": optax.sgd(0.1)}, "a tuple of all arguments"),
    ],
)
def test_bad_arguments(options, words):
    with pytest.raises(ValueError, match=words):
        diagnosed(mlp(3), **options)


def test_inside_jit_is_refused():
    case = mlp(3)
    with pytest.raises(ValueError, match="call it outside"):
        jax.jit(lambda params: gf.diagnose(case.loss, params, *case.args).flow.value)(case.params)


def test_letter_and_page():
    d = diagnosed(SICK["sigmoid"][1]())
    letter = str(d)
    assert letter.startswith("1. The gradient vanishes over depth at ")
    assert max(map(len, letter.splitlines())) <= 100
    page = d.to_html()
    assert page.startswith("<!doctype html>")
    assert "The gradient vanishes" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert "<img alt=" in page


@pytest.mark.parametrize("units", [1, 4, 16, 64, 1024])
def test_share_of_dead_units_that_chance_allows(units):
    """Units dead with probability 1/2 each: the worst case of an initialized layer."""
    rng = np.random.default_rng(0)
    shares = rng.binomial(units, 0.5, 20_000) / units
    assert np.mean(shares > dead_limit(units)) < 3e-4
    assert math.isclose(dead_limit(units), min(1.0, 0.5 + 2 / units**0.5))
