"""What a cotangent reaches and what it does not; what ran and what did not; types in which numbers vanish."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, PartitionSpec

import gradflow as gf
from gradflow.instrument.statistics import STATISTICS
from tests import oracles


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


X = normal(0, 5, 4)
PARAMS = {"a": normal(1, 4, 6), "b": normal(2, 6, 3)}

CUTS = {
    "stop_gradient": lambda h: lax.stop_gradient(jnp.tanh(h)),
    "argmax": lambda h: jax.nn.one_hot(jnp.argmax(h, -1), 6),
    "sign": jnp.sign,
    "gt": lambda h: (h > 0).astype(jnp.float32),
    "round": lambda h: jnp.round(3 * h),
}


@pytest.mark.parametrize("by", CUTS)
def test_behind_a_cut_the_forward_signal_is_there_and_the_backward_one_is_not(by):
    def loss(p, x):
        return jnp.mean((CUTS[by](x @ p["a"]) @ p["b"]) ** 2)

    value, grads, flow = jax.jit(gf.value_grad_and_flow(loss))(PARAMS, X)
    oracles.assert_same_gradients(loss, value, grads, PARAMS, X)
    layer = flow["a"]
    y = np.asarray(X @ PARAMS["a"])
    np.testing.assert_allclose(layer.output_rms, oracles.rms(y), rtol=1e-5)
    np.testing.assert_allclose(layer.output_mean, y.mean(), atol=1e-5)
    np.testing.assert_allclose(layer.input_rms, oracles.rms(X), rtol=1e-5)
    np.testing.assert_allclose(layer.similarity, oracles.similarity(y), atol=1e-4)
    assert by in layer.cut
    assert float(layer.calls) == 1
    assert float(layer.backward_calls) == 0
    for field in ("output_grad_rms", "zero_grad_fraction", "dead_fraction", "underflow_fraction"):
        assert np.isnan(getattr(layer, field))
        assert layer.remark(field) == f"not reached: {', '.join(layer.cut)}"
    record = layer.to_record()
    assert record["output_grad_rms"] is None
    assert record["remarks"]["output_grad_rms"].startswith("not reached")
    assert flow["b"].remark("output_grad_rms") == ""
    assert not flow.parameters["a"].reached


@pytest.mark.parametrize("remat", [False, True])
def test_means_are_over_what_ran(remat):
    """A loop with an early exit: the steps that a branch skipped count for nothing."""
    params = {"w": normal(1, 4, 4) / 2}

    def loss(p, x):
        def step(h, t):
            return lax.cond(t < 3, lambda h: jnp.tanh(h @ p["w"]), lambda h: h, h), None

        body = jax.checkpoint(step) if remat else step
        return jnp.mean(lax.scan(body, x, jnp.arange(8))[0] ** 2)

    value, grads, flow = jax.jit(gf.value_grad_and_flow(loss))(params, X)
    oracles.assert_same_gradients(loss, value, grads, params, X)
    h, outputs = X, []
    for _ in range(3):
        outputs.append(oracles.rms(h @ params["w"]))
        h = jnp.tanh(h @ params["w"])
    layer = flow["w"]
    np.testing.assert_allclose(layer.output_rms[:3], outputs, rtol=1e-5)
    assert np.isnan(layer.output_rms[3:]).all()
    assert np.isnan(layer.output_grad_rms[3:]).all()
    np.testing.assert_array_equal(layer.calls, [1] * 3 + [0] * 5)
    np.testing.assert_array_equal(layer.backward_calls, [1] * 3 + [0] * 5)
    assert layer.to_record()["output_rms"][3:] == [None] * 5


def test_under_vmap_a_branch_that_was_not_selected_has_not_run():
    params = {"w": normal(1, 4, 4)}

    def loss(p, x, flag):
        return jnp.mean(lax.cond(flag, lambda x: jnp.tanh(x @ p["w"]), lambda x: x, x) ** 2)

    run = jax.vmap(gf.value_grad_and_flow(loss), in_axes=(None, None, 0))
    flow = jax.jit(run)(params, X, jnp.array([True, False]))[2]
    np.testing.assert_array_equal(flow["w"].calls, [1, 0])
    assert np.isfinite(flow["w"].output_rms[0])
    assert np.isnan(flow["w"].output_rms[1])


def test_an_exact_zero_is_shown_as_zero_with_a_remark():
    """LoRA begins with B = 0: A's cotangent is exactly 0, and that is no missing number."""
    params = {"u": normal(1, 4, 2), "v": jnp.zeros((2, 3))}
    flow = jax.jit(gf.value_grad_and_flow(lambda p, x: jnp.mean((x @ p["u"] @ p["v"] - 1.0) ** 2)))(params, X)[2]
    assert float(flow["u"].output_grad_rms) == 0.0
    assert flow["u"].remark("output_grad_rms") == "zero or not reached"
    assert float(flow["v"].output_grad_rms) > 0


