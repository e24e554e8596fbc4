"""Which part of the parameters a layer's weight is, and when layers run."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf


def flow_of(loss, params, *batch):
    return jax.eval_shape(gf.value_grad_and_flow(loss), params, *batch)[2]


def stack(params, x):
    """Two layers in a scan over depth, in one over time; a slice and a transposed leaf before, a shared one behind."""

    def depth(h, w):
        return jnp.tanh(jnp.tanh(h @ w["a"]) @ w["b"]), None

    def time(h, x):
        return jax.lax.scan(depth, h + x, params["deep"])[0], None

    h = jax.lax.scan(time, jnp.zeros_like(x[0]), x)[0]
    return jnp.sum(h @ params["pair"][1] @ params["turned"].T)


@pytest.fixture(scope="module")
def params():
    shapes = {"deep": {"a": (3, 4, 5), "b": (3, 5, 4)}, "pair": (2, 4, 4), "turned": (6, 4)}
    leaves, tree = jax.tree.flatten(shapes, is_leaf=lambda s: isinstance(s, tuple))
    keys = jax.random.split(jax.random.key(0), len(leaves))
    return jax.tree.unflatten(tree, [jax.random.normal(k, s) for k, s in zip(keys, leaves, strict=True)])


@pytest.fixture(scope="module")
def flow(params):
    return flow_of(stack, params, jnp.ones((7, 2, 4)))


def test_parts_are_cut_as_the_program_cuts_them(flow, params):
    expected = {
        "deep/a": (0, (1,), params["deep"]["a"]),
        "deep/b": (1, (1,), params["deep"]["b"]),
        "pair": (2, (), params["pair"][1]),
        "turned": (3, (), params["turned"]),
    }
    leaves = jax.tree.leaves(params)
    for name, (leaf, scans, part) in expected.items():
        weight = flow[name].weight
        assert (weight.leaves, weight.scans) == ({leaf}, scans)
        np.testing.assert_array_equal(np.squeeze(weight.take(leaves[leaf])), part)


def test_put_replaces_what_take_gives_and_nothing_else(flow, params):
    for name in ("deep/a", "pair", "turned"):
        weight = flow[name].weight
        leaf = jax.tree.leaves(params)[min(weight.leaves)]
        part = weight.take(leaf)
        np.testing.assert_array_equal(weight.put(leaf, part), leaf)
        np.testing.assert_array_equal(weight.take(weight.put(leaf, 1e-30 * part)), 1e-30 * part)
    np.testing.assert_array_equal(flow["pair"].weight.put(params["pair"], jnp.zeros((1, 4, 4)))[0], params["pair"][0])


def test_order_is_that_of_running(flow):
    """Time 7, depth 3: a_0, b_0, a_1, b_1, ... at each time; `pair` and `turned` last."""
    assert flow["deep/a"].lengths == (7, 3)
    calls = [(name, t, d) for t in range(7) for d in range(3) for name in ("deep/a", "deep/b")]
    keys = [flow[name].order(t, d) for name, t, d in calls] + [flow["pair"].order(), flow["turned"].order()]
    assert keys == sorted(set(keys))


def test_layers_that_share_a_weight_share_its_part():
    flow = flow_of(lambda w, x: jnp.sum(jnp.tanh(x @ w) @ w), jnp.ones((4, 4)), jnp.ones((2, 4)))
    first, second = (flow[name] for name in flow.layers)
    assert first.weight == second.weight
    assert (first.units, second.units) == (4, 4)


def test_a_weight_made_of_several_leaves_names_them_and_values_have_none():
    def loss(params, x):
        return jnp.sum(gf.tap("hidden", x @ (params["v"] * params["g"])))

    flow = flow_of(loss, {"g": jnp.ones((3,)), "v": jnp.ones((4, 3))}, jnp.ones((2, 4)))
    assert flow[flow.layers[0]].weight.leaves == {0, 1}
    assert flow["hidden"].weight is None
