"""Where a fault lies that is seen only in what it does: in the steps, or behind the last layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradflow as gf
from gradflow.diagnosis import measurements, path_rules
from gradflow.diagnosis.remedies import BY_LEAF

X = jax.random.normal(jax.random.key(0), (32, 16))
Y = jnp.argmax(X[:, :4], axis=-1)
NAMES = ("first", "second", "third", "fourth", "fifth")


def params(large: str = "", factor: float = 1.0) -> dict[str, jax.Array]:
    """Weights of five layers, one of them times a factor."""
    keys = jax.random.split(jax.random.key(1), len(NAMES))
    widths = (16, 32, 32, 32, 32, 4)
    out = {
        name: jax.random.normal(k, (n, m)) * float(np.sqrt(2 / n))
        for name, k, n, m in zip(NAMES, keys, widths[:-1], widths[1:], strict=True)
    }
    return out | ({large: factor * out[large]} if large else {})


def loss_behind(last: Callable[[Any], Any]) -> Callable[..., Any]:
    """A network whose logits go through `last`."""

    def loss(params: dict[str, jax.Array], x: jax.Array, y: jax.Array) -> jax.Array:
        for name in NAMES[:-1]:
            x = jax.nn.relu(x @ params[name])
        return optax.softmax_cross_entropy_with_integer_labels(last(x @ params[NAMES[-1]]), y).mean()

    return loss


def diagnosed(last: Callable[[Any], Any], start: dict[str, jax.Array], rate: float) -> gf.Diagnosis:
    """Diagnose a network trained by momentum."""
    optimizer = optax.sgd(rate, 0.9)
    return gf.diagnose(loss_behind(last), start, X, Y, optimizer=optimizer, batches=[(X, Y)], steps=8, progress=False)


def test_a_layer_of_another_scale_is_named_where_the_steps_diverge() -> None:
    d = diagnosed(lambda z: z, params("third", 3e3), 1e3)
    (finding,) = [f for f in d.findings if f.kind == "unstable_update"]
    assert finding.layers == ("third",)
    assert "third" in finding.cause
    assert "scale of the others" in finding.remedies[0].what


def test_a_rate_that_is_too_large_has_no_place() -> None:
    d = diagnosed(lambda z: z * z, params(), 1e6)
    (finding,) = [f for f in d.findings if f.kind == "unstable_update"]
    assert finding.layers == ()


@pytest.mark.parametrize(("factor", "names"), [(5.0, []), (20.0, ["third"])])
def test_tenfold_is_another_scale(factor: float, names: list[str]) -> None:
    start = params("third", factor)
    _, _, flow = gf.value_grad_and_flow(loss_behind(lambda z: z))(start, X, Y)
    assert list(path_rules.outlying(gf.ledger(loss_behind(lambda z: z), start, X, Y), flow)) == names


def over_one_entry(z: jax.Array) -> jax.Array:
    """A norm over an axis of one entry."""
    z = z[..., None]
    return ((z - z.mean(-1, keepdims=True)) * jax.lax.rsqrt(z.var(-1, keepdims=True) + 1e-5))[..., 0]


def test_a_norm_behind_the_last_layer_that_takes_all_away_is_named() -> None:
    assert diagnosed(over_one_entry, params(), 0.1).findings[0].kind == "batch_norm"


def test_a_loss_that_is_0_is_no_norm() -> None:
    start = params()

    def loss(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return jnp.mean((x @ params["first"] - x @ start["first"]) ** 2)

    d = gf.diagnose(loss, start, X, progress=False)
    assert "batch_norm" not in [f.kind for f in d.findings]


def test_a_layer_of_large_weights_is_not_stalled() -> None:
    """It turns slowly, while its gradient is as large as the others'."""
    start = params("third", 1e4) | {"fourth": 1e-4 * params()["fourth"]}
    loss = loss_behind(lambda z: z)
    d = gf.diagnose(loss, start, X, Y, optimizer=optax.adam(1e-5), batches=[(X, Y)], steps=8, progress=False)
    assert d.measurements.trial is not None
    moved = dict(zip(d.measurements.leaves, d.measurements.trial.movements, strict=True))
    assert moved["third"] < 1e-3 * float(np.median(list(moved.values())))
    assert "third" not in [layer for f in d.findings if f.kind == "stalled_layer" for layer in f.layers]


@pytest.mark.parametrize(
    ("optimizer", "adaptive"),
    [
        (optax.sgd(0.1, 0.9), False),
        (optax.adam(1e-3), True),
        (optax.chain(optax.clip_by_global_norm(1.0), optax.rmsprop(1e-3)), True),
        (optax.MultiSteps(optax.adagrad(0.1), 2).gradient_transformation(), True),
        (optax.inject_hyperparams(optax.adamw)(1e-3), True),
    ],
    ids=["momentum", "Adam", "clipped RMSprop", "Adagrad over two batches", "AdamW"],
)
def test_who_has_adam_is_not_advised_to_take_it(optimizer: optax.GradientTransformation, adaptive: bool) -> None:
    assert measurements.is_adaptive(optimizer, params()) == adaptive


def test_no_remedy_is_what_is_there_already() -> None:
    start = {name: 1e-2 * w for name, w in params().items()}
    d = gf.diagnose(
        loss_behind(lambda z: z), start, X, Y, optimizer=optax.adam(1e-7), batches=[(X, Y)], steps=2, progress=False
    )
    assert "vanishing" in [f.kind for f in d.findings]
    assert BY_LEAF not in [remedy for f in d.findings for remedy in f.remedies]


@pytest.mark.parametrize("part", ["input", "recurrent"])
def test_a_kernel_inside_a_scan_that_is_of_another_scale_is_named(part: str) -> None:
    """The ledger follows the state as a whole; each layer's own signals tell."""
    model = gf.models.Recurrent("gru", 8, 4, layers=2)
    x = jax.random.normal(jax.random.key(0), (16, 5, 3))
    y = jnp.argmax(x[:, 0], axis=-1)

    def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(model.apply(params, x)), y).mean()

    sound = model.init(jax.random.key(1), x)
    for factor, names in ((5.0, []), (100.0, [f"Layer_1/{part}"])):
        layers = sound["params"]
        kernel = {"kernel": factor * layers["Layer_1"][part]["kernel"]}
        scaled = {**layers["Layer_1"], part: {**layers["Layer_1"][part], **kernel}}
        start = {"params": {**layers, "Layer_1": scaled}}
        _, _, flow = gf.value_grad_and_flow(loss)(start, x, y)
        assert list(path_rules.outlying(gf.ledger(loss, start, x, y), flow)) == names


def test_a_rate_that_suits_no_layer_of_another_scale_names_the_layer() -> None:
    d = diagnosed(lambda z: z, params("third", 300.0), 3e-2)
    found = [f for f in d.findings if f.kind in ("learning_rate", "unstable_update")]
    assert found
    assert all(f.layers == ("third",) and "scale of the others" in f.remedies[0].what for f in found)
