"""LSUV on models of every framework: unit variance, held against a plain loop; what it leaves alone; errors."""

from __future__ import annotations

import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from gradflow.initializers.lsuv import lsuv
from gradflow.models import CNN, MLP, Recurrent

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (64, 12))
IMAGES = jax.random.normal(jax.random.key(2), (8, 10, 10, 3))


def weights(shape, seed=3, scale=1.0):
    return scale * jax.random.normal(jax.random.key(seed), shape)


def bare():
    params = [{"w": weights((12, 30), 4), "b": jnp.full((30,), 0.5)}, {"w": weights((30, 5), 5), "b": jnp.ones((5,))}]
    return lambda p, x: jnp.tanh(x @ p[0]["w"] + p[0]["b"]) @ p[1]["w"] + p[1]["b"], params, X


def linen():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(8, (3, 3))(x))
            x = nn.relu(nn.Conv(8, (3, 3), feature_group_count=4)(x))
            x = nn.relu(nn.ConvTranspose(6, (4, 4), strides=(2, 2))(x))
            return nn.Dense(10)(x.mean((1, 2)))

    net = Net()
    return net.apply, net.init(KEY, IMAGES), IMAGES


def batch_normalized():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.BatchNorm(use_running_average=False)(nn.Dense(20)(x)))
            return nn.Dense(3)(x)

    net = Net()
    variables = net.init(KEY, X)

    def loss(params, x):
        out, _ = net.apply({**variables, "params": params}, x, mutable=["batch_stats"])
        return jnp.mean(out**2)

    return loss, variables["params"], X


def nnx_module():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first, self.second = nnx.Linear(12, 20, rngs=rngs), nnx.Linear(20, 4, rngs=rngs)

        def __call__(self, x):
            return self.second(jax.nn.gelu(self.first(x)))

    graph, params = nnx.split(Net(nnx.Rngs(0)), nnx.Param)
    return lambda p, x: nnx.merge(graph, p)(x), params, X


def equinox():
    params, static = eqx.partition(eqx.nn.MLP(12, 4, 20, 2, key=KEY), eqx.is_array)
    return lambda p, x: jax.vmap(eqx.combine(p, static))(x), params, X


def scanned():
    def apply(params, x):
        def layer(h, w):
            return jnp.tanh(jnp.tanh(h @ w["a"]) @ w["b"]), None

        return jax.lax.scan(layer, x @ params["in"], params["stack"])[0]

    return apply, {"in": weights((12, 16)), "stack": {"a": weights((5, 16, 9)), "b": weights((5, 9, 16), 8, 0.1)}}, X


def sliced():
    """One array holds the weights of three layers."""

    def apply(params, x):
        x = x @ params["in"]
        for k in range(3):
            x = jnp.tanh(x @ params["all"][k])
        return x

    return apply, {"in": weights((12, 16)), "all": weights((3, 16, 16), 9)}, X


MODELS = [bare, linen, batch_normalized, nnx_module, equinox, scanned, sliced]


@pytest.mark.quick_cases(3)
@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.__name__)
def test_every_layer_gets_unit_variance(model):
    apply, params, batch = model()
    new, report = lsuv(apply, params, batch, key=KEY, tolerance=0.01)
    assert jax.tree.structure(new) == jax.tree.structure(params)
    for layer in report:
        np.testing.assert_allclose(layer.variance_after, 1, atol=0.01)
        assert (layer.iterations <= 1).all()  # outputs are linear in the weight
        assert not layer.reason
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), params, new)
    vectors = jax.tree.map(lambda a: a.ndim == 1, params)
    assert all(c != v for c, v in zip(jax.tree.leaves(changed), jax.tree.leaves(vectors), strict=True))


@pytest.mark.parametrize(
    "model, batch",
    [
        (MLP(depth=4, width=16, outputs=3, activation="tanh", scan=True), X),
        (CNN(depth=4, channels=6, outputs=3, initializer="he_normal", scan=True), IMAGES),
        (Recurrent(hidden=6, outputs=3), jax.random.normal(KEY, (8, 5, 4))),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, nn.Module) else "",
)
def test_models_of_this_package_with_layers_in_loops(model, batch):
    params = jax.jit(model.init)(KEY, batch)
    _, report = lsuv(model.apply, params, batch, max_iterations=30)
    for layer in report:
        np.testing.assert_allclose(layer.variance_after, 1, atol=0.1)
        assert not layer.reason


