"""What a branch outside the theory sends back: measured, added to the stream's gradient, and the layers below go on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from gradflow import theory
from gradflow.theory.tracing.measured_cotangents import MeasuredCotangents
from tests.theory.tracing.test_branches import SEQUENCES, LinenTransformer, layer_norm, shuffled, unknown

WIDTH, EXAMPLES, BLOCKS = 100, 32, 2


def mlp(x: jax.Array, p: dict[str, jax.Array]) -> jax.Array:
    return jax.nn.gelu(layer_norm(x) @ p["up"]) @ p["down"]


def before(branch: Callable[..., Any], factor: float = 0.7) -> Callable[..., Any]:
    """A pre-normalized branch, then a pre-normalized perceptron."""

    def block(x: jax.Array, p: dict[str, jax.Array]) -> jax.Array:
        x = x + factor * branch(layer_norm(x))
        return x + mlp(x, p)

    return block


def twice(x: jax.Array, p: dict[str, jax.Array]) -> jax.Array:
    return before(shuffled, 0.3)(x + 0.15 * unknown(layer_norm(x)), p)


def behind(x: jax.Array, p: dict[str, jax.Array]) -> jax.Array:
    """Normalized behind the sum."""
    x = layer_norm(x + 0.5 * shuffled(x))
    return layer_norm(x + jax.nn.gelu(x @ p["up"]) @ p["down"])


def beside(x: jax.Array, p: dict[str, jax.Array]) -> jax.Array:
    """The branch and the perceptron read the same normalized stream."""
    h = layer_norm(x)
    return x + 0.5 * shuffled(h) + jax.nn.gelu(h @ p["up"]) @ p["down"]


def late(x: jax.Array, p: dict[str, jax.Array]) -> jax.Array:
    """What the branch reads is added to a later state of the stream, where nothing says how both gradients agree."""
    h = layer_norm(x)
    return x + mlp(x, p) + 0.5 * unknown(h)


@jax.custom_vjp
def own_derivative(h: jax.Array) -> jax.Array:
    return unknown(h)


own_derivative.defvjp(lambda h: (unknown(h), None), lambda _, d: (0.5 * jnp.roll(d, 1, 0),))


def draw(seed: int, *, shared: bool = False) -> dict[str, Any]:
    keys = jax.random.split(jax.random.key(seed), 2 * BLOCKS + 2)
    layers = [jax.random.normal(k, (WIDTH, WIDTH)) / WIDTH**0.5 for k in keys]
    blocks: Any = [{"up": layers[2 * k], "down": layers[2 * k + 1]} for k in range(BLOCKS)]
    return {"in": layers[-1], "blocks": blocks[0] if shared else blocks, "out": layers[-2]}


def predict(
    block: Callable[..., Any],
    seed: int = 0,
    examples: int = EXAMPLES,
    dtype: Any = jnp.float32,
    *,
    shared: bool = False,
) -> theory.Prediction:
    def model(params: Any, x: jax.Array) -> jax.Array:
        x = x @ params["in"]
        for k in range(BLOCKS):
            x = block(x, params["blocks"] if shared else params["blocks"][k])
        return layer_norm(x) @ params["out"]

    params = jax.tree.map(lambda w: w.astype(dtype), draw(seed, shared=shared))
    return theory.predict(model, params, jax.random.normal(jax.random.key(99 + seed), (examples, WIDTH), dtype))


def check(prediction: theory.Prediction, anchors: set[str], tolerance: float = 0.12) -> None:
    """Predicted are the gradients of all layers but some, and they are those measured."""
    assert {layer.name for layer in prediction.layers if layer.anchored} == anchors, str(prediction)
    assert not any("gradient" in layer.deviations for layer in prediction.layers), str(prediction)
    for layer in prediction.layers:
        assert layer.output_grad_rms == pytest.approx(layer.measured_output_grad_rms, rel=tolerance), str(prediction)


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize(
    ("block", "anchors"),
    [
        (before(shuffled, 0.5), set()),
        (twice, set()),
        (behind, {"in"}),  # which the branch reads itself
        (beside, set()),
        (before(lambda h: shuffled(lax.stop_gradient(h))), set()),
        (before(own_derivative), set()),
        (before(shuffled, 4.0), {"in", "blocks/0/down"}),
        (late, {"in", "blocks/0/down"}),
        (lambda x, p: x - 0.9 * unknown(x) + mlp(x, p), {"in", "blocks/0/down"}),
    ],
    ids=["pre-norm", "two in a row", "post-norm", "parallel", "stopped", "own derivative", "most", "late", "cancelled"],
)
def test_layers_below_a_branch_are_predicted_where_most_of_their_gradient_is(
    block: Callable[..., Any], anchors: set[str]
) -> None:
    check(predict(block), {"out", *anchors})


@pytest.mark.slow
def test_one_example_and_shared_weights() -> None:
    check(predict(before(unknown, 0.1), examples=1), {"out"}, 0.3)
    check(predict(before(unknown, 0.1), shared=True), {"out"}, 0.25)


@pytest.mark.slow
def test_over_seeds_the_gradient_is_right_on_average() -> None:
    ratios = []
    for seed in range(6):
        layers = [layer for layer in predict(before(shuffled, 0.5), seed).layers if not layer.anchored]
        ratios.append([layer.measured_output_grad_rms / layer.output_grad_rms for layer in layers])
    np.testing.assert_allclose(np.exp(np.log(ratios).mean(0)), 1.0, atol=0.05)


def test_what_was_measured_is_said() -> None:
    prediction = predict(before(shuffled, 0.5))
    assert "sends back is added as measured" in prediction.outside["blocks/0/down"]


def test_what_cannot_be_measured_is_anchored(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: MeasuredCotangents, closed: Any, args: Any) -> None:
        self.missing, self.final = set(), True

    monkeypatch.setattr(MeasuredCotangents, "measure", failing)
    check(predict(before(shuffled, 0.5)), {"in", "blocks/0/down", "out"})


@pytest.mark.slow
def test_an_output_projection_of_zeros_sends_nothing_to_queries_and_keys() -> None:
    model = LinenTransformer()
    x = jax.random.normal(jax.random.key(6), SEQUENCES)
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: 0.0 * leaf if "'out'" in jax.tree_util.keystr(path) else leaf,
        model.init(jax.random.key(0), x),
    )
    prediction = theory.predict(model, params, x)
    projections = [layer for layer in prediction.layers if layer.name.endswith(("query", "key", "value"))]
    assert len(projections) == 6
    assert all(layer.output_grad_rms == layer.measured_output_grad_rms == 0.0 for layer in projections)
    assert not any("gradient" in layer.deviations for layer in prediction.layers), str(prediction)
    others = [layer for layer in prediction.layers if layer not in projections]
    assert sum(layer.anchored for layer in others) == 1, str(prediction)


class ScannedBlocks(nn.Module):
    """Blocks in half precision under scan and remat, with a branch of their own."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        weights = [
            self.param(name, nn.initializers.normal(WIDTH**-0.5), (BLOCKS, WIDTH, WIDTH)).astype(jnp.bfloat16)
            for name in ("up", "down")
        ]

        @jax.checkpoint
        def block(x: jax.Array, p: Any) -> tuple[jax.Array, None]:
            x = x + 0.5 * jnp.roll(jnp.flip(lax.cumsum(layer_norm(x), 1) / 8, 1), 1, 0).astype(x.dtype)
            return x + mlp(x, {"up": p[0], "down": p[1]}).astype(x.dtype), None

        x = nn.Dense(WIDTH, dtype=jnp.bfloat16)(x)
        return nn.Dense(WIDTH)(layer_norm(lax.scan(block, x, tuple(weights))[0]).astype(jnp.float32))


@pytest.mark.slow
def test_inside_scans_and_in_half_precision() -> None:
    model, x = ScannedBlocks(), jax.random.normal(jax.random.key(5), (EXAMPLES, WIDTH))
    prediction = theory.predict(model, model.init(jax.random.key(0), x), x)
    assert not any("gradient" in layer.deviations for layer in prediction.layers), str(prediction)
    assert sum(layer.anchored for layer in prediction.layers) <= 3, str(prediction)
