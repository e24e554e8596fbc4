"""What every recurrent network keeps to, whatever its cell and options: pairs of options, each in some case."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.test_util import check_grads

from gradflow.models import Cell, Recurrent
from tests.user_errors import without_type_checker

BATCH, TIME, FEATURES = 4, 5, 3
LENGTHS = jnp.array([5, 1, 3, 4])


def update_gate_step(states, pre, weights, tap):
    """Collins et al. 2017: a gate between the state and its candidate, with a learned share of both."""
    (h,) = states
    gate, candidate = jnp.split(pre, 2, axis=-1)
    gate = tap("gate", jax.nn.sigmoid(gate + weights["own/offset"]))
    return (tap("h", gate * h + (1 - gate) * jnp.tanh(candidate)),)


OWN = Cell(update_gate_step, ("gate", "candidate"), weights=(("own/offset", 1, jax.nn.initializers.ones),))
# Options, and whether sequences have lengths of their own and states are given.
CASES = {
    "lstm": ({"cell": "lstm", "bidirectional": True, "chrono_steps": 9, "unroll": 1}, True, False),
    "lstm_peephole": ({"cell": "lstm_peephole", "forget_bias": 2.0, "return_sequence": True}, False, True),
    "gru": ({"cell": "gru", "hoist": True, "recurrent_initializer": "xavier_normal"}, True, True),
    "minimal_rnn": ({"cell": "minimal_rnn", "layers": 2, "unroll": 1}, True, False),
    "rnn": ({"cell": "rnn", "return_sequence": True, "unroll": 3, "taps": False}, True, True),
    "irnn": ({"cell": "irnn", "bidirectional": True, "layers": 2, "initializer": "he_normal"}, False, False),
    "function": ({"cell": jnp.sin, "layers": 2, "hoist": True}, True, False),
    "linen": ({"cell": nn.OptimizedLSTMCell, "layers": 2, "bidirectional": True}, True, True),
    "own": ({"cell": OWN, "bidirectional": True, "return_sequence": True, "unroll": 1}, True, True),
}
every_case = pytest.mark.parametrize("name", CASES)


def make(name, dtype=jnp.float32, **more):
    """Model and what it is applied to."""
    options, cut, started = CASES[name]
    model = Recurrent(**options, hidden=3, outputs=2, return_state=True, dtype=dtype, **more)
    x = jax.random.normal(jax.random.key(1), (BATCH, TIME, FEATURES), dtype)
    cell, sides = options["cell"], 1 + options.get("bidirectional", False)
    states = 2 if "lstm" in str(cell).lower() else 1
    scans = options.get("layers", 1) * sides
    start = tuple(tuple(jnp.full((BATCH, 3), 0.5, dtype) for _ in range(states)) for _ in range(scans))
    return model, (x, LENGTHS if cut else None, start if started else None)


@functools.cache
def ready(name):
    model, given = make(name)
    init, run = jax.jit(model.init), jax.jit(model.apply)
    params = init(jax.random.key(0), *given)
    return model, given, params, init, run, run(params, *given)


def close(a, b, rtol=1e-4, atol=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), a, b)


@every_case
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_shapes_and_dtypes(name, dtype):
    model, given = make(name, dtype)
    params = jax.eval_shape(model.init, jax.random.key(0), *given)
    outputs, states = jax.eval_shape(model.apply, params, *given)
    assert outputs.shape == ((BATCH, TIME, 2) if model.return_sequence else (BATCH, 2))
    assert {leaf.shape for leaf in jax.tree.leaves(states)} == {(BATCH, 3)}
    assert {leaf.dtype for leaf in jax.tree.leaves((outputs, states))} == {jnp.dtype(dtype)}
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}
    again = jax.eval_shape(model.apply, params, *given[:2], states)
    assert jax.tree.structure(again) == jax.tree.structure((outputs, states))
    narrow = make(name, dtype, param_dtype=jnp.bfloat16)[0]
    grads = jax.eval_shape(
        jax.grad(lambda p: narrow.apply(p, *given)[0].sum()), jax.eval_shape(narrow.init, jax.random.key(0), *given)
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.quick_cases(3)
@every_case
def test_jit_agrees_with_eager_and_a_seed_with_itself(name):
    model, given, params, init, run, done = ready(name)
    close(model.apply(params, *given), done)
    again = init(jax.random.key(0), *given)
    jax.tree.map(np.testing.assert_array_equal, params, again)
    jax.tree.map(np.testing.assert_array_equal, run(again, *given), done)


@every_case
def test_vmap_over_examples_is_the_batch(name):
    model, given, params, _, _, done = ready(name)
    rows = jax.tree.map(lambda leaf: leaf[:, None], given)
    close(jax.tree.map(lambda leaf: leaf[:, 0], jax.jit(jax.vmap(lambda row: model.apply(params, *row)))(rows)), done)


@pytest.mark.quick_cases(3)
@every_case
def test_gradient_is_the_limit_of_differences(name):
    """In double precision, with respect to parameters, inputs and the states at the start."""
    with jax.enable_x64(True):
        model, given = make(name, jnp.float64, param_dtype=jnp.float64)
        params = jax.jit(model.init)(jax.random.key(0), *given)
        moved = jax.tree.map(lambda leaf: leaf + 0.1, params)  # no parameter at a special point
        x, lengths, start = given

        @jax.jit
        def loss(params, x, start):
            return sum((leaf**2).mean() for leaf in jax.tree.leaves(model.apply(params, x, lengths, start)))

        check_grads(loss, (moved, x, start), order=1, modes=["rev"], eps=1e-6, rtol=1e-5, atol=1e-7)


def test_forward_mode_agrees_with_reverse_mode():
    """No derivative rule of its own stands in the way of Jacobians over time."""
    model, (x, lengths, start), params, *_ = ready("gru")

    def outputs(x):
        return model.apply(params, x, lengths, start)[0]

    np.testing.assert_allclose(jax.jit(jax.jacfwd(outputs))(x), jax.jit(jax.jacrev(outputs))(x), rtol=1e-4, atol=1e-6)


@every_case
def test_parameters_survive_a_checkpoint(name, tmp_path):
    checkpoint = pytest.importorskip("orbax.checkpoint")
    params = ready(name)[2]
    with checkpoint.StandardCheckpointer() as saver:
        saver.save(tmp_path / "params", params)
        saver.wait_until_finished()
        restored = saver.restore(tmp_path / "params", jax.tree.map(jnp.zeros_like, params))
    jax.tree.map(np.testing.assert_array_equal, params, restored)


def test_initial_statistics():
    units, features = 60, 90
    x = jnp.ones((1, 2, features))

    def of(cell, **options):
        model = Recurrent(cell=cell, hidden=units, outputs=1, unroll=1, **options)
        params = jax.jit(model.init)(jax.random.key(0), x)["params"]
        return jax.tree.map(np.asarray, params["Layer_0"])

    # Orthogonal block by block; Glorot: variance 2 / (fan_in + fan_out), of a block's own fans.
    made = {cell: of(cell) for cell in ("lstm_peephole", "gru", "minimal_rnn", "irnn")}
    for cell, gates in (("lstm_peephole", 4), ("gru", 3), ("minimal_rnn", 1)):
        layer = made[cell]
        for block in np.split(layer["recurrent"]["kernel"], gates, axis=1):
            np.testing.assert_allclose(block.T @ block, np.eye(units), atol=1e-5)
        # The variance of n uniform numbers has a relative standard deviation of sqrt(0.8 / n).
        kernel = layer["input"]["kernel"]
        assert kernel.var() == pytest.approx(2 / (features + units), rel=4 * (0.8 / kernel.size) ** 0.5)
    latent = made["minimal_rnn"]["latent"]["kernel"]
    np.testing.assert_allclose(latent.T @ latent, np.eye(units), atol=1e-5)
    irnn = made["irnn"]
    np.testing.assert_array_equal(irnn["recurrent"]["kernel"], np.eye(units))
    kernel = irnn["input"]["kernel"]
    assert kernel.std() == pytest.approx(1e-3, rel=4 * (0.5 / kernel.size) ** 0.5)
    assert not any(np.any(leaf) for leaf in made["lstm_peephole"]["peephole"].values())
    i, f, g, o = np.split(of("lstm_peephole", chrono_steps=30)["input"]["bias"], 4)
    assert np.all((f >= 0) & (f <= np.log(29)))
    np.testing.assert_array_equal(i, -f)
    assert not np.any([g, o])


def test_both_directions_start_from_different_parameters():
    params = ready("lstm")[2]["params"]
    there, back = params["Layer_0"], params["Layer_0_reverse"]
    assert jax.tree.structure(there) == jax.tree.structure(back)
    assert not np.any(np.asarray(there["recurrent"]["kernel"]) == np.asarray(back["recurrent"]["kernel"]))


@pytest.mark.parametrize(
    "build, error, message",
    [
        (lambda: Recurrent(cell="lstm_pephole"), ValueError, "did you mean 'lstm_peephole'"),
        (lambda: Recurrent(cell="minimal"), ValueError, "did you mean 'minimal_rnn'"),
        (lambda: Recurrent(cell=3), TypeError, "name of a cell, a Cell, an elementwise function"),
        (lambda: Recurrent(cell=Cell), TypeError, "name of a cell"),
        (lambda: Recurrent(layers=0), ValueError, "layers=...+at least 1"),
        (lambda: Recurrent(unroll=1.5), ValueError, "unroll=...+at least 1"),
        (lambda: Recurrent(cell="rnn", chrono_steps=10), ValueError, "gates i and f, got 'rnn' with h"),
        (lambda: Recurrent(cell="minimal_rnn", forget_bias=1.0), ValueError, "forget_bias=...+'minimal_rnn' with z"),
        (lambda: Recurrent(chrono_steps=2), ValueError, "at least 3 steps, got 2"),
        (lambda: Recurrent(chrono_steps=9.5), ValueError, "whole number"),
        (lambda: Recurrent(chrono_steps=9, forget_bias=1.0), ValueError, "got both"),
        (lambda: Recurrent(initializer="glorot"), ValueError, "did you mean .*'glorot_uniform'"),
    ],
)
@without_type_checker()
def test_bad_options_are_named_at_construction(build, error, message):
    with pytest.raises(error, match=message):
        build()


X = jnp.zeros((2, TIME, FEATURES))


@pytest.mark.parametrize(
    "options, given, error, message",
    [
        ({}, (X[0],), ValueError, "batch axis"),
        ({}, (X[..., None],), ValueError, r"\(batch, time, features\)"),
        ({}, (jnp.zeros(X.shape, jnp.int32),), TypeError, "one-hot"),
        ({}, (X[:, :0],), ValueError, "at least one step"),
        ({}, (X, jnp.array([0, 3])), ValueError, "from 1 to the 5 steps of the sequences, got 0 to 3"),
        ({}, (X, np.array([6, 3])), ValueError, "got 3 to 6"),
        ({}, (X, jnp.array([2.0, 3.0])), ValueError, "integer, or a mask .*float32"),
        ({}, (X, jnp.ones((2, TIME))), ValueError, r"Fix: mask.astype\(bool\)"),
        ({}, (X, jnp.ones((TIME, 2), bool)), ValueError, "with time first"),
        ({}, (X, jnp.array([[True] * TIME, [False] * TIME])), ValueError, "at least one step of every sequence"),
        ({}, (X, jnp.array([1, 2, 3])), ValueError, r"shape \(2,\)"),
        ({}, (X, None, (jnp.zeros((2, 3)),)), ValueError, r"1 tuples \(c, h\)"),
        ({"cell": "gru"}, (X, None, ((jnp.zeros((3, 3)),),)), ValueError, r"arrays \(2, 3\), got \(\(\(3, 3\),\),\)"),
        ({"cell": Cell(lambda s, p, w, t: (p, p), ("h",))}, (X,), ValueError, "step to return its states"),
        ({"cell": lambda v: v.mean()}, (X,), ValueError, "not elementwise"),
        ({"recurrent_initializer": "delta_orthogonal"}, (X,), ValueError, "Fix: `orthogonal` there"),
    ],
)
@without_type_checker()
def test_bad_inputs_are_named_before_anything_runs(options, given, error, message):
    model = Recurrent(**{"hidden": 3, **options})
    with pytest.raises(error, match=message):
        model.init(jax.random.key(0), *given)


@pytest.mark.parametrize("name", ["lstm", "linen"])
def test_a_mask_counts_the_steps_that_it_names(name):
    """True for the first steps it is their number; with gaps, and without the steps in between, it is the rest."""
    _, (x, _, start), params, _, run, done = ready(name)
    mask = jnp.arange(TIME) < LENGTHS[:, None]
    close(run(params, x, mask, start), done)
    steps = [0, 2, 3]
    gaps = jnp.zeros((BATCH, TIME), bool).at[:, steps].set(True)
    close(run(params, x, gaps, start), run(params, x[:, steps], None, start))


def test_a_length_beyond_the_sequence_is_all_of_it_where_it_is_not_known():
    _, (x, _, start), params, _, run, _ = ready("lstm")
    close(run(params, x, LENGTHS + TIME, start), run(params, x, None, start))
