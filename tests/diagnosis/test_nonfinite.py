"""The locator: every planted operation is found, under every transformation, with its line."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import pytest

import gradflow as gf
from tests.diagnosis import nonfinite_cases as cases


def line_of(f):
    return f"{f.__code__.co_filename}:{f.__code__.co_firstlineno}"


def check(origin, planted, direction, steps):
    assert origin is not None
    assert origin.operation.startswith(planted.operation), origin
    assert (origin.direction, origin.step, origin.line) == (direction, steps, line_of(planted.f)), origin
    assert planted.remedy in origin.remedy
    assert str(origin).startswith(f"{direction}: {planted.operation}")
    assert origin.operands
    assert origin.value != origin.value or abs(origin.value) == float("inf")


@pytest.mark.quick_cases(20)
@pytest.mark.parametrize("name, transformation", list(itertools.product(cases.FORWARD, cases.TRANSFORMATIONS)))
def test_forward(name, transformation):
    planted = cases.FORWARD[name]
    wrap, steps = cases.TRANSFORMATIONS[transformation]
    origin = gf.find_nonfinite(wrap(planted.f), cases.rows(planted.bad))
    steps = origin.step if name in cases.ALWAYS else steps
    check(origin, planted, "forward", steps)
    assert not origin.masked


@pytest.mark.quick_cases(20)
@pytest.mark.parametrize("name, transformation", list(itertools.product(cases.BACKWARD, cases.TRANSFORMATIONS)))
def test_backward(name, transformation):
    planted = cases.BACKWARD[name]
    wrap, steps = cases.TRANSFORMATIONS[transformation]
    origin = gf.find_nonfinite(wrap(planted.f), cases.rows(planted.bad))
    steps = origin.step if name in cases.ALWAYS_BACKWARD else steps
    check(origin, planted, "backward", steps)
    assert origin.masked == ("where" in planted.remedy)


@pytest.mark.quick_cases(4)
@pytest.mark.parametrize("name, rule", list(itertools.product(cases.FORWARD, cases.INSIDE_RULES)))
def test_forward_inside_a_function_with_a_rule(name, rule):
    planted = cases.FORWARD[name]
    loss = cases.TRANSFORMATIONS["plain"][0](cases.INSIDE_RULES[rule](planted.f))
    origin = gf.find_nonfinite(loss, cases.rows(planted.bad))
    check(origin, planted, "forward", ())
    assert "custom derivative rule" in origin.rule


@jax.custom_jvp
def sine(x):
    return jnp.sin(x)


@sine.defjvp
def sine_rule(primals, tangents):
    (x,), (t,) = primals, tangents
    return jnp.sin(x), jnp.sin(2 * x) / (2 * jnp.sin(x)) * t


@jax.custom_vjp
def cosine(x):
    return jnp.cos(x)


def cosine_backward(x, c):
    return (-c * x * jnp.sin(x) / x,)


cosine.defvjp(lambda x: (cosine(x), x), cosine_backward)


@pytest.mark.quick_cases(4)
@pytest.mark.parametrize("transformation", cases.TRANSFORMATIONS)
@pytest.mark.parametrize("function, rule", [(sine, "sine_rule of sine"), (cosine, "cosine_backward of cosine")])
def test_inside_a_rule_the_rule_is_named(function, rule, transformation):
    def call(x):
        return function(x)

    wrap, steps = cases.TRANSFORMATIONS[transformation]
    origin = gf.find_nonfinite(wrap(call), cases.rows((1, 0, 2)))
    assert rule in origin.rule
    assert __file__ in origin.rule
    assert (origin.operation, origin.direction, origin.step) == ("custom derivative rule", "backward", steps)
    assert origin.line == f"{__file__}:{call.__code__.co_firstlineno + 1}"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_types(dtype):
    with jax.enable_x64(dtype == "float64"):
        largest = float(jnp.log(jnp.finfo(dtype).max.astype(jnp.float32 if dtype != "float64" else dtype)))
        for factor, found in ((0.9, False), (1.1, True)):
            origin = gf.find_nonfinite(lambda w: jnp.sum(jnp.exp(w)), jnp.full(3, factor * largest, dtype))
            assert (origin is not None) == found
        assert origin.operation == "exp overflow"
        assert origin.operands[0].dtype == dtype
        assert gf.find_nonfinite(lambda w: jnp.sum(jnp.sqrt(w)), jnp.zeros(3, dtype)).operation == "sqrt at 0"