@pytest.mark.parametrize("check", [True, False])
def test_behind_a_cut_inside_shard_map(check):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec
    x = normal(3, 6, 4)

    def sharded(p, x):
        def local(p, x):
            return lax.pmean(jnp.mean((lax.stop_gradient(jnp.tanh(x @ p["a"])) @ p["b"]) ** 2), "data")

        return jax.shard_map(local, mesh=mesh, in_specs=(spec(), spec("data")), out_specs=spec(), check_vma=check)(p, x)

    flow = jax.jit(gf.value_grad_and_flow(sharded))(PARAMS, x)[2]
    y = np.asarray(x @ PARAMS["a"])
    np.testing.assert_allclose(flow["a"].output_rms, oracles.rms(y), rtol=1e-5)
    np.testing.assert_allclose(flow["a"].similarity, oracles.similarity(y), atol=1e-4)
    assert float(flow["a"].calls) == 2
    assert float(flow["a"].backward_calls) == 0
    assert float(flow["b"].backward_calls) == 2


def test_saved_residuals_stay_what_they_were():
    """Under a remat policy the forward numbers save no activation: temporary memory grows by less than one."""
    params = {"w": jnp.zeros((12, 64, 64))}

    def loss(p, x):
        policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
        body = jax.checkpoint(lambda h, w: (jnp.tanh(h @ w), None), policy=policy)
        return jnp.mean(lax.scan(body, x, p["w"])[0] ** 2)

    x = jnp.zeros((512, 64))

    def temporary(fun):
        return jax.jit(fun).lower(params, x).compile().memory_analysis().temp_size_in_bytes

    added = temporary(gf.value_grad_and_flow(loss, data_gradients=False)) - temporary(jax.value_and_grad(loss))
    assert added < 1.5 * x.size * 4


class TestRange:
    """A vanishing gradient through whole networks, against float64."""

    @pytest.mark.quick_cases(1)
    @pytest.mark.parametrize(("cell", "steps"), [("gru", 100), ("rnn", 200)])
    def test_recurrent_networks(self, cell, steps):
        from gradflow.models import Recurrent

        model = Recurrent(cell=cell, hidden=16, outputs=3, hoist=True)
        x = normal(1, 4, steps, 2)
        params = jax.jit(model.init)(jax.random.key(0), x)

        def loss(p, x):
            return -jnp.sum(jax.nn.log_softmax(model.apply(p, x))[:, 0])

        flow = jax.jit(gf.value_grad_and_flow(loss, statistics=("output_grad_rms", "nonfinite")))(params, x)[2]
        for name in flow:
            if flow[name].kind == "input":
                continue
            assert np.isfinite(flow[name].output_grad_rms).all(), name
            assert int(np.nansum(np.asarray(flow[name].nonfinite))) == 0

    def test_one_unit_in_sixteen(self):
        scale = jnp.where(jnp.arange(128) % 16 == 0, 1e-26, 0.0)
        w = normal(0, 32, 128)
        x = normal(1, 64, 32)
        _, grad, flow = jax.jit(gf.value_grad_and_flow(lambda w: jnp.sum((x @ w) * scale)))(w)
        np.testing.assert_allclose(flow["w"].output_grad_rms, 1e-26 / 4, rtol=1e-3)
        np.testing.assert_allclose(flow["w"].weight_grad_rms, oracles.rms(grad), rtol=1e-3)
        np.testing.assert_allclose(flow["w"].dead_fraction, 15 / 16, rtol=1e-6)

    def test_float64(self):
        with jax.enable_x64(True):
            params = {"a": jnp.ones((4, 6)), "b": jnp.full((6, 3), 1e-60)}
            x = jnp.ones((5, 4))
            flow = jax.jit(gf.value_grad_and_flow(lambda p, x: jnp.sum(x @ p["a"] @ p["b"])))(params, x)[2]
            assert flow["a"].output_grad_rms.dtype == np.float64
            np.testing.assert_allclose(flow["a"].output_grad_rms, 3e-60, rtol=1e-9)
            np.testing.assert_allclose(flow["b"].weight_rms, 1e-60, rtol=1e-9)
            np.testing.assert_allclose(flow.parameters["b"].rms, 1e-60, rtol=1e-9)
            assert float(flow["a"].zero_grad_fraction) == 0.0
            assert float(flow["a"].dead_fraction) == 0.0

    def test_complex_values_are_measured_by_their_modulus(self):
        w = lax.complex(normal(1, 4, 6), normal(2, 4, 6))

        def loss(w, x):
            return jnp.mean(jnp.abs(x @ w) ** 2)

        x = X.astype(jnp.complex64)
        value, grad, flow = jax.jit(gf.value_grad_and_flow(loss))(w, x)
        np.testing.assert_allclose(value, loss(w, x), rtol=1e-5)
        np.testing.assert_allclose(grad, jax.grad(loss)(w, x), rtol=1e-5)

        def modulus(z):
            return np.sqrt(np.mean(np.abs(np.asarray(z, np.complex128)) ** 2))

        y = np.asarray(x @ w)
        layer = flow["w"]
        np.testing.assert_allclose(layer.output_rms, modulus(y), rtol=1e-5)
        np.testing.assert_allclose(layer.output_mean, abs(y.mean()), rtol=1e-4)
        np.testing.assert_allclose(layer.weight_rms, modulus(w), rtol=1e-5)
        np.testing.assert_allclose(layer.weight_grad_rms, modulus(grad), rtol=1e-5)
        cotangent = jax.grad(lambda z: jnp.mean(jnp.abs(x @ w + z) ** 2))(jnp.zeros((5, 6), jnp.complex64))
        np.testing.assert_allclose(layer.output_grad_rms, modulus(cotangent), rtol=1e-5)


