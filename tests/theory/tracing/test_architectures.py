"""Small models of the shapes that people train: how much of them theory predicts, and that it is right there."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from gradflow import theory
from gradflow.theory.tracing.rules import graphs

IMAGES, VECTORS = (16, 16, 16, 3), (32, 60)


class ResNet(nn.Module):
    """Padding, max pooling, batch norm, shortcuts and global average pooling, as in ResNet-50 (He et al. 2016)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        x = nn.relu(norm(nn.Conv(32, (3, 3), padding="VALID", use_bias=False)(x)))
        x = nn.max_pool(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), (2, 2))
        for channels, stride in ((32, 1), (64, 2)):
            h = nn.relu(norm(nn.Conv(channels, (3, 3), strides=stride, use_bias=False)(x)))
            h = norm(nn.Conv(channels, (3, 3), use_bias=False)(h))
            x = nn.relu(norm(nn.Conv(channels, (1, 1), strides=stride, use_bias=False)(x)) + h)
        return nn.Dense(40)(x.mean((1, 2)))


class MobileNet(nn.Module):
    """Depthwise convolutions with squeeze and excitation, as in EfficientNet (Tan & Le 2019)."""

    blocks: int = 2

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.silu(norm(nn.Conv(32, (3, 3), strides=2, use_bias=False)(x)))
        for _ in range(self.blocks):
            h = nn.silu(norm(nn.Conv(128, (1, 1), use_bias=False)(x)))
            h = nn.silu(norm(nn.Conv(128, (3, 3), feature_group_count=128, use_bias=False)(h)))
            gate = nn.Conv(64, (1, 1))(h.mean((1, 2), keepdims=True))
            h = h * nn.sigmoid(nn.Conv(128, (1, 1))(nn.silu(gate)))
            x = x + norm(nn.Conv(32, (1, 1), use_bias=False)(h))
        return nn.Dense(40)(x.mean((1, 2)))


class UNet(nn.Module):
    """Group norm, resizing and concatenated skips, as in diffusion models (Ho et al. 2020)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        first = block(nn.Conv(32, (3, 3))(x), 32)
        x = block(nn.Conv(64, (3, 3), strides=2)(first), 64)
        x = jax.image.resize(x, (*first.shape[:3], 64), "nearest")
        x = block(jnp.concatenate([nn.Conv(32, (3, 3))(x), first], -1), 32)
        return nn.Conv(32, (3, 3))(nn.silu(nn.GroupNorm(4)(x)))


class GatedUnits(nn.Module):
    """One layer gives both the gate and what it lets through."""

    blocks: int = 2

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Dense(128)(x)
        for _ in range(self.blocks):
            gate, value = jnp.split(nn.Dense(256)(nn.RMSNorm()(x)), 2, -1)
            x = x + nn.Dense(128)(nn.silu(gate) * value)
        return nn.Dense(40)(x)


class ActorCritic(nn.Module):
    """Convolutions over frames, then a policy and a value, as in deep reinforcement learning."""

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = nn.relu(nn.Conv(32, (4, 4), strides=2, padding="VALID")(x))
        x = nn.relu(nn.Conv(32, (3, 3), padding="VALID")(x)).reshape(len(x), -1)
        x = nn.tanh(nn.Dense(128)(x))
        mean, log_std = jnp.split(nn.Dense(64)(x), 2, -1)
        return mean * jnp.exp(-1.0) + log_std, nn.Dense(32)(nn.tanh(nn.Dense(128)(x)))


class ResidualActorCritic(nn.Module):
    """Fifteen convolutions in three sections, then a policy and a value (Espeholt et al. 2018)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        for channels in (16, 32, 32):
            x = nn.max_pool(nn.Conv(channels, (3, 3))(x), (3, 3), (2, 2), "SAME")
            for _ in range(2):
                x = x + nn.Conv(channels, (3, 3))(nn.relu(nn.Conv(channels, (3, 3))(nn.relu(x))))
        x = nn.relu(nn.Dense(256)(nn.relu(x).reshape(len(x), -1)))
        policy, value = (nn.tanh(nn.Dense(128)(x)) for _ in range(2))
        return nn.Dense(32)(policy), nn.Dense(32)(value)


