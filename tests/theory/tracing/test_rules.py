"""The table of rules: no operand makes one fail, users add to it, and the primitives without one are listed."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from gradflow import primitives, theory
from gradflow.theory.tracing import node_values
from gradflow.theory.tracing.abstract_values import (
    BatchMean,
    Data,
    Known,
    Outside,
    Padded,
    Parts,
    Piece,
    Series,
    Signal,
    Value,
)
from gradflow.theory.tracing.algebra import FieldAlgebra
from gradflow.theory.tracing.propagation import Propagation
from gradflow.theory.tracing.quadrature import NODES
from gradflow.theory.tracing.random_fields import Gaussian, gaussian_signal
from tests.theory.networks import chain, square_weights

SHAPE = (4, 6)
DTYPES = [jnp.float32, jnp.bfloat16, jnp.int32, jnp.bool_]

ONE = [
    lax.abs, lax.acos, lax.acosh, lax.asin, lax.asinh, lax.atan, lax.atanh, lax.bessel_i0e, lax.bessel_i1e, lax.cbrt,
    lax.ceil, lax.cos, lax.cosh, lax.digamma, lax.erf, lax.erf_inv, lax.erfc, lax.exp, lax.exp2, lax.expm1, lax.floor,
    lax.is_finite, lax.lgamma, lax.log, lax.log1p, lax.logistic, lax.neg, lax.round, lax.rsqrt, lax.sign, lax.sin,
    lax.sinh, lax.sqrt, lax.square, lax.tan, lax.tanh, lax.bitwise_not, lax.stop_gradient, lax.population_count,
    lax.clz, lax.real, lax.conj, lambda x: lax.integer_pow(x, 3), lambda x: lax.integer_pow(x, -2),
    lambda x: lax.reduce_precision(x, 5, 2), lambda x: lax.rev(x, (0,)), lambda x: lax.cumsum(x, 1),
    lambda x: lax.convert_element_type(x, jnp.bool_), lambda x: lax.convert_element_type(x, jnp.int8),
    lambda x: lax.convert_element_type(x, jnp.float16), lambda x: lax.reshape(x, (2, 2, 6)),
    lambda x: lax.reshape(x, (24,)), lambda x: lax.reshape(x, (3, 8)), lambda x: x.T, lambda x: x[None],
    lambda x: lax.broadcast_in_dim(x, (3, 4, 6), (1, 2)), lambda x: x[:2], lambda x: x[:, 1:3], lambda x: x[::2],
    lambda x: lax.pad(x, x[0, 0], ((1, 1, 0), (0, 0, 1))), lambda x: x.sum(0), lambda x: x.sum(1), lambda x: x.sum(),
    lambda x: x.max(1), lambda x: x.min(0), lambda x: x.prod(1), lambda x: jnp.argmax(x, 1), lambda x: lax.sort(x),
    lambda x: lax.top_k(x, 2), lambda x: jnp.split(x, 2, 1), lambda x: lax.reduce_window(x, x[0, 0], lax.max, (2, 1),
    (1, 1), "VALID"), lambda x: lax.optimization_barrier(x), lambda x: lax.expand_dims(x, (1,)), jnp.linalg.cholesky,
    lambda x: jnp.fft.fft(x), lambda x: lax.dynamic_slice(x, (0, 1), (2, 2)), lambda x: x[jnp.array([0, 1])],
    lambda x: lax.while_loop(lambda y: jnp.all(y < 3), lambda y: y + y, x), lambda x: lax.cond(True, lambda y: y,
    lambda y: y + y, x), lambda x: jnp.var(x), lambda x: jnp.std(x, axis=1), lambda x: jnp.linalg.norm(x, axis=1),
]  # fmt: skip
TWO = [
    lax.add, lax.sub, lax.mul, lax.div, lax.rem, lax.max, lax.min, lax.pow, lax.atan2, lax.nextafter, lax.eq, lax.ne,
    lax.ge, lax.gt, lax.le, lax.lt, lax.bitwise_and, lax.bitwise_or, lax.bitwise_xor, lax.shift_left, lax.complex,
    lambda x, y: lax.concatenate([x, y], 0), lambda x, y: lax.concatenate([x, y], 1),
    lambda x, y: lax.dot(x, y.T), lambda x, y: lax.select(x > 0, x, y), lambda x, y: lax.clamp(x, y, x),
    lambda x, y: lax.select(y > 0, x, y), lambda x, y: lax.optimization_barrier((x, y)),
    lambda x, y: x.at[jnp.array([0, 2])].add(y[:2]), lambda x, y: lax.dot(x.T, y),
]  # fmt: skip


@functools.cache
def value_of(kind: str, dtype: str) -> Value:
    """Each kind of value, with the awkward ones: nothing at all, infinity, a random key."""
    numbers = jnp.asarray(np.random.default_rng(0).normal(size=SHAPE)).astype(dtype)
    algebra = FieldAlgebra()
    first = gaussian_signal(algebra.add(Gaussian(1.5, 0.3, layer=("a", ()), units=6)), ("e", "u"), 0.1)
    second = gaussian_signal(algebra.add(Gaussian(0.5, 0.0, layer=("b", ()), units=6)), ("e", "u"))
    nothing = gaussian_signal(algebra.add(Gaussian(0.0, 0.0, layer=("c", ()), units=6)), ("e", "u"))
    return {
        "signal": first,
        "sum": first.plus(second),
        "zero": nothing,
        "constant": Signal(2.0, {}, ("e", "u")),
        "numbers": Known(numbers),
        "truth": Known(np.bool_(True), exact=False),
        "number": Known(np.float64(0.7), exact=False),
        "zeros": Known(jnp.zeros_like(numbers)),
        "infinite": Known(np.float64(np.inf), exact=False),
        "key": Known(jax.random.key(0), exact=False),
        "empty": Known(np.zeros((0,)), exact=False),
        "data": Data(),
        "outside": Outside("something"),
        "batch mean": BatchMean(first, 4.0),
        "piece": Piece(first, 24),
        "pooled": BatchMean(first, 4.0, pooled=first.scaled(0.5)),
        "padded": Padded(first, {0: (1, 1)}),
        "parts": Parts((first, second), (0.5, 0.5)),
        "series": Series((second, first, first, second), ("t", "u")),
    }[kind]


KINDS = (
    "signal", "sum", "zero", "constant", "numbers", "truth", "number", "zeros", "infinite", "key", "empty", "data",
    "outside", "batch mean", "piece", "pooled", "padded", "parts", "series",
)  # fmt: skip


EXACT = {"numbers", "zeros", "data"}


def failed_rules(fn: Any, dtype: Any, operands: int) -> set[str]:
    """Walk a function of arrays with every combination of values; return what the rules that failed said."""
    try:
        with jax.numpy_dtype_promotion("standard"):
            closed = jax.make_jaxpr(fn)(*[jnp.ones(SHAPE, dtype)] * operands)
    except (TypeError, ValueError, NotImplementedError):
        return set()  # JAX itself refuses the type
    failed: set[str] = set()
    for kinds in itertools.product(KINDS, repeat=operands):
        if set(kinds) <= EXACT:
            continue  # JAX computes these itself, no rule is asked
        outs = Propagation({}, lambda *_: 0.0).walk(closed, [value_of(kind, np.dtype(dtype).name) for kind in kinds])
        assert len(outs) == len(closed.jaxpr.outvars)
        failed |= {f"{kinds}: {out.reason}" for out in outs if isinstance(out, Outside) and "failed" in out.reason}
    return failed


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
def test_no_rule_fails_on_any_value_of_one_operand(dtype: Any) -> None:
    failed = set().union(*(failed_rules(fn, dtype, 1) for fn in ONE))
    assert not failed, sorted(failed)


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bool_], ids=lambda d: np.dtype(d).name)
def test_no_rule_fails_on_any_values_of_two_operands(dtype: Any) -> None:
    failed = set().union(*(failed_rules(fn, dtype, 2) for fn in TWO))
    assert not failed, sorted(failed)


@pytest.mark.parametrize("primitive", sorted(node_values._SLOPES))
def test_slopes_by_numpy_are_those_of_jax(primitive: str) -> None:
    """Also where the operands are equal, as in max(x, x)."""
    fn = {"add_any": lax.add, "max": lax.max, "min": lax.min}.get(primitive) or getattr(lax, primitive)
    operands = (
        1
        if primitive in {"cos", "erf", "exp", "log", "logistic", "neg", "rsqrt", "sin", "sqrt", "square", "tanh"}
        else 2
    )
    (eqn,) = jax.make_jaxpr(fn)(*[jnp.ones(NODES.shape)] * operands).eqns
    first, second = np.abs(NODES) + 0.1, np.where(NODES > 0, np.abs(NODES) + 0.1, NODES**2 + 0.2)
    pairs = [(first, np.cos(NODES)), (second, np.sin(NODES))][:operands]
    quick = node_values.apply_at_nodes(eqn, pairs)
    with jax.enable_x64(True):
        value, slope = jax.jvp(fn, [jnp.asarray(x) for x, _ in pairs], [jnp.asarray(d) for _, d in pairs])
    assert quick is not None
    np.testing.assert_allclose(quick.value, value, rtol=1e-12)
    np.testing.assert_allclose(quick.slope, slope, rtol=1e-9, atol=1e-12)


def test_a_rule_that_fails_costs_one_layer_its_prediction(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is said in words, the next layer starts anew, and the one behind it is predicted."""

    def broken(algebra: FieldAlgebra, eqn: Any, values: Any) -> Value:
        raise RuntimeError("no such thing")

    monkeypatch.setitem(primitives.RULES, "cumsum", primitives.Rules(random_field=broken))
    prediction = theory.predict(chain(lambda x: jnp.cumsum(x, 1)), square_weights(), batch())
    assert list(prediction.outside) == ["1"]
    assert "rule for cumsum failed: RuntimeError: no such thing" in prediction.outside["1"]
    assert prediction.layers[2].output_rms == pytest.approx(prediction.layers[2].measured_output_rms, rel=0.3)


