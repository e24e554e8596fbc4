"""The ledger against explicit derivatives: zero perturbations at every cut, branches cut out by hand."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf

KEYS = jax.random.split(jax.random.key(0), 12)
X = jax.random.normal(jax.random.key(1), (8, 12))
SQUARE = [jax.random.normal(k, (12, 12)) / 3 for k in KEYS]


def norms(loss):
    """Return log10 of the norms of values and cotangents where `loss(add)` passes them through `add(name, x)`."""
    forward = {}

    def note(name, x):
        forward[name] = x
        return x

    loss(note)
    zeros = {name: jnp.zeros_like(x) for name, x in forward.items()}
    back = jax.jit(jax.grad(lambda zeros: loss(lambda name, x: x + zeros[name])))(zeros)
    return tuple(
        {n: math.log10(float(np.linalg.norm(np.asarray(x, np.float64)))) for n, x in side.items()}
        for side in (forward, back)
    )


def rows(book):
    return [(e.cause, e.where) for e in book.entries if e.cause != "loss"]


def assert_adds_up(book):
    gains = [e.log10_gain for e in book.entries if e.cause != "loss"]
    assert math.isclose(math.fsum(gains), book.total, abs_tol=1e-6)


def mlp(params, x, activation=jax.nn.sigmoid):
    for w, b in params[:-1]:
        x = activation(x @ w + b)
    return jnp.mean((x @ params[-1][0] + params[-1][1] - 1) ** 2)


@pytest.fixture(scope="module")
def chain():
    sizes = (12, 40, 5, 9)
    return [
        (jax.random.normal(k, (a, b)) / 2, jnp.full(b, 0.3)) for k, a, b in zip(KEYS, sizes, sizes[1:], strict=False)
    ]


def test_a_chain_entry_by_entry(chain):
    book = gf.ledger(mlp, chain, X)

    def loss(add):
        x = X
        for k, (w, b) in enumerate(chain[:-1]):
            x = add(f"a{k}", jax.nn.sigmoid(add(f"b{k}", add(f"z{k}", x @ w) + b)))
        w, b = chain[-1]
        return jnp.mean((add("z2", x @ w) + b - 1) ** 2)

    forward, back = norms(loss)
    assert rows(book) == [("weights", "2"), ("activation", "1"), ("weights", "1"), ("activation", "0")]
    entries = [e for e in book.entries if e.cause != "loss"]
    want = [back["a1"] - back["z2"], back["z1"] - back["a1"], back["a0"] - back["z1"], back["z0"] - back["a0"]]
    np.testing.assert_allclose([e.log10_gain for e in entries], want, atol=1e-5)
    ahead = [forward["z2"] - forward["a1"], forward["a1"] - forward["b1"], forward["b1"] - forward["a0"]]
    np.testing.assert_allclose([e.forward_log10_gain for e in entries[:3]], ahead, atol=1e-5)
    assert math.isclose(book.total, back["z0"] - back["z2"], abs_tol=1e-5)
    assert math.isclose(sum(e.log10_gain for e in book.entries if e.cause == "loss"), back["z2"], abs_tol=1e-5)
    assert_adds_up(book)
    assert book.path == "chain, from 2 down to 0"


def standardized(x):
    centered = x - x.mean(-1, keepdims=True)
    return centered * jax.lax.rsqrt((centered**2).mean(-1, keepdims=True) + 1e-5)


RESIDUAL = {"in": SQUARE[0], "out": SQUARE[1]} | {
    f"block_{k}": {"up": SQUARE[2 + k], "down": SQUARE[5 + k]} for k in range(3)
}


def branch(block, x, gain=1.0):
    return gain * jax.nn.gelu(standardized(x) @ block["up"]) @ block["down"]


def residual(params, x, gain=1.0, wrap=lambda f: f):
    x = x @ params["in"]
    for k in range(3):
        x = wrap(lambda p, x, k=k: x + branch(p[f"block_{k}"], x, gain))(params, x)
    return jnp.mean((x @ params["out"] - 2) ** 2)


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("gain", [0.3, -0.9])
def test_a_residual_stream_and_its_shares(gain):
    """The shares are projections on the whole: cut out by hand, and negative where a branch pulls back."""
    book = gf.ledger(lambda p, x: residual(p, x, gain), RESIDUAL, X)
    skips = [e for e in book.entries if e.cause == "skip"]
    assert [e.where for e in skips] == ["block_2", "block_1", "block_0"]
    assert "residual stream" in book.path
    x, streams = X @ RESIDUAL["in"], []
    for k in range(3):
        streams.append(x)
        x = x + branch(RESIDUAL[f"block_{k}"], x, gain)
    total = jax.grad(lambda x: jnp.mean((x @ RESIDUAL["out"] - 2) ** 2))(x)
    for entry, k in zip(skips, (2, 1, 0), strict=True):
        _, back = jax.vjp(lambda x, k=k: branch(RESIDUAL[f"block_{k}"], x, gain), streams[k])
        part = back(total)[0]
        whole = total + part
        square = float(jnp.vdot(whole, whole))
        want = {"skip": float(jnp.vdot(total, whole)) / square, f"block_{k}/up": float(jnp.vdot(part, whole)) / square}
        assert entry.shares == pytest.approx(want, abs=1e-5)
        assert math.isclose(sum(entry.shares.values()), 1, abs_tol=1e-6)
        assert math.isclose(entry.log10_gain, 0.5 * math.log10(square / float(jnp.vdot(total, total))), abs_tol=1e-5)
        total = whole
    assert_adds_up(book)


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(
    "wrap", [jax.jit, jax.checkpoint, lambda f: jax.checkpoint(jax.jit(f))], ids=["jit", "remat", "both"]
)
def test_calls_are_seen_through(wrap):
    plain = gf.ledger(residual, RESIDUAL, X)
    wrapped = gf.ledger(lambda p, x: residual(p, x, wrap=wrap), RESIDUAL, X)
    assert rows(wrapped) == rows(plain)
    for a, b in zip(wrapped.entries, plain.entries, strict=True):
        assert math.isclose(a.log10_gain, b.log10_gain, abs_tol=1e-5)
        assert a.shares == pytest.approx(b.shares, abs=1e-5)


def test_post_norm_residual_stream():
    def loss(params, x):
        x = x @ params["in"]
        for k in range(3):
            block = params[f"block_{k}"]
            x = standardized(x + jax.nn.relu(x @ block["up"]) @ block["down"]) * params["scale"][k]
        return jnp.mean((x @ params["out"]) ** 2)

    book = gf.ledger(loss, RESIDUAL | {"scale": [jnp.ones(12)] * 3}, X)
    assert [c for c, _ in rows(book)] == ["weights", *["normalization", "skip"] * 3]
    assert_adds_up(book)


def test_batch_norm_and_dropout():
    def loss(params, x):
        z = x @ params["a"]
        z = (z - z.mean(0)) / jnp.sqrt(z.var(0) + 1e-5) * params["scale"] + params["shift"]
        x = jax.nn.relu(z)
        x = jnp.where(jax.random.bernoulli(jax.random.key(3), 0.8, x.shape), x / 0.8, 0.0)
        return jnp.mean((x @ params["b"]) ** 2)

    params = {"a": SQUARE[0], "b": SQUARE[1], "scale": jnp.ones(12), "shift": jnp.zeros(12)}
    book = gf.ledger(loss, params, X)
    assert [e.operation for e in book.entries if e.cause == "other"] == ["dropout", "constant factor"]
    assert [c for c, _ in rows(book) if c != "other"] == ["weights", "activation", "normalization"]
    assert_adds_up(book)


def unrolled(params, x):
    x = x @ params["in"]
    for w in params["hidden"]:
        x = jnp.tanh(x @ w)
    return jnp.mean((x @ params["out"]) ** 2)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_scan_over_layers_is_the_chain_of_them(reverse):
    hidden = SQUARE[2:6]
    params = {"in": SQUARE[0], "out": SQUARE[1]}
    chain = gf.ledger(unrolled, params | {"hidden": hidden}, X)

    def loss(params, x):
        x, _ = jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x @ params["in"], params["hidden"], reverse=reverse)
        return jnp.mean((x @ params["out"]) ** 2)

    stacked = jnp.stack(hidden[::-1] if reverse else hidden)
    book = gf.ledger(loss, params | {"hidden": stacked}, X)
    assert rows(book) == [("weights", "out"), ("activation", "hidden"), ("weights", "hidden")]
    assert "scan over layers" in book.path
    assert math.isclose(book.total, chain.total, abs_tol=1e-5)
    for cause, entry in (("activation", book.entries[-2]), ("weights", book.entries[-1])):
        want = [e.log10_gain for e in chain.entries if e.cause == cause and e.where.startswith("hidden")]
        np.testing.assert_allclose(entry.steps, want[::-1], atol=1e-5)
        assert (entry.expected is not None) == (cause == "weights")  # the loss sends the uppermost output back
    assert_adds_up(book)


def rnn(params, xs):
    def step(h, x):
        h = jnp.tanh(x @ params["w"] + h @ params["u"])
        return h, h

    h, _ = jax.lax.scan(step, jnp.zeros((8, 12)), xs)
    return jnp.mean((h @ params["out"]) ** 2)


SEQUENCE = jax.random.normal(jax.random.key(4), (6, 8, 12))
RECURRENT = {"w": SQUARE[0], "u": SQUARE[1] / 2, "out": SQUARE[2]}


def test_recurrent_state_step_by_step():
    book = gf.ledger(rnn, RECURRENT, SEQUENCE)

    def loss(add):
        h = jnp.zeros((8, 12))
        for t in range(6):
            h = add(f"h{t}", jnp.tanh(add(f"z{t}", SEQUENCE[t] @ RECURRENT["w"] + h @ RECURRENT["u"])))
        return jnp.mean(add("out", h @ RECURRENT["out"]) ** 2)

    _, back = norms(loss)
    tanh, weights = [e for e in book.entries if e.cause == "time"]
    np.testing.assert_allclose(tanh.steps, [back[f"z{t}"] - back[f"h{t}"] for t in range(6)], atol=1e-5)
    np.testing.assert_allclose(weights.steps, [back[f"h{t - 1}"] - back[f"z{t}"] for t in range(1, 6)], atol=1e-5)
    assert math.isclose(book.total, back["z0"] - back["out"], abs_tol=1e-5)
    assert "recurrent state" in book.path
    assert "at the first step" in book.path
    assert_adds_up(book)


def test_two_states_are_one():
    """An LSTM's c and h are passed together, as one vector."""
    from flax import linen as nn

    net = nn.RNN(nn.LSTMCell(4))
    x = jax.random.normal(jax.random.key(0), (3, 6, 2))
    params = net.init(jax.random.key(1), x)
    head = jax.random.normal(jax.random.key(2), (4, 2))

    def loss(p, x):
        return jnp.mean((net.apply(p["cell"], x)[:, -1] @ p["head"]) ** 2)

    book = gf.ledger(loss, {"cell": params, "head": head}, x)
    cell = nn.LSTMCell(4)
    inner = {"params": params["params"]["cell"]}

    def steps(add):
        c, h = jnp.zeros((3, 4)), jnp.zeros((3, 4))
        for t in range(6):
            (c, h), _ = cell.apply(inner, (c, h), x[:, t])
            state = add(f"s{t}", jnp.concatenate([c, h], -1))
            c, h = state[:, :4], state[:, 4:]
        return jnp.mean(add("out", h @ head) ** 2)

    _, back = norms(steps)
    entry = next(e for e in book.entries if e.operation == "one step")
    np.testing.assert_allclose(entry.steps[:-1], [back[f"s{t - 1}"] - back[f"s{t}"] for t in range(1, 5)], atol=1e-5)
    assert entry.cause == "time"
    assert_adds_up(book)
