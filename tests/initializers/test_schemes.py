"""Every initialization scheme: contract, variance, distribution, fans of every kind of kernel, errors."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from gradflow import initializers
from gradflow.theory.mean_field.criticality import critical_weight_variance
from tests.user_errors import without_type_checker

KEY = jax.random.key(0)
FAN_IN, FAN_OUT = 300, 500
FAN_AVG = (FAN_IN + FAN_OUT) / 2

# Of erf over N(0, 1), in closed form (Williams 1996).
ERF_SQUARE = 2 / math.pi * math.asin(2 / 3)
ERF_SLOPE_SQUARE = 4 / math.pi / math.sqrt(5)

# Scheme, options, variance of a (300, 500) matrix, whether normal.
SCHEMES = [
    ("xavier_normal", {}, 1 / FAN_AVG, True),
    ("glorot_uniform", {}, 1 / FAN_AVG, False),
    ("standard", {}, 1 / (3 * FAN_IN), False),
    ("he_normal", {}, 2 / FAN_IN, True),
    ("he_normal", {"negative_slope": 0.25}, 2 / (1.0625 * FAN_IN), True),
    ("he_normal", {"fan": "fan_out"}, 2 / FAN_OUT, True),
    ("he_normal", {"activation": "erf"}, 1 / (ERF_SQUARE * FAN_IN), True),
    ("he_normal", {"activation": "erf", "fan": "fan_out"}, 1 / (ERF_SLOPE_SQUARE * FAN_OUT), True),
    ("he_uniform", {"activation": "relu"}, 2 / FAN_IN, False),
    ("he_uniform", {"negative_slope": 1.0}, 1 / FAN_IN, False),
    ("lecun_normal", {}, 1 / FAN_IN, True),
    ("gaussian", {"weight_variance": 1.7}, 1.7 / FAN_IN, True),
    ("small_gaussian", {"std": 0.02}, 4e-4, True),
]


@pytest.mark.parametrize("name, options, variance, normal", SCHEMES)
def test_variance_and_distribution(name, options, variance, normal):
    weights = np.asarray(initializers.get(name, **options)(KEY, (FAN_IN, FAN_OUT)), np.float64)
    # 150,000 weights: standard errors .0026 of the mean in deviations, .0037 of the variance, .013 of the kurtosis.
    assert abs(weights.mean()) < 4 * 0.0026 * variance**0.5
    assert weights.var() == pytest.approx(variance, rel=4 * 0.0037)
    assert (weights**4).mean() / weights.var() ** 2 == pytest.approx(3 if normal else 1.8, abs=4 * 0.013)
    if not normal:
        limit = (3 * variance) ** 0.5
        assert limit * 0.999 < np.abs(weights).max() <= limit * (1 + 1e-6)


def test_limit_of_glorot_uniform_is_the_papers():
    """U(-sqrt(3 / fan_avg), sqrt(3 / fan_avg))."""
    weights = initializers.glorot_uniform()(KEY, (FAN_IN, FAN_OUT))
    assert float(jnp.abs(weights).max()) == pytest.approx((3 / FAN_AVG) ** 0.5, rel=1e-4)


def connections(apply, shape):
    """Inputs that an output entry away from the border meets, and outputs that an input entry meets, by derivatives."""
    entry = jnp.zeros(shape)
    jacobian = np.asarray(jax.jacrev(lambda x: apply(x[None])[0])(entry)) != 0
    axes = len(shape)
    met = jacobian.sum(tuple(range(axes, 2 * axes)))
    feeds = jacobian.sum(tuple(range(axes)))
    middle = [slice(n // 3, n // 3 + 4) for n in met.shape[:-1]], [slice(n // 3, n // 3 + 2) for n in feeds.shape[:-1]]
    return met[tuple(middle[0])].mean(), feeds[tuple(middle[1])].mean()


@pytest.mark.parametrize(
    "layer, inputs, layout",
    [
        (nn.Dense(7), (5,), {}),
        (nn.Conv(6, (3, 3)), (9, 9, 4), {}),
        (nn.Conv(6, (3, 3), feature_group_count=2), (9, 9, 4), {"groups": 2}),
        (nn.ConvTranspose(6, (3, 3)), (9, 9, 4), {}),
        (nn.ConvTranspose(6, (3, 3), transpose_kernel=True), (9, 9, 4), {"transposed": True}),
        (
            nn.ConvTranspose(6, (3,), strides=(2,), transpose_kernel=True),
            (12, 4),
            {"transposed": True, "upsampling": 2},
        ),
        (nn.ConvTranspose(6, (4, 4), strides=(2, 2)), (9, 9, 4), {"upsampling": 4}),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, nn.Module) else str(x),
)
def test_fans_count_connections(layer, inputs, layout):
    """Fans by definition, counted in the layer itself with a kernel of ones."""
    params = jax.tree.map(jnp.ones_like, layer.init(KEY, jnp.zeros((1, *inputs))))
    fan_in, fan_out = connections(lambda x: layer.apply(params, x), inputs)
    got = initializers.fans(params["params"]["kernel"].shape, **layout)
    assert got == (fan_in, fan_out)
    assert got.fan_avg == (fan_in + fan_out) / 2


@pytest.mark.parametrize(
    "shape, layout, fan_in, fan_out",
    [
        ((3, 3, 20, 40), {}, 180, 360),
        ((3, 3, 5, 40), {"groups": 4}, 45, 90),
        ((3, 3, 40, 20), {"transposed": True}, 180, 360),
        ((3, 3, 40, 20), {"in_axis": -1, "out_axis": -2}, 180, 360),
        ((4, 4, 20, 40), {"upsampling": 4}, 80, 640),
        ((7, 60, 90), {"stacked": 1}, 60, 90),
        ((7, 60, 90), {"batch_axis": 0}, 60, 90),
        ((2, 5, 3, 16, 32), {"stacked": 2, "groups": 2}, 48, 48),
        ((64, 8, 16), {"in_axis": 0, "out_axis": (1, 2)}, 64, 128),  # attention's projection, heads apart
    ],
)
def test_schemes_follow_the_fans(shape, layout, fan_in, fan_out):
    assert initializers.fans(shape, **layout) == (fan_in, fan_out)
    for name, variance in (("he_normal", 2 / fan_in), ("xavier_normal", 2 / (fan_in + fan_out))):
        weights = np.asarray(initializers.get(name, **layout)(KEY, shape))
        assert weights.var() == pytest.approx(variance, rel=4 * (2 / weights.size) ** 0.5)
    weights = np.asarray(initializers.he_normal(fan="fan_out", **layout)(KEY, shape))
    assert weights.var() == pytest.approx(2 / fan_out, rel=4 * (2 / weights.size) ** 0.5)


def test_plain_layouts_are_drawn_as_jax_draws_them():
    ours = initializers.glorot_uniform()(KEY, (3, 3, 4, 5))
    theirs = jax.nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")(KEY, (3, 3, 4, 5))
    np.testing.assert_array_equal(ours, theirs)


def test_a_flax_scan_draws_each_slice_by_itself():
    """So that no scheme needs `stacked` there."""

    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return nn.Dense(80, kernel_init=initializers.he_normal())(x), None

    stack = nn.scan(Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=5)()
    kernel = np.asarray(stack.init(KEY, jnp.zeros((1, 80)), None)["params"]["Dense_0"]["kernel"])
    assert kernel.shape == (5, 80, 80)
    assert kernel.var() == pytest.approx(2 / 80, rel=4 * (2 / kernel.size) ** 0.5)


def test_orthogonal_has_all_singular_values_equal_to_the_gain():
    singular = np.linalg.svd(initializers.orthogonal(1.5)(KEY, (30, 20)), compute_uv=False)
    np.testing.assert_allclose(singular, 1.5, rtol=1e-5)


def test_delta_orthogonal_is_orthogonal_at_the_centre_and_zero_elsewhere():
    kernel = np.array(initializers.get("delta_orthogonal", gain=2.0)(KEY, (3, 3, 4, 6)))
    np.testing.assert_allclose(kernel[1, 1] @ kernel[1, 1].T, 4 * np.eye(4), atol=1e-5)
    kernel[1, 1] = 0
    assert not kernel.any()


def test_scaled_identity_and_zeros():
    np.testing.assert_array_equal(initializers.get("scaled_identity", scale=0.5)(KEY, (3, 3)), 0.5 * np.eye(3))
    np.testing.assert_array_equal(initializers.get("zeros")(KEY, (3, 2)), np.zeros((3, 2)))


def test_sparse_has_its_connections_and_spectral_radius():
    weights = np.asarray(initializers.sparse(15, 0.5)(KEY, (60, 400)), np.float64)
    np.testing.assert_array_equal((weights != 0).sum(axis=0), 15)
    values = weights[weights != 0]
    assert values.var() == pytest.approx(0.25, rel=4 * (2 / values.size) ** 0.5)
    # Inputs are chosen evenly: 400 units times 15/60 is 100 each, hypergeometric noise below sqrt(75).
    assert np.abs((weights != 0).sum(axis=1) - 100).max() < 4.5 * 75**0.5
    for size, radius in ((16, 0.95), (50, 0.95), (120, 2.0)):
        matrix = initializers.sparse(15, spectral_radius=radius)(KEY, (size, size))
        assert np.abs(np.linalg.eigvals(np.asarray(matrix, np.float64))).max() == pytest.approx(radius, rel=1e-5)
    np.testing.assert_array_equal(
        initializers.smart_tanh()(KEY, (50, 50)), initializers.sparse(15, 1.0, 0.95)(KEY, (50, 50))
    )


@pytest.mark.parametrize("name", ["orthogonal", "scaled_identity", "delta_orthogonal", "smart_tanh"])
def test_stacked_kernels_are_drawn_one_by_one(name):
    shape = SHAPES.get(name, (8, 8))
    kernels = np.asarray(initializers.get(name, stacked=2)(KEY, (2, 3, *shape))).reshape(6, *shape)
    alone = initializers.get(name)
    for key, kernel in zip(jax.random.split(KEY, 6), kernels, strict=True):
        np.testing.assert_allclose(kernel, alone(key, shape), atol=1e-5)


@pytest.mark.parametrize("kernel", ["gaussian", "orthogonal", "delta_orthogonal"])
def test_critical_gives_weights_and_biases(kernel):
    """sigma_w^2 = 1.761 at sigma_b^2 = 0.05 for tanh, from the fixed point worked out in `tests/theory`."""
    point = initializers.critical("tanh", bias_variance=0.05, kernel=kernel)
    assert point.weight_variance == pytest.approx(1.761, abs=5e-4)
    assert point.weight_variance == critical_weight_variance("tanh", bias_variance=0.05)
    bias = np.asarray(point.bias(KEY, (20_000,)))
    assert bias.var() == pytest.approx(0.05, rel=4 * (2 / bias.size) ** 0.5)
    weights = np.asarray(point.kernel(KEY, (3, 3, 100, 100)))
    if kernel == "gaussian":
        assert weights.var() == pytest.approx(1.761 / 900, rel=4 * (2 / weights.size) ** 0.5)
    else:
        matrix = weights[1, 1] if kernel == "delta_orthogonal" else weights.reshape(900, 100)
        np.testing.assert_allclose(np.linalg.svd(matrix, compute_uv=False), 1.761**0.5, rtol=2e-4)


def test_critical_for_relu_is_he_and_has_no_bias():
    assert initializers.critical("relu").weight_variance == pytest.approx(2, abs=1e-9)
    with pytest.raises(ValueError, match="no critical weight variance"):
        initializers.critical("relu", bias_variance=0.1)


SHAPES = {"delta_orthogonal": (3, 3, 8, 8), "sparse": (20, 20), "smart_tanh": (20, 20)}


@pytest.mark.parametrize("name", sorted(initializers.SCHEMES))
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_every_scheme_gives_shape_and_dtype_and_repeats_itself(name, dtype):
    init = initializers.get(name)
    shape = SHAPES.get(name, (8, 8))
    weights = init(KEY, shape, dtype)
    assert weights.shape == shape
    assert weights.dtype == dtype
    np.testing.assert_array_equal(np.asarray(weights), np.asarray(init(KEY, shape, dtype)))
    jitted = jax.jit(init, static_argnums=(1, 2))(KEY, shape, dtype)
    tolerance = float(4 * jnp.finfo(dtype).eps)
    np.testing.assert_allclose(
        np.asarray(jitted, np.float32), np.asarray(weights, np.float32), rtol=tolerance, atol=tolerance
    )
    other = np.asarray(init(jax.random.key(1), shape, dtype))
    assert (np.asarray(weights) == other).all() == (name in ("scaled_identity", "zeros"))


@pytest.mark.parametrize("name", sorted(initializers.SCHEMES))
def test_out_sharding_is_kept_where_jax_keeps_it(name):
    init, shape = initializers.get(name), SHAPES.get(name, (8, 8))
    mesh = jax.make_mesh((4,), ("model",), axis_types=(jax.sharding.AxisType.Explicit,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*[None] * (len(shape) - 1), "model"))
    if name in ("orthogonal", "delta_orthogonal", "scaled_identity", "sparse", "smart_tanh"):
        with pytest.raises(NotImplementedError, match="device_put"):
            init(KEY, shape, jnp.float32, out_sharding=sharding)
    else:
        with jax.set_mesh(mesh):
            weights = init(KEY, shape, jnp.float32, out_sharding=sharding)
        assert weights.sharding.is_equivalent_to(sharding, len(shape))
        np.testing.assert_allclose(weights, init(KEY, shape, jnp.float32), rtol=1e-6)


@pytest.mark.parametrize(
    "init, shape, match",
    [
        (initializers.delta_orthogonal(), (3, 3, 6, 4), "at least as many outputs"),
        (initializers.delta_orthogonal(), (6, 6), "1 to 3 window axes"),
        (initializers.scaled_identity(), (3, 4), "square matrix for the identity"),
        (initializers.sparse(15), (14, 20), "at least 15 inputs"),
        (initializers.smart_tanh(), (20, 30), "square matrix for a spectral radius"),
        (initializers.orthogonal(stacked=1), (3, 4), "at least 3 axes"),
        (initializers.he_normal(), (5,), "at least 2 axes"),
        (initializers.he_normal(stacked=1), (5, 5), "at least 3 axes"),
        (initializers.he_normal(groups=4), (3, 3, 5, 10), "that 4 groups divide"),
        (initializers.he_normal(), (0, 10), "with entries"),
    ],
)
def test_impossible_shapes_are_named(init, shape, match):
    with pytest.raises(ValueError, match=match):
        init(KEY, shape)


def test_impossible_options_are_named():
    with pytest.raises(ValueError, match="a negative slope or an activation"):
        initializers.he_normal(0.1, activation="relu")
    with pytest.raises(ValueError, match="lets something through"):
        initializers.he_normal(activation=jnp.zeros_like)
    with pytest.raises(ValueError, match="at least 1 connection"):
        initializers.sparse(0)
    with pytest.raises(ValueError, match="groups of at least 1"):
        initializers.fans((3, 4), groups=0)


@pytest.mark.parametrize("alias", sorted(initializers.ALIASES))
def test_other_names_draw_the_same(alias):
    scheme = initializers.get(initializers.ALIASES[alias])
    np.testing.assert_array_equal(initializers.get(alias)(KEY, (4, 6)), scheme(KEY, (4, 6)))


def test_what_is_no_initializer_by_itself_says_what_to_do():
    with pytest.raises(ValueError, match=r"initializer=point\.kernel, bias=point\.bias"):
        initializers.get("critical")
    with pytest.raises(ValueError, match=r"gradflow.lsuv\(fn, params, batch\)"):
        initializers.get("lsuv")


@without_type_checker()
def test_get_passes_functions_and_rejects_the_rest():
    init = jax.nn.initializers.ones
    assert initializers.get(init) is init
    with pytest.raises(ValueError, match="did you mean 'he_normal'"):
        initializers.get("he_norml")
    with pytest.raises(TypeError, match="call it first"):
        initializers.get(initializers.he_normal)
    with pytest.raises(TypeError, match="function"):
        initializers.get(init, weight_variance=2.0)
    with pytest.raises(TypeError, match=r"name of a scheme"):
        initializers.get(None)
    with pytest.raises(ValueError, match="positive weight variance"):
        initializers.gaussian(-1.0)
    with pytest.raises(ValueError, match="standard deviation"):
        initializers.small_gaussian(-0.1)


def test_orthogonal_kernels_side_by_side_under_vmap_do_not_wait_for_each_other():
    """More batched QR decompositions in one program than XLA has threads stood still for ever (JAX 0.10, CPU)."""

    @jax.jit
    @jax.vmap
    def draw(key):
        return sum(initializers.orthogonal()(k, (100, 100), jnp.float32) for k in jax.random.split(key, 8))

    keys = jax.random.split(KEY, 4)
    alone = sum(initializers.orthogonal()(k, (100, 100), jnp.float32) for k in jax.random.split(keys[2], 8))
    for _ in range(3):
        drawn = draw(keys)
    np.testing.assert_allclose(drawn[2], alone, atol=1e-5)
