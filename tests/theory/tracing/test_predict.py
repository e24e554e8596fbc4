"""Predictions for models of other frameworks: inside the theory they hold, outside they say so."""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gradflow import models, theory

WIDTH, EXAMPLES = 200, 32


def squared_error(out: jax.Array) -> jax.Array:
    target = jax.random.normal(jax.random.key(9), out.shape)
    return jnp.mean((out - target) ** 2)


def predicted(module: nn.Module, x: jax.Array) -> theory.Prediction:
    variables = jax.jit(module.init)(jax.random.key(0), x)
    rest = {k: v for k, v in variables.items() if k != "params"}

    def loss(params: Any, x: jax.Array) -> jax.Array:
        return squared_error(module.apply({"params": params, **rest}, x, mutable=["batch_stats"])[0])

    return theory.predict(loss, variables["params"], x)


def bare(depth: int = 6, weight_variance: float = 1.5, bias: float = 0.3) -> tuple[Any, list[Any]]:
    keys = jax.random.split(jax.random.key(1), 2 * depth).reshape(depth, 2)
    params = [
        {
            "w": math.sqrt(weight_variance / WIDTH) * jax.random.normal(a, (WIDTH, WIDTH)),
            "b": bias * jax.random.normal(b, (WIDTH,)),
        }
        for a, b in keys
    ]

    def loss(params: Any, x: jax.Array) -> jax.Array:
        for k, layer in enumerate(params):
            x = (jnp.tanh(x) if k else x) @ layer["w"] + layer["b"]
        return squared_error(x)

    return loss, params


def test_plain_network_is_what_the_maps_say() -> None:
    """Forward and backward ratios of the prediction against `variance_map` and `backward_rates`: another way there."""
    loss, params = bare()
    x = jax.random.normal(jax.random.key(2), (EXAMPLES, WIDTH))
    layers = theory.predict(loss, params, x).layers
    assert [layer.name for layer in layers] == [str(k) for k in range(6)]
    weights = [WIDTH * float(jnp.mean(p["w"] ** 2)) for p in params]
    biases = [float(p["b"].var()) + float(p["b"].mean()) ** 2 for p in params]
    for k in range(1, 6):
        q = layers[k - 1].output_rms ** 2 + biases[k - 1]
        after = float(theory.variance_map("tanh", q, weights[k], 0.0))
        assert layers[k].output_rms ** 2 == pytest.approx(after, rel=3e-3)
        rate = float(theory.backward_rates("tanh", q, weight_variance=weights[k]))
        below = (layers[k - 1].output_grad_rms / layers[k].output_grad_rms) ** 2
        assert below == pytest.approx(rate, rel=3e-3)
    assert layers[-1].anchored
    assert not any(layer.deviations for layer in layers)


class Net(nn.Module):
    act: Any = nn.relu
    norm: Any = None
    residual: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Dense(WIDTH)(x)
        for _ in range(4):
            h = nn.Dense(WIDTH)(self.act(x if self.norm is None else self.norm()(x)))
            x = x + h if self.residual else h
        return nn.Dense(20)(self.act(x))


