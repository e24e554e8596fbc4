"""Functions and Linen modules where a name may stand: against the named part that does the same, and in every form."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from gradflow import activations
from gradflow.models import CNN, MLP, BatchNorm, PReLU, Recurrent, ResNet
from tests.user_errors import without_type_checker

KEY = jax.random.key(0)
FLAT = jax.random.normal(jax.random.key(1), (6, 5))
IMAGES = jax.random.normal(jax.random.key(1), (2, 6, 6, 3))
SEQUENCES = jax.random.normal(jax.random.key(1), (3, 6, 2))

mlp = functools.partial(MLP, depth=3, width=4, outputs=2)
resnet = functools.partial(ResNet, depth=8, outputs=2)


def plain_sum(x, y):
    return x + y


class Scaled(nn.Module):
    """ReZero's join as a module."""

    @nn.compact
    def __call__(self, x, y):
        return x + self.param("alpha", nn.initializers.zeros, ()) * y


def zero_padded(x, channels, stride):
    """Option A by another way: the largest of one position."""
    x = nn.max_pool(x, (1, 1), (stride, stride))
    return jnp.concatenate([x, jnp.zeros((*x.shape[:-1], channels - x.shape[-1]), x.dtype)], axis=-1)


class Projection(nn.Module):
    """Option B of version 1."""

    @nn.compact
    def __call__(self, x, channels, stride):
        return nn.Conv(channels, (1, 1), strides=stride, use_bias=False, name="Conv")(x)


# A model with a part of one's own, the one with the name for the same, and inputs.
SAME = {
    "activation function": (mlp(activation=jnp.tanh), mlp(activation="tanh"), FLAT),
    "activation of Flax": (
        mlp(activation=functools.partial(nn.PReLU, negative_slope_init=0.25)),
        mlp(activation="prelu"),
        FLAT,
    ),
    "activation partial": (
        mlp(activation=functools.partial(PReLU, channelwise=True), scan=True),
        mlp(activation="prelu", channelwise_prelu=True, scan=True),
        FLAT,
    ),
    "activation module": (mlp(activation=PReLU(), remat=True), mlp(activation="prelu"), FLAT),
    "normalization class": (
        mlp(normalization=nn.LayerNorm, scan=True),
        mlp(normalization="layer", scan=True),
        FLAT,
    ),
    "normalization module": (
        mlp(normalization=nn.RMSNorm(epsilon=1e-6), norm_position="post"),
        mlp(normalization="rms", norm_position="post"),
        FLAT,
    ),
    "stock batch norm": (mlp(normalization=nn.BatchNorm), mlp(normalization="batch"), FLAT),
    "normalization partial in a scan": (
        mlp(normalization=functools.partial(BatchNorm, epsilon=1e-5), scan=True, remat=True),
        mlp(normalization="batch", scan=True),
        FLAT,
    ),
    "join by a function": (mlp(residual=plain_sum, scan=True), mlp(residual="plain", scan=True), FLAT),
    "resnet, batch norm of Flax": (resnet(normalization=nn.BatchNorm), resnet(), IMAGES),
    "resnet, functions": (
        resnet(residual=plain_sum, shortcut=zero_padded, activation=nn.relu, remat=True),
        resnet(),
        IMAGES,
    ),
    "resnet, shared slope": (resnet(activation=PReLU), resnet(activation="prelu", channelwise_prelu=False), IMAGES),
}


def trained(model, variables, x):
    def loss(params):
        y, state = model.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
        return (y**2).mean(), state

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])


@pytest.mark.quick_cases(3)
@pytest.mark.parametrize("name", SAME)
def test_a_part_of_ones_own_is_the_named_one(name):
    """The same parameters from the same key, the same values, gradients and running averages."""
    own, named, x = SAME[name]
    variables = jax.jit(own.init)(KEY, x)
    jax.tree.map(np.testing.assert_array_equal, variables, jax.jit(named.init)(KEY, x))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, trained(own, variables, x), trained(named, variables, x))
    jax.tree.map(close, jax.jit(own.apply)(variables, x), jax.jit(named.apply)(variables, x))


