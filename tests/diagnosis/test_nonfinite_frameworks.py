"""The locator on models of four frameworks, on parameters and batches, on long programs and loops."""

from __future__ import annotations

import inspect

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.sharding import AxisType, PartitionSpec

import gradflow as gf

X = jnp.ones((2, 3))


@pytest.fixture(autouse=True)
def _nan_is_allowed():
    with jax.debug_nans(False):
        yield


def line_with(function, text):
    """File and number of the line of a function that holds a text."""
    lines, start = inspect.getsourcelines(function)
    return f"{__file__}:{start + next(k for k, line in enumerate(lines) if text in line)}"


class LinenBlock(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4, use_bias=False)(x)
        x = nn.LayerNorm(epsilon=0.0)(x)
        return jnp.log(nn.relu(x))


class LinenModel(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(LinenBlock(name="block")(x))


def linen(x):
    model = LinenModel()
    params = model.init(jax.random.key(0), X)
    return lambda params, x: model.apply(params, x).mean(), params, x


def test_linen_a_line_of_the_model_and_its_scope():
    origin = gf.find_nonfinite(*linen(jax.random.normal(jax.random.key(1), (2, 3))))
    assert (origin.operation, origin.layer) == ("log of 0", "LinenModel/block")
    assert origin.line == line_with(LinenBlock, "jnp.log")


def test_linen_norm_of_a_constant_signal():
    """The operation is Flax's; the line is the one that calls it."""
    origin = gf.find_nonfinite(*linen(0 * X))
    assert (origin.operation, origin.layer) == ("variance of 0", "LinenModel/block/LayerNorm_0")
    assert origin.line == line_with(LinenBlock, "nn.LayerNorm")
    assert "eps to the variance" in origin.remedy


class NnxModel(nnx.Module):
    def __init__(self):
        self.first = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
        self.norm = nnx.BatchNorm(4, rngs=nnx.Rngs(0))
        self.last = nnx.Linear(4, 1, rngs=nnx.Rngs(0))

    def __call__(self, x):
        h = self.norm(self.first(x))
        h = h / jnp.linalg.norm(h, axis=-1, keepdims=True)
        return self.last(h)


def test_nnx():
    model = NnxModel()
    before = jax.tree.leaves(nnx.state(model))
    origin = gf.find_nonfinite(lambda model, x: model(x).mean(), model, X)
    assert (origin.operation, origin.direction) == ("norm of 0", "forward")
    assert origin.line == line_with(NnxModel.__call__, "linalg.norm")
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.leaves(nnx.state(model)))


def test_nnx_backward_inside_scan():
    @nnx.scan(in_axes=(nnx.Carry, None), out_axes=nnx.Carry, length=3)
    def step(h, model):
        return jnp.sqrt(model.first(h)[..., :3] * 0)

    origin = gf.find_nonfinite(lambda model: step(X, model).sum(), NnxModel())
    assert (origin.operation, origin.direction) == ("sqrt at 0", "backward")
    assert origin.line == line_with(test_nnx_backward_inside_scan, "jnp.sqrt")


class EquinoxModel(eqx.Module):
    mlp: eqx.nn.MLP

    def __call__(self, x):
        p = jax.nn.softmax(1e3 * self.mlp(x))
        return -jnp.log(p)[0]


def test_equinox():
    model = EquinoxModel(eqx.nn.MLP(3, 2, 4, 1, key=jax.random.key(0)))
    x = jax.random.normal(jax.random.key(2), (8, 3))
    origin = gf.find_nonfinite(lambda model, x: jax.vmap(model)(x).mean(), model, x)
    assert (origin.operation, origin.direction) == ("log of 0", "forward")
    assert origin.line == line_with(EquinoxModel.__call__, "jnp.log")
    assert "log_softmax" in origin.remedy


def logits(params, x):
    h = jnp.tanh(x @ params["first"]["w"])
    return h @ params["last"]["w"]


PARAMS = {"first": {"w": jnp.ones((3, 4))}, "last": {"w": jnp.zeros((4, 2))}}


def test_plain_jax_names_the_nearest_layer():
    origin = gf.find_nonfinite(lambda params, x: jnp.linalg.norm(logits(params, x)), PARAMS, X)
    assert (origin.operation, origin.direction, origin.layer) == ("norm at 0", "backward", "last")
    assert "layer last" in str(origin)


def test_a_parameter_that_is_nan():
    params = PARAMS | {"last": {"w": PARAMS["last"]["w"].at[1, 0].set(jnp.nan)}}
    origin = gf.find_nonfinite(lambda params, x: jnp.sum(logits(params, x)), params, X)
    assert (origin.operation, origin.leaf, origin.index) == ("NaN in the parameter", "last/w", (1, 0))
    assert "1 of 8 entries" in origin.cause


@pytest.mark.parametrize("value, said", [(jnp.nan, "NaN in the batch"), (jnp.inf, "Inf in the batch")])
def test_a_batch_that_is_bad(value, said):
    def loss(params, batch):
        return jnp.sum(logits(params, batch["image"]) ** 2)

    batch = {
        "image": jax.random.normal(jax.random.key(1), (2, 3)).at[1, 2].set(value),
        "label": jnp.zeros(2, jnp.int32),
    }
    params = PARAMS | {"first": {"w": jnp.ones((3, 4)) * 1e-3}, "last": {"w": jnp.ones((4, 2))}}
    origin = gf.find_nonfinite(lambda p, batch: loss(p, batch) + jnp.sum(batch["image"]), params, batch)
    assert (origin.operation, origin.leaf, origin.index) == (said, "batch/image", (1, 2))


