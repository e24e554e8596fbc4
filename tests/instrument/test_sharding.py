"""The transformation over several devices: sharded arrays, `shard_map` inside the loss and around it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import gradflow as gf
from tests import oracles


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


PARAMS = {"a": {"w": normal(0, 4, 6)}, "b": {"w": normal(1, 6, 2)}}
X = normal(2, 8, 4)


def loss(params, x):
    return jnp.mean((jnp.tanh(x @ params["a"]["w"]) @ params["b"]["w"]) ** 2)


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))


@pytest.fixture(scope="module")
def expected():
    return jax.jit(gf.value_grad_and_flow(loss))(PARAMS, X)


class TestSharding:
    def same(self, flow, expected, skip=()):
        for name in expected:
            for field in (*oracles.FIELDS, "weight_rms", "weight_grad_norm"):
                if field not in skip:
                    got, want = getattr(flow[name], field), getattr(expected[name], field)
                    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6, err_msg=f"{name}.{field}")

    @pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
    def test_sharded_batch(self, kind, expected):
        mesh = jax.make_mesh((4,), ("data",), axis_types=(kind,))
        with jax.set_mesh(mesh):
            x = jax.device_put(X, NamedSharding(mesh, PartitionSpec("data")))
            params = jax.device_put(PARAMS, NamedSharding(mesh, PartitionSpec()))
            value, _, flow = jax.jit(gf.value_grad_and_flow(loss))(params, x)
        np.testing.assert_allclose(value, expected[0], rtol=1e-6)
        self.same(flow, expected[2])

    @pytest.mark.parametrize("check", [True, False])
    def test_shard_map_inside_the_loss(self, mesh, check, expected):
        spec = PartitionSpec

        def sharded(params, x):
            return jax.shard_map(
                lambda p, x: lax.pmean(loss(p, x), "data"),
                mesh=mesh,
                in_specs=(spec(), spec("data")),
                out_specs=spec(),
                check_vma=check,
            )(params, x)

        value, grads, flow = jax.jit(gf.value_grad_and_flow(sharded))(PARAMS, X)
        oracles.assert_same_gradients(loss, value, grads, PARAMS, X)
        self.same(flow, expected[2])
        assert float(flow["a"].calls) == 4

    def test_shard_map_around_the_transformation(self, mesh, expected):
        """Cotangents are those of the sum of the devices' losses, so the mean's come out when each is divided."""
        spec = PartitionSpec
        run = gf.value_grad_and_flow(lambda p, x: loss(p, x) / 4)

        def gathered(params, x):
            def one(p, x):
                value, grads, flow = run(p, x)
                return value[None], grads, flow

            return jax.shard_map(
                one, mesh=mesh, in_specs=(spec(), spec("data")), out_specs=(spec("data"), spec(), spec())
            )(params, x)

        values, grads, flow = jax.jit(gathered)(PARAMS, X)
        np.testing.assert_allclose(jnp.sum(values), expected[0], rtol=1e-6)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), grads, expected[1])
        self.same(flow, expected[2])
