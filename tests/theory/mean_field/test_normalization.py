"""Rates of normalized networks against closed forms, plain sampling of the formula, and networks drawn at random."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow import activations, theory
from tests.theory.networks import spread, within


@pytest.mark.parametrize("batch", [4, 5, 8, 16, 1000])
def test_linear_network_is_its_closed_form(batch: int) -> None:
    assert theory.batchnorm_rate("identity", batch) == pytest.approx((batch - 2) / (batch - 3), rel=1e-12)


def test_large_batches_are_their_limit() -> None:
    assert theory.batchnorm_rate("relu") == pytest.approx(math.pi / (math.pi - 1), rel=1e-9)
    for name in ("relu", "gelu", "tanh", "identity"):
        limit = theory.batchnorm_rate(name)
        gaps = [theory.batchnorm_rate(name, batch) - limit for batch in (1_000, 10_000)]
        assert 0 < gaps[1] < 0.11 * gaps[0] < 1e-3


@pytest.mark.parametrize("name", ["relu", "gelu"])
@pytest.mark.parametrize("batch", [5, 16])
def test_integrals_over_the_sphere_are_what_sampling_gives(name: str, batch: int) -> None:
    """The formula of the docstring, with whole matrices and h drawn from the sphere."""
    phi = activations.get(name)
    z = jax.random.normal(jax.random.key(0), (20_000, batch))
    centre = jnp.eye(batch) - 1 / batch
    z = z @ centre
    h = math.sqrt(batch) * z / jnp.linalg.norm(z, axis=1, keepdims=True)

    def terms(h: jax.Array) -> tuple[jax.Array, jax.Array]:
        slopes = jnp.diag(phi.derivative(h))
        projection = centre - jnp.outer(h, h) / batch
        return jnp.trace(projection @ slopes @ centre @ slopes), jnp.sum((centre @ phi(h)) ** 2)

    trace, square = (np.asarray(values, np.float64) for values in jax.vmap(terms)(h))
    rate = batch * trace.mean() / ((batch - 3) * square.mean())
    error = rate * math.hypot(spread(trace)[1] / trace.mean(), spread(square)[1] / square.mean())
    within(rate, theory.batchnorm_rate(name, batch), error)


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(("name", "batch"), [("relu", 8), ("gelu", 8), ("tanh", 8)])
def test_rate_is_that_of_networks_with_batch_normalization(name: str, batch: int) -> None:
    phi, depth, width = activations.get(name), 14, 300

    def network(key: jax.Array) -> jax.Array:
        first, last, *keys = jax.random.split(key, depth + 2)

        def forward(shifts: jax.Array) -> jax.Array:
            z = jax.random.normal(first, (batch, width))
            for key, shift in zip(keys, shifts, strict=True):
                h = z + shift - (z + shift).mean(0)
                h = phi(h / jnp.sqrt((h**2).mean(0)))
                z = h @ jax.random.normal(key, (width, width)) / math.sqrt(width)
            return jnp.sum(z * jax.random.normal(last, z.shape))

        squares = jnp.mean(jax.grad(forward)(jnp.zeros((depth, batch, width))) ** 2, axis=(1, 2))
        return jnp.log(squares[2] / squares[10]) / 8  # away from both ends, where Gram matrices still settle

    logs = np.asarray(jax.jit(lambda keys: jax.lax.map(network, keys))(jax.random.split(jax.random.key(1), 8)))
    mean, error = spread(logs)
    # The batch's Gram matrix strays from its limit by order sqrt(B / n), and what is linear in that averages out.
    within(mean, math.log(theory.batchnorm_rate(name, batch)), error + batch / width / 4)


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(("name", "bias_variance"), [("relu", 0.0), ("tanh", 0.0), ("gelu", 0.3)])
def test_rate_is_that_of_networks_with_layer_normalization(name: str, bias_variance: float) -> None:
    phi, depth, width = activations.get(name), 10, 300

    def network(key: jax.Array) -> jax.Array:
        first, last, *keys = jax.random.split(key, depth + 2)

        def forward(shifts: jax.Array) -> jax.Array:
            z = jax.random.normal(first, (width,))
            for key, shift in zip(keys, shifts, strict=True):
                for_weight, for_bias = jax.random.split(key)
                h = z + shift - (z + shift).mean()
                weight = jax.random.normal(for_weight, (width, width)) * math.sqrt(1.5 / width)
                z = weight @ phi(h / jnp.sqrt((h**2).mean()))
                z = z + math.sqrt(bias_variance) * jax.random.normal(for_bias, (width,))
            return z @ jax.random.normal(last, (width,))

        squares = jnp.mean(jax.grad(forward)(jnp.zeros((depth, width))) ** 2, axis=1)
        return jnp.log(squares[1] / squares[-1]) / (depth - 2)

    logs = np.asarray(jax.jit(lambda keys: jax.lax.map(network, keys))(jax.random.split(jax.random.key(2), 8)))
    mean, error = spread(logs)
    predicted = theory.layernorm_rate(name, weight_variance=1.5, bias_variance=bias_variance)
    within(mean, math.log(predicted), error + 3 / width)  # terms of order 1 / width


def test_layer_norm_closed_forms() -> None:
    assert theory.layernorm_rate("relu", weight_variance=7.0) == pytest.approx(1, rel=1e-9)
    assert theory.layernorm_rate("identity", bias_variance=1.0) == pytest.approx(0.5, rel=1e-9)
    # erf: E[phi^2] = (2 / pi) asin(2 / 3), E[phi'^2] = 4 / (pi sqrt(5)) over N(0, 1)
    closed = 4 / (math.pi * math.sqrt(5)) / (2 / math.pi * math.asin(2 / 3))
    assert theory.layernorm_rate("erf") == pytest.approx(closed, rel=1e-9)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"at least 4, got 3"):
        theory.batchnorm_rate("relu", 3)
    for batch in (None, 8):
        with pytest.raises(ValueError, match="constant over"):
            theory.batchnorm_rate(jnp.ones_like, batch)
    with pytest.raises(ArithmeticError, match="not finite"):
        theory.batchnorm_rate(activations.Activation("double", lambda z: jnp.exp(jnp.exp(4 * z)), "overflows"), 8)
    with pytest.raises(ValueError, match="signal to normalize"):
        theory.layernorm_rate(jnp.zeros_like)
    with pytest.raises(ValueError, match="weight variance above 0"):
        theory.layernorm_rate("relu", weight_variance=0.0)
