"""Random programs out of every structure the interpreter knows: gradients unchanged, statistics those of the oracle."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import gradflow as gf
from tests import oracles

WIDTH = 4


def dense(call, name, x):
    return jnp.tanh(call(name, x))


def build(structure, counter):
    """Turn a nested structure into a function (call, x) -> x; `call(name, x)` applies the named layer."""
    kind, *inside = structure
    if kind == "dense":
        name = f"w{next(counter)}"
        return lambda call, x: dense(call, name, x)
    bodies = [build(s, counter) for s in inside]

    def run(call, x):
        for body in bodies:
            x = body(call, x)
        return x

    if kind == "jit":
        return lambda call, x: jax.jit(lambda x: run(call, x))(x)
    if kind == "remat":
        return lambda call, x: jax.checkpoint(lambda x: run(call, x))(x)
    if kind == "residual":
        return lambda call, x: x + run(call, x)
    if kind == "cond":
        return lambda call, x: lax.cond(jnp.sum(x) > -1e9, lambda x: run(call, x), lambda x: 2 * x, x)
    if kind == "vmap":
        return lambda call, x: jax.vmap(lambda row: run(call, row))(x)
    if kind == "custom":

        def scaled(x):
            return 1.5 * x

        rule = jax.custom_vjp(scaled)
        rule.defvjp(lambda x: (scaled(x), None), lambda _, g: (0.5 * g,))
        return lambda call, x: rule(run(call, x))
    return run


structures = st.recursive(
    st.just(("dense",)),
    lambda inner: st.tuples(
        st.sampled_from(["jit", "remat", "residual", "cond", "vmap", "custom", "sequence"]), inner, inner
    ),
    max_leaves=5,
)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(structure=structures)
def test_random_program(structure):
    counter = iter(range(100))
    program = build(structure, counter)
    count = next(counter)
    params = {f"w{i}": jax.random.normal(jax.random.key(i), (WIDTH, WIDTH)) / 2 for i in range(count)}
    x = jax.random.normal(jax.random.key(99), (5, WIDTH))

    def loss(params, x):
        return jnp.mean(program(lambda name, x: x @ params[name], x) ** 2)

    value, grads, flow = jax.jit(gf.value_grad_and_flow(loss))(params, x)
    oracles.assert_same_gradients(loss, value, grads, params, x)
    assert flow.layers == tuple(params)
    for name in params:  # a zero added to one layer's output, and the rest left as it is
        shape = (5, WIDTH)

        def perturbed(zero, name=name):
            def call(other, x):
                y = x @ params[other]
                if other != name:
                    return y
                # inside a vmap the layer sees one row of the batch: add that row's zeros
                return y + (zero if y.ndim == 2 else zero[0])

            return jnp.mean(program(call, x) ** 2)

        if flow[name].shape == shape and "vmap" not in str(structure):
            grad = jax.jit(jax.grad(perturbed))(jnp.zeros(shape))
            np.testing.assert_allclose(flow[name].output_grad_rms, oracles.rms(grad), rtol=1e-4)
        oracles.assert_weight(flow[name], params[name], grads[name], rtol=1e-4)


@settings(max_examples=12, deadline=None, derandomize=True)
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
            return program(lambda name, x: x @ params[name], h), jnp.mean(h)

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