def test_modules_that_join_have_parameters_of_their_own_in_every_layer():
    for scan in (False, True):
        own, named = mlp(residual=Scaled, scan=scan), mlp(residual="rezero", scan=scan)
        params = own.init(KEY, FLAT)["params"]
        alphas = [params["Hidden"]["Scaled"]["alpha"]] if scan else [params[f"Scaled_{i}"]["alpha"] for i in (1, 2)]
        assert [alpha.shape for alpha in alphas] == ([(2,)] if scan else [(), ()])
        np.testing.assert_allclose(own.apply({"params": params}, FLAT), named.apply(named.init(KEY, FLAT), FLAT))


def test_a_shortcut_of_ones_own_has_its_parameters_where_the_shape_changes():
    model = resnet(version=2, shortcut=Projection)
    params = jax.eval_shape(model.init, KEY, IMAGES)["params"]
    assert params["Block_1"]["Projection_shortcut"]["Conv"]["kernel"].shape == (1, 1, 16, 32)
    assert not any("shortcut" in name for name in params["Block_0"])


def test_functions_may_make_modules():
    model = mlp(normalization=lambda y: nn.GroupNorm(2)(y), depth=2)
    assert {"GroupNorm_0", "GroupNorm_1"} <= set(model.init(KEY, FLAT)["params"])