def test_a_row_that_a_mask_in_the_batch_leaves_empty():
    """The infinities of the mask are meant; softmax makes NaN of them."""
    mask = jnp.array([[0.0, -jnp.inf], [-jnp.inf, -jnp.inf]])

    def loss(params, x, mask):
        return jnp.sum(jax.nn.softmax(logits(params, x) + mask))

    origin = gf.find_nonfinite(loss, PARAMS, X, mask)
    assert (origin.operation, origin.leaf, origin.index[0]) == ("softmax of a row of -inf", "", 1)
    assert origin.line == line_with(loss, "jax.nn.softmax")


def test_a_jitted_function_called_twice_is_named_where_it_is_bad():
    """JAX traces it once; the line is inside it, and of a library function the call's own."""

    def loss(w):
        first = jnp.linalg.norm(w + 1.0)
        second = jnp.linalg.norm(w)
        return first + second

    assert gf.find_nonfinite(loss, jnp.zeros(3)).line == line_with(loss, "second =")


def test_a_penalty_on_a_gradient():
    """The loss takes a gradient itself, whose norm is that of the derivative at 0."""

    def loss(w):
        slope = jax.grad(lambda x: jnp.sqrt(jnp.sum((w * x) ** 2)))(0 * w)
        return jnp.sum(slope)

    origin = gf.find_nonfinite(loss, jnp.ones(3))
    assert origin.line == line_with(loss, "jnp.sqrt")
    assert "norm" in origin.operation


def test_while_names_the_iteration():
    def loss(w):
        _, y = lax.while_loop(
            lambda s: s[0] < 5, lambda s: (s[0] + 1, s[1] / (3.0 - s[0])), (0.0, lax.stop_gradient(w))
        )
        return jnp.sum(w * y)

    origin = gf.find_nonfinite(loss, jnp.ones(3))
    assert (origin.operation, origin.step, origin.primitive) == ("division by 0", (3,), "div")


@pytest.mark.parametrize("steps", [70, 3])
def test_a_long_loop_is_run_from_states_that_are_held(steps):
    def loss(w):
        def body(carry, k):
            return carry * jnp.where(k == steps // 2, jnp.exp(1e3 * carry), 1.0), None

        return jnp.sum(lax.scan(body, w, jnp.arange(steps))[0])

    origin = gf.find_nonfinite(loss, jnp.ones(3))
    assert (origin.operation, origin.step) == ("exp overflow", (0,) if steps == 0 else (steps // 2,))


def test_a_long_program_is_cut_into_pieces():
    def loss(w):
        for _ in range(70):
            w = jnp.sin(w) + 1.0
        w = jnp.where(w > 9, jnp.log(0 * w), w)
        for _ in range(70):
            w = jnp.sin(w) + 1.0
        return jnp.sum(w)

    origin = gf.find_nonfinite(loss, jnp.ones(3))
    assert (origin.operation, origin.direction, origin.masked) == ("log of 0", "backward", True)
    assert origin.line == line_with(loss, "jnp.log")


def test_a_gradient_scaled_out_of_half_precision():
    def loss(w):
        half = w.astype(jnp.float16)
        return 1e6 * jnp.sum(half.astype(jnp.float32))

    origin = gf.find_nonfinite(loss, jnp.ones(3))
    assert origin.operation == "cast of a gradient to float16 that overflows"
    assert "loss scale" in origin.remedy


def test_a_product_whose_operands_have_other_shapes():
    """Entries of a product belong to no entry of its operands, also where the shapes are the same."""

    def loss(w, x):
        return jnp.sum(jnp.sin(1e30 * (x @ w)) * 1e30)

    for x in (0 * X, jnp.zeros((3, 3))):
        origin = gf.find_nonfinite(loss, jnp.ones((3, 3)), x)
        assert (origin.operation, origin.direction) == ("overflow of a gradient (derivative of a product)", "backward")
    origin = gf.find_nonfinite(lambda w: jnp.sum(w @ w), jnp.full((3, 3), 1e30))
    assert (origin.operation, origin.operands[0].value) == ("overflow of a matrix product", None)


def test_shard_map_is_named_and_not_opened():
    mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("d")

    def loss(w):
        return jnp.sum(jax.shard_map(jnp.log, mesh=mesh, in_specs=spec, out_specs=spec)(w))

    origin = gf.find_nonfinite(loss, jnp.array([1.0, 0.0]))
    assert origin.operation == "an operation inside shard_map"
    assert "not looked into" in origin.cause
    assert origin.line == line_with(loss, "jax.shard_map")


def test_complex_numbers():
    origin = gf.find_nonfinite(lambda w: jnp.sum(jnp.abs(jnp.log(w))), jnp.array([1.0 + 1j, 0.0]))
    assert (origin.operation, origin.index) == ("log of 0", (1,))


def test_records_are_plain():
    record = gf.find_nonfinite(lambda w: jnp.sum(jnp.log(w)), jnp.zeros(2)).to_record()
    assert record["value"] == "-inf"
    assert record["operands"] == ["float32[2] from 0 to 0; here 0"]
