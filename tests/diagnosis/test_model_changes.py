"""Changes of a model's configuration: which apply to which model, what they make of it, and that they help."""

from __future__ import annotations

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradflow as gf
from gradflow.diagnosis.treatment import MODEL_CHANGES
from gradflow.models import CNN, MLP, Recurrent, ResNet

CLASSES = 4
IMAGES = jnp.ones((2, 8, 8, 3))
SEQUENCES = jax.random.normal(jax.random.key(1), (128, 24, 4))


@dataclasses.dataclass(frozen=True)
class Configuration:
    """Of somebody else's model."""

    cell: str = "rnn"
    width: int = 3


CASES = {
    "sigmoid mlp": (
        MLP(6, 16, CLASSES, activation="sigmoid"),
        {"rectifiers", "skips", "layer normalization", "critical tanh"},
    ),
    "relu mlp": (MLP(6, 16, CLASSES), {"skips", "layer normalization", "leaky rectifiers"}),
    "mlp that has it all": (MLP(6, 16, CLASSES, activation="gelu", residual="rezero", normalization="layer"), set()),
    "tanh cnn": (CNN(4, 8, CLASSES), {"rectifiers", "critical tanh"}),
    "plain resnet": (
        ResNet(8, residual=False, normalization=None),
        {"skips", "layer normalization", "leaky rectifiers"},
    ),
    "resnet": (ResNet(8), {"leaky rectifiers"}),
    "own layer": (MLP(6, 16, CLASSES, activation=lambda x: x), {"skips", "layer normalization"}),
    "rnn": (Recurrent("rnn", 8, CLASSES), {"LSTM", "GRU"}),
    "irnn": (Recurrent("irnn", 8, CLASSES), {"LSTM", "GRU"}),
    "function": (Recurrent(jnp.tanh, 8, CLASSES), {"LSTM", "GRU"}),
    "lstm": (Recurrent("lstm", 8, CLASSES), set()),
    "dataclass": (Configuration(), {"LSTM", "GRU"}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_changes_that_apply(name):
    model, expected = CASES[name]
    versions = {change.name: change.version(model) for change in MODEL_CHANGES}
    assert {name for name, version in versions.items() if version is not None} == expected
    for version in filter(None, versions.values()):
        assert type(version) is type(model)
        assert version != model


@pytest.mark.quick_cases(3)
@pytest.mark.parametrize(
    ("model", "inputs"),
    [(MLP(3, 8, CLASSES, activation="sigmoid"), IMAGES), (CNN(3, 8, CLASSES), IMAGES),
     (ResNet(8, outputs=CLASSES, residual=False, normalization=None), IMAGES),
     (Recurrent("rnn", 8, CLASSES), SEQUENCES[:2])],
    ids=["mlp", "cnn", "resnet", "recurrent"],
)  # fmt: skip
def test_changed_models_run_without_state(model, inputs):
    for change in MODEL_CHANGES:
        version = change.version(model)
        if version is not None:
            variables = jax.eval_shape(version.init, jax.random.key(0), inputs)
            assert set(variables) == {"params"}


def build(model, inputs=SEQUENCES):
    def loss(params, x, y):
        return optax.softmax_cross_entropy_with_integer_labels(model.apply(params, x), y).mean()

    return loss, model.init(jax.random.key(0), inputs[:2])


def batches(inputs):
    labels = jnp.argmax(inputs.reshape(len(inputs), -1)[:, :CLASSES], axis=1)
    return [(inputs[k::4], labels[k::4]) for k in range(4)]


@pytest.mark.slow
def test_a_saturated_mlp_gets_another_activation():
    x = jax.random.normal(jax.random.key(2), (128, 16))
    model = MLP(8, 16, CLASSES, activation="sigmoid", initializer="glorot_normal")
    data = batches(x)
    t = gf.treat(
        *build(model, x), *data[0], optimizer=optax.sgd(0.1), batches=data, budget=40, seeds=2, model=model,
        build=lambda version: build(version, x),
    )  # fmt: skip
    assert t.improved
    assert t.chosen.changes[0].touches == "model"
    assert t.model.activation in ("relu", "tanh")
    assert t.untreated.plan.model is model
    assert "model = model.clone(" in t.letter
    end = np.mean([float(build(t.model, x)[0](t.params, *batch)) for batch in data])
    np.testing.assert_allclose(end, t.chosen.outcome.start, rtol=1e-5)


@pytest.mark.slow
def test_a_recurrent_network_that_forgets_gets_gates():
    model = Recurrent("rnn", 16, CLASSES, recurrent_initializer=gf.initializers.orthogonal(0.5))
    data = batches(SEQUENCES)
    # With the optimizer the complaint is withdrawn: the steps learn something. Gates learn more.
    at_the_start = gf.diagnose(*build(model), *data[0], progress=False)
    t = gf.treat(
        *build(model), *data[0], optimizer=optax.adam(1e-2), batches=data, budget=60, seeds=3, model=model, build=build,
        diagnosis=at_the_start,
    )  # fmt: skip
    gated = {arm.name: arm for arm in t.trials if arm.name in ("LSTM", "GRU")}
    assert len(gated) == 2
    assert max(arm.loss for arm in gated.values()) < t.untreated.loss
    assert t.chosen.loss <= t.untreated.loss


def test_a_build_that_fails_is_said_and_left_out():
    x = jax.random.normal(jax.random.key(2), (32, 8))
    model = MLP(6, 8, CLASSES, activation="sigmoid", initializer="glorot_normal")
    data = batches(x)

    def only_this(version):
        if version != model:
            raise ValueError("no such model here")
        return build(version, x)

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        t = gf.treat(*only_this(model), *data[0], optimizer=optax.sgd(0.1), budget=3, model=model, build=only_this)
    assert any("is left out, since build failed on that model: no such model here" in str(w.message) for w in said)
    assert not any(change.touches == "model" for arm in t.trials for change in arm.changes)


@pytest.mark.parametrize("options", [{"model": MLP(2, 4, 2)}, {"build": build}])
def test_model_and_build_go_together(options):
    with pytest.raises(
        ValueError, match=r"expected model= and build= together.*build=lambda model: \(loss_fn, params\)"
    ):
        gf.treat(lambda w: w**2, 1.0, optimizer=optax.sgd(0.1), **options)
