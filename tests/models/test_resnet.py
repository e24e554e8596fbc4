"""ResNet: the paper's parameter counts, blocks against NumPy, shortcuts, resolutions."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow.models import ResNet
from gradflow.models.resnet import _Block, _Operations

RGB, GREY = (2, 32, 32, 3), (2, 28, 28, 1)


def parameters(model, shape=RGB):
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))


@pytest.mark.parametrize("depth, count", [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018), (110, 1_727_962)])
@pytest.mark.parametrize("residual", [True, False])
def test_parameters_are_as_many_as_in_the_paper(depth, count, residual):
    """He et al. 2016a, option A; the plain network has as many."""
    assert parameters(ResNet(depth=depth, residual=residual)) == count


def test_parameters_of_the_variants():
    """Counted by hand: what each variant has over ResNet-20."""
    assert parameters(ResNet(shortcut="B")) == 269_722 + (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)
    assert parameters(ResNet(), GREY) == 269_722 - 2 * 9 * 16
    assert parameters(ResNet(residual="skipinit")) == 269_722 + 9
    # Batch normalization has two numbers a channel, convolutions without it one.
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
    ops = _Operations(True, version, shortcut, "batch", False, "relu", "he_normal", 0.9, None, jnp.float32, jnp.float32)
    block = _Block(ops, 4 * stride, stride)
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
