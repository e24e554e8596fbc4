"""What batch normalization takes out of gradients: against closed forms, loops over pairs, and JAX itself."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow import theory
from gradflow.theory.tracing.centring import less_mean, less_projection, through_share
from gradflow.theory.tracing.components import Component
from gradflow.theory.tracing.contractions import unevenness_of_weights, windows_of
from gradflow.theory.tracing.correlations import Correlations
from gradflow.theory.tracing.likeness import Likeness, in_turn, mean_of_pairs, through_slopes
from gradflow.theory.tracing.measured_fields import between_examples, between_positions
from gradflow.theory.tracing.positions import Window
from gradflow.theory.tracing.quadrature import NODES

LOSSES: dict[str, Callable[[Any], Any]] = {
    "random": lambda out: jnp.vdot(out, jax.random.normal(jax.random.key(9), out.shape)) / len(out),
    "mean": jnp.mean,
    "squares": lambda out: jnp.mean((out - 3.0) ** 2),
    "one class": lambda out: -jnp.mean(jax.nn.log_softmax(out)[:, 0]),
}
RELU = Component(np.maximum(NODES, 0.0), (NODES > 0).astype(float))


def normalized(h: jax.Array, order: str) -> jax.Array:
    """Batch normalization as Flax writes it, and as Keras does."""
    axes = tuple(range(h.ndim - 1))
    inverse = jax.lax.rsqrt(h.var(axes) + 1e-5)
    return (h - h.mean(axes)) * inverse if order == "centred first" else h * inverse + (0.0 - h.mean(axes) * inverse)


def dense(act: Callable[[Any], Any], order: str) -> Callable[..., Any]:
    """Layers with batch normalization before the activation."""

    def model(params: list[jax.Array], x: jax.Array) -> jax.Array:
        for w in params[:-1]:
            x = act(normalized(x @ w, order))
        return x @ params[-1]

    return model


def draw(depth: int, shape: tuple[int, ...], width: int, outputs: int) -> list[jax.Array]:
    """He weights."""
    keys = jax.random.split(jax.random.key(3), depth + 1)
    units = [shape[-1], *[width] * depth]
    window = shape[:-1]
    weights = [
        jax.random.normal(k, (*window, n, width)) * math.sqrt(2 / (n * math.prod(window)))
        for k, n in zip(keys, units[:-1], strict=False)
    ]
    return [*weights, jax.random.normal(keys[-1], (width, outputs)) / math.sqrt(width)]


def apart(prediction: theory.Prediction) -> list[float]:
    """Factors between predicted and measured gradients."""
    return [row.output_grad_rms / row.measured_output_grad_rms for row in prediction.layers]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("act", "order", "batch"),
    [("relu", "centred first", 32), ("tanh", "divided first", 32), ("relu", "divided first", 8)],
)
def test_gradients_that_examples_share_are_taken_out(loss: str, act: str, order: str, batch: int) -> None:
    model, params = dense(getattr(jax.nn, act), order), draw(5, (50,), 200, 10)
    x = jax.random.normal(jax.random.key(0), (batch, 50))
    prediction = theory.predict(lambda params, x: LOSSES[loss](model(params, x)), params, x)
    assert prediction.coverage[1] > 0.8, str(prediction)
    assert not prediction.outliers, str(prediction)
    assert max(abs(math.log(x)) for x in apart(prediction)) < math.log(1.25 if batch == 32 else 1.45), str(prediction)


def test_a_batch_too_small_for_its_variance_is_not_predicted() -> None:
    x = jax.random.normal(jax.random.key(0), (4, 50))
    prediction = theory.predict(dense(jnp.tanh, "centred first"), draw(5, (50,), 200, 10), x)
    assert all(row.anchored for row in prediction.layers), str(prediction)
    (reason,) = set(prediction.outside.values())
    assert "measured one" in reason
    assert "take a larger batch" in reason
    assert len(prediction.outside) == len(prediction.layers) - 1  # the last one feeds the loss


def padded(params: list[jax.Array], x: jax.Array) -> jax.Array:
    """Convolutions over few positions, where the zeros around them count most."""
    for w in params[:-1]:
        x = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        x = jax.nn.relu(normalized(x, "centred first"))
    return x.mean((1, 2)) @ params[-1]


@pytest.mark.parametrize("loss", ["random", "mean"])
@pytest.mark.parametrize("side", [2, 6])
def test_zeros_around_the_positions_make_the_batch_mean_smaller(loss: str, side: int) -> None:
    params, x = draw(8, (3, 3, 3), 64, 10), jax.random.normal(jax.random.key(0), (32, side, side, 3))
    prediction = theory.predict(lambda params, x: LOSSES[loss](padded(params, x)), params, x)
    assert not prediction.outliers, str(prediction)
    assert max(abs(math.log(x)) for x in apart(prediction)) < math.log(1.45), str(prediction)


@pytest.mark.parametrize("window", [Window(5, 5, 3, low=1), Window(6, 3, 3, stride=2, low=1), Window(7, 5, 3)], ids=str)
def test_overlap_counts_the_taps_of_every_two_places(window: Window) -> None:
    _, valid = window.places
    pairs = np.mean([valid[a] @ valid[b] for a, b in itertools.product(range(window.outputs), repeat=2)])
    assert window.overlap == pytest.approx(pairs / np.mean([v @ v for v in valid]))


def test_a_mean_of_relus_keeps_what_neither_mean_nor_signal_takes() -> None:
    """Of gradients that are all the same behind a ReLU, 1 - 1/2 - 1/pi is left in a large batch."""
    at = Correlations(np.ones(()), examples=0.0)
    sizes = (10**6,)
    found = in_turn(
        through_slopes(RELU.slope_spectrum, RELU.along_spectrum(NODES), at),
        less_projection(sizes, at),
        less_mean(sizes),
    )(Likeness(np.ones(()), examples=np.ones(())))
    assert not isinstance(found, str)
    assert found[0] == pytest.approx(1 - 1 / 2 - 1 / math.pi, rel=2e-3)


def test_what_all_examples_share_leaves_nothing() -> None:
    assert "nearly all" in str(less_mean((64,))(Likeness(np.ones(()), examples=np.ones(()))))


def test_unlike_gradients_of_a_small_batch_lose_two_of_its_directions() -> None:
    at = Correlations(np.ones(()), examples=-1 / 15)
    carry = in_turn(less_projection((16,), at), less_mean((16,)))
    found = carry(Likeness(np.ones(()), examples=np.zeros(())))
    rng = np.random.default_rng(0)
    y = rng.normal(size=(16, 4000))
    y -= y.mean(0)
    d = rng.normal(size=y.shape)
    inverse = 1 / y.std(0)
    left = d - d.mean(0) - y * inverse**2 * (d * y).mean(0)
    assert not isinstance(found, str)
    assert found[0] == pytest.approx(np.mean((left * inverse) ** 2) * np.mean(y**2), rel=0.03)


def test_means_of_pairs_and_of_examples_are_those_of_loops() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 4, 5)) + rng.normal(size=(1, 4, 5)) + 0.5
    axes, values = ("e", "e", "u"), jnp.asarray(x, jnp.float32)
    found = np.asarray(between_examples(values, axes, between_positions(values, axes)))
    expected = [
        np.mean(
            [
                np.mean(x[a, p] * x[b, q])
                for a, b in itertools.permutations(range(3), 2)
                for p, q in itertools.product(range(4), repeat=2)
                if abs(p - q) == d
            ]
        )
        for d in range(4)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    own = [
        np.mean([np.mean(x[:, p] * x[:, q]) for p, q in itertools.product(range(4), repeat=2) if abs(p - q) == d])
        for d in range(4)
    ]
    assert mean_of_pairs(np.asarray(own), found, (3, 4)) == pytest.approx(np.mean(x.mean((0, 1)) ** 2), rel=1e-5)


def test_a_share_of_a_sum_mixes_what_goes_with_it() -> None:
    at = Correlations(np.ones(()), examples=0.25)
    likeness = Likeness(np.ones(()), examples=np.asarray(0.5), along=(np.asarray(3.0), np.asarray(0.7)))
    _, found = through_share(0.4, at)(likeness)
    assert found.along is not None
    assert found.along[0] == pytest.approx(0.4 * 3.0 + 0.6)
    assert found.along[1] == pytest.approx(0.4 * 0.7 + 0.6 * 0.5 * 0.25)


def convolution(x: jax.Array, w: jax.Array) -> jax.Array:
    """Depthwise where the kernel has one input a unit."""
    groups = x.shape[-1] if w.shape[2] == 1 else 1
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=layout, feature_group_count=groups)


def separable(params: list[jax.Array], x: jax.Array) -> jax.Array:
    """Convolutions of one tap between depthwise ones, each with batch normalization."""
    for w in params[:-1]:
        x = jax.nn.silu(normalized(convolution(x, w), "centred first"))
    return x.mean((1, 2)) @ params[-1]


@pytest.mark.parametrize(("side", "predicted"), [(1, False), (6, True)])
def test_units_of_few_weights_are_divided_by_unlike_deviations(side: int, predicted: bool) -> None:
    """On one position a depthwise kernel has one weight a unit: some deviations are near 0, and so is their weight."""
    keys = iter(jax.random.split(jax.random.key(5), 8))
    shapes = [(1, 1, 3, 96), (3, 3, 1, 96), (1, 1, 96, 96), (3, 3, 1, 96), (1, 1, 96, 96), (96, 10)]
    params = [jax.random.uniform(next(keys), s, minval=-1.0) * math.sqrt(3 / math.prod(s[:-1])) for s in shapes]
    x = jax.random.normal(jax.random.key(6), (32, side, side, 3))
    prediction = theory.predict(separable, params, x)
    assert not prediction.outliers, str(prediction)
    assert any("few weights" in row.note for row in prediction.layers) == (not predicted), str(prediction)
    assert (sum(row.anchored for row in prediction.layers) == 1) == predicted, str(prediction)


@pytest.mark.parametrize("shape", [(3, 3, 1, 7), (3, 1, 2, 5), (5, 5, 4, 6)])
def test_sums_of_squares_of_a_units_weights(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    weight, x = rng.normal(size=shape), np.zeros((1, 2, 4, 7 if shape[2] == 1 else shape[2]), np.float32)
    jaxpr = jax.make_jaxpr(convolution)(x, jnp.asarray(weight, jnp.float32)).jaxpr
    (eqn,) = jaxpr.eqns
    windows = windows_of(eqn, 0, {})
    assert windows is not None
    if math.prod(shape[:-1]) > 64:
        assert unevenness_of_weights(eqn, weight, windows) == 0
        return
    sums = np.zeros(shape[-1])
    for row, column in itertools.product(range(2), range(4)):
        for a, b in itertools.product(range(shape[0]), range(shape[1])):
            if 0 <= row + a - shape[0] // 2 < 2 and 0 <= column + b - shape[1] // 2 < 4:
                sums += (weight[a, b] ** 2).sum(0) / 8
    expected = 1 - 1 / (sums.mean() * (1 / sums).mean())
    assert unevenness_of_weights(eqn, weight, windows) == pytest.approx(expected)
