"""Ragged contractions: rows in groups, each group with a weight of its own (the experts of a mixture)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import gradflow as gf
from tests import oracles


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


X = normal(0, 5, 4)
EXPERTS = {"experts": normal(1, 3, 4, 6), "b": normal(2, 6, 3)}


class TestRagged:
    SIZES = jnp.array([2, 0, 3])

    def loss(self, p, x, sizes):
        h = lax.ragged_dot(x, p["experts"], sizes)
        return jnp.mean((jax.nn.relu(h - 0.5) @ p["b"]) ** 2)

    def test_against_one_product_a_group(self):
        value, grads, flow = jax.jit(gf.value_grad_and_flow(self.loss))(EXPERTS, X, self.SIZES)
        oracles.assert_same_gradients(self.loss, value, grads, EXPERTS, X, self.SIZES)
        owner = np.repeat(np.arange(3), np.asarray(self.SIZES))

        def plain(zero):
            h = jnp.einsum("ti,tio->to", X, EXPERTS["experts"][owner]) + zero
            return jnp.mean((jax.nn.relu(h - 0.5) @ EXPERTS["b"]) ** 2)

        g = np.asarray(jax.grad(plain)(jnp.zeros((5, 6))))
        layer = flow["experts"]
        assert flow.layers == ("experts", "b")
        np.testing.assert_allclose(layer.output_grad_rms, oracles.rms(g), rtol=1e-5)
        np.testing.assert_allclose(layer.zero_grad_fraction, np.mean(g == 0), rtol=1e-6)
        want = [np.mean(g[owner == k] == 0) if (owner == k).any() else np.nan for k in range(3)]
        np.testing.assert_allclose(layer.expert_zero_fraction, want, rtol=1e-6)
        np.testing.assert_array_equal(layer.expert_rows, self.SIZES)
        record = layer.to_record()
        assert record["expert_zero_fraction"][1] is None
        assert 0 < record["expert_zero_fraction"][0] < 1

    def test_batched(self):
        x, sizes = normal(0, 2, 5, 4), jnp.array([[2, 0, 3], [1, 4, 0]])
        weights = normal(1, 2, 3, 4, 6)

        def loss(w):
            return jnp.mean(jnp.tanh(jax.vmap(lax.ragged_dot)(x, w, sizes)) ** 2)

        flow = jax.eval_shape(gf.value_grad_and_flow(loss), weights)[2]
        assert flow.layers == ("w",)
        assert flow["w"].shape == (2, 5, 6)
        assert flow["w"].units == 6