def test_names_and_factors_are_those_of_a_plain_loop():
    """Algorithm 1 of the paper, by hand on the bare model, from the weights given."""
    apply, params, _ = bare()
    x = np.asarray(X, np.float64)
    expected = []
    for layer in params:
        w = np.asarray(layer["w"], np.float64)
        variance = (x @ w).var()
        expected.append((variance, 1 / np.sqrt(variance)))
        x = np.tanh(x @ (w * expected[-1][1]) + np.asarray(layer["b"]))
    new, report = lsuv(apply, params, X)
    assert [layer.name for layer in report] == ["0", "1"]
    for k, (_, factor) in enumerate(expected):
        assert float(report[k].factor) == pytest.approx(factor, rel=1e-5)
        np.testing.assert_allclose(new[k]["w"], params[k]["w"] * factor, rtol=1e-5)
    assert float(report[0].variance_before) == pytest.approx(expected[0][0], rel=1e-5)
    _, again = lsuv(apply, new, X)
    for layer in again:
        assert float(layer.variance_before) == pytest.approx(1, rel=1e-4)
        assert (layer.factor, layer.iterations) == (1, 0)


def test_steps_of_a_scan_are_rescaled_in_the_order_in_which_they_run():
    """The same as the stack unrolled: a_0, b_0, a_1, b_1, ..."""
    apply, params, _ = scanned()
    new, report = lsuv(apply, params, X, target=2.0)
    h = np.asarray(X @ new["in"])
    assert h.var() == pytest.approx(2, rel=1e-3)
    for a, b in zip(np.asarray(params["stack"]["a"]), np.asarray(params["stack"]["b"]), strict=True):
        h = np.tanh(h @ a * np.sqrt(2 / (h @ a).var()))
        h = np.tanh(h @ b * np.sqrt(2 / (h @ b).var()))
    np.testing.assert_allclose(apply(new, X), h, atol=2e-4)
    assert {layer.name: layer.factor.shape for layer in report} == {"in": (), "stack/a": (5,), "stack/b": (5,)}


def test_rows_belong_to_the_scan_that_cuts_them():
    """Depth inside time, both of length 4: the rows are layers, and variances are pooled over time."""

    def apply(params, xs):
        def step(h, x):
            deeper = jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), h + x, params)[0]
            return deeper, deeper

        return jax.lax.scan(step, jnp.zeros_like(xs[0]), xs)[1]

    xs = jnp.arange(1.0, 5.0)[:, None, None] * jax.random.normal(KEY, (4, 32, 8))
    new, (report,) = lsuv(apply, weights((4, 8, 8)), xs, tolerance=0.02, max_iterations=30)
    outputs = [[] for _ in range(4)]
    h = np.zeros((32, 8))
    for x in np.asarray(xs):
        h = h + x
        for k, w in enumerate(np.asarray(new)):
            outputs[k].append(h @ w)
            h = np.tanh(h @ w)
    np.testing.assert_allclose(np.var(outputs, axis=(1, 2, 3)), report.variance_after, rtol=1e-4)
    np.testing.assert_allclose(report.variance_after, 1, atol=0.02)


def test_orthonormal_start():
    """Columns of a matrix, of a kernel (window and inputs, units), and of each row of a stack."""
    apply, params, _ = linen()
    new, report = lsuv(apply, params, IMAGES, key=KEY)
    for layer, name in zip(report, ("Conv_0", "Conv_1", "ConvTranspose_0", "Dense_0"), strict=True):
        kernel = new["params"][name]["kernel"]
        singular = np.linalg.svd(np.asarray(kernel).reshape(-1, kernel.shape[-1]), compute_uv=False)
        np.testing.assert_allclose(singular, layer.factor, rtol=1e-4)
    apply, params, _ = scanned()
    new, report = lsuv(apply, params, X, key=KEY)
    singular = np.linalg.svd(np.asarray(new["stack"]["a"]), compute_uv=False)
    np.testing.assert_allclose(singular, np.tile(report[1].factor[:, None], 9), rtol=1e-4)
    assert not np.allclose(new["stack"]["a"][0] / report[1].factor[0], new["stack"]["a"][1] / report[1].factor[1])


