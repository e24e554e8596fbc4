"""Whole flows by the native kernel under every transformation, held against those by the reductions in JAX."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

import gradflow as gf
from gradflow.instrument import statistics as gs
from gradflow.instrument.replacement import references_alone


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


PARAMS = {
    "first": normal(0, 5, 8),
    "cell": normal(1, 8, 8) / 2,
    "stack": normal(2, 3, 8, 8) / 3,
    "last": normal(3, 8, 4),
}
X = normal(4, 6, 5)


def network(params, x):
    """Dense, a scan over steps with one weight, a scan over weights with remat, a branch, a tap."""
    h = jax.nn.relu(x @ params["first"])
    h, _ = lax.scan(lambda h, _: (jnp.tanh(h @ params["cell"]), None), h, None, length=3)
    block = jax.checkpoint(lambda h, w: h + jnp.tanh(h @ w))
    h, _ = lax.scan(lambda h, w: (block(h, w), None), h, params["stack"])
    h = lax.cond(h[0, 0] > -9, lambda h: gf.tap("taken", h), lambda h: h, h)
    return h @ params["last"]


def loss(params, x):
    return jnp.mean(network(params, x) ** 2)


SMALL = {"first": PARAMS["first"], "last": PARAMS["last"]}


def small(params, x):
    return jnp.mean((jnp.tanh(x @ params["first"]) @ params["last"]) ** 2)


def numbers(flow):
    return {
        f"{name}.{field}": np.asarray(getattr(flow[name], field))
        for name in flow
        for field in flow.statistics
        if field != "nonfinite"
    }


def assert_same_flow(want, got):
    (value, grads, flow), (other_value, other_grads, other) = want, got
    np.testing.assert_allclose(other_value, value, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-6), grads, other_grads)
    theirs = numbers(other)
    for name, number in numbers(flow).items():
        np.testing.assert_allclose(theirs[name], number, rtol=1e-4, atol=1e-5, err_msg=name)


def test_scan_remat_cond_and_tap(both):
    assert_same_flow(*both(gf.value_grad_and_flow(loss), PARAMS, X))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision(both, dtype):
    params = jax.tree.map(lambda p: p.astype(dtype), SMALL)
    want, got = both(gf.value_grad_and_flow(lambda p, x: small(p, x).astype(jnp.float32)), params, X.astype(dtype))
    theirs = numbers(got[2])
    for name, number in numbers(want[2]).items():
        np.testing.assert_allclose(theirs[name], number, rtol=2e-2, atol=2e-2, err_msg=name)


@pytest.mark.parametrize("axes", [(None, 0), (0, None), (0, 0)])
def test_vmap_over_the_transformation(both, axes):
    sizes = {0: lambda a: jnp.stack([a, 2 * a, -a]), None: lambda a: a}
    params, x = jax.tree.map(sizes[axes[0]], SMALL), sizes[axes[1]](X)
    assert_same_flow(*both(jax.vmap(gf.value_grad_and_flow(small), in_axes=axes), params, x))


def test_vmap_inside_the_loss(both):
    def per_example(params, x):
        return jnp.mean(jax.vmap(lambda row: jnp.sum(jnp.tanh(row @ params["first"]) ** 2))(x))

    assert_same_flow(*both(gf.value_grad_and_flow(per_example), {"first": PARAMS["first"]}, X))


@pytest.mark.parametrize("in_axes", [(0, None), (None, 0), (1, 0), (0, 0)])
def test_what_is_not_mapped_is_broadcast(both, in_axes):
    layout = gs.Layout(frozenset(gs.STATISTICS))
    y, x = (normal(k, 3, 3, 4) for k in range(2))

    def reduced(y, x):
        return gs.forward(y, x, layout, (y.ndim - 1,), (0,), ())

    inner = jax.vmap(jax.vmap(reduced, in_axes=in_axes), in_axes=(0, None))
    want, got = both(inner, jnp.stack([y, 2 * y]), x)
    assert got.shape[:2] == (2, 3)
    for row, other in zip(want.reshape(6, -1), got.reshape(6, -1), strict=True):
        for prefix in ("input", "output"):
            at = layout.forward.index(f"{prefix}_low")
            sums = [gs.root_mean_square(list(r[at : at + 3]), 12.0) for r in (row, other)]
            np.testing.assert_allclose(*sums, rtol=1e-5)


def test_a_derivative_inside_the_loss(both):
    """As in a network that solves a differential equation."""

    def residual(params, x):
        def f(x):
            return jnp.sum(jnp.tanh(x @ params["first"]) @ params["last"])

        return jnp.mean(jax.grad(f)(x) ** 2)

    assert_same_flow(*both(gf.value_grad_and_flow(residual), SMALL, X))


def test_the_derivative_of_a_statistic_is_that_of_the_reference(both):
    def signal(params):
        flow = gf.value_grad_and_flow(lambda p: jnp.mean(jnp.tanh(X @ p["first"]) ** 3))(params)[2]
        (name,) = flow.layers
        return flow[name].output_grad_rms + flow[name].weight_grad_norm

    params = {"first": PARAMS["first"]}
    want, got = both(jax.grad(signal), params)
    assert float(jnp.max(jnp.abs(want["first"]))) > 0
    np.testing.assert_allclose(got["first"], want["first"], rtol=1e-4, atol=1e-8)


def test_eager(native):
    with references_alone():
        want = gf.value_grad_and_flow(small)(SMALL, X)
    assert_same_flow(want, gf.value_grad_and_flow(small)(SMALL, X))


def test_a_program_to_export_is_traced_with_the_reference(native):
    """JAX refuses to serialize calls of a library that it does not know."""
    measured = jax.jit(lambda params, x: gf.value_grad_and_flow(small)(params, x))
    with pytest.raises(ValueError, match="custom call"):
        export.export(measured)(SMALL, X)
    with references_alone():
        alone = export.export(jax.jit(lambda params, x: gf.value_grad_and_flow(small)(params, x)))(SMALL, X)
    assert_same_flow(measured(SMALL, X), alone.call(SMALL, X))


def calls_in(text):
    return {name: len(re.findall(rf"gradflow_{name}_1\b", text)) for name in ("forward", "backward", "squares")}


def lowered(function, *args):
    return jax.jit(lambda *args: function(*args)).lower(*args).as_text()


@pytest.mark.parametrize("depth", [3, 6])
def test_one_call_a_layer_and_pass(native, depth):
    """What the native path costs, as calls and kernels of the compiled program: no load of the machine changes them."""
    params = [normal(k, 16, 16) for k in range(depth)]

    def deep(params, x):
        for w in params:
            x = jnp.tanh(x @ w)
        return jnp.mean(x**2)

    def program(transform):
        return jax.jit(lambda *args: transform(deep)(*args)).lower(params, normal(9, 8, 16)).compile().as_text()

    text, plain = program(gf.value_grad_and_flow), program(jax.value_and_grad)
    calls = {name: len(re.findall(rf'custom_call_target="gradflow_{name}_1"', text)) for name in calls_in("")}
    # The network's input is a row of its own; weights and their gradients share one call.
    assert calls == {"forward": depth + 1, "backward": depth, "squares": depth + 1}
    assert text.count(" reduce(") == plain.count(" reduce(")
    assert text.count(" fusion(") <= plain.count(" fusion(") + 6


def test_a_scan_holds_its_calls_once(native):
    counts = [
        calls_in(
            lowered(gf.value_grad_and_flow(lambda w, x: jnp.sum(lax.scan(lambda h, w: (h @ w, None), x, w)[0])), w, X)
        )
        for w in (normal(0, 2, 5, 5), normal(0, 50, 5, 5))
    ]
    assert counts[0] == counts[1]
    assert counts[0]["forward"] >= 1


def test_what_is_left_to_the_reference(native, monkeypatch):
    layout = gs.Layout(frozenset(gs.STATISTICS))

    def ahead(x, units=(1,), examples=(0,)):
        return calls_in(lowered(lambda x: gs.forward(x, x, layout, units, examples, ()), x))["forward"]

    def back(x, units=(1,)):
        return calls_in(lowered(lambda x: gs.backward(x, layout, units, (), 0.0), x))["backward"]

    x = jnp.ones((4, 3))
    assert (ahead(x), back(x)) == (1, 1)
    assert (ahead(x, (0,), (1,)), back(x, (0,))) == (0, 0)  # units first
    complexes = gs.Layout(frozenset({"output_rms"}), is_complex=True)
    assert (
        calls_in(lowered(lambda x: gs.forward(x, None, complexes, (1,), (0,), ()), lax.complex(x, x)))["forward"] == 0
    )
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("data",))
    spec = jax.sharding.PartitionSpec("data")
    for check_vma in (True, False):
        sharded = jax.shard_map(
            lambda x: gs.forward(x, None, layout, (1,), (0,), ("data",))[None],
            mesh=mesh, in_specs=spec, out_specs=spec, check_vma=check_vma,
        )  # fmt: skip
        assert calls_in(lowered(sharded, x))["forward"] == 0
    monkeypatch.undo()
    assert ahead(x) == back(x) == 0  # several devices
