"""`fit(..., diagnose=True)`: a word when a run goes wrong, silence when it does not, and the same compiled steps."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradflow import training
from gradflow.training import NonFiniteError
from gradflow.training.checkup import Checkup
from gradflow.training.dispatch import programs
from tests.training import problems

SGD = optax.sgd(0.05)


def fit(optimizer=SGD, source=problems.batch, loss=problems.loss_fn, params=None, steps=12, diagnose=True, **options):
    params = problems.parameters(1) if params is None else params
    state = training.start(params, optimizer, jax.random.key(0), {"mean": jnp.zeros(problems.WIDTH)})
    return training.fit(loss, optimizer, state, source, steps, every=4, progress=False, diagnose=diagnose, **options)


def rectified(params, model_state, batch, key):
    x, y = batch
    *hidden, last = params.values()
    for layer in hidden:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    loss = jnp.square((x @ last["kernel"] + last["bias"])[:, 0] - y).mean()
    return loss, ({"loss": loss}, model_state)


def test_a_rate_that_is_too_large_is_named_from_the_start_of_the_run(capsys):
    """From where the weights are by then, the tanh units are saturated, and the cause cannot be seen."""
    fitted = fit(optax.sgd(1.0))
    said = capsys.readouterr().err
    assert "at the start it was" in said
    assert "From its start" in said
    assert fitted.diagnosis.findings[0].kind in ("learning_rate", "unstable_update")
    assert "smaller rate" in said


def test_a_dead_network_is_named_once(capsys):
    params = problems.parameters(2)
    params["Dense_1"]["bias"] -= 100.0
    fitted = fit(loss=rectified, params=params, steps=32)
    said = capsys.readouterr().err
    assert said.count("gradflow:") == 1
    assert "Units are dead at Dense_" in said
    assert fitted.diagnosis.findings[0].kind == "dead_units"


def test_a_batch_with_nan_is_named_before_the_error(capsys):
    def broken(key, step):
        x, y = problems.batch(key, step)
        return jnp.where(step == 5, jnp.nan, x), y

    with jax.debug_nans(False), pytest.raises(NonFiniteError, match="at step 5: the batch itself holds NaN") as caught:
        fit(source=broken)
    assert caught.value.fitted.diagnosis.findings[0].kind == "nonfinite"
    said = capsys.readouterr().err
    assert "step 5: the run went non-finite" in said
    assert "NaN in the batch" in said


def test_a_run_that_learns_is_not_even_looked_at(capsys, monkeypatch):
    monkeypatch.setattr("gradflow.diagnosis.diagnose", None)
    slope = lambda key, step: (x := problems.batch(key, step)[0] - 1, x.sum(1))  # noqa: E731
    fitted = fit(optax.sgd(0.1), slope, rectified_linear, steps=24)
    assert fitted.curve["loss"][-1] < 0.5 * fitted.curve["loss"][0]
    assert capsys.readouterr().err == ""
    assert fitted.diagnosis is None


def rectified_linear(params, model_state, batch, key):
    x, y = batch
    loss = jnp.square(x @ params["Dense_0"]["kernel"][:, 0] - y).mean()
    return loss, ({"loss": loss}, model_state)


def test_a_healthy_run_with_a_flat_loss_is_looked_at_and_nothing_is_said(capsys, monkeypatch):
    """At its optimum, the loss is the noise of the targets."""
    looks = []

    def counted(*args, **kwargs):
        from gradflow.diagnosis.verdict import diagnose

        looks.append(diagnose(*args, **kwargs))
        return looks[-1]

    monkeypatch.setattr("gradflow.diagnosis.diagnose", counted)
    noise = lambda key, step: (problems.batch(key, step)[0] - 1, jax.random.normal(key, (8,)))  # noqa: E731
    params = jax.tree.map(lambda x: 0.1 * x, problems.parameters(1))
    fitted = fit(optax.sgd(1e-2), noise, params=params, loss=rectified_linear, steps=16)
    assert looks
    assert all(found.healthy for found in looks)
    assert capsys.readouterr().err == ""
    assert fitted.diagnosis is None


def test_the_steps_are_the_same_programs_and_give_the_same_bits(monkeypatch):
    monkeypatch.setattr("gradflow.diagnosis.diagnose", lambda *args, **kwargs: pytest.fail("looked"))
    monkeypatch.setattr(Checkup, "due", lambda self, metrics: False)
    compiled = programs(problems.loss_fn, SGD, 4, None, None).plain
    plain, count = fit(diagnose=False), compiled._cache_size()
    looked = fit()
    assert compiled._cache_size() == count
    assert programs(problems.loss_fn, SGD, 4, None, None).plain is compiled
    jax.tree.map(np.testing.assert_array_equal, plain.state.params, looked.state.params)


def test_a_diagnosis_that_fails_does_not_end_the_run(capsys, monkeypatch):
    def failing(*args, **kwargs):
        raise ValueError("no path\nmore")

    monkeypatch.setattr("gradflow.diagnosis.diagnose", failing)
    monkeypatch.setattr(Checkup, "due", lambda self, metrics: True)
    fitted = fit()
    assert int(fitted.state.step) == 12
    assert "could not be diagnosed: no path\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("losses", "due"),
    [
        ([2.3, 2.2, 2.1, 2.09, 2.08], [False, True, False, True, False]),  # stands: looked at ever more rarely
        ([2.0, 1.5, 1.0, 0.5], [False] * 4),  # falls
        ([2.0, 0.5, 0.6, 1.9], [False, False, False, True]),  # loses what it had gained
        ([-1.0, -2.0, -2.0, -2.0], [False] * 4),  # a loss need not be positive
        ([float("nan")] * 4, [False] * 4),  # no metric of that name
    ],
)
def test_when_a_run_is_looked_at(losses, due):
    """The start is 2.3; -0.5 for the loss that becomes negative."""
    state = training.start({}, SGD, jax.random.key(0), {})
    checkup = Checkup(problems.loss_fn, SGD, state)
    checkup.begin(state, None, 4, {"loss": -0.5 if losses[0] < 0 else 2.3})
    found = []
    for loss in losses:
        found.append(checkup.due({"loss": loss}))
        if found[-1]:
            checkup._next = 2 * checkup._records
    assert found == due