def test_parts_follow_the_precision_of_the_model():
    parts = {"normalization": functools.partial(nn.GroupNorm, num_groups=2), "activation": PReLU, "residual": Scaled}
    model = mlp(**parts, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    variables = model.init(KEY, FLAT)
    own = {name: tree for name, tree in variables["params"].items() if not name.startswith("Scaled")}
    assert {leaf.dtype for leaf in jax.tree.leaves(own)} == {jnp.dtype(jnp.bfloat16)}
    assert model.apply(variables, FLAT).dtype == jnp.bfloat16


def test_the_model_tells_a_part_whether_it_trains():
    modes = []

    def norm(y, train):
        modes.append(train)
        return y

    model = mlp(normalization=norm)
    params = model.init(KEY, FLAT)
    model.apply(params, FLAT, train=True)
    assert modes == [False] * 3 + [True] * 3


@pytest.mark.parametrize("depth", [30, 100])
def test_tailored_slope_is_solved_for_the_depth_of_the_model(depth):
    """And with weight variance 1 the signal keeps its size: Zhang et al. 2022."""
    record = activations.tailored_leaky_relu(depth)
    options = {"depth": depth, "width": 6, "outputs": 2, "initializer": "lecun_normal"}
    named, own = (MLP(**options, activation=phi, scan=True) for phi in ("tailored_leaky_relu", record))
    params = jax.jit(named.init)(KEY, FLAT)
    np.testing.assert_allclose(named.apply(params, FLAT), own.apply(params, FLAT), rtol=1e-5)


def test_tailored_slope_in_convolutional_networks():
    cnn = functools.partial(CNN, depth=30, channels=3, outputs=2, scan=True)
    params = jax.jit(cnn().init)(KEY, IMAGES)
    named, own = (cnn(activation=phi) for phi in ("tailored_leaky_relu", activations.tailored_leaky_relu(30)))
    np.testing.assert_allclose(named.apply(params, IMAGES), own.apply(params, IMAGES), rtol=1e-5)
    plain = resnet(depth=32, residual=False, activation="tailored_leaky_relu")
    assert plain._operations(15).activation.name == "tailored_leaky_relu(31)"


def flax_gru(params, x):
    """The layer by Flax's own `nn.RNN`."""
    return nn.RNN(nn.GRUCell(4)).apply({"params": {"cell": params["GRUCell"]}}, x)


@pytest.mark.parametrize("cell", [nn.GRUCell, nn.GRUCell(4), functools.partial(nn.GRUCell, gate_fn=jax.nn.sigmoid)])
def test_a_linen_cell_is_the_layer_of_flax(cell):
    model = Recurrent(cell=cell, hidden=4, outputs=2, return_sequence=True)
    params = model.init(KEY, SEQUENCES)["params"]
    head = params["Dense_head"]
    expected = flax_gru(params["Layer_0"], SEQUENCES) @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(model.apply({"params": params}, SEQUENCES), expected, rtol=1e-5, atol=1e-6)


def test_a_linen_cell_does_all_that_the_named_one_does():
    """Two layers in both directions, lengths, states, last outputs: Flax's LSTM has gradflow's equations."""
    lengths = jnp.array([6, 1, 4])
    options = {"hidden": 4, "outputs": 2, "layers": 2, "bidirectional": True, "return_state": True}
    theirs, ours = Recurrent(cell=nn.OptimizedLSTMCell, **options), Recurrent(cell="lstm", **options)
    params = jax.jit(theirs.init)(KEY, SEQUENCES)["params"]
    same = {"Dense_head": params["Dense_head"]}
    for name in ("Layer_0", "Layer_1", "Layer_0_reverse", "Layer_1_reverse"):
        cell = params[name]["OptimizedLSTMCell"]
        joined = {s: jnp.concatenate([cell[s + gate]["kernel"] for gate in "ifgo"], axis=1) for s in "ih"}
        bias = jnp.concatenate([cell["h" + gate]["bias"] for gate in "ifgo"])
        same[name] = {"input": {"kernel": joined["i"], "bias": bias}, "recurrent": {"kernel": joined["h"]}}
    got, states = jax.jit(theirs.apply)({"params": params}, SEQUENCES, lengths)
    expected, expected_states = jax.jit(ours.apply)({"params": same}, SEQUENCES, lengths)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    close(got, expected)
    jax.tree.map(close, states, expected_states)
    again = theirs.apply({"params": params}, SEQUENCES, lengths, states)[0]
    close(again, ours.apply({"params": same}, SEQUENCES, lengths, expected_states)[0])


@pytest.mark.parametrize(
    "build, error, message",
    [
        (lambda: mlp(activation=3), TypeError, r"MLP\(activation=...\): expected a name, a function, or a Flax Linen"),
        (lambda: mlp(activation=dict), TypeError, "Flax Linen module or class"),
        (lambda: mlp(normalization=dict), TypeError, r"MLP\(normalization=...\)"),
        (lambda: resnet(shortcut=list), TypeError, r"ResNet\(shortcut=...\)"),
        (lambda: mlp(activation="tailored_leaky_relu"), ValueError, "Fix: more layers"),
        (lambda: resnet(activation="tailored_leaky_relu"), ValueError, "Fix: residual=False"),
        (lambda: CNN(depth=3, channels=4, outputs=2, activation=PReLU), ValueError, "without a learned slope"),
        (lambda: mlp(dtype=jnp.int32), TypeError, r"MLP\(dtype=...\): expected a floating-point dtype"),
        (lambda: Recurrent(param_dtype="flot32"), TypeError, r"Recurrent\(param_dtype=...\)"),
        (lambda: mlp(batch_norm_momentum=1.0), ValueError, "from 0 to below 1"),
        (lambda: Recurrent(cell=nn.Dense), TypeError, "Linen RNN cell"),
        (lambda: Recurrent(cell=nn.GRUCell(3), hidden=4), ValueError, "Fix: hidden=3"),
        (lambda: Recurrent(cell=nn.LSTMCell, forget_bias=1.0), ValueError, "keeps its gates to itself"),
        (lambda: Recurrent(cell=nn.LSTMCell, hoist=True), ValueError, r"Recurrent\(hoist=...\)"),
    ],
)
@without_type_checker()
def test_what_is_no_part_is_named_at_construction(build, error, message):
    with pytest.raises(error, match=message):
        build()


def pooled(x, channels, stride):
    return x[:, ::stride, ::stride]


@pytest.mark.parametrize(
    "model, x, message",
    [
        (mlp(activation=lambda y: y.sum(-1)), FLAT, r"activation=...: expected .* shape \(6, 4\) here, got \(6,\)"),
        (mlp(normalization=functools.partial(nn.DenseGeneral, (2, 2))), FLAT, "normalization=...: expected"),
        (mlp(residual=lambda x, y: jnp.concatenate([x, y], -1)), FLAT, "residual=...: expected"),
        (resnet(shortcut=pooled), IMAGES, r"shortcut=...: expected .* shape \(2, 3, 3, 32\)"),
        (Recurrent(cell=functools.partial(nn.GRUCell, features=3), hidden=4), SEQUENCES, "as many as the cell"),
    ],
)
def test_parts_that_change_the_shape_are_named_before_anything_runs(model, x, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, KEY, x)


def test_states_of_a_linen_cell_that_do_not_fit_are_named():
    model = Recurrent(cell=nn.GRUCell, hidden=4, layers=2)
    params = model.init(KEY, SEQUENCES)
    for state in ((jnp.zeros((3, 4)),), (jnp.zeros((2, 4)),) * 2):
        with pytest.raises(ValueError, match="expected state to"):
            model.apply(params, SEQUENCES, None, state)