def batch() -> jax.Array:
    return jax.random.normal(jax.random.key(1), (16, 100))


def test_a_zero_signal_into_a_narrow_layer() -> None:
    params = [jnp.zeros((100, 100)), jnp.ones((100, 2)), jnp.ones((2, 3))]
    prediction = theory.predict(chain(jnp.tanh), params, batch())
    assert [layer.output_rms for layer in prediction.layers] == [0.0, 0.0, 0.0]
    assert not any("output" in layer.deviations for layer in prediction.layers)


@pytest.mark.parametrize(
    "between",
    [
        lambda x: x / jnp.sqrt(jnp.asarray(64.0)),
        lambda x: x + 0.5 * jax.random.normal(jax.random.key(5), x.shape),
        lambda x: jnp.where(jax.random.bernoulli(jax.random.key(6), 0.8, x.shape), x / 0.8, 0.0),
        lambda x: x * jnp.power(jnp.mean(jnp.power(x, jnp.asarray(2.0)), 1, keepdims=True) + 1e-6, -0.5),
        lambda x: (x - x.mean(1, keepdims=True)) / jnp.std(x, axis=1, keepdims=True),
        lambda x: group_norm(x, 4),
    ],
    ids=["constant", "noise", "dropout", "rms norm as a power", "std", "group norm"],
)
def test_operations_that_are_inside_the_theory(between: Any) -> None:
    prediction = theory.predict(chain(lambda x: jnp.tanh(between(x))), square_weights(), batch())
    assert set(prediction.outside.values()) <= {"approximate: a nonlinearity of a sum that is not Gaussian"}
    assert not prediction.outliers
    for layer in prediction.layers:
        assert layer.output_rms == pytest.approx(layer.measured_output_rms, rel=0.2)
        assert layer.output_grad_rms == pytest.approx(layer.measured_output_grad_rms, rel=0.2)


