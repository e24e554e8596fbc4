"""What models may not cost: a program that grows with depth, taps that compute, gates that are stored."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow.models import CNN, MLP, Recurrent
from tests.contracts.test_recurrent import make, ready


def test_the_program_of_a_scanned_cnn_does_not_grow_with_depth():
    x = jnp.ones((2, 6, 6, 3))

    def size(depth):
        model = CNN(depth=depth, channels=4, outputs=3, scan=True)
        variables = jax.eval_shape(model.init, jax.random.key(0), x)
        return str(jax.make_jaxpr(jax.grad(lambda v: model.apply(v, x).sum()))(variables)).count(" = ")

    assert size(10) == size(10_000)


def test_the_program_of_a_scanned_mlp_does_not_grow_with_depth():
    def length(depth):
        model = MLP(depth=depth, width=4, outputs=2, scan=True, activation="tanh")
        params = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((2, 3)))
        return len(str(jax.make_jaxpr(jax.grad(lambda p: model.apply(p, jnp.ones((2, 3))).sum()))(params)))

    assert length(10_000) < 1.1 * length(10)


@pytest.mark.parametrize("name", ["lstm", "gru", "minimal_rnn"])
def test_taps_cost_nothing(name):
    """Without the transformation the compiled program is the same to the letter."""

    def program(taps):
        model, given = make(name, taps=taps)
        params = ready(name)[2]
        step = jax.grad(lambda params: model.apply(params, *given)[0].sum())
        return jax.jit(step).lower(params).as_text(), jax.jit(model.apply).lower(params, *given).as_text()

    assert program(True) == program(False)


def test_gates_are_not_stored_for_the_backward_pass():
    """A step of an LSTM keeps four pre-activations, c and h: 6 numbers a unit, besides its input."""
    model = Recurrent(hidden=8, outputs=1, unroll=1)
    x = jnp.ones((2, 7, 3))
    params = model.init(jax.random.key(0), x)
    jaxpr = jax.make_jaxpr(jax.grad(lambda p: model.apply(p, x).sum()))(params)
    ahead = next(e for e in jaxpr.eqns if e.primitive.name == "scan")
    kept = [v.aval.shape for v in ahead.outvars if v.aval.shape[:1] == (7,)]
    assert sum(np.prod(shape[2:]) for shape in kept if shape[-1] != 3) == 6 * 8