class BatchNorm(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.BatchNorm(use_running_average=False)(x)


class Convolutional(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for k in range(4):
            x = nn.elu(nn.Conv(48, (3, 3), strides=1 + k % 2, feature_group_count=1 if k == 0 else 4)(x))
        return nn.Dense(20)(x.reshape(x.shape[0], -1))


class Circular(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for _ in range(3):
            x = nn.tanh(nn.Conv(48, (3, 3), padding="CIRCULAR")(x))
        return nn.Dense(20)(x.reshape(x.shape[0], -1))


class TwoNumbersAChannel(nn.Module):
    """Batch normalization as a x + (b - a mean(x))."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return models.BatchNorm()(x, train=True)


class Recurrent(nn.Module):
    last_of: str = "carry"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        carry, outs = nn.RNN(nn.SimpleCell(WIDTH), return_carry=True)(x)
        return nn.Dense(20)(carry if self.last_of == "carry" else outs[:, -1])


class Gated(nn.Module):
    """A memory cell: gates are products of two signals, independent at initialization."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        outs: Any = nn.RNN(nn.LSTMCell(100))(x)
        return nn.Dense(20)(outs[:, -1])


class GatedUnits(nn.Module):
    """Pre-normalized residual blocks with a gated linear unit (Shazeer 2020)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Dense(WIDTH)(x)
        for _ in range(2):
            h = nn.RMSNorm()(x)
            x = x + nn.Dense(WIDTH)(nn.silu(nn.Dense(WIDTH)(h)) * nn.Dense(WIDTH)(h))
        return nn.Dense(20)(nn.RMSNorm()(x))


class Keras(nn.Module):
    """Batch normalization in training as Keras writes it: x s + (beta - mean s)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        mean, variance = x.mean(0, keepdims=True), x.var(0, keepdims=True)
        inverse = jax.lax.rsqrt(variance + 1e-3) * self.param("gamma", nn.initializers.ones, (1, x.shape[-1]))
        return x * inverse + (self.param("beta", nn.initializers.zeros, (1, x.shape[-1])) - mean * inverse)


class Separable(nn.Module):
    """Depthwise and pointwise convolutions with normalization by groups of channels."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(48, (3, 3))(x)
        for _ in range(2):
            x = nn.Conv(48, (3, 3), feature_group_count=48)(nn.relu(nn.GroupNorm(4)(x)))
            x = nn.Conv(48, (1, 1))(nn.relu(nn.GroupNorm(4)(x)))
        return nn.Dense(20)(x.reshape(x.shape[0], -1))


IMAGES, SEQUENCES, VECTORS = (16, 8, 8, 3), (16, 7, 30), (EXAMPLES, 100)


@pytest.mark.quick_cases(5)
@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (Net(nn.silu), VECTORS),
        (Net(nn.gelu, residual=True), VECTORS),
        (Net(nn.relu, norm=BatchNorm), VECTORS),
        (Net(nn.tanh, norm=nn.LayerNorm, residual=True), VECTORS),
        (Net(nn.gelu, norm=TwoNumbersAChannel, residual=True), VECTORS),
        (Convolutional(), IMAGES),
        (Circular(), IMAGES),
        (Recurrent(), SEQUENCES),
        (Recurrent("outputs"), SEQUENCES),
        (Gated(), SEQUENCES),
        (GatedUnits(), VECTORS),
        (Net(nn.relu, norm=Keras), VECTORS),
        (Net(nn.relu, norm=lambda: nn.GroupNorm(8)), VECTORS),
        (Separable(), IMAGES),
    ],
    ids=[
        "silu",
        "residual",
        "batchnorm",
        "layernorm",
        "own batchnorm",
        "conv",
        "circular",
        "recurrent",
        "last output",
        "memory cell",
        "gated units",
        "batch norm of Keras",
        "group norm",
        "separable",
    ],
)
def test_linen_models_are_inside_the_theory(module: nn.Module, shape: tuple[int, ...]) -> None:
    prediction = predicted(module, jax.random.normal(jax.random.key(3), shape))
    assert not prediction.outside
    assert [layer.name for layer in prediction.outliers] == []
    assert prediction.coverage == (1.0, 1 - 1 / len(prediction.layers))
    assert str(prediction).startswith("predicted: outputs of 100% of the layers")
    assert [layer.anchored for layer in prediction.layers] == [False] * (len(prediction.layers) - 1) + [True]
    assert list(dict.fromkeys(layer.name for layer in prediction.layers)) == list(prediction.flow.layers)
    for layer in prediction.layers:
        if layer.step != (0,):
            assert layer.output_rms == pytest.approx(layer.measured_output_rms, rel=0.35)
            assert layer.output_grad_rms == pytest.approx(layer.measured_output_grad_rms, rel=0.35)


def test_equinox_and_haiku() -> None:
    model = eqx.nn.MLP(100, 20, WIDTH, 3, key=jax.random.key(0))
    arrays, static = eqx.partition(model, eqx.is_array)
    x = jax.random.normal(jax.random.key(3), VECTORS)
    equinox = theory.predict(lambda a, x: squared_error(jax.vmap(eqx.combine(a, static))(x)), arrays, x)
    net: Any = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([WIDTH, WIDTH, 20])(x)))
    haiku = theory.predict(lambda p, x: squared_error(net.apply(p, x)), net.init(jax.random.key(0), x), x)
    for prediction, depth in ((equinox, 4), (haiku, 3)):
        assert (len(prediction.layers), prediction.outside, prediction.outliers) == (depth, {}, ())


def test_model_instead_of_a_loss() -> None:
    """A Linen module, a Haiku function and an NNX model as they are, without a loss."""
    x = jax.random.normal(jax.random.key(3), VECTORS)
    linen = Net(nn.tanh)
    net: Any = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([WIDTH, WIDTH, 20])(x)))
    key = jax.random.key(0)
    nnx_model = nnx.Sequential(
        nnx.Linear(100, WIDTH, rngs=nnx.Rngs(0)), nnx.gelu, nnx.Linear(WIDTH, 20, rngs=nnx.Rngs(1))
    )
    graph, state = nnx.split(nnx_model)
    for model, params, layers in (
        (linen, linen.init(key, x), 6),
        (net, net.init(key, x), 3),
        (lambda state, x: nnx.merge(graph, state)(x), state, 2),
    ):
        prediction = theory.predict(model, params, x)
        assert (len(prediction.layers), prediction.outside, prediction.outliers) == (layers, {}, ())
    with pytest.raises(TypeError, match="got a dict"):
        theory.predict({}, {}, x)
    with pytest.raises(TypeError, match="not what lies between them"):
        theory.predict(prediction.flow)


class Attention(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Dense(32)(x)
        x = x + nn.MultiHeadDotProductAttention(2)(x)
        return nn.Dense(20)(x.mean(1))


class Pooled(nn.Module):
    """Circular padding, behind which the correlation between positions is not known."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for _ in range(2):
            x = nn.tanh(nn.Conv(48, (3, 3), padding="CIRCULAR")(x))
        return nn.Dense(20)(x.mean((1, 2)))


@pytest.mark.parametrize(
    ("module", "shape", "layer", "reason"),
    [
        (Attention(), SEQUENCES, "MultiHeadDotProductAttention_0/out", "attention"),
        (Pooled(), IMAGES, "Dense_0", "pooling"),
    ],
    ids=["attention", "pooling"],
)
def test_what_is_outside_says_so_and_starts_anew(
    module: nn.Module, shape: tuple[int, ...], layer: str, reason: str
) -> None:
    prediction = predicted(module, jax.random.normal(jax.random.key(3), shape))
    assert reason in prediction.outside[layer]
    assert "starts from its measured input" in str(prediction)
    assert 0 < prediction.coverage[0] < 1
    assert all(math.isfinite(row.output_rms) and math.isfinite(row.output_grad_rms) for row in prediction.layers)


def test_a_weight_that_is_no_longer_random_parts() -> None:
    """One weight of rank 1 along what it gets: the layer and what follows leave the band."""
    loss, params = bare(depth=4, bias=0.0)
    x = jax.random.normal(jax.random.key(2), (EXAMPLES, WIDTH)) + 2.0
    direction = jnp.tanh(x @ params[0]["w"]).mean(0)
    direction = direction / jnp.linalg.norm(direction)
    size = jnp.linalg.norm(params[1]["w"])
    learned = size * jnp.outer(direction, jnp.ones(WIDTH) / math.sqrt(WIDTH))
    params[1] = {**params[1], "w": learned}
    prediction = theory.predict(loss, params, x)
    assert "output" in prediction.layers[1].deviations
    assert prediction.layers[0].deviations in ((), ("gradient",))
    assert "<- output outside its band" in str(prediction)


def test_sum_that_is_not_gaussian_is_said_to_be_approximate() -> None:
    class PostActivation(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            x = nn.relu(nn.Dense(WIDTH)(x))
            x = nn.relu(x + nn.Dense(WIDTH)(x))
            return nn.Dense(20)(x)

    prediction = predicted(PostActivation(), jax.random.normal(jax.random.key(3), VECTORS))
    assert "not Gaussian" in prediction.outside["Dense_2"]
    np.testing.assert_allclose(
        [layer.output_rms for layer in prediction.layers],
        [layer.measured_output_rms for layer in prediction.layers],
        rtol=0.35,
    )


def test_layers_that_no_cotangent_reaches_have_no_gradient_to_predict():
    params = {name: jax.random.normal(jax.random.key(k), (64, 64)) / 8 for k, name in enumerate("abc")}

    def model(p, x):
        hidden = jax.lax.stop_gradient(jnp.tanh(jnp.tanh(x @ p["a"]) @ p["b"]))
        return jnp.tanh(hidden @ p["c"])

    prediction = theory.predict(model, params, jax.random.normal(jax.random.key(9), (32, 64)))
    by_name = {layer.name: layer for layer in prediction.layers}
    assert np.isnan(by_name["a"].output_grad_rms)
    assert by_name["a"].deviations == ()
    assert np.isfinite(by_name["c"].output_grad_rms)
    assert "not reached" in str(prediction)
    page = prediction._repr_html_()
    assert page.count("<tr>") >= 3
    assert "not reached" in page