class TestHalfPrecision:
    """float16 flushes below 6e-8: an exact zero there is no proof of anything."""

    def loss(self, scale, dtype):
        def run(p, x):
            h = jax.nn.relu((x @ p["a"]).astype(dtype) + p["c"])
            return jnp.sum((h @ p["b"]).astype(jnp.float32) * scale)

        return run

    def flow(self, dtype, scale, **options):
        shift = jnp.where(jnp.arange(6) == 0, -100.0, 0.0)  # one unit is dead, in the forward pass
        params = {"a": normal(1, 4, 6), "b": normal(2, 6, 3), "c": shift}
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
        run = gf.value_grad_and_flow(self.loss(scale, dtype), **options)
        return jax.jit(run)(params, X.astype(dtype))[2]

    def test_flushed_units_are_not_dead(self):
        flow = self.flow(jnp.float16, 1e-9)
        layer = flow["a"]
        assert float(layer.zero_grad_fraction) == 1.0
        np.testing.assert_allclose(layer.dead_fraction, 1 / 6, rtol=1e-6)
        assert np.isnan(layer.underflow_fraction)
        assert layer.remark("underflow_fraction") == "not known in float16"
        assert layer.remark("zero_grad_fraction") == "zero or flushed"
        assert np.isnan(flow["b"].dead_fraction)  # no activation behind it
        assert flow["b"].remark("dead_fraction") == "not known in float16"

    def test_the_float32_twin_knows(self):
        layer = self.flow(jnp.float32, 1e-9)["a"]
        np.testing.assert_allclose(layer.dead_fraction, 1 / 6, rtol=1e-6)
        assert float(layer.underflow_fraction) > 0.3
        assert layer.remark("zero_grad_fraction") == ""

    def test_what_choosing_a_loss_scale_needs(self):
        flow = self.flow(jnp.float32, 1e-9, statistics=(*STATISTICS,))
        g = jax.grad(lambda z: self.loss(1e-9, jnp.float32)(self.params_of(z), X))(jnp.zeros(6))
        layer = flow["a"]
        histogram = np.asarray(layer.exponent_histogram)
        edges = layer.exponent_edges
        assert histogram.shape == (len(edges) - 1,)
        nonzero = 1 - float(layer.zero_grad_fraction)
        np.testing.assert_allclose(histogram.sum(), nonzero, rtol=1e-5)
        top = np.flatnonzero(histogram)[-1]
        assert 2.0 ** edges[top] <= float(layer.output_grad_max) < 2.0 ** edges[top + 1]
        assert g.shape == (6,)

    @staticmethod
    def params_of(z):
        return {"a": normal(1, 4, 6), "b": normal(2, 6, 3), "c": z}
