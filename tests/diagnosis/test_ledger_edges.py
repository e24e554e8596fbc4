"""What the ledger says where there is no number, in narrow types, at the ends of the range, and in words."""

from __future__ import annotations

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow.instrument import FlowError

KEYS = jax.random.split(jax.random.key(0), 5)
X = jax.random.normal(jax.random.key(1), (8, 12))
WEIGHTS = [jax.random.normal(k, (12, 12)) / 3 for k in KEYS]


def relu_net(params, x, shift=0.0):
    for w in params[:-1]:
        x = jax.nn.relu(x @ w - shift)
    return jnp.mean((x @ params[-1] - 1) ** 2)


def rows(book):
    return [(e.cause, e.where) for e in book.entries if e.cause != "loss"]


@pytest.fixture(scope="module")
def plain():
    return gf.ledger(relu_net, WEIGHTS[:3], X)


def test_a_layer_that_no_cotangent_reaches_is_named_and_left_out():
    def loss(params, x):
        return relu_net(params[1:], jax.lax.stop_gradient(jnp.tanh(x @ params[0])))

    book = gf.ledger(loss, WEIGHTS[:3], X)
    assert dict(book.aside) == {"0": "no cotangent: cut by stop_gradient"}
    assert rows(book) == [("weights", "2"), ("activation", "1")]
    assert math.isfinite(book.total)


def test_a_loss_behind_a_cut_has_no_path():
    book = gf.ledger(lambda p, x: jnp.mean(jax.lax.stop_gradient(x @ p)), WEIGHTS[0], X)
    assert book.entries == ()
    assert math.isnan(book.total)
    assert "stop_gradient" in str(book)


def test_dead_units_end_the_signal(plain):
    book = gf.ledger(lambda p, x: relu_net(p, x, shift=1e3), WEIGHTS[:3], X)
    ends = [e for e in book.entries if e.log10_gain == -math.inf]
    assert [(e.cause, e.where) for e in ends] == [("activation", "1")]
    assert "exactly 0" in ends[0].remark
    assert [e.remark for e in book.entries if math.isnan(e.log10_gain)] == ["no signal left"] * 2
    assert math.isnan(book.total) or book.total == -math.inf
    assert "relu" in book.summary
    assert "exactly 0" in book.summary
    records = json.loads(json.dumps(book.to_records(), allow_nan=False))
    assert [r["log10_gain"] for r in records if r["where"] == "1" and r["cause"] == "activation"] == ["-Infinity"]
    assert all(e.remark == "" for e in plain.entries)


def test_nan_is_said():
    with jax.debug_nans(False):
        book = gf.ledger(lambda p, x: jnp.mean(jnp.sqrt(x @ p[0] * 0) @ p[1]), WEIGHTS[:2], X)
    assert any(e.remark for e in book.entries)
    assert all(not math.isfinite(e.log10_gain) for e in book.entries if e.where == "0")
    json.dumps(book.to_records(), allow_nan=False)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_ends_of_the_range(plain, scale):
    """Squares of such gradients leave float32."""
    book = gf.ledger(lambda p, x: relu_net(p, x) * jnp.float32(scale), WEIGHTS[:3], X)
    assert math.isclose(book.total, plain.total, abs_tol=1e-4)
    for a, b in zip(book.entries[::-1], plain.entries[::-1], strict=False):
        if "loss" not in (a.cause, b.cause):
            assert math.isclose(a.log10_gain, b.log10_gain, abs_tol=1e-4)