def test_shared_weights_get_one_factor():
    w = weights((12, 12))
    new, (report,) = lsuv(lambda p, x: jnp.tanh(x @ p["w"]) @ p["w"], {"w": w}, X, tolerance=1e-3, max_iterations=40)
    first = np.asarray(X @ new["w"])
    both = np.stack([first, np.tanh(first) @ np.asarray(new["w"])])
    assert both.var() == pytest.approx(1, abs=1e-3)
    assert report.iterations > 1
    np.testing.assert_allclose(new["w"], w * report.factor, rtol=1e-5)


def test_recurrent_weights_are_pooled_over_time():
    rnn = nn.RNN(nn.SimpleCell(10))
    sequence = jax.random.normal(KEY, (16, 7, 4))
    _, report = lsuv(rnn.apply, rnn.init(KEY, sequence), sequence, max_iterations=30)
    assert {layer.name for layer in report} == {"cell/i", "cell/h"}
    for layer in report:
        assert abs(layer.variance_after - 1) < 0.1


def test_narrow_types_keep_their_type():
    params = {"w": weights((12, 30)).astype(jnp.bfloat16)}
    new, (report,) = lsuv(lambda p, x: x.astype(jnp.bfloat16) @ p["w"], params, X, key=KEY)
    assert new["w"].dtype == jnp.bfloat16
    assert float(report.variance_after) == pytest.approx(1, abs=0.1)


def test_select_and_target():
    apply, params, _ = bare()
    new, report = lsuv(apply, params, X, select="1", target=3.0)
    assert [layer.name for layer in report] == ["1"]
    np.testing.assert_array_equal(new[0]["w"], params[0]["w"])
    assert float(report[0].variance_after) == pytest.approx(3, rel=1e-4)


def test_one_program_serves_all_iterations():
    """The function is traced to look at it and to compile it, whatever the depth."""
    counts = []
    for depth in (2, 9):
        traced = []

        def apply(params, x, traced=traced):
            traced.append(1)
            for w in params:
                x = jnp.tanh(x @ w)
            return x

        lsuv(apply, [weights((12, 12), seed) for seed in range(depth)], X)
        counts.append(len(traced))
    assert counts[0] == counts[1] <= 4


def test_what_cannot_be_rescaled_is_named():
    params = {"first": jnp.zeros((12, 6)), "second": weights((6, 3))}
    with pytest.warns(UserWarning, match=r"'first': its output is constant.*'second': its output is constant"):
        new, report = lsuv(lambda p, x: x @ p["first"] @ p["second"], params, X)
    np.testing.assert_array_equal(new["second"], params["second"])
    assert "constant" in report[0].reason

    def normalized(p, x):
        return x @ (p["w"] / jnp.linalg.norm(p["w"]))

    with pytest.warns(UserWarning, match=r"'w': its output has variance .* after 3 iterations"):
        lsuv(normalized, {"w": weights((12, 6))}, X, max_iterations=3)

    def low_rank(p, x):
        return x @ (p["a"] @ p["b"])

    with pytest.warns(UserWarning, match="several parameters"):
        new, _ = lsuv(low_rank, {"a": weights((12, 2)), "b": weights((2, 6))}, X)


def test_embeddings_are_left_alone():
    params = {"table": weights((20, 12), 6, 5.0), "head": weights((12, 3))}
    new, report = lsuv(lambda p, tokens: p["table"][tokens] @ p["head"], params, jnp.arange(20))
    assert [layer.name for layer in report] == ["head"]
    np.testing.assert_array_equal(new["table"], params["table"])


def test_errors():
    apply, params, _ = bare()
    with jax.debug_nans(False), pytest.raises(ArithmeticError, match="'0' is not finite"):
        lsuv(apply, params, X.at[0, 0].set(jnp.inf))
    with pytest.raises(ValueError, match="at least 1 iteration"):
        lsuv(apply, params, X, max_iterations=0)
    with pytest.raises(ValueError, match="multiply by a weight"):
        lsuv(lambda p, i: p[i], weights((5, 3)), jnp.arange(4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lsuv(apply, params, X)
