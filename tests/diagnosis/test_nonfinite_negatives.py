"""What looks non-finite and is none: the locator says nothing where loss and gradients are finite."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import gradflow as gf

ROW = jnp.array([1.0, 0.0, 2.0])
MASK = np.array([[0.0, -np.inf, 0.0], [0.0, 0.0, -np.inf]], np.float32)


def running_minimum(w):
    return lax.scan(lambda least, x: (jnp.minimum(least, x), None), jnp.inf, w)[0]


def stopped(w):
    return jnp.sum(w * lax.stop_gradient(jnp.sqrt(w)))


def masked_sum(w, x):
    return jnp.sum(w * jnp.where(jnp.isnan(x), 0.0, x))


def double_where(w):
    ok = w > 0
    return jnp.sum(jnp.where(ok, jnp.log(jnp.where(ok, w, 1.0)), 0.0))


def branch_not_taken(w):
    return lax.cond(w[0] > 0, lambda x: jnp.sum(x), lambda x: jnp.sum(jnp.log(x)), w)


def dropout(w, key):
    keep = jax.random.bernoulli(key, 0.5, w.shape)
    return jnp.sum(jnp.where(keep, w / 0.5, 0.0))


def early_overflow(w):
    """Exp overflows, and 1 / inf is 0; the derivative is not taken there."""
    return jnp.sum(w) + jnp.sum(1 / lax.stop_gradient(jnp.exp(100 * w + 100)))


def attention(w, mask):
    return jnp.sum(jax.nn.softmax(w + mask, axis=-1) ** 2)


def masked_row(w):
    """The row of softmax that is NaN has no part in value and gradient."""
    rows = jax.nn.softmax(jnp.where(jnp.array([[True], [False]]), w, -jnp.inf))
    return jnp.sum(jnp.where(jnp.array([[True], [False]]), rows**2, 0.0))


def in_aux(w):
    return jnp.sum(w), {"entropy": jnp.log(w)}


def nan_of_integers(w, x):
    return jnp.sum(w * (x // 1).astype(jnp.float32))


NEGATIVES = {
    "plain": (lambda w: jnp.sum(w**2), ()),
    "running_minimum": (running_minimum, ()),
    "maximum_with_initial": (lambda w: jnp.max(w, initial=-jnp.inf), ()),
    "attention": (attention, (MASK,)),
    "masked_row": (masked_row, ()),
    "logsumexp": (lambda w: jax.nn.logsumexp(jnp.where(w > 0, w, -jnp.inf)), ()),
    "stop_gradient": (stopped, ()),
    "missing_values": (masked_sum, (np.array([1.0, np.nan, 2.0], np.float32),)),
    "double_where": (double_where, ()),
    "branch_not_taken": (branch_not_taken, ()),
    "switch": (lambda w: lax.switch(1, [lambda x: jnp.sum(1 / x), lambda x: jnp.sum(x)], w), ()),
    "dropout": (dropout, (jax.random.key(0),)),
    "raw_key": (dropout, (jax.random.PRNGKey(0),)),
    "early_overflow": (early_overflow, ()),
    "integers": (nan_of_integers, (jnp.array([1, 2, 3]),)),
    "relu_at_0": (lambda w: jnp.sum(jax.nn.relu(w)), ()),
    "softplus": (lambda w: jnp.sum(jax.nn.softplus(1000 * w)), ()),
    "xlogy": (lambda w: jnp.sum(jax.scipy.special.xlogy(lax.stop_gradient(w), w + 1)), ()),
    "reciprocal_of_infinity": (lambda w: jnp.sum(w) + jnp.sum(w / jnp.inf), ()),
    "while": (lambda w: jnp.sum(w) + lax.while_loop(lambda s: s < 3, lambda s: s + 1, 0).astype(jnp.float32), ()),
    "constant_loss": (lambda w: jnp.float32(1), ()),
}


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("name", NEGATIVES)
@pytest.mark.quick_cases(15)
def test_nothing_is_said(name, jit):
    loss, args = NEGATIVES[name]
    with jax.debug_nans(False):  # some hold NaN where value and gradient do not
        value, grads = jax.value_and_grad(loss)(ROW, *args) if name != "constant_loss" else (1.0, 0.0)
    assert np.isfinite(value)
    assert np.isfinite(grads).all()
    assert gf.find_nonfinite(jax.jit(loss) if jit else loss, ROW, *args) is None


def test_what_is_not_finite_in_aux_is_no_fault():
    assert gf.find_nonfinite(in_aux, ROW, has_aux=True) is None


def test_arguments_that_are_not_differentiated():
    """The derivative for the second argument is not finite, that for the first is."""

    def loss(a, b):
        return jnp.sum(a * jnp.sqrt(b))

    assert gf.find_nonfinite(loss, ROW, ROW) is None
    assert gf.find_nonfinite(loss, ROW, ROW, argnums=1).operation == "sqrt at 0"
    assert gf.find_nonfinite(loss, ROW, ROW, argnums=(0, 1)).index == (1,)


def test_settings_are_left_as_they_are():
    with jax.debug_infs(True):
        gf.find_nonfinite(lambda w: jnp.sum(jnp.log(w)), ROW)
        assert jax.config.jax_debug_nans
        assert jax.config.jax_debug_infs


def test_inside_jit_it_is_refused():
    with pytest.raises(ValueError, match="outside"):
        jax.jit(lambda w: gf.find_nonfinite(lambda v: jnp.sum(v), w))(ROW)
