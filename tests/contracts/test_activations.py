"""Every activation: values, derivative, what its record says, and the same found out for a user's function."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow import activations
from tests.user_errors import without_type_checker

NAMES = sorted(activations.ACTIVATIONS)


def normal_cdf(x: float) -> float:
    return (1 + math.erf(x / math.sqrt(2))) / 2


FORMULAS = {
    "identity": lambda x: x,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "hard_sigmoid": lambda x: min(max(x + 3, 0), 6) / 6,
    "tanh": math.tanh,
    "hard_tanh": lambda x: max(-1, min(1, x)),
    "softsign": lambda x: x / (1 + abs(x)),
    "softplus": lambda x: math.log1p(math.exp(x)),
    "relu": lambda x: max(x, 0),
    "leaky_relu": lambda x: x if x > 0 else 0.01 * x,
    "prelu": lambda x: x if x > 0 else 0.25 * x,
    "elu": lambda x: x if x > 0 else math.expm1(x),
    "selu": lambda x: 1.0507009873554805 * (x if x > 0 else 1.6732632423543772 * math.expm1(x)),
    "gelu": lambda x: x * normal_cdf(x),
    "gelu_tanh": lambda x: x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x / (1 + math.exp(-x)),
    "mish": lambda x: x * math.tanh(math.log1p(math.exp(x))),
    "erf": math.erf,
}

# Where |phi'| has fallen to a tenth of its largest value, from the formulas of the derivatives.
SATURATION = {
    "identity": None,
    "prelu": None,
    "sigmoid": (-2 * math.acosh(math.sqrt(10)), 2 * math.acosh(math.sqrt(10))),
    "hard_sigmoid": (-3.0, 3.0),
    "tanh": (-math.acosh(math.sqrt(10)), math.acosh(math.sqrt(10))),
    "hard_tanh": (-1.0, 1.0),
    "softsign": (1 - math.sqrt(10), math.sqrt(10) - 1),
    "softplus": (-math.log(9), math.inf),
    "relu": (0.0, math.inf),
    "leaky_relu": (0.0, math.inf),
    "elu": (-math.log(10), math.inf),
    "selu": (-math.log(10), math.inf),
    "erf": (-math.sqrt(math.log(10)), math.sqrt(math.log(10))),
}


def points() -> np.ndarray:
    """From -6 to 6, none nearer than 0.01 to a kink."""
    return np.linspace(-6.013, 6.037, 47)


@pytest.mark.parametrize("name", NAMES)
def test_values_follow_the_formula(name):
    got = activations.get(name)(jnp.asarray(points(), jnp.float32))
    np.testing.assert_allclose(got, [FORMULAS[name](x) for x in points()], rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", NAMES)
def test_derivative_is_the_limit_of_differences(name):
    phi, step = activations.get(name), 1e-6
    with jax.enable_x64(True):
        x = jnp.asarray(points(), jnp.float64)
        differences = (phi(x + step) - phi(x - step)) / (2 * step)
        np.testing.assert_allclose(phi.derivative(x), differences, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_keeps_shape_and_dtype_and_goes_under_transformations(name, dtype):
    phi = activations.get(name)
    x = jax.random.normal(jax.random.key(0), (3, 4), dtype)
    plain = phi(x)
    assert plain.shape == x.shape
    assert plain.dtype == phi.derivative(x).dtype == dtype
    tolerance = {"rtol": float(4 * jnp.finfo(dtype).eps), "atol": float(jnp.finfo(dtype).eps)}
    for other in (jax.jit(phi)(x), jax.vmap(phi)(x)):
        np.testing.assert_allclose(np.asarray(other, np.float32), np.asarray(plain, np.float32), **tolerance)


@pytest.mark.quick_cases(6)
@pytest.mark.parametrize("name", NAMES)
def test_record_of_a_user_function_agrees_with_the_written_one(name):
    written = activations.get(name)
    found = activations.get(lambda x: written(x))
    assert found is not written
    assert (found.kinks, found.can_die) == (written.kinks, written.can_die)
    assert found.saturates_at == written.saturates_at


@pytest.mark.parametrize("name", sorted(SATURATION))
def test_saturation_follows_the_derivative(name):
    expected, got = SATURATION[name], activations.get(name).saturates_at
    if expected is None:
        assert got is None
    else:
        np.testing.assert_allclose(got, expected, atol=2e-6)


def test_every_record_is_complete():
    assert set(FORMULAS) == set(NAMES)
    for name in NAMES:
        record = activations.get(name)
        assert record.name == name
        assert record.reference
        assert record.learnable == (name == "prelu")
        assert activations.get(record) is record
        hash(record)


def test_prelu_takes_one_slope_or_one_for_each_channel():
    x = jnp.array([[-2.0, 2.0], [-4.0, -4.0]])
    np.testing.assert_array_equal(activations.prelu(x, 0.5), [[-1, 2], [-2, -2]])
    np.testing.assert_array_equal(activations.prelu(x, jnp.array([0.5, 0.25])), [[-1, 2], [-2, -1]])


def test_kinks_are_found_off_the_grid_too():
    found = activations.get(lambda x: jnp.where(x < 0.12345, 0.1 * x, x) + jnp.where(x > 2.5, 1.0, 0.0).astype(x.dtype))
    np.testing.assert_allclose(found.kinks, [0.12345, 2.5], atol=2e-6)


def test_records_are_made_while_something_is_traced():
    @jax.jit
    def traced(x):
        record = activations.get(lambda z: jnp.abs(z))
        assert record.kinks == (0.0,)
        assert activations.Activation("tanh", jnp.tanh).saturates_at is not None
        return record(x)

    assert float(traced(jnp.float32(-2))) == 2


def leaky_moments(a):
    return lambda q: ((1 - a) * math.sqrt(q / (2 * math.pi)), (1 + a * a) * q / 2, (1 + a) / 2, (1 + a * a) / 2)


def hard_tanh_moments(q):
    t = 1 / math.sqrt(q)
    inside = math.erf(t / math.sqrt(2))
    return 0, 1 - inside + q * (inside - t * math.sqrt(2 / math.pi) * math.exp(-t * t / 2)), inside, inside


def exponential_moments(scale, alpha):
    """ELU and SELU, by E[e^(az); z < 0] = e^(a^2 q / 2) Phi(-a sqrt(q))."""

    def of(q):
        one, two = (math.exp(a**2 * q / 2) * math.erfc(a * math.sqrt(q / 2)) / 2 for a in (1, 2))
        return (
            scale * (math.sqrt(q / (2 * math.pi)) + alpha * (one - 0.5)),
            scale**2 * (q / 2 + alpha**2 * (two - 2 * one + 0.5)),
            scale * (0.5 + alpha * one),
            scale**2 * (0.5 + alpha**2 * two),
        )

    return of


# E[phi], E[phi^2], E[phi'], E[phi'^2] over N(0, q); None where no closed form is at hand.
CLOSED_FORMS = {
    "identity": lambda q: (0, q, 1, 1),
    "relu": leaky_moments(0.0),
    "leaky_relu": leaky_moments(0.01),
    "prelu": leaky_moments(0.25),
    "elu": exponential_moments(1.0, 1.0),
    "selu": exponential_moments(1.0507009873554805, 1.6732632423543772),  # Klambauer et al. 2017, equation 14
    "hard_tanh": hard_tanh_moments,
    "erf": lambda q: (
        0,
        2 / math.pi * math.asin(2 * q / (1 + 2 * q)),
        2 / math.sqrt(math.pi * (1 + 2 * q)),
        4 / (math.pi * math.sqrt(1 + 4 * q)),
    ),
    "gelu": lambda q: (
        q / math.sqrt(2 * math.pi * (1 + q)),
        q / 4 + q / (2 * math.pi) * (math.asin(q / (1 + q)) + 2 * q / ((1 + q) * math.sqrt(1 + 2 * q))),
        0.5,
        None,
    ),
    "sigmoid": lambda q: (0.5, None, None, None),
}


@pytest.mark.parametrize("name", sorted(CLOSED_FORMS))
def test_moments_are_their_closed_forms(name):
    """In double precision, though these tests run in single."""
    for q in (0.01, 1.0, 25.0):
        for got, expected in zip(activations.get(name).moments(q), CLOSED_FORMS[name](q), strict=True):
            if expected is not None:
                assert got == pytest.approx(expected, rel=1e-8, abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_moments_and_gains_are_what_sampling_gives(name):
    phi, q = activations.get(name), 1.7
    z = math.sqrt(q) * np.random.default_rng(0).standard_normal(400_000).astype(np.float32)
    value, slope = (np.asarray(fn(jnp.asarray(z)), np.float64) for fn in (phi, phi.derivative))
    moments = phi.moments(q)
    for got, sample in zip(moments, (value, value**2, slope, slope**2), strict=True):
        assert abs(got - sample.mean()) <= 4 * sample.std() / math.sqrt(z.size) + 1e-6
    assert moments.variance == pytest.approx(moments.square - moments.mean**2)
    unit = phi.moments()
    assert (phi.gain**2 * unit.square, phi.backward_gain**2 * unit.slope_square) == (pytest.approx(1), pytest.approx(1))


def test_gain_is_hes_for_rectifiers():
    for name, slope in (("relu", 0.0), ("leaky_relu", 0.01), ("prelu", 0.25), ("identity", 1.0)):
        record = activations.get(name)
        assert record.gain == pytest.approx(math.sqrt(2 / (1 + slope**2)), rel=1e-12)
        assert record.backward_gain == pytest.approx(record.gain, rel=1e-12)
    assert activations.get("selu").gain == pytest.approx(1, abs=1e-6)  # its fixed point: Klambauer et al. 2017
    assert activations.tailored_leaky_relu(30).gain == pytest.approx(1, rel=1e-12)


def test_a_user_function_has_moments_and_gain():
    square = activations.get(lambda x: x * x)
    assert square.moments(2.0) == pytest.approx((2, 12, 0, 8), abs=1e-12)
    assert square.gain == pytest.approx(1 / math.sqrt(3))


def test_moments_inside_jit():
    got = jax.jit(lambda q: activations.moments("erf", q))(jnp.float32(1.3))
    assert got.square.dtype == jnp.float32
    np.testing.assert_allclose(got, CLOSED_FORMS["erf"](1.3), rtol=1e-5, atol=1e-6)

    @jax.jit
    def scaled(x):  # the record's own are plain numbers also while something is traced
        return x * activations.get("softsign").gain

    assert float(scaled(jnp.float32(1))) == pytest.approx(activations.get("softsign").gain)


def test_moments_that_do_not_exist_are_named():
    with pytest.raises(ValueError, match="at least 0, got -1"):
        activations.get("tanh").moments(-1.0)
    with pytest.raises(ValueError, match="lets something through"):
        activations.get(lambda x: 0.0 * x).gain
    with pytest.raises(ArithmeticError, match="not finite"):
        activations.get(lambda x: jnp.exp(x * x)).moments(100.0)


@pytest.mark.parametrize("depth, slope", [(50, 0.4305), (100, 0.5704), (1000, 0.8444)])
def test_tailored_slope(depth, slope):
    """Zhang et al. 2022, worked out from their definition beforehand."""
    assert activations.tailored_leaky_relu_slope(depth) == pytest.approx(slope, abs=1e-4)


def test_tailored_activation_maps_orthogonal_inputs_to_the_similarity_asked_for():
    """By sampling, layer by layer."""
    phi = activations.tailored_leaky_relu(10, 0.5)
    similarity, keys = 0.0, jax.random.split(jax.random.key(0), 20).reshape(10, 2)
    for first, second in keys:
        x, y = jax.random.normal(first, (400_000,)), jax.random.normal(second, (400_000,))
        a, b = phi(x), phi(similarity * x + math.sqrt(1 - similarity**2) * y)
        assert float((a * a).mean()) == pytest.approx(1, abs=0.02)
        similarity = float((a * b).mean() / jnp.sqrt((a * a).mean() * (b * b).mean()))
    assert similarity == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("depth, similarity", [(0, 0.9), (5, 1.0), (5, 0.0), (1, 0.9)])
def test_tailored_slope_says_when_there_is_none(depth, similarity):
    with pytest.raises(ValueError, match="similarity"):
        activations.tailored_leaky_relu(depth, similarity)


def test_other_names_and_families():
    assert activations.get("swish") is activations.get("silu")
    assert set(activations.ALIASES.values()) <= set(NAMES)
    assert activations.get("tailored_leaky_relu", depth=50).name == "tailored_leaky_relu(50)"
    with pytest.raises(TypeError, match="solved for a depth"):
        activations.get("tailored_leaky_relu")
    with pytest.raises(TypeError, match=r"options \['depth'\] belong to tailored_leaky_relu"):
        activations.get("relu", depth=50)


@without_type_checker()
def test_errors_name_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'sigmoid'"):
        activations.get("sigmiod")
    with pytest.raises(ValueError, match="elementwise"):
        activations.get(lambda x: jax.nn.softmax(x).sum(-1))
    with pytest.raises(TypeError, match=r"name of an activation"):
        activations.get(3)
