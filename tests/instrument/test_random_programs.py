"""Random programs out of every structure the interpreter knows: gradients unchanged, statistics those of the oracle."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import gradflow as gf
from tests import oracles

WIDTH = 4


def build(structure, counter):
    """Turn a nested structure into a function (call, x, rows) -> x.

    `call(name, x, rows)` applies the named layer; `rows` numbers the examples of x, one number inside a vmap.
    """
    kind, *inside = structure
    if kind == "dense":
        name = f"w{next(counter)}"
        return lambda call, x, rows: jnp.tanh(call(name, x, rows))
    bodies = [build(s, counter) for s in inside]

    def run(call, x, rows):
        for body in bodies:
            x = body(call, x, rows)
        return x

    if kind == "jit":
        return lambda call, x, rows: jax.jit(lambda x: run(call, x, rows))(x)
    if kind == "remat":
        return lambda call, x, rows: jax.checkpoint(lambda x: run(call, x, rows))(x)
    if kind == "residual":
        return lambda call, x, rows: x + run(call, x, rows)
    if kind == "cond":
        return lambda call, x, rows: lax.cond(jnp.sum(x) > -1e9, lambda x: run(call, x, rows), lambda x: 2 * x, x)
    if kind == "vmap":

        def mapped(call, x, rows):
            if x.ndim == 1:  # already inside one
                return run(call, x, rows)
            return jax.vmap(lambda row, number: run(call, row, number))(x, rows)

        return mapped
    if kind == "custom":

        def scaled(x):
            return 1.5 * x

        rule = jax.custom_vjp(scaled)
        rule.defvjp(lambda x: (scaled(x), None), lambda _, g: (0.5 * g,))
        return lambda call, x, rows: rule(run(call, x, rows))
    return run


structures = st.recursive(
    st.just(("dense",)),
    lambda inner: st.tuples(
        st.sampled_from(["jit", "remat", "residual", "cond", "vmap", "custom", "sequence"]), inner, inner
    ),
    max_leaves=5,
)


@pytest.mark.slow
@settings(max_examples=25, deadline=None, derandomize=True)
@given(structure=structures)
def test_random_program(structure):
    counter = iter(range(100))
    program = build(structure, counter)
    count = next(counter)
    params = {f"w{i}": jax.random.normal(jax.random.key(i), (WIDTH, WIDTH)) / 2 for i in range(count)}
    x = jax.random.normal(jax.random.key(99), (5, WIDTH))

    def loss(params, x):
        return jnp.mean(program(lambda name, x, _: x @ params[name], x, jnp.arange(5)) ** 2)

    value, grads, flow = jax.jit(gf.value_grad_and_flow(loss))(params, x)
    oracles.assert_same_gradients(loss, value, grads, params, x)
    assert flow.layers == tuple(params)

    def perturbed(zeros):  # a zero added to each layer's output, row by row, and the rest left as it is
        return jnp.mean(program(lambda name, x, rows: x @ params[name] + zeros[name][rows], x, jnp.arange(5)) ** 2)

    cotangents = jax.jit(jax.grad(perturbed))({name: jnp.zeros((5, WIDTH)) for name in params})
    for name in params:
        assert flow[name].shape == (5, WIDTH)
        np.testing.assert_allclose(flow[name].output_grad_rms, oracles.rms(cotangents[name]), rtol=1e-4)
        oracles.assert_weight(flow[name], params[name], grads[name], rtol=1e-4)


@settings(max_examples=5, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(1, 4), min_size=1, max_size=2),
    reverse=st.booleans(),
    remat=st.booleans(),
    structure=structures,
)
def test_random_program_inside_scans(lengths, reverse, remat, structure):
    counter = iter(range(100))
    program = build(structure, counter)
    count = next(counter)
    params = {f"w{i}": jax.random.normal(jax.random.key(i), (WIDTH, WIDTH)) / 2 for i in range(count)}
    x = jax.random.normal(jax.random.key(99), (3, WIDTH))

    def loss(params, x):
        def body(h, _):
            return program(lambda name, x, _: x @ params[name], h, jnp.arange(3)), jnp.mean(h)

        for length in lengths:
            inner = jax.checkpoint(body) if remat else body

            def body(h, _, inner=inner, length=length):
                h, means = lax.scan(inner, h, None, length=length, reverse=reverse)
                return h, jnp.mean(means)

        h, mean = body(x, None)
        return jnp.mean(h**2) + mean

    value, grads, flow = jax.jit(gf.value_grad_and_flow(loss))(params, x)
    oracles.assert_same_gradients(loss, value, grads, params, x)
    assert flow.layers == tuple(params)
    for name in params:
        assert flow[name].output_grad_rms.shape == tuple(reversed(lengths))
        assert np.all(flow[name].calls == 1)
        oracles.assert_weight(flow[name], params[name], grads[name], rtol=1e-4)
