"""The tests' own draws against those of JAX."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.draws import normal, plain_normal


def test_draws_outside_of_jit_are_taken_from_long_ones():
    assert jax.random.normal is normal


@pytest.mark.parametrize("shape", [(), (1,), (7, 3), (16, 16), (3, 5, 7, 11), (100, 100), (300, 300)])
@pytest.mark.parametrize("seed", [0, 5])
def test_draws_are_to_the_bit_those_of_jax(shape, seed):
    got, expected = (draw(jax.random.key(seed), shape) for draw in (normal, plain_normal))
    np.testing.assert_array_equal(got, expected)
    assert got.dtype == expected.dtype
    assert not got.weak_type


def test_what_jax_has_to_draw_is_left_to_it():
    key = jax.random.key(0)
    assert normal(key, (3,), jnp.bfloat16).dtype == jnp.bfloat16
    with jax.enable_x64(True):
        assert normal(key, (3,)).dtype == jnp.float64
    keys = jax.random.split(key, 4)
    np.testing.assert_array_equal(jax.vmap(normal)(keys), jax.vmap(plain_normal)(keys))
    programs = [str(jax.make_jaxpr(lambda draw=draw: draw(key, (3,)))()) for draw in (normal, plain_normal)]
    assert programs[0] == programs[1]
