"""The MLP against NumPy, scanned against unrolled, and its initial signal against theory."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow import initializers
from gradflow.models import MLP


def normalized(kind, y, params):
    axis = 0 if kind == "batch" else -1
    mean = 0 if kind == "rms" else y.mean(axis, keepdims=True)
    variance = ((y - mean) ** 2).mean(axis, keepdims=True)
    eps = 1e-5 if kind == "batch" else 1e-6
    return (y - mean) / np.sqrt(variance + eps) * params["scale"] + params.get("bias", 0)


def numpy_mlp(params, x, depth, normalization, position, residual):
    names = {"batch": "BatchNorm", "layer": "LayerNorm", "rms": "RMSNorm"}
    x = x.reshape(len(x), -1)
    for index in range(depth):
        dense = params[f"Dense_{index}"]
        y = x @ dense["kernel"] + dense["bias"]
        if normalization and position == "pre":
            y = normalized(normalization, y, params[f"{names[normalization]}_{index}"])
        slope = params[f"PReLU_{index}"]["negative_slope"]
        y = np.where(y > 0, y, slope * y)
        if normalization and position == "post":
            y = normalized(normalization, y, params[f"{names[normalization]}_{index}"])
        if residual and index > 0:
            y = x + (1.0 if residual == "plain" else params[f"residual_scale_{index}"]) * y
        x = y
    head = params[f"Dense_{depth}"]
    return x @ head["kernel"] + head["bias"]


@pytest.mark.parametrize(
    "normalization, position, residual",
    [
        (None, "pre", None),
        ("batch", "pre", "plain"),
        ("batch", "post", None),
        ("layer", "pre", "rezero"),
        ("rms", "post", "skipinit"),
    ],
)
def test_forward_pass_is_that_of_numpy(normalization, position, residual):
    model = MLP(
        depth=3,
        width=5,
        outputs=2,
        activation="prelu",
        normalization=normalization,
        norm_position=position,
        residual=residual,
    )
    x = jax.random.normal(jax.random.key(1), (6, 2, 4))
    variables = model.init(jax.random.key(0), x)
    # Every parameter, the zero ones too, at a value of its own.
    leaves, tree = jax.tree.flatten(variables["params"])
    keys = jax.random.split(jax.random.key(2), len(leaves))
    leaves = [leaf + 0.3 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    params = jax.tree.unflatten(tree, leaves)
    got, _ = model.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
    plain = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    expected = numpy_mlp(plain, np.asarray(x, np.float64), 3, normalization, position, residual)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_running_averages_move_by_momentum_and_are_used_outside_training():
    model = MLP(depth=1, width=3, outputs=2, normalization="batch", batch_norm_momentum=0.75)
    x = jax.random.normal(jax.random.key(1), (50, 4)) * 3 + 1
    variables = model.init(jax.random.key(0), x)
    _, changed = model.apply(variables, x, train=True, mutable=["batch_stats"])
    z = np.asarray(x) @ np.asarray(variables["params"]["Dense_0"]["kernel"])
    averages = changed["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(averages["mean"], 0.25 * z.mean(0), rtol=1e-4)
    np.testing.assert_allclose(averages["var"], 0.75 + 0.25 * z.var(0), rtol=1e-4)
    got = model.apply({**variables, **changed}, x)
    hidden = np.maximum((z - averages["mean"]) / np.sqrt(averages["var"] + 1e-5), 0)
    np.testing.assert_allclose(got, hidden @ variables["params"]["Dense_1"]["kernel"], rtol=1e-4, atol=1e-5)


def unrolled(variables, depth):
    """Variables of the scanned MLP laid out as those of the unrolled one."""
    out = {}
    for collection, tree in variables.items():
        out[collection] = {name: leaf for name, leaf in tree.items() if name != "Hidden"}
        for name, stacked in tree.get("Hidden", {}).items():
            for index in range(1, depth):
                out[collection][f"{name}_{index}"] = jax.tree.map(lambda leaf, i=index: leaf[i - 1], stacked)
    return out


@pytest.mark.parametrize("remat", [False, True])
def test_scan_and_remat_change_neither_values_nor_gradients(remat):
    options = {"depth": 4, "width": 5, "outputs": 2, "activation": "prelu"}
    options |= {"normalization": "batch", "residual": "rezero"}
    x = jax.random.normal(jax.random.key(1), (6, 3))
    scanned, plain = MLP(**options, scan=True, remat=remat), MLP(**options)
    variables = scanned.init(jax.random.key(0), x)
    variables["params"]["Hidden"]["residual_scale"] = jnp.array([0.5, -0.3, 0.8])

    def run(model, variables):
        def loss(params):
            changed = {**variables, "params": params}
            y, state = model.apply(changed, x, train=True, mutable=["batch_stats"])
            return (y**2).mean(), state

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])

    (value, state), grads = run(scanned, variables)
    (expected, expected_state), expected_grads = run(plain, unrolled(variables, 4))
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)  # noqa: E731
    jax.tree.map(close, unrolled({"params": grads}, 4)["params"], expected_grads)
    jax.tree.map(close, unrolled(state, 4), expected_state)
    (value, _), grads = run(MLP(**options, remat=True), unrolled(variables, 4))
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    jax.tree.map(close, grads, expected_grads)


def test_ten_thousand_layers_run():
    options = {"activation": "tanh", "initializer": "orthogonal", "residual": "rezero"}
    model = MLP(depth=10_000, width=8, outputs=2, scan=True, **options)
    x = jax.random.normal(jax.random.key(1), (2, 8))
    variables = jax.jit(model.init)(jax.random.key(0), x)
    assert variables["params"]["Hidden"]["Dense"]["kernel"].shape == (9_999, 8, 8)
    grads = jax.jit(jax.grad(lambda v: (model.apply(v, x) ** 2).mean()))(variables)
    assert float(jnp.abs(grads["params"]["Dense_0"]["kernel"]).max()) > 1e-3  # ReZero: the gradient arrives whole


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize(
    "activation, initializer, weight_variance, second_moment",
    [
        ("relu", "he_normal", 2.0, lambda q: q / 2),
        ("relu", "standard", 1 / 3, lambda q: q / 2),
        ("leaky_relu", initializers.he_uniform(0.01), 2 / 1.0001, lambda q: q * 1.0001 / 2),
        ("erf", "xavier_normal", 1.0, lambda q: 2 / np.pi * np.arcsin(2 * q / (1 + 2 * q))),
        ("identity", initializers.gaussian(1.2), 1.2, lambda q: q),
    ],
)
def test_initial_variance_follows_theory(activation, initializer, weight_variance, second_moment):
    """q_(l+1) = sigma_w^2 E[phi^2] + sigma_b^2 (Poole et al. 2016); mean over 16 networks of width 300.

    For ReLU the worst case: a layer's relative variance is about 5 / width (Hanin 2018), so three layers of 16 networks
    are known to a standard error of 6 %.
    """
    bias_std, width = 0.2, 300
    model = MLP(
        depth=3,
        width=width,
        outputs=width,
        activation=activation,
        initializer=initializer,
        bias=initializers.small_gaussian(bias_std),
    )
    x = jax.random.normal(jax.random.key(1), (4, width))
    x = x / jnp.sqrt((x**2).mean())

    @jax.jit
    @jax.vmap
    def squares(key):
        variables = model.init(key, x)
        _, seen = model.apply(variables, x, capture_intermediates=True, mutable=["intermediates"])
        return jnp.stack([(seen["intermediates"][f"Dense_{i}"]["__call__"][0] ** 2).mean() for i in range(4)])

    measured = squares(jax.random.split(jax.random.key(0), 16)).mean(0)
    q = weight_variance + bias_std**2
    for index in range(4):
        assert float(measured[index]) == pytest.approx(q, rel=0.12), index
        q = weight_variance * second_moment(q) + bias_std**2


def test_prelu_has_one_slope_a_layer_or_one_a_unit():
    x = jnp.ones((2, 3))
    for channelwise, shape in ((False, ()), (True, (5,))):
        model = MLP(depth=2, width=5, outputs=2, activation="prelu", channelwise_prelu=channelwise)
        params = model.init(jax.random.key(0), x)["params"]
        for index in range(2):
            slope = params[f"PReLU_{index}"]["negative_slope"]
            assert slope.shape == shape
            np.testing.assert_array_equal(slope, np.full(shape, 0.25, np.float32))


def test_rezero_is_the_first_layer_alone_at_first():
    x = jax.random.normal(jax.random.key(1), (3, 4))
    deep = MLP(depth=5, width=6, outputs=2, residual="rezero")
    params = deep.init(jax.random.key(0), x)["params"]
    shallow = {"params": {"Dense_0": params["Dense_0"], "Dense_1": params["Dense_5"]}}
    got = deep.apply({"params": params}, x)
    np.testing.assert_allclose(got, MLP(depth=1, width=6, outputs=2).apply(shallow, x), rtol=1e-6)
