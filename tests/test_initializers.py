"""Every initialization scheme: variance, distribution, fans of every kind of kernel, errors."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow import initializers
from tests.user_errors import without_type_checker

KEY = jax.random.key(0)
FAN_IN, FAN_OUT = 300, 500
FAN_AVG = (FAN_IN + FAN_OUT) / 2

# Scheme, options, variance of a (300, 500) matrix, whether normal.
SCHEMES = [
    ("xavier_normal", {}, 1 / FAN_AVG, True),
    ("glorot_uniform", {}, 1 / FAN_AVG, False),
    ("standard", {}, 1 / (3 * FAN_IN), False),
    ("he_normal", {}, 2 / FAN_IN, True),
    ("he_normal", {"negative_slope": 0.25}, 2 / (1.0625 * FAN_IN), True),
    ("he_normal", {"fan": "fan_out"}, 2 / FAN_OUT, True),
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


@pytest.mark.parametrize(
    "shape, axes, fan_in, fan_out",
    [
        ((3, 3, 20, 40), {}, 180, 360),  # convolution
        ((3, 3, 5, 40), {}, 45, 360),  # the same in four groups
        ((3, 3, 40, 20), {"in_axis": -1, "out_axis": -2}, 180, 360),  # transposed, kernel (window, outputs, inputs)
        ((7, 60, 90), {"batch_axis": 0}, 60, 90),  # seven matrices, stacked as in a scan
    ],
)
@pytest.mark.parametrize("name, fan", [("he_normal", "fan_in"), ("xavier_normal", "fan_avg")])
def test_fans(name, fan, shape, axes, fan_in, fan_out):
    scale = {"fan_in": 2 / fan_in, "fan_avg": 2 / (fan_in + fan_out)}[fan]
    weights = np.asarray(initializers.get(name, **axes)(KEY, shape))
    assert weights.var() == pytest.approx(scale, rel=4 * (2 / weights.size) ** 0.5)


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
    with pytest.raises(ValueError, match="recurrent kernel"):
        initializers.scaled_identity()(KEY, (3, 4))


@pytest.mark.parametrize("name", sorted(initializers.SCHEMES))
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_every_scheme_gives_shape_and_dtype_and_repeats_itself(name, dtype):
    init = initializers.get(name)
    shape = (3, 3, 8, 8) if name == "delta_orthogonal" else (8, 8)
    weights = init(KEY, shape, dtype)
    assert weights.shape == shape
    assert weights.dtype == dtype
    np.testing.assert_array_equal(np.asarray(weights), np.asarray(init(KEY, shape, dtype)))


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
