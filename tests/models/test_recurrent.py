"""Recurrent networks against NumPy loops and Flax's cells; lengths, biases, and where the input projection stands."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from gradflow.models import Recurrent
from tests.user_errors import without_type_checker

BATCH, TIME, FEATURES, HIDDEN = 3, 6, 2, 4
X = jax.random.normal(jax.random.key(1), (BATCH, TIME, FEATURES))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm_step(state, x, layer):
    c, h = state
    gates = x @ layer["input"]["kernel"] + layer["input"]["bias"] + h @ layer["recurrent"]["kernel"]
    i, f, g, o = (gates[:, k * HIDDEN : (k + 1) * HIDDEN] for k in range(4))
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return c, sigmoid(o) * np.tanh(c)


def gru_step(state, x, layer):
    (h,) = state
    a = x @ layer["input"]["kernel"] + layer["input"]["bias"]
    b = h @ layer["recurrent"]["kernel"] + layer["recurrent"]["bias"]
    r = sigmoid(a[:, :HIDDEN] + b[:, :HIDDEN])
    s = sigmoid(a[:, HIDDEN : 2 * HIDDEN] + b[:, HIDDEN : 2 * HIDDEN])
    n = np.tanh(a[:, 2 * HIDDEN :] + r * b[:, 2 * HIDDEN :])
    return ((1 - s) * n + s * h,)


def simple_step(phi):
    def step(state, x, layer):
        z = x @ layer["input"]["kernel"] + layer["input"]["bias"] + state[0] @ layer["recurrent"]["kernel"]
        return (phi(z),)

    return step


STEPS = {
    "lstm": (lstm_step, 2),
    "gru": (gru_step, 1),
    "rnn": (simple_step(np.tanh), 1),
    "irnn": (simple_step(lambda z: np.maximum(z, 0)), 1),
}


def numpy_recurrent(params, x, cell, layers):
    step, states = STEPS[cell]
    for index in range(layers):
        state, outputs = (np.zeros((len(x), HIDDEN)),) * states, []
        for t in range(x.shape[1]):
            state = step(state, x[:, t], params[f"Layer_{index}"])
            outputs.append(state[-1])
        x = np.stack(outputs, axis=1)
    return x @ params["Dense_head"]["kernel"] + params["Dense_head"]["bias"]


def shaken(params):
    """Every parameter moved, so that none is 0 or symmetric."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    return jax.tree.unflatten(
        tree, [leaf + 0.4 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    )


@pytest.mark.parametrize("cell", STEPS)
@pytest.mark.parametrize("layers", [1, 2])
def test_forward_pass_is_that_of_a_loop(cell, layers):
    model = Recurrent(cell=cell, hidden=HIDDEN, outputs=2, layers=layers, return_sequence=True)
    params = shaken(model.init(jax.random.key(0), X)["params"])
    plain = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    expected = numpy_recurrent(plain, np.asarray(X, np.float64), cell, layers)
    np.testing.assert_allclose(model.apply({"params": params}, X), expected, rtol=1e-4, atol=1e-5)
    last = Recurrent(cell=cell, hidden=HIDDEN, outputs=2, layers=layers)
    np.testing.assert_allclose(last.apply({"params": params}, X), expected[:, -1], rtol=1e-4, atol=1e-5)