def test_one_huge_entry():
    """Mixed exponents within one cotangent."""
    mask = jnp.ones(12).at[3].set(1e18)

    def loss(p, x):
        return jnp.sum(jnp.tanh(x @ p[0]) @ p[1] * mask * jnp.float32(1e-28))

    book = gf.ledger(loss, WEIGHTS[:2], X)
    g = np.broadcast_to(np.asarray(mask, np.float64) * 1e-28, (8, 12))
    a = np.asarray(X, np.float64) @ np.asarray(WEIGHTS[0], np.float64)
    back = g @ np.asarray(WEIGHTS[1], np.float64).T
    want = [np.log10(np.linalg.norm(back) / np.linalg.norm(g))]
    want.append(np.log10(np.linalg.norm(back * (1 - np.tanh(a) ** 2)) / np.linalg.norm(back)))
    np.testing.assert_allclose([e.log10_gain for e in book.entries if e.cause != "loss"], want, atol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_types(plain, dtype):
    params = [w.astype(dtype) for w in WEIGHTS[:3]]
    book = gf.ledger(lambda p, x: relu_net(p, x).astype(jnp.float32), params, X.astype(dtype))
    assert rows(book) == rows(plain)
    assert math.isclose(book.total, plain.total, abs_tol=0.05)


def test_flushed_in_float16():
    params = [w.astype(jnp.float16) for w in WEIGHTS[:2]]

    def loss(p, x):
        return jnp.sum((jnp.tanh(x @ p[0]) @ p[1]) * jnp.float16(6e-8)).astype(jnp.float32)

    book = gf.ledger(lambda p, x: loss([p[0], p[1] * jnp.float16(1e-3)], x), params, X.astype(jnp.float16))
    assert "zero or flushed" in {e.remark for e in book.entries}


def test_complex_parameters():
    params = [jax.lax.complex(w, w[::-1]) for w in WEIGHTS[:2]]
    book = gf.ledger(lambda p, x: jnp.sum(jnp.abs((x.astype(jnp.complex64) @ p[0]) @ p[1]) ** 2), params, X)
    assert rows(book) == [("weights", "1")]
    back = np.asarray(jnp.conj(params[1]), np.complex128)
    y = np.asarray(X) @ np.asarray(params[0]) @ np.asarray(params[1])
    want = np.log10(np.linalg.norm(y @ back.T) / np.linalg.norm(y))
    assert math.isclose(book.total, want, abs_tol=1e-4)


def test_has_aux_and_state_left_alone(plain):
    book = gf.ledger(lambda p, x: (relu_net(p, x), {"x": x}), WEIGHTS[:3], X, has_aux=True)
    assert math.isclose(book.total, plain.total, abs_tol=1e-6)


def test_two_heads_are_no_single_path():
    def loss(p, x):
        h = jnp.tanh(jnp.tanh(x @ p[0]) @ p[1])
        return jnp.mean((h @ p[2]) ** 2) + jnp.mean((h @ p[3] - 1) ** 2)

    book = gf.ledger(loss, WEIGHTS[:4], X)
    assert (book.first, book.last) == ("0", "1")
    assert any({"2", "3"} <= set(e.layers) for e in book.entries if e.cause == "loss")


def test_a_layer_in_a_branch_that_is_not_followed():
    def loss(p, x):
        h = jax.lax.cond(x[0, 0] > 1e9, lambda x: x @ p[0], lambda x: x @ p[1], x)
        return jnp.mean(jnp.tanh(h @ p[2]) @ p[3])

    book = gf.ledger(loss, WEIGHTS[:4], X)
    assert rows(book) == [("weights", "3"), ("activation", "2")]
    assert set(book.aside) == {"0", "1"}


def test_inside_jit_is_refused():
    with pytest.raises(FlowError, match="call it outside"):
        jax.jit(lambda p: gf.ledger(relu_net, p, X).total)(WEIGHTS[:3])


def test_expectations_hold_at_initialization_and_tell_a_dead_layer():
    keys = jax.random.split(jax.random.key(7), 7)
    params = [jax.random.normal(k, (200, 200)) * (2 / 200) ** 0.5 for k in keys]
    x = jax.random.normal(jax.random.key(8), (64, 200))
    book = gf.ledger(relu_net, params, x, theory_seconds=60.0)
    assert [e.beyond_chance for e in book.entries if e.cause != "loss"] == [None] * 2 + [False] * 10
    assert book.expected.low <= book.total <= book.expected.high
    late = gf.ledger(relu_net, params, x, theory_seconds=0.0)
    assert {e.expected is None for e in late.entries if e.cause == "activation"} == {True}
    assert math.isclose(late.total, book.total)

    def shifted(params, x):
        for k, w in enumerate(params[:-1]):
            x = jax.nn.relu(x @ w - (2.0 if k == 3 else 0.0))
        return jnp.mean((x @ params[-1] - 1) ** 2)

    odd = gf.ledger(shifted, params, x, theory_seconds=60.0)
    assert [(e.cause, e.where) for e in odd.entries if e.beyond_chance] == [("activation", "3")]


def test_a_zero_by_construction_is_passed_over_for_a_layer_beside_it():
    """A low-rank update whose second factor is 0 at first (LoRA)."""
    params = {"a": WEIGHTS[0], "b": jnp.zeros((12, 12)), "out": WEIGHTS[1], "w": WEIGHTS[2]}

    def loss(p, x):
        return jnp.mean((jnp.tanh(x @ p["a"] @ p["b"] + x @ p["w"]) @ p["out"] - 1) ** 2)

    book = gf.ledger(loss, params, X)
    assert rows(book) == [("weights", "out"), ("activation", "w")]
    assert list(book.aside) == ["a", "b"]
    assert "exactly 0" in book.aside["a"]


def test_the_table_fits_and_says_the_same(plain):
    for width in (60, 80, 120):
        lines = plain.table(width=width).splitlines()
        assert max(map(len, lines)) <= width
    assert plain.summary in plain.table(width=120)
    folded = plain.table(width=80, rows=3)
    assert "more entries" in folded
    for bad in ({"width": 20}, {"rows": 1}):
        with pytest.raises(ValueError, match="expected at least"):
            plain.table(**bad)
    assert plain._repr_html_().count("<tr") == len(plain.entries) + 1
    assert plain.summary.replace("'", "&#x27;") in plain._repr_html_()


def test_the_waterfall_has_a_bar_for_each_entry(plain):
    figure = gf.plots.waterfall(plain)
    shown = [e for e in plain.entries if e.cause != "loss"]
    bars = [bar for bar in figure.axes[0].patches if bar.get_width()]
    np.testing.assert_allclose([bar.get_width() for bar in bars], [e.log10_gain for e in shown], atol=1e-9)
    starts = np.cumsum([0.0] + [e.log10_gain for e in shown])[:-1]
    np.testing.assert_allclose([bar.get_x() for bar in bars], starts, atol=1e-9)


def test_summary_sums_by_cause():
    params = [w * 0.1 for w in WEIGHTS[:4]]

    def loss(params, x):
        for w in params[:-1]:
            x = jax.nn.sigmoid(x @ w)
        return jnp.mean((x @ params[-1]) ** 2)

    book = gf.ledger(loss, params, X)
    weights, activations = book.by_cause["weights"], book.by_cause["activation"]
    assert math.isclose(weights + activations, book.total, abs_tol=1e-6)
    assert book.summary == (
        f"Of {-book.total:.1f} decades lost, {-weights:.1f} are the weights', {-activations:.1f} the activations'."
    )