class RecurrentLanguageModel(nn.Module):
    """Embedding, two residual memory cells and a head, as in language models before attention."""

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = nn.Embed(64, 64)(tokens)
        for _ in range(2):
            x = x + nn.RNN(nn.OptimizedLSTMCell(64))(nn.LayerNorm()(x))
        return nn.Dense(64)(x)


class TransformerLanguageModel(nn.Module):
    """Pre-normalized blocks of causal attention, with one table for embedding and head (Radford et al. 2019)."""

    blocks: int = 2

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        embedding = nn.Embed(64, 64)
        x = embedding(tokens) + self.param("positions", nn.initializers.normal(0.02), (tokens.shape[1], 64))
        for _ in range(self.blocks):
            x = x + nn.MultiHeadDotProductAttention(4)(nn.LayerNorm()(x), mask=nn.make_causal_mask(tokens))
            x = x + nn.Dense(64)(nn.gelu(nn.Dense(128)(nn.LayerNorm()(x))))
        return embedding.attend(nn.LayerNorm()(x))


class GraphNetwork(nn.Module):
    """Means over neighbours, from a dense adjacency matrix (Kipf & Welling 2017) or from a list of edges."""

    edges: bool = False
    blocks: int = 2

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        adjacency = jax.random.bernoulli(jax.random.key(8), 0.1, (len(x), len(x))) | jnp.eye(len(x), dtype=bool)
        receivers, senders = jnp.nonzero(adjacency, size=4 * len(x))
        degrees = adjacency.sum(1, keepdims=True).astype(x.dtype)
        x = nn.Dense(64)(x)
        for _ in range(self.blocks):
            h = nn.Dense(64)(nn.LayerNorm()(x))
            if self.edges:
                h = jax.ops.segment_sum(nn.relu(h[senders]), receivers, len(x))
            else:
                h = adjacency.astype(x.dtype) @ nn.relu(h)
            x = x + nn.Dense(64)(h / degrees)
        return nn.Dense(40)(x)


def norm(x: jax.Array) -> jax.Array:
    return nn.BatchNorm(use_running_average=False)(x)


def block(x: jax.Array, channels: int) -> jax.Array:
    h = nn.Conv(channels, (3, 3))(nn.silu(nn.GroupNorm(4)(x)))
    h = nn.Conv(channels, (3, 3))(nn.silu(nn.GroupNorm(4)(h)))
    return (x if x.shape[-1] == channels else nn.Conv(channels, (1, 1))(x)) + h


def predicted(module: nn.Module, *args: Any, seed: int = 0) -> theory.Prediction:
    variables = jax.jit(module.init)(jax.random.key(seed), *args)
    rest = {k: v for k, v in variables.items() if k != "params"}
    return theory.predict(
        lambda p, *args: module.apply({"params": p, **rest}, *args, mutable=["batch_stats"])[0],
        variables["params"],
        *args,
    )


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize(
    ("module", "shape", "ends"),
    [
        (ResNet(), IMAGES, 1),
        (MobileNet(), IMAGES, 1),
        (UNet(), IMAGES, 1),
        (GatedUnits(), VECTORS, 1),
        (ActorCritic(), IMAGES, 2),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, nn.Module) else "",
)
def test_models_are_inside_the_theory(module: nn.Module, shape: tuple[int, ...], ends: int) -> None:
    """All layers forward, and backward all but those that feed the loss; measured and predicted rms agree."""
    prediction = predicted(module, jax.random.normal(jax.random.key(3), shape))
    count = len(prediction.layers)
    assert prediction.coverage == pytest.approx((1.0, 1 - ends / count)), str(prediction)
    assert set(prediction.outside.values()) <= {"approximate: a nonlinearity of a sum that is not Gaussian"}
    assert not prediction.outliers, str(prediction)
    for layer in prediction.layers:
        assert layer.output_rms == pytest.approx(layer.measured_output_rms, rel=0.35), str(prediction)
        assert layer.output_grad_rms == pytest.approx(layer.measured_output_grad_rms, rel=0.4), str(prediction)


