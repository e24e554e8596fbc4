"""Initial signal of convolutional, residual and recurrent networks against theory; `test_mlp.py` has that of MLPs.

Means over networks are held to within four of their own standard errors, and 3 % for what theory leaves out.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow import initializers
from gradflow.models import CNN, Recurrent, ResNet

SIZE = 12


def within(samples, expected):
    samples = np.asarray(samples, np.float64)
    error = samples.std(0) / np.sqrt(len(samples))
    assert np.all(np.abs(samples.mean(0) - expected) <= 4 * error + 0.03 * np.abs(expected)), (
        samples.mean(0),
        expected,
    )
    assert np.all(error < 0.15 * np.abs(expected))  # the test can tell


def spread(squares, stride=1):
    """Mean square at every position after a 3x3 convolution with zeros around it, one ninth from each neighbour."""
    padded = np.pad(squares, 1)
    rows, columns = squares.shape
    return sum(padded[i : i + rows, j : j + columns] for i in range(3) for j in range(3))[::stride, ::stride] / 9


def streams(model, networks=48, examples=8):
    """Mean square of the output of each block, one row a network, for white noise of variance 1."""
    x = jax.random.normal(jax.random.key(1), (examples, SIZE, SIZE, 3))

    @jax.jit
    @jax.vmap
    def squares(key):
        variables = model.init(key, x)
        collections = ["intermediates", "batch_stats"]
        _, seen = model.apply(variables, x, train=True, capture_intermediates=True, mutable=collections)
        return jnp.stack([(seen["intermediates"][f"Block_{i}"]["__call__"][0] ** 2).mean() for i in range(3)])

    return squares(jax.random.split(jax.random.key(0), networks))


def test_plain_convolutions_keep_the_signal():
    """He et al. 2015: 2/fan_in for ReLU; what is lost is lost at the borders. Blocks end with ReLU, half of it."""
    q = 2 * spread(np.ones((SIZE, SIZE)))
    expected = []
    for stride in (1, 2, 2):
        q = spread(spread(q, stride))
        expected.append(q.mean() / 2)
    within(streams(ResNet(depth=8, residual=False, normalization=None)), expected)


def test_residual_blocks_double_the_signal():
    """De & Smith 2020: 2^l without normalization. Shortcut A halves the mean over channels where it doubles them."""
    q = 2 * spread(np.ones((SIZE, SIZE)))
    expected = []
    for stride, share in ((1, 1.0), (2, 0.5), (2, 0.5)):
        q = share * q[::stride, ::stride] + spread(spread(q, stride))
        expected.append(q.mean())
    within(streams(ResNet(depth=8, version=2, normalization=None)), expected)


def test_normalized_branches_add_one_each():
    """De & Smith 2020: l + 1 with batch normalization, one for every branch."""
    q, ones = 2 * spread(np.ones((SIZE, SIZE))), functools.partial(np.full, fill_value=1.0)
    expected = []
    for stride, share in ((1, 1.0), (2, 0.5), (2, 0.5)):
        q = share * q[::stride, ::stride]
        q = q + spread(ones(q.shape))
        expected.append(q.mean())
    within(streams(ResNet(depth=8, version=2)), expected)


@pytest.mark.parametrize("scan", [False, True])
def test_convolutions_follow_the_variance_map(scan):
    """The map q -> sigma_w^2 E[erf(z)^2] + sigma_b^2 (Xiao et al. 2018), at the last layer."""
    weight_variance, bias_std, channels = 1.5, 0.3, 100
    model = CNN(
        depth=4,
        channels=channels,
        outputs=1,
        activation=jax.lax.erf,
        initializer=initializers.gaussian(weight_variance),
        bias=initializers.small_gaussian(bias_std),
        scan=scan,
    )
    x = jax.random.normal(jax.random.key(1), (4, 1, 1, 3))  # one position, which is its own neighbour on every side
    q = weight_variance * float((x**2).mean()) + bias_std**2
    for _ in range(3):
        q = weight_variance * 2 / np.pi * np.arcsin(2 * q / (1 + 2 * q)) + bias_std**2

    @jax.jit
    @jax.vmap
    def square(key):
        params = model.init(key, x)["params"]
        head = {"kernel": jnp.eye(channels), "bias": jnp.zeros(channels)}
        return (model.clone(outputs=channels).apply({"params": {**params, "Dense_head": head}}, x) ** 2).mean()

    within(square(jax.random.split(jax.random.key(0), 24))[:, None], [2 / np.pi * np.arcsin(2 * q / (1 + 2 * q))])


UNITS, FEATURES = 300, 100


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def first_states(z):
    """States after one step from 0 for independent pre-activations (gates, samples), by the equations of the cells."""
    c = sigmoid(z[0]) * np.tanh(z[2])
    return {
        "rnn": (np.tanh(z[0]),),
        "irnn": (np.maximum(z[0], 0),),
        "lstm": (c, sigmoid(z[3]) * np.tanh(c)),
        "gru": ((1 - sigmoid(z[1])) * np.tanh(z[2]),),
    }


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("cell", ["rnn", "irnn", "lstm", "gru"])
def test_first_states_have_the_spread_of_their_gates(cell):
    """Glorot uniform: pre-activations of variance 2 fan_in / (fan_in + fan_out) for inputs of variance 1."""
    scale = 1e-6 * FEATURES if cell == "irnn" else 2 * FEATURES / (FEATURES + UNITS)
    z = np.sqrt(scale) * np.random.default_rng(0).standard_normal((4, 400_000))
    expected = [(state**2).mean() for state in first_states(z)[cell]]
    model = Recurrent(cell=cell, hidden=UNITS, outputs=1, return_state=True, unroll=1)
    x = jax.random.normal(jax.random.key(1), (16, 1, FEATURES))
    x = x / jnp.sqrt((x**2).mean())

    @jax.jit
    @jax.vmap
    def squares(key):
        return jnp.stack([(s**2).mean() for s in model.apply(model.init(key, x), x)[1][0]])

    within(squares(jax.random.split(jax.random.key(0), 12)), expected)


def test_linear_recurrence_adds_up_as_a_geometric_series():
    """h_t = W x_t + U h: variances add up to (1 - s^t) / (1 - s), s = sigma_w^2 of U."""
    options = {"initializer": "lecun_normal", "recurrent_initializer": initializers.gaussian(0.6)}
    model = Recurrent(cell=lambda z: z, hidden=UNITS, outputs=1, return_state=True, **options)
    x = jax.random.normal(jax.random.key(1), (16, 8, FEATURES))

    @jax.jit
    @jax.vmap
    def square(key):
        return (model.apply(model.init(key, x), x)[1][0][0] ** 2).mean()

    within(square(jax.random.split(jax.random.key(0), 12))[:, None], [(1 - 0.6**8) / 0.4])