def test_dropout_whose_key_comes_with_the_batch() -> None:
    """The mask is data, and still a mask; one of whole examples is not Gaussian, one of positions is outside."""

    def model(params: Any, x: jax.Array, key: jax.Array) -> jax.Array:
        x = x @ params[0]
        x = jnp.where(jax.random.bernoulli(key, 0.7, x.shape), x / 0.7, 0.0)
        return jnp.tanh(x @ params[1]) @ params[2]

    prediction = theory.predict(model, square_weights(), batch(), jax.random.key(7))
    assert not prediction.outside
    assert not prediction.outliers

    def padded(params: Any, x: jax.Array, lengths: jax.Array) -> jax.Array:
        x = x @ params[0]
        x = jnp.where(jnp.arange(len(x))[:, None] < lengths, x, 0.0)
        return jnp.tanh(x @ params[1]) @ params[2]

    prediction = theory.predict(padded, square_weights(), batch(), jnp.int32(9))
    assert "not Gaussian" in prediction.outside["1"]
    assert not prediction.outliers

    def by_position(params: Any, x: jax.Array) -> jax.Array:
        x = jnp.where(jnp.arange(10)[:, None] < 4, x.reshape(16, 10, 10) @ params[0][:10], 0.0)
        return jnp.tanh(x @ params[1]) @ params[2]

    assert "select_n" in theory.predict(by_position, square_weights(), batch()).outside["1"]


def group_norm(x: jax.Array, groups: int) -> jax.Array:
    grouped = x.reshape(len(x), groups, -1)
    grouped = (grouped - grouped.mean(2, keepdims=True)) / jnp.sqrt(grouped.var(2, keepdims=True) + 1e-6)
    return grouped.reshape(x.shape)
