"""ResNet: the paper's parameter counts, blocks against NumPy, shortcuts, resolutions."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow.models import ResNet
from gradflow.models.blocks import Block

RGB, GREY = (2, 32, 32, 3), (2, 28, 28, 1)


def parameters(model, shape=RGB):
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))


@pytest.mark.parametrize("depth, count", [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018), (110, 1_727_962)])
@pytest.mark.parametrize("residual", [True, False])
def test_parameters_are_as_many_as_in_the_paper(depth, count, residual):
    """He et al. 2016a, option A; the plain network has as many."""
    assert parameters(ResNet(depth=depth, residual=residual)) == count


@pytest.mark.slow
def test_parameters_of_the_deepest_network_are_as_many_as_in_the_paper():
    assert parameters(ResNet(depth=1202)) == 19_421_274


@pytest.mark.parametrize("depth", [11, 29])
def test_parameters_of_bottleneck_networks(depth):
    """He et al. 2016b, counted block by block: 1x1, 3x3, 1x1, and batch normalization before each."""
    expected, channels = 27 * 16, 16
    for stage in (16, 32, 64):
        for _ in range((depth - 2) // 9):
            expected += channels * stage + 9 * stage * stage + 4 * stage * stage + 2 * (channels + stage + stage)
            channels = 4 * stage
    expected += 2 * channels + 10 * channels + 10
    assert parameters(ResNet(depth=depth, version=2, bottleneck=True)) == expected


def test_parameters_of_the_variants():
    """Counted by hand: what each variant has over ResNet-20."""
    assert parameters(ResNet(shortcut="B")) == 269_722 + (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)
    assert parameters(ResNet(), GREY) == 269_722 - 2 * 9 * 16
    assert parameters(ResNet(residual="skipinit")) == 269_722 + 9
    # Batch normalization has two numbers a channel, convolutions without it one.
    assert parameters(ResNet(residual="highway")) == 269_722 + sum(
        before * after + after
        for before, after in [(16, 16)] * 3 + [(16, 32), (32, 32), (32, 32), (32, 64)] + [(64, 64)] * 2
    )
    # Fixup: a factor and four shifts a block, one shift behind the stem and one before the head.
    normalized = 2 * (16 + 6 * (16 + 32 + 64))
    assert parameters(ResNet(residual="fixup", normalization=None)) == 269_722 - normalized + 9 * 5 + 2
    assert parameters(ResNet(normalization=None)) == 269_722 - (16 + 6 * (16 + 32 + 64))


@pytest.mark.parametrize("shape", [RGB, GREY])
@pytest.mark.parametrize("version", [1, 2])
def test_both_image_sizes_halve_twice(shape, version):
    model = ResNet(depth=8, version=version)
    _, seen = jax.eval_shape(
        lambda x: model.apply(
            model.init(jax.random.key(0), x), x, capture_intermediates=True, mutable=["intermediates"]
        ),
        jnp.zeros(shape),
    )
    sizes = [seen["intermediates"][f"Block_{i}"]["__call__"][0].shape[1:] for i in range(3)]
    full = shape[1]
    assert sizes == [(full, full, 16), (full // 2, full // 2, 32), (full // 4, full // 4, 64)]


def convolve(x, kernel, stride):
    """Cross-correlation with window // 2 zeros on each side, by loops over positions."""
    window = kernel.shape[0]
    pad = window // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows, columns = (math.ceil(size / stride) for size in x.shape[1:3])
    y = np.zeros((len(x), rows, columns, kernel.shape[-1]))
    for i in range(rows):
        for j in range(columns):
            patch = padded[:, i * stride : i * stride + window, j * stride : j * stride + window]
            y[:, i, j] = np.einsum("bijc,ijco->bo", patch, kernel)
    return y


def batch_norm(x, params):
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return (x - mean) / np.sqrt(variance + 1e-5) * params["scale"] + params["bias"]


def relu(x):
    return np.maximum(x, 0)


def numpy_block(params, x, version, shortcut, stride):
    p = params
    if version == 1:
        y = relu(batch_norm(convolve(x, p["Conv_0"]["kernel"], stride), p["BatchNorm_0"]))
        y = batch_norm(convolve(y, p["Conv_1"]["kernel"], 1), p["BatchNorm_1"])
    else:
        activated = relu(batch_norm(x, p["BatchNorm_0"]))
        y = convolve(activated, p["Conv_0"]["kernel"], stride)
        y = convolve(relu(batch_norm(y, p["BatchNorm_1"])), p["Conv_1"]["kernel"], 1)
    if stride == 1:
        skip = x
    elif shortcut == "A":
        skip = np.concatenate([x[:, ::2, ::2], np.zeros_like(x[:, ::2, ::2])], axis=-1)
    elif version == 1:
        skip = batch_norm(convolve(x, p["Conv_shortcut"]["kernel"], 2), p["BatchNorm_shortcut"])
    else:
        skip = convolve(activated, p["Conv_shortcut"]["kernel"], 2)
    return relu(skip + y) if version == 1 else skip + y