def tokens(seed: int = 3) -> jax.Array:
    return jax.random.randint(jax.random.key(seed), (8, 12), 0, 64)


def test_a_recurrent_language_model_is_inside_the_theory() -> None:
    """Memory cells behind another layer read one position a step; all their steps at once are a signal again."""
    prediction = predicted(RecurrentLanguageModel(), tokens())
    assert prediction.coverage == pytest.approx((1.0, 1 - 1 / len(prediction.layers)))
    assert not prediction.outliers, str(prediction)


@pytest.mark.slow
@pytest.mark.parametrize("edges", [True, False], ids=["edges", "adjacency"])
def test_graph_networks_are_inside_the_theory(edges: bool) -> None:
    """The covariance of every two nodes is followed, and that of their gradients on the way back over the edges."""
    prediction = predicted(GraphNetwork(edges), jax.random.normal(jax.random.key(3), (48, 20)))
    assert prediction.coverage == pytest.approx((1.0, 5 / 6)), str(prediction)
    assert not prediction.outliers, str(prediction)
    for layer in prediction.layers:
        assert layer.output_rms == pytest.approx(layer.measured_output_rms, rel=0.15), str(prediction)
        assert layer.output_grad_rms == pytest.approx(layer.measured_output_grad_rms, rel=0.15), str(prediction)


@pytest.mark.slow
def test_a_transformer_is_predicted_outside_attention() -> None:
    """Outputs of all layers outside attention; gradients of these but the head, and of projections behind attention."""
    prediction = predicted(TransformerLanguageModel(), tokens())
    assert not prediction.outliers, str(prediction)
    attending = [layer for layer in prediction.layers if layer.name.endswith(("query", "key", "value"))]
    assert [layer for layer in prediction.layers if layer.anchored] == [*attending, prediction.layers[-1]]
    assert all(layer.name.endswith("/out") for layer in prediction.layers if layer.starts_anew), str(prediction)


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("neighbours", ["alike", "unlike"])
def test_a_sum_over_neighbours_depends_on_how_alike_they_are(neighbours: str) -> None:
    """Deep means over a ring: what is left is the correlation of neighbours, which grows on the way."""

    def model(params: Any, adjacency: jax.Array, x: jax.Array) -> jax.Array:
        for w in params:
            x = adjacency @ nn.relu(x @ w)
        return x

    def draw(key: jax.Array) -> list[jax.Array]:
        return [1.4 * jax.random.normal(k, (200, 200)) / 200**0.5 for k in jax.random.split(key, 4)]

    def squares(key: jax.Array) -> jax.Array:
        y, found = x, []
        for w in draw(key):
            found.append(jnp.mean((y @ w) ** 2))
            y = ring / 3 @ nn.relu(y @ w)
        return jnp.stack(found)

    ring = jnp.eye(30) + jnp.roll(jnp.eye(30), 1, 1) + jnp.roll(jnp.eye(30), -1, 1)
    x = jax.random.normal(jax.random.key(1), (30, 200))
    if neighbours == "alike":
        x = jnp.linalg.matrix_power(ring / 3, 8) @ x
    prediction = theory.predict(model, draw(jax.random.key(0)), ring / 3, x)
    drawn = jax.lax.map(squares, jax.random.split(jax.random.key(2), 200)).mean(0) ** 0.5
    assert prediction.coverage[0] == 1.0, str(prediction)
    assert [layer.output_rms for layer in prediction.layers] == pytest.approx(list(map(float, drawn)), rel=0.04)


@pytest.mark.slow
def test_sums_over_too_many_neighbours_start_anew_with_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "MOST_NODES", 10)
    prediction = predicted(GraphNetwork(), jax.random.normal(jax.random.key(3), (48, 20)))
    assert [layer.starts_anew for layer in prediction.layers] == [False, False, True, False, True, False]
    assert all("neighbours in a graph" in note for note in prediction.outside.values()), prediction.outside
    assert not prediction.outliers, str(prediction)
