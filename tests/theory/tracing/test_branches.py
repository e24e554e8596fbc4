"""Branches that theory does not follow: measured, added to the stream, and the stream goes on behind them."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax import lax

from gradflow import theory
from gradflow.theory.tracing.measured_fields import MeasuredFields

WIDTH, POSITIONS, EXAMPLES, HEADS = 64, 8, 8, 4
SEQUENCES, VECTORS = (EXAMPLES, POSITIONS, WIDTH), (32, 200)


def unknown(x: jax.Array) -> jax.Array:
    """The same numbers, by operations without a rule."""
    return jnp.real(lax.complex(x, jnp.zeros_like(x)))


def shuffled(x: jax.Array) -> jax.Array:
    """Other examples, which have nothing to do with the stream but for what all examples share."""
    return unknown(jnp.roll(x, 1, 0))


def weights(width: int, count: int, seed: int = 0) -> list[jax.Array]:
    keys = jax.random.split(jax.random.key(seed), count)
    return [jax.random.normal(key, (width, width)) / width**0.5 for key in keys]


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize(
    ("name", "branch", "square"),
    [
        ("same", lambda x: x + unknown(x), 4.0),
        ("opposite", lambda x: x - 0.5 * unknown(x), 0.25),
        ("taken from", lambda x: 2.0 * unknown(x) - x, 1.0),
        ("independent", lambda x: x + 0.8 * shuffled(x), 1.64),
        ("in steps", lambda x: x + lax.scan(lambda c, y: (c + 0.3 * y, c), x[0], x)[1], None),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_what_is_added_counts_with_its_second_moment_and_correlation(name: str, branch: Any, square: Any) -> None:
    def model(params: Any, x: jax.Array) -> jax.Array:
        return jnp.tanh(branch(x @ params[0]) @ params[1]) @ params[2]

    x = jax.random.normal(jax.random.key(5), VECTORS)
    first, second, third = theory.predict(model, weights(200, 3), x).layers
    assert second.output_rms == pytest.approx(second.measured_output_rms, rel=0.1)
    assert third.output_rms == pytest.approx(third.measured_output_rms, rel=0.1)
    if square is not None:
        assert second.output_rms**2 == pytest.approx(square * first.output_rms**2, rel=0.1)
        assert "added to the signal as measured" in second.note
        assert third.note == ""
        assert first.anchored
    assert not any(layer.deviations for layer in (first, second, third))


def test_data_that_is_added_to_a_layer() -> None:
    def model(params: Any, x: jax.Array) -> jax.Array:
        x = x + x @ params[0]
        return jnp.tanh(x @ params[1]) @ params[2]

    x = 2.0 * jax.random.normal(jax.random.key(5), VECTORS)
    prediction = theory.predict(model, weights(200, 3), x)
    assert not prediction.outliers
    assert prediction.coverage[1] == pytest.approx(2 / 3)  # data reads no layer: the gradient is followed to the first
    for layer in prediction.layers:
        assert layer.output_rms == pytest.approx(layer.measured_output_rms, rel=0.1)


def test_targets_of_a_loss_cost_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    """Data that is taken from the last layer reaches no layer; the program is not run again for it."""
    ran: list[int] = []
    monkeypatch.setattr(MeasuredFields, "measure", lambda *_: ran.append(1))
    x = jax.random.normal(jax.random.key(5), VECTORS)
    prediction = theory.predict(lambda p, x: jnp.mean((x @ p[0] - x) ** 2), weights(200, 1), x)
    assert not ran
    assert prediction.layers[0].anchored


def test_a_layer_that_reads_mostly_what_was_measured_is_not_predicted() -> None:
    def model(params: Any, x: jax.Array, factor: float) -> jax.Array:
        x = x @ params[0]
        return (x + factor * shuffled(x)) @ params[1]

    x = jax.random.normal(jax.random.key(5), VECTORS)
    for factor, anew in ((0.5, False), (3.0, True)):
        layers = theory.predict(lambda p, x, f=factor: model(p, x, f), weights(200, 2), x).layers
        assert [layer.starts_anew for layer in layers] == [False, anew]


def attention(h: jax.Array, *projections: jax.Array) -> jax.Array:
    """Heads over positions, without an output projection unless a fourth one is given."""
    q, k, v = ((h @ w).reshape(*h.shape[:2], HEADS, -1) for w in projections[:3])
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / (WIDTH / HEADS) ** 0.5
    out = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v).reshape(h.shape)
    return out @ projections[3] if len(projections) > 3 else out


def layer_norm(x: jax.Array) -> jax.Array:
    return (x - x.mean(-1, keepdims=True)) * lax.rsqrt(x.var(-1, keepdims=True) + 1e-6)


def block(x: jax.Array, params: dict[str, jax.Array]) -> jax.Array:
    h = layer_norm(x)
    x = x + attention(h, params["q"], params["k"], params["v"])
    return x + jax.nn.gelu(layer_norm(x) @ params["up"]) @ params["down"]


def bare_transformer(*, scanned: bool) -> tuple[Any, Any]:
    """Blocks without output projections, so that what is added to the stream has no layer of its own."""
    keys = jax.random.split(jax.random.key(2), 3)
    names = ("q", "k", "v", "up", "down")
    blocks = [dict(zip(names, weights(WIDTH, 5, seed), strict=True)) for seed in range(3)]
    ends = {"in": jax.random.normal(keys[0], (WIDTH, WIDTH)) / 8, "out": jax.random.normal(keys[1], (WIDTH, 10)) / 8}

    def model(params: Any, x: jax.Array) -> jax.Array:
        x = x @ params["in"]
        if scanned:
            x, _ = lax.scan(lambda x, p: (jax.checkpoint(block)(x, p), None), x, params["blocks"])
        else:
            for p in params["blocks"]:
                x = block(x, p)
        return layer_norm(x.mean(1)) @ params["out"]

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks) if scanned else blocks
    return model, {"blocks": stacked, **ends}


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("scanned", [True, False], ids=["scan and remat", "unrolled"])
def test_the_stream_goes_on_through_attention_without_an_output_projection(scanned: bool) -> None:
    model, params = bare_transformer(scanned=scanned)
    x = jax.random.normal(jax.random.key(6), SEQUENCES)
    prediction = theory.predict(model, params, x)
    assert prediction.coverage[0] == 1.0
    assert not prediction.outliers, str(prediction)
    for layer in prediction.layers:
        assert layer.output_rms == pytest.approx(layer.measured_output_rms, rel=0.2), str(prediction)
        if not layer.anchored:
            assert layer.output_grad_rms == pytest.approx(layer.measured_output_grad_rms, rel=0.3), str(prediction)


def test_a_broken_layer_behind_the_branch_is_seen() -> None:
    model, params = bare_transformer(scanned=False)
    broken = jax.tree.map(lambda leaf: leaf, params)
    broken["blocks"][1]["up"] = 3.0 * params["blocks"][1]["up"]
    x = jax.random.normal(jax.random.key(6), SEQUENCES)
    prediction = theory.predict(model, broken, x, initial=params)
    parting = [layer.name for layer in prediction.layers if "output" in layer.deviations]
    assert parting == ["blocks/1/up", "blocks/1/down"]
    with pytest.raises(ValueError, match="structure and the shapes"):
        theory.predict(model, broken, x, initial={**params, "in": params["in"][:2]})


class LinenTransformer(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Dense(WIDTH)(x)
        for _ in range(2):
            h = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(HEADS)(h, mask=nn.make_causal_mask(x[..., 0]))
            x = x + nn.Dense(WIDTH)(nn.gelu(nn.Dense(WIDTH)(nn.LayerNorm()(x))))
        return nn.Dense(10)(nn.LayerNorm()(x).mean(1))


class NNXTransformer(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.attention = nnx.MultiHeadAttention(HEADS, WIDTH, rngs=rngs, decode=False)
        self.norms = nnx.List([nnx.LayerNorm(WIDTH, rngs=rngs) for _ in range(2)])
        self.up, self.down = (nnx.Linear(WIDTH, WIDTH, rngs=rngs) for _ in range(2))

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.up(x)
        x = x + self.attention(self.norms[0](x))
        return self.down(nnx.gelu(self.norms[1](x)))


class EquinoxTransformer(eqx.Module):
    attention: eqx.nn.MultiheadAttention
    norm: eqx.nn.LayerNorm
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self, key: jax.Array) -> None:
        keys = jax.random.split(key, 3)
        self.attention = eqx.nn.MultiheadAttention(HEADS, WIDTH, key=keys[0])
        self.norm = eqx.nn.LayerNorm(WIDTH)
        self.up, self.down = (eqx.nn.Linear(WIDTH, WIDTH, key=k) for k in keys[1:])

    def __call__(self, x: jax.Array) -> jax.Array:
        x = jax.vmap(self.up)(x)
        h = jax.vmap(self.norm)(x)
        x = x + self.attention(h, h, h)
        return jax.vmap(self.down)(jax.nn.gelu(jax.vmap(self.norm)(x)))


def transformer(framework: str) -> tuple[Any, Any]:
    """A fresh model, and its parameters."""
    if framework == "Linen":
        linen = LinenTransformer()
        return linen, linen.init(jax.random.key(0), jnp.ones(SEQUENCES))
    if framework == "NNX":
        graph, state = nnx.split(NNXTransformer(nnx.Rngs(0)))
        return (lambda state, x: nnx.merge(graph, state)(x)), state
    arrays, static = eqx.partition(EquinoxTransformer(jax.random.key(0)), eqx.is_inexact_array)
    return (lambda arrays, x: jax.vmap(eqx.combine(arrays, static))(x)), arrays


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("framework", ["NNX", "Linen", "Equinox"])
def test_fresh_transformers_raise_no_false_alarm(framework: str) -> None:
    model, params = transformer(framework)
    prediction = theory.predict(model, params, jax.random.normal(jax.random.key(6), SEQUENCES))
    assert not prediction.outliers, str(prediction)
    for layer in prediction.layers:
        attending = any(name in layer.name for name in ("ttention", "query", "key", "value"))
        assert attending or not layer.starts_anew, str(prediction)
