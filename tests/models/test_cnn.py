"""Vanilla convolutional networks: norms that delta-orthogonal kernels keep, loops against unrolled layers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow.models import CNN
from tests.user_errors import without_type_checker

X = jax.random.normal(jax.random.key(1), (2, 6, 6, 3))


def unstacked(params, depth, first):
    """Parameters of a scanned network under the names of the unrolled one."""
    hidden = params["Hidden"]["Conv"]
    named = {f"Conv_{first + i}": jax.tree.map(lambda leaf, i=i: leaf[i], hidden) for i in range(depth - first)}
    return {**{name: tree for name, tree in params.items() if name != "Hidden"}, **named}


@pytest.mark.quick_cases(3)
@pytest.mark.parametrize("padding", ["CIRCULAR", "SAME"])
@pytest.mark.parametrize("halvings", [0, 2])
@pytest.mark.parametrize("remat", [False, True, "segments"])
def test_loop_is_the_unrolled_network(padding, halvings, remat):
    """Value and gradients; seven layers make two runs of two and one left over."""
    options = {"depth": 7, "channels": 4, "outputs": 3, "padding": padding, "halvings": halvings}
    looped, plain = CNN(**options, scan=True, remat=remat), CNN(**options, remat=remat is True)
    params = jax.jit(looped.init)(jax.random.key(0), X)["params"]
    params["Dense_head"]["bias"] += 0.1

    def loss(params, model):
        return (model.apply({"params": params}, X) ** 2).mean()

    first = max(1, halvings)
    value, grads = jax.jit(jax.value_and_grad(loss), static_argnums=1)(params, looped)
    expected, plain_grads = jax.jit(jax.value_and_grad(loss), static_argnums=1)(unstacked(params, 7, first), plain)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), unstacked(grads, 7, first), plain_grads
    )


def test_delta_orthogonal_layers_keep_every_norm():
    """The linear network is an isometry of channels at every position, however deep."""
    model = CNN(depth=200, channels=4, outputs=4, activation="identity", scan=True)
    variables = jax.jit(model.init)(jax.random.key(0), X)
    variables["params"]["Dense_head"] = {"kernel": jnp.eye(4), "bias": jnp.zeros(4)}
    out = jax.jit(model.apply)(variables, X)
    np.testing.assert_allclose(jnp.linalg.norm(out, axis=-1), jnp.linalg.norm(X.mean((1, 2)), axis=-1), rtol=1e-4)


def test_every_layer_has_a_kernel_of_its_own():
    model = CNN(depth=5, channels=4, outputs=3, scan=True)
    kernels = jax.jit(model.init)(jax.random.key(0), X)["params"]["Hidden"]["Conv"]["kernel"]
    assert kernels.shape == (4, 3, 3, 4, 4)
    assert len({kernel.tobytes() for kernel in np.asarray(kernels)}) == 4


@pytest.mark.parametrize(
    "options, message",
    [
        ({"depth": 0}, "at least 1"),
        ({"halvings": 4}, "at most depth = 3"),
        ({"padding": "VALID"}, "Known: CIRCULAR, SAME"),
        ({"remat": "segments"}, "Fix: scan=True"),
        ({"activation": "prelu"}, "without a learned slope"),
        ({"channels": 2}, "more channels"),
    ],
)
@without_type_checker()
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(CNN(**{"depth": 3, "channels": 4, "outputs": 3, **options}).init, jax.random.key(0), X)
