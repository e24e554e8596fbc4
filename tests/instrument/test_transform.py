"""The transformation as a function: signature, errors, select, statistics, composition with other transformations."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import gradflow as gf
from gradflow.instrument import FlowError
from gradflow.instrument.statistics import STATISTICS
from tests import oracles


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


PARAMS = {"a": {"w": normal(0, 4, 6)}, "b": {"w": normal(1, 6, 2)}}
X = normal(2, 8, 4)


def loss(params, x):
    return jnp.mean((jnp.tanh(x @ params["a"]["w"]) @ params["b"]["w"]) ** 2)


class TestSignature:
    def test_several_arguments_are_prefixed(self):
        def two(left, scale, right):
            return jnp.mean((jnp.tanh(X @ left["w"]) * scale @ right["w"]) ** 2)

        args = (PARAMS["a"], 2.0, PARAMS["b"])
        value, grads, flow = jax.jit(gf.value_grad_and_flow(two, argnums=(0, -1)))(*args)
        expected = jax.jit(jax.value_and_grad(two, argnums=(0, -1)))(*args)
        assert flow.layers == ("left", "right")
        assert isinstance(grads, tuple)
        # To the bit on JAX 0.10; from 0.12 on XLA fuses the last layer otherwise once it is tapped.
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), (value, grads), expected)

    def test_second_argument(self):
        _, grads, flow = jax.jit(gf.value_grad_and_flow(lambda x, p: loss(p, x), argnums=1))(X, PARAMS)
        assert flow.layers == ("a", "b")
        assert jax.tree.structure(grads) == jax.tree.structure(PARAMS)

    def test_keywords_and_static_python_values(self):
        def f(params, *, x, power, activation):
            return jnp.mean(jnp.abs(activation(x @ params["a"]["w"]) @ params["b"]["w"]) ** power)

        value, _, flow = gf.value_grad_and_flow(f)(PARAMS, x=X, power=2, activation=jnp.tanh)
        np.testing.assert_allclose(value, loss(PARAMS, X), rtol=1e-6)
        assert flow.layers == ("a", "b")

    def test_aux_of_any_kind(self):
        def f(params, x):
            y = x @ params["a"]["w"]
            return jnp.mean(y**2), {"y": y, "text": "kept", "number": 3, "x": x}

        (_, aux), _, _ = gf.value_grad_and_flow(f, has_aux=True)(PARAMS, X)
        assert aux["text"] == "kept"
        assert aux["number"] == 3
        np.testing.assert_array_equal(aux["y"], X @ PARAMS["a"]["w"])

    def test_bare_array_parameter(self):
        value, grad, flow = gf.value_grad_and_flow(lambda w: jnp.mean((X @ w) ** 2))(PARAMS["a"]["w"])
        assert flow.layers == ("w",)
        assert grad.shape == (4, 6)
        assert value.shape == ()

    def test_eager_equals_jit(self):
        run = gf.value_grad_and_flow(loss)
        eager, jitted = run(PARAMS, X), jax.jit(run)(PARAMS, X)
        np.testing.assert_allclose(eager[0], jitted[0], rtol=1e-6)
        for name in jitted[2]:
            np.testing.assert_allclose(eager[2][name].output_grad_rms, jitted[2][name].output_grad_rms, rtol=1e-5)

    def test_name_and_docstring_of_the_function_are_kept(self):
        assert gf.value_grad_and_flow(loss).__name__ == "loss"

    def test_same_program_for_the_same_shapes(self):
        traces = []

        def counted(params, x):
            traces.append(1)
            return loss(params, x)

        run = jax.jit(gf.value_grad_and_flow(counted))
        for seed in range(3):
            run(PARAMS, normal(seed, 8, 4))
        assert len(traces) == 1

    def test_bitwise_reproducible(self):
        run = jax.jit(gf.value_grad_and_flow(loss))
        first, second = run(PARAMS, X), run(PARAMS, X)
        jax.tree.map(np.testing.assert_array_equal, first, second)


class TestErrors:
    def test_not_a_scalar(self):
        with pytest.raises(FlowError, match=r"shape \(8,\).*return the mean"):
            gf.value_grad_and_flow(lambda p, x: jnp.sum(x @ p["a"]["w"], 1))(PARAMS, X)

    def test_forgotten_aux(self):
        with pytest.raises(FlowError, match="has_aux=True"):
            gf.value_grad_and_flow(lambda p, x: (loss(p, x), x))(PARAMS, X)

    def test_aux_without_pair(self):
        with pytest.raises(TypeError, match=r"\(loss, aux\)"):
            gf.value_grad_and_flow(loss, has_aux=True)(PARAMS, X)

    def test_integer_loss(self):
        with pytest.raises(FlowError, match="int32"):
            gf.value_grad_and_flow(lambda p, x: jnp.sum(x @ p["a"]["w"] > 0))(PARAMS, X)

    def test_integer_parameters(self):
        with pytest.raises(TypeError, match=r"int32\) at 'step'.*another argument"):
            gf.value_grad_and_flow(lambda p: jnp.sum(p["w"]))({"w": jnp.ones(3), "step": jnp.int32(3)})

    def test_functions_among_parameters(self):
        with pytest.raises(TypeError, match=r"eqx\.partition"):
            gf.value_grad_and_flow(lambda p: jnp.sum(p["w"]))({"w": jnp.ones(3), "act": jnp.tanh})

    def test_a_loss_without_layers_gives_an_empty_flow(self):
        value, grad, flow = gf.value_grad_and_flow(lambda p: jnp.sum(p**2))(jnp.ones(3))
        assert float(value) == 3.0
        np.testing.assert_array_equal(grad, 2 * np.ones(3))
        assert flow.layers == ()
        assert "no layers" in str(flow).lower() or "no contraction" in str(flow).lower()

    def test_tap_inside_while(self):
        def f(p, x):
            h = x @ p["a"]["w"]
            n = lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, gf.tap("inside", s[1] * 2)), (0, X))[0]
            return jnp.mean(h**2) * n.astype(jnp.float32)

        with pytest.raises(FlowError, match=r"'inside'.*while loop.*lax.scan"):
            gf.value_grad_and_flow(f)(PARAMS, X)

    def test_tap_inside_custom_rule(self):
        @jax.custom_vjp
        def rule(x):
            return gf.tap("inside", x * 2)

        rule.defvjp(lambda x: (x * 2, None), lambda _, g: (2 * g,))
        with pytest.raises(FlowError, match=r"custom_vjp_call.*outside"):
            gf.value_grad_and_flow(lambda p, x: jnp.mean(rule(x @ p["a"]["w"])))(PARAMS, X)

    def test_unknown_statistic(self):
        with pytest.raises(ValueError, match="did you mean 'output_rms'"):
            gf.value_grad_and_flow(loss, statistics=["output_rm"])

    def test_select_matches_nothing(self):
        with pytest.raises(FlowError, match="matches none of input, a, b"):
            gf.value_grad_and_flow(loss, select="Dense_*")(PARAMS, X)

    def test_argnums_out_of_range(self):
        with pytest.raises(ValueError, match="argnums=2"):
            gf.value_grad_and_flow(loss, argnums=2)(PARAMS, X)

    def test_not_a_function(self):
        with pytest.raises(TypeError, match="pass loss_fn"):
            gf.value_grad_and_flow(3.0)

    def test_underflow_dtype(self):
        with pytest.raises(ValueError, match="float16 or bfloat16"):
            gf.value_grad_and_flow(loss, underflow_dtype=jnp.float32)

    def test_tap_refuses_integers_and_empty_names(self):
        with pytest.raises(TypeError, match="int32"):
            gf.tap("labels", jnp.arange(3))
        with pytest.raises(TypeError, match="non-empty"):
            gf.tap("", jnp.ones(3))


class TestChoice:
    def test_select(self):
        run = gf.value_grad_and_flow
        assert run(loss, select="b")(PARAMS, X)[2].layers == ("b",)
        assert run(loss, select=["a*", "c"])(PARAMS, X)[2].layers == ("a",)
        assert run(loss, select=lambda name: name != "a")(PARAMS, X)[2].layers == ("b",)

    @pytest.mark.quick_cases(5)
    @pytest.mark.parametrize("field", STATISTICS)
    def test_each_statistic_alone_equals_the_one_among_all(self, field):
        _, _, everything = jax.jit(gf.value_grad_and_flow(loss, statistics=STATISTICS))(PARAMS, X)
        _, _, alone = jax.jit(gf.value_grad_and_flow(loss, statistics=field))(PARAMS, X)
        assert alone.statistics == (field,)
        for name in alone:
            got, want = getattr(alone[name], field), getattr(everything[name], field)
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)
        other = "output_mean" if field != "output_mean" else "similarity"
        assert np.isnan(getattr(alone["a"], other))

    def test_data_gradients(self):
        _, _, flow = jax.jit(gf.value_grad_and_flow(loss, data_gradients=False))(PARAMS, X)
        assert np.isnan(flow["a"].input_grad_rms)
        assert np.isfinite(flow["b"].input_grad_rms)

    def test_metrics_and_products_of_weights_are_no_layers(self):
        def f(params, x):
            w = params["a"]["w"] @ params["b"]["w"]  # low rank: feeds the weight, not the activations
            y = x @ w
            return jnp.mean(y**2), jnp.mean((x @ params["c"]["w"]) ** 2)

        params = {**PARAMS, "c": {"w": normal(5, 4, 2)}}
        _, _, flow = jax.jit(gf.value_grad_and_flow(f, has_aux=True))(params, X)
        assert flow.layers == ("a+b",)

    def test_weight_sharing_gives_two_layers(self):
        def f(params, x):
            return jnp.mean((jnp.tanh(x @ params["a"]["w"]) @ params["a"]["w"].T) ** 2)

        _, grads, flow = jax.jit(gf.value_grad_and_flow(f))(PARAMS, X)
        assert flow.layers == ("a", "a#2")
        oracles.assert_weight(flow["a#2"], PARAMS["a"]["w"], grads["a"]["w"])

    def test_a_name_used_again_is_numbered(self):
        def f(p, x):
            h = gf.tap("h", x @ p["a"]["w"])
            h = gf.tap("h#2", gf.tap("h", jnp.tanh(h)) * 2)
            return jnp.mean(gf.tap("a", h) ** 2)

        _, _, flow = gf.value_grad_and_flow(f)(PARAMS, X)
        assert tuple(flow) == ("input", "a", "h", "h#3", "h#2", "a#2")
        h = np.tanh(X @ PARAMS["a"]["w"])
        assert float(flow["h#3"].output_rms) == pytest.approx(float(np.sqrt(np.mean(h**2))), rel=1e-5)
        assert float(flow["h#2"].output_rms) == pytest.approx(float(np.sqrt(np.mean(4 * h**2))), rel=1e-5)

    def test_two_leaves_under_one_path(self):
        params = {"attention": {"query": normal(0, 4, 4), "key": normal(1, 4, 4)}}

        def f(p, x):
            return jnp.mean((x @ p["attention"]["query"]) * (x @ p["attention"]["key"]))

        assert gf.value_grad_and_flow(f)(params, X)[2].layers == ("attention/query", "attention/key")

    def test_slices_of_one_stacked_leaf_have_their_own_weight_statistics(self):
        params = {"w": normal(0, 3, 4, 4)}

        def f(p, x):
            for i in range(3):
                x = jnp.tanh(x @ p["w"][i])
            return jnp.mean(x**2)

        _, grads, flow = jax.jit(gf.value_grad_and_flow(f))(params, X)
        assert flow.layers == ("w", "w#2", "w#3")
        for i, name in enumerate(flow.layers):
            oracles.assert_weight(flow[name], params["w"][i], grads["w"][i])

    def test_masked_weights_stay_weights(self):
        def f(params, x, key):
            mask = jax.random.bernoulli(key, 0.5, params["a"]["w"].shape)
            return jnp.mean((x @ jnp.where(mask, params["a"]["w"], 0.0)) ** 2)

        assert gf.value_grad_and_flow(f)(PARAMS, X, jax.random.key(0))[2].layers == ("a",)

    def test_custom_rules_are_kept_whole(self):
        @jax.custom_vjp
        def doubled_gradient(x, w):
            return x @ w

        def backward(res, g):
            x, w = res
            return g @ w.T, 2 * (x.T @ g)

        doubled_gradient.defvjp(lambda x, w: (x @ w, (x, w)), backward)

        def f(params, x):
            return jnp.mean((doubled_gradient(x, params["a"]["w"]) @ params["b"]["w"]) ** 2)

        value, grads, flow = jax.jit(gf.value_grad_and_flow(f))(PARAMS, X)
        oracles.assert_same_gradients(f, value, grads, PARAMS, X)
        assert flow.layers == ("a", "b")
        assert flow["a"].shape == (8, 6)

    def test_while_loops_are_left_alone(self):
        def f(params, x):
            steps = lax.while_loop(lambda s: s[1] < 10.0, lambda s: (s[0] + 1, s[1] * 2), (0, 1.0))[0]
            return loss(params, x) * steps.astype(jnp.float32)

        value, grads, flow = jax.jit(gf.value_grad_and_flow(f))(PARAMS, X)
        oracles.assert_same_gradients(f, value, grads, PARAMS, X)
        assert flow.layers == ("a", "b")

    def test_tap_of_a_pytree_and_outside_the_transformation(self):
        tree = {"x": jnp.ones(3), "y": (jnp.zeros(2),)}
        jax.tree.map(np.testing.assert_array_equal, gf.tap("state", tree), tree)

        def f(params, x):
            state = gf.tap("state", {"h": x @ params["a"]["w"], "g": (jnp.tanh(x),)})
            return jnp.mean(state["h"] ** 2) + jnp.mean(state["g"][0])

        assert gf.value_grad_and_flow(f)(PARAMS, X)[2].taps == ("state/g/0", "state/h")


class TestNumbers:
    @pytest.mark.parametrize("exponent", [-36, -30, -20, 0, 15, 30])
    def test_signals_far_from_one(self, exponent):
        """The square of 1e-30 is no float32, its rms is; the same for 1e30."""
        scale = 10.0**exponent

        def f(params, x):
            return jnp.sum(jnp.tanh(x @ params["a"]["w"]) * scale @ params["b"]["w"])

        _, grads, flow = jax.jit(gf.value_grad_and_flow(f))(PARAMS, X)
        h = np.tanh(np.asarray(X, np.float64) @ np.asarray(PARAMS["a"]["w"], np.float64))
        g = (1 - h**2) * scale * np.sum(np.asarray(PARAMS["b"]["w"], np.float64), 1)
        np.testing.assert_allclose(flow["a"].output_grad_rms, oracles.rms(g), rtol=1e-4)
        np.testing.assert_allclose(flow["b"].input_rms, oracles.rms(h * scale), rtol=1e-4)
        np.testing.assert_allclose(flow["a"].weight_grad_rms, oracles.rms(grads["a"]["w"]), rtol=1e-4)

    def test_zero_gradient(self):
        _, _, flow = jax.jit(gf.value_grad_and_flow(lambda p, x: 0.0 * loss(p, x)))(PARAMS, X)
        assert float(flow["a"].output_grad_rms) == 0.0
        assert float(flow["a"].zero_grad_fraction) == 1.0
        assert float(flow["a"].dead_fraction) == 1.0
        assert float(flow["a"].underflow_fraction) == 0.0

    @pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
    def test_half_precision_gives_float32_statistics(self, dtype):
        params = jax.tree.map(lambda p: p.astype(dtype), PARAMS)
        x = X.astype(dtype)

        def half(probe, params, x):
            h = probe("a", lambda x: x @ params["a"]["w"], x)
            y = probe("b", lambda h: h @ params["b"]["w"], jnp.tanh(h))
            return jnp.mean(y.astype(jnp.float32) ** 2)

        run = jax.jit(gf.value_grad_and_flow(lambda p, x: half(lambda _, f, x: f(x), p, x)))
        _, grads, flow = run(params, x)
        assert grads["a"]["w"].dtype == dtype
        for name, record in oracles.probed(half, params, x).items():
            assert flow[name].output_grad_rms.dtype == np.float32
            expected = oracles.statistics(record)
            if dtype == jnp.float16:  # what was flushed, and so what is dead, cannot be told there
                for field in ("underflow_fraction", "dead_fraction"):
                    del expected[field]
                assert np.isnan(flow[name].underflow_fraction)
            oracles.assert_layer(flow[name], expected, rtol=0.02)

    def test_underflow_counts_what_the_cast_would_flush(self):
        grads = jnp.asarray([[0.0, 2.0**-26, 2.0**-25, 2.0**-24, -(2.0**-27), 1.0]])

        def f(w, x):
            return jnp.sum((x @ w) * grads)

        _, _, flow = jax.jit(gf.value_grad_and_flow(f))(jnp.ones((2, 6)), jnp.ones((1, 2)))
        flushed = (np.asarray(grads) != 0) & (np.asarray(grads).astype(np.float16) == 0)
        assert flushed.sum() == 3
        np.testing.assert_allclose(flow["w"].underflow_fraction, 3 / 6)
        np.testing.assert_allclose(flow["w"].zero_grad_fraction, 1 / 6)
        _, _, flow = jax.jit(gf.value_grad_and_flow(f, underflow_dtype=jnp.bfloat16))(
            jnp.ones((2, 6)), jnp.ones((1, 2))
        )
        assert float(flow["w"].underflow_fraction) == 0.0

    def test_nonfinite_forward_and_backward_apart(self):
        with jax.debug_nans(False):
            x = X.at[0, 0].set(jnp.nan).at[1, 1].set(jnp.inf)
            _, _, flow = jax.jit(gf.value_grad_and_flow(lambda p, x: jnp.mean(x @ p["a"]["w"])))(PARAMS, x)
            assert int(flow["a"].nonfinite.forward) == 12
            assert int(flow["a"].nonfinite.backward) == 0

            def g(p, x):
                h = x @ p["a"]["w"]
                return jnp.sum(jnp.sqrt(jnp.where(jnp.arange(6) < 2, 0.0 * h, 1.0 + h**2)))

            _, _, flow = jax.jit(gf.value_grad_and_flow(g))(PARAMS, X)
            assert int(flow["a"].nonfinite.forward) == 0
            assert int(flow["a"].nonfinite.backward) == 16
            assert float(flow["a"].dead_fraction) == 0.0

    def test_large_arrays_count_exactly(self):
        w = normal(0, 3, 7)
        x = normal(1, 4097, 3)

        def f(w, x):
            return jnp.sum(jax.nn.relu(x @ w - 0.5))

        _, _, flow = jax.jit(gf.value_grad_and_flow(f))(w, x)
        zeros = np.mean(np.asarray(x @ w - 0.5) <= 0)
        np.testing.assert_allclose(flow["w"].zero_grad_fraction, zeros, rtol=1e-6)