@pytest.mark.parametrize("version, shortcut, stride", [(1, "A", 1), (1, "A", 2), (1, "B", 2), (2, "A", 2), (2, "B", 2)])
def test_block_is_that_of_numpy(version, shortcut, stride):
    block = Block(ResNet(version=version, shortcut=shortcut)._operations(9), 4 * stride, stride)
    x = jax.random.normal(jax.random.key(1), (3, 6, 5, 4))
    variables = block.init(jax.random.key(0), x, True)
    leaves, tree = jax.tree.flatten(variables["params"])
    keys = jax.random.split(jax.random.key(2), len(leaves))
    leaves = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    params = jax.tree.unflatten(tree, leaves)
    got, _ = block.apply({**variables, "params": params}, x, True, mutable=["batch_stats"])
    plain = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    expected = numpy_block(plain, np.asarray(x, np.float64), version, shortcut, stride)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_skipinit_branches_are_silent_at_first():
    """Alpha is 0: with version 2 every block of unchanged shape is the identity, exactly."""
    model = ResNet(depth=14, version=2, residual="skipinit", normalization=None)
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    variables = jax.jit(model.init)(jax.random.key(0), x)
    _, seen = jax.jit(lambda v: model.apply(v, x, capture_intermediates=True, mutable=["intermediates"]))(variables)
    outputs = [seen["intermediates"][f"Block_{i}"]["__call__"][0] for i in range(6)]
    np.testing.assert_array_equal(outputs[0], seen["intermediates"]["Conv_stem"]["__call__"][0])
    for first in (0, 2, 4):
        np.testing.assert_array_equal(outputs[first], outputs[first + 1])


def test_plain_network_is_the_residual_one_without_shortcuts():
    """Without shortcuts, the output of a block whose last scale and offset are 0 is 0; with them it is relu(x)."""
    x = jax.random.normal(jax.random.key(1), (2, 6, 6, 3))
    for residual in (True, False):
        model = ResNet(depth=8, residual=residual)
        variables = jax.jit(model.init)(jax.random.key(0), x)
        variables["params"]["Block_0"]["BatchNorm_1"]["scale"] *= 0
        _, seen = jax.jit(lambda v, m=model: m.apply(v, x, capture_intermediates=True, mutable=["intermediates"]))(
            variables
        )
        block = np.asarray(seen["intermediates"]["Block_0"]["__call__"][0])
        assert block.any() == residual


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("version", [1, 2])
def test_fixup_begins_with_silent_branches_of_the_published_scale(version):
    """Zhang, Dauphin & Ma 2019: L^(-1 / (2m - 2)) of He's deviation, last convolutions and head 0."""
    for depth, bottleneck, m in [(26, False, 2), (29, True, 3)]:
        blocks = 3 * (depth - 2) // (9 if bottleneck else 6)
        model = ResNet(depth=depth, bottleneck=bottleneck, version=version, residual="fixup", normalization=None)
        x = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
        params = jax.jit(model.init)(jax.random.key(0), x)["params"]
        last = params[f"Block_{blocks - 1}"]
        assert not np.any(last[f"Conv_{m - 1}"]["kernel"])
        assert last["residual_scale"] == 1
        kernel = np.asarray(last[f"Conv_{m - 2}"]["kernel"])
        expected = blocks ** (-1 / (2 * m - 2)) * math.sqrt(2 / np.prod(kernel.shape[:-1]))
        assert abs(kernel.std() / expected - 1) < 4 / math.sqrt(2 * kernel.size)
        assert not np.any(jax.jit(model.apply)({"params": params}, x))


@pytest.mark.parametrize("version", [1, 2])
def test_fixup_block_is_that_of_numpy(version):
    model = ResNet(version=version, residual="fixup", normalization=None)
    block = Block(model._operations(9), 4, 1)
    x = jax.random.normal(jax.random.key(1), (2, 5, 6, 4))
    params = jax.tree.map(lambda leaf: leaf + 0.1, block.init(jax.random.key(0), x, True)["params"])
    got = block.apply({"params": params}, x, True)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    x = np.asarray(x, np.float64)
    if version == 1:
        y = convolve(x + p["shift_conv_0"], p["Conv_0"]["kernel"], 1)
        y = convolve(relu(y + p["shift_0"]) + p["shift_conv_1"], p["Conv_1"]["kernel"], 1)
        expected = relu(x + p["residual_scale"] * y + p["shift_out"])
    else:
        y = convolve(relu(x + p["shift_0"]) + p["shift_conv_0"], p["Conv_0"]["kernel"], 1)
        y = convolve(relu(y + p["shift_1"]) + p["shift_conv_1"], p["Conv_1"]["kernel"], 1)
        expected = x + p["residual_scale"] * y
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_highway_gates_open_and_close_a_block():
    """With the gate's bias at -inf a block is its shortcut, at +inf its branch."""
    x = jax.random.normal(jax.random.key(1), (2, 5, 6, 4))
    outputs = {}
    for name, residual, bias in [("shut", "highway", -200.0), ("open", "highway", 200.0), ("branch", False, 0.0)]:
        ops = ResNet(version=2, residual=residual, gate_bias=bias)._operations(9)
        block = Block(ops, 4, 1)
        outputs[name] = block.apply(block.init(jax.random.key(0), x, True), x, True, mutable=["batch_stats"])[0]
    np.testing.assert_array_equal(outputs["shut"], x)
    np.testing.assert_allclose(outputs["open"], outputs["branch"], rtol=1e-5, atol=1e-5)