def test_lstm_is_the_one_of_flax():
    model = Recurrent(hidden=HIDDEN, outputs=2, forget_bias=0.0)
    params = shaken(model.init(jax.random.key(0), X)["params"])
    cell = nn.OptimizedLSTMCell(HIDDEN)
    layer, theirs = params["Layer_0"], {}
    for k, gate in enumerate("ifgo"):
        columns = slice(k * HIDDEN, (k + 1) * HIDDEN)
        theirs[f"i{gate}"] = {"kernel": layer["input"]["kernel"][:, columns]}
        theirs[f"h{gate}"] = {
            "kernel": layer["recurrent"]["kernel"][:, columns],
            "bias": layer["input"]["bias"][columns],
        }
    carry = cell.initialize_carry(jax.random.key(0), (BATCH, FEATURES))
    for t in range(TIME):
        carry, h = cell.apply({"params": theirs}, carry, X[:, t])
    expected = h @ params["Dense_head"]["kernel"] + params["Dense_head"]["bias"]
    np.testing.assert_allclose(model.apply({"params": params}, X), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cell", STEPS)
def test_lengths_cut_sequences_short(cell):
    model = Recurrent(cell=cell, hidden=HIDDEN, outputs=2, layers=2)
    params = {"params": shaken(model.init(jax.random.key(0), X)["params"])}
    lengths = [1, 6, 3]
    got = jax.jit(model.apply)(params, X, jnp.array(lengths))
    for row, length in enumerate(lengths):
        alone = model.apply(params, X[row : row + 1, :length])
        np.testing.assert_allclose(got[row], alone[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lengths", [[1, 2], [0, 2, 3], [1, 2, 7], [1.0, 2.0, 3.0]])
@without_type_checker()
def test_lengths_that_do_not_fit_are_named(lengths):
    model = Recurrent(hidden=HIDDEN, outputs=2)
    params = model.init(jax.random.key(0), X)
    with pytest.raises(ValueError, match="lengths"):
        model.apply(params, X, jnp.array(lengths))


def test_sequences_without_steps_are_named():
    with pytest.raises(ValueError, match="at least one step"):
        Recurrent(hidden=HIDDEN).init(jax.random.key(0), X[:, :0])


def bias_of(**options):
    model = Recurrent(hidden=200, outputs=1, **options)
    return np.split(np.asarray(model.init(jax.random.key(0), X)["params"]["Layer_0"]["input"]["bias"]), 4)


def test_forget_bias():
    i, f, g, o = bias_of(forget_bias=2.5)
    assert np.all(f == 2.5)
    assert not np.any([i, g, o])


def test_chrono_biases_are_logs_of_uniform_times():
    """Tallec & Ollivier 2018: b_f = log U(1, T - 1), b_i = -b_f."""
    i, f, g, o = bias_of(chrono_steps=101)
    np.testing.assert_array_equal(i, -f)
    assert not np.any([g, o])
    times = np.exp(f)
    assert times.min() >= 1
    assert times.max() <= 100
    assert times.mean() == pytest.approx(50.5, abs=4 * 28.6 / 200**0.5)


def test_initial_kernels_are_drawn_gate_by_gate():
    params = Recurrent(hidden=50, outputs=1).init(jax.random.key(0), jnp.ones((1, 2, 30)))["params"]["Layer_0"]
    blocks = np.split(np.asarray(params["recurrent"]["kernel"]), 4, axis=1)
    for block in blocks:
        np.testing.assert_allclose(block.T @ block, np.eye(50), atol=1e-5)
    limit = (6 / (30 + 50)) ** 0.5  # Glorot uniform with the fans of one gate
    assert 0.99 * limit < float(jnp.abs(params["input"]["kernel"]).max()) <= limit
    irnn = Recurrent(cell="irnn", hidden=5, outputs=1).init(jax.random.key(0), X)["params"]["Layer_0"]
    np.testing.assert_array_equal(irnn["recurrent"]["kernel"], np.eye(5))


@pytest.mark.parametrize("cell", STEPS)
def test_only_the_recurrent_product_is_inside_the_scan(cell):
    model = Recurrent(cell=cell, hidden=HIDDEN, outputs=2)
    params = model.init(jax.random.key(0), X)
    jaxpr = jax.make_jaxpr(lambda p: model.apply(p, X))(params)
    scans = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "scan"]
    assert len(scans) == 1
    assert str(scans[0].params["jaxpr"]).count("dot_general") == 1
    assert str(jaxpr).count("dot_general") == 3  # input, recurrent, head


@pytest.mark.parametrize("cell", STEPS)
def test_hoisting_changes_neither_parameters_nor_values_nor_gradients(cell):
    hoisted, inside = (Recurrent(cell=cell, hidden=HIDDEN, outputs=2, layers=2, hoist=hoist) for hoist in (True, False))
    params = hoisted.init(jax.random.key(0), X)
    jax.tree.map(np.testing.assert_array_equal, params, inside.init(jax.random.key(0), X))

    def run(model):
        return jax.jit(jax.value_and_grad(lambda p: (model.apply(p, X, jnp.array([2, 6, 4])) ** 2).mean()))(params)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), run(hoisted), run(inside))
    scans = [e for e in jax.make_jaxpr(lambda p: inside.apply(p, X))(params).eqns if e.primitive.name == "scan"]
    assert all(str(scan.params["jaxpr"]).count("dot_general") == 2 for scan in scans)


def test_retention_through_the_memory_is_the_product_of_forget_gates():
    """With U = 0 and an input that speaks once, c_T = sigmoid(b_f)^(T-1) c_1."""
    steps, bias = 20, 1.5
    model = Recurrent(hidden=1, outputs=1, forget_bias=bias, recurrent_initializer="zeros", return_sequence=True)
    params = model.init(jax.random.key(0), jnp.ones((1, 2, 1)))
    layer = params["params"]["Layer_0"]
    # Input gate and candidate follow the input alone: open and 1 at the first step, 0 after.
    layer["input"]["kernel"] = jnp.array([[0.0, 0.0, 0.5, 0.0]])
    x = jnp.zeros((1, steps, 1)).at[0, 0, 0].set(1.0)
    head = params["params"]["Dense_head"]
    head["kernel"] = jnp.ones((1, 1))
    h = np.asarray(model.apply(params, x))[0, :, 0]
    c = np.arctanh(2 * h)  # the output gate is sigmoid(0)
    np.testing.assert_allclose(c[1:] / c[:-1], sigmoid(bias), rtol=1e-3)
