"""Units that lose their gradient in the steps count where the loss did not fall: idle experts have none either."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import optax
import pytest

import gradflow as gf
from gradflow.diagnosis import rules
from tests.diagnosis.cases import mlp


@pytest.fixture(scope="module")
def measured():
    """A network that learns, measured as if 30 of the 32 units of a layer had died in the steps."""
    case = mlp(3)
    m = gf.diagnose(case.loss, case.params, *case.args, optimizer=optax.adam(1e-2), progress=False).measurements
    dying = case.params["layer_01"]
    dead = case.params | {"layer_01": dying | {"b": jnp.where(jnp.arange(32) < 30, -100.0, dying["b"])}}
    *_, later = gf.value_grad_and_flow(case.loss)(dead, *case.args)
    return dataclasses.replace(m, later=later)


@pytest.mark.parametrize(("left", "found"), [(1.0, 1), (0.9, 1), (0.5, 0)])
def test_units_that_died_are_named_where_the_loss_did_not_fall(measured, left, found):
    trial = dataclasses.replace(measured.trial, rates={1.0: left * measured.trial.start_loss})
    trial = dataclasses.replace(trial, blank=trial.before)
    findings = list(rules.died(dataclasses.replace(measured, trial=trial)))
    assert [finding.kind for finding in findings] == ["dead_units"] * found
