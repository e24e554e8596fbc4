"""What comes back: a mapping, a pytree, a table, records."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import gradflow as gf


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


PARAMS = {"cell": {"w": normal(0, 4, 4) / 2}, "head": {"w": normal(1, 4, 2)}}
X = normal(2, 6, 3, 4)


def loss(params, x):
    h, _ = lax.scan(lambda h, row: (jnp.tanh(h @ params["cell"]["w"] + row), None), jnp.zeros((3, 4)), x)
    return jnp.mean((gf.tap("last", h) @ params["head"]["w"]) ** 2)


@pytest.fixture(scope="module")
def flow():
    return jax.jit(gf.value_grad_and_flow(loss))(PARAMS, X)[2]


def test_mapping_in_forward_order(flow):
    assert list(flow) == ["cell", "cell/h", "last", "head"]
    assert len(flow) == 4
    assert flow.layers == ("cell", "head")
    assert flow.carries == ("cell/h",)
    assert flow.taps == ("last",)
    assert "head" in flow
    assert dict(flow).keys() == set(flow)
    with pytest.raises(KeyError, match="nothing"):
        flow["nothing"]


def test_pytree_round_trip_and_static_structure(flow):
    leaves, tree = jax.tree.flatten(flow)
    again = jax.tree.unflatten(tree, leaves)
    assert list(again) == list(flow)
    assert tree == jax.tree.structure(again)
    doubled = jax.tree.map(lambda x: x * 2, flow)
    np.testing.assert_allclose(doubled["head"].calls, 2)
    np.testing.assert_allclose(doubled["head"].output_rms, flow["head"].output_rms)  # sums and counts both doubled


def test_stacked_by_scan():
    def step(params, x):
        _, grads, flow = gf.value_grad_and_flow(loss)(params, x)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), flow

    _, flows = jax.jit(lambda p, xs: lax.scan(step, p, xs))(PARAMS, jnp.stack([X, X, X]))
    assert flows["head"].output_grad_rms.shape == (3,)
    assert flows["cell"].output_grad_rms.shape == (3, 6)


def test_fields_inside_jit():
    def f(params, x):
        _, _, flow = gf.value_grad_and_flow(loss)(params, x)
        layer = flow["head"]
        return layer.output_grad_rms, layer.similarity, layer.weight_grad_norm, layer.nonfinite.forward

    inside = jax.jit(f)(PARAMS, X)
    layer = jax.jit(gf.value_grad_and_flow(loss))(PARAMS, X)[2]["head"]
    outside = layer.output_grad_rms, layer.similarity, layer.weight_grad_norm, layer.nonfinite.forward
    for got, want in zip(inside, outside, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5)


def test_fields_are_float32(flow):
    for name in flow:
        for field in flow.statistics:
            values = getattr(flow[name], field)
            for value in values if field == "nonfinite" else (values,):
                assert np.asarray(value).dtype == np.float32, (name, field)


def test_records_are_json(flow):
    records = flow.to_records()
    assert [r["name"] for r in records] == ["cell", "head"]
    assert len(records[0]["output_grad_rms"]) == 6
    assert records == json.loads(json.dumps(records, allow_nan=False))
    everything = flow.to_records(everything=True)
    assert [r["kind"] for r in everything] == ["layer", "carry", "tap", "layer"]
    assert everything[1]["weight_rms"] == [None] * 6 or everything[1]["weight_rms"] is None


def test_table_while_tracing_does_not_fail():
    def f(params, x):
        flow = gf.value_grad_and_flow(loss)(params, x)[2]
        assert "layers" in str(flow)
        return flow["head"].output_rms

    jax.jit(f)(PARAMS, X)


def test_figure(flow):
    import matplotlib.pyplot as plt

    figure = gf.plots.flow(flow)
    assert figure.axes
    plt.close(figure)
