"""Recurrent networks against NumPy loops and Flax's cells: states, lengths, directions, initial values, products."""

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


def projections(x, h, layer):
    return x @ layer["input"]["kernel"] + layer["input"]["bias"], h @ layer["recurrent"]["kernel"]


def columns(gates, number):
    return (gates[:, k * HIDDEN : (k + 1) * HIDDEN] for k in range(number))


def lstm_step(state, x, layer):
    c, h = state
    i, f, g, o = columns(sum(projections(x, h, layer)), 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return c, sigmoid(o) * np.tanh(c)


def peephole_step(state, x, layer):
    """Gers & Schmidhuber 2000."""
    c, h = state
    i, f, g, o = columns(sum(projections(x, h, layer)), 4)
    eyes = layer["peephole"]
    new = sigmoid(f + eyes["f"] * c) * c + sigmoid(i + eyes["i"] * c) * np.tanh(g)
    return new, sigmoid(o + eyes["o"] * new) * np.tanh(new)


def gru_step(state, x, layer):
    (h,) = state
    a, b = projections(x, h, layer)
    (a_r, a_z, a_n), (b_r, b_z, b_n) = columns(a, 3), columns(b, 3)
    z = sigmoid(a_z + b_z)
    n = np.tanh(a_n + sigmoid(a_r + b_r) * (b_n + layer["recurrent"]["bias"]))
    return ((1 - z) * n + z * h,)


def minimal_step(state, x, layer):
    """Chen 2017, section 2."""
    (h,) = state
    a, b = projections(x, h, layer)
    z = np.tanh(a)
    u = sigmoid(b + z @ layer["latent"]["kernel"] + layer["latent"]["bias"])
    return (u * h + (1 - u) * z,)


def simple_step(phi):
    def step(state, x, layer):
        return (phi(sum(projections(x, state[0], layer))),)

    return step


# One step in NumPy and the number of states.
STEPS = {
    "lstm": (lstm_step, 2),
    "lstm_peephole": (peephole_step, 2),
    "gru": (gru_step, 1),
    "minimal_rnn": (minimal_step, 1),
    "rnn": (simple_step(np.tanh), 1),
    "irnn": (simple_step(lambda z: np.maximum(z, 0)), 1),
}
every_cell = pytest.mark.parametrize("cell", STEPS)


def numpy_recurrent(params, x, cell, *, layers=1, bidirectional=False, start=0.0):
    """One sequence (time, features) at a time, nothing masked: hidden states of the last layer and all last states."""
    step, states = STEPS[cell]
    sequence, last = x, []
    for index in range(layers):
        sides = []
        for suffix in ("", "_reverse") if bidirectional else ("",):
            state, outputs = (np.full((1, HIDDEN), start),) * states, []
            for row in sequence[::-1] if suffix else sequence:
                state = step(state, row[None], params[f"Layer_{index}{suffix}"])
                outputs.append(state[-1][0])
            sides.append(np.stack(outputs[::-1] if suffix else outputs))
            last.append(state)
        sequence = np.concatenate(sides, axis=-1)
    return sequence, last


def head(params, h):
    return h @ params["Dense_head"]["kernel"] + params["Dense_head"]["bias"]


def wide(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def shaken(params):
    """Every parameter moved, so that none is 0 or symmetric."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    return jax.tree.unflatten(
        tree, [leaf + 0.4 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    )


@pytest.mark.quick_cases(3)
@every_cell
def test_forward_pass_is_that_of_a_loop(cell):
    """Two layers in both directions over sequences of different lengths, every state given and looked at."""
    lengths = [1, TIME, 4]
    options = {"cell": cell, "hidden": HIDDEN, "outputs": 2, "layers": 2, "bidirectional": True, "unroll": 1}
    model = Recurrent(**options, return_sequence=True, return_state=True)
    params = shaken(jax.jit(model.init)(jax.random.key(0), X)["params"])
    start = tuple(tuple(jnp.full((BATCH, HIDDEN), 0.3) for _ in range(STEPS[cell][1])) for _ in range(4))
    sequences, states = jax.jit(model.apply)({"params": params}, X, jnp.array(lengths), start)
    final = jax.jit(Recurrent(**options).apply)({"params": params}, X, jnp.array(lengths), start)
    plain = wide(params)
    for row, length in enumerate(lengths):
        x = np.asarray(X[row, :length], np.float64)
        hidden, last = numpy_recurrent(plain, x, cell, layers=2, bidirectional=True, start=0.3)
        np.testing.assert_allclose(sequences[row, :length], head(plain, hidden), rtol=1e-4, atol=1e-5)
        # A side's last state: at the last step of the one, at the first step of the other.
        sides = np.concatenate([last[2][-1], last[3][-1]], axis=-1)
        np.testing.assert_allclose(final[row], head(plain, sides)[0], rtol=1e-4, atol=1e-5)
        for got, expected in zip(jax.tree.leaves(states), jax.tree.leaves(last), strict=True):
            np.testing.assert_allclose(got[row], expected[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_sequence_in_two_pieces_is_the_sequence(cell):
    options = {"cell": cell, "hidden": HIDDEN, "outputs": 2, "layers": 2}
    model, whole = Recurrent(**options, return_state=True), Recurrent(**options)
    params = {"params": shaken(whole.init(jax.random.key(0), X)["params"])}
    _, state = model.apply(params, X[:, :2])
    np.testing.assert_allclose(
        model.apply(params, X[:, 2:], state=state)[0], whole.apply(params, X), rtol=1e-5, atol=1e-6
    )


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


@pytest.mark.parametrize("cell", ["lstm", "minimal_rnn"])
def test_hoisting_leaves_the_recurrent_product_alone_in_the_scan(cell):
    hoisted, plain = (Recurrent(cell=cell, hidden=HIDDEN, outputs=2, unroll=1, hoist=hoist) for hoist in (True, False))
    params = hoisted.init(jax.random.key(0), X)

    def products(model):
        (scan,) = (e for e in jax.make_jaxpr(lambda p: model.apply(p, X))(params).eqns if e.primitive.name == "scan")
        return str(scan.params["jaxpr"]).count("dot_general")

    assert products(hoisted) == 1
    assert products(plain) == 2 + (cell == "minimal_rnn")


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("cell", ["lstm_peephole", "gru", "minimal_rnn"])
def test_hoisting_and_unrolling_change_neither_parameters_nor_values_nor_gradients(cell):
    options = {"cell": cell, "hidden": HIDDEN, "outputs": 2, "layers": 2}
    hoisted, inside = Recurrent(**options, hoist=True, unroll=4), Recurrent(**options, hoist=False, unroll=1)
    params = hoisted.init(jax.random.key(0), X)
    jax.tree.map(np.testing.assert_array_equal, params, inside.init(jax.random.key(0), X))
    params = {"params": shaken(params["params"])}

    def run(model):
        return jax.jit(jax.value_and_grad(lambda p: (model.apply(p, X, jnp.array([2, 6, 4])) ** 2).mean()))(params)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), run(hoisted), run(inside))


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
