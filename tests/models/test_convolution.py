"""`conv` against `jax.lax`, in every form that it takes on a CPU: narrow, in parts of the batch, plain."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.test_util import check_grads

import gradflow as gf
from gradflow.models import convolution
from gradflow.models.convolution import conv
from tests.user_errors import without_type_checker

# Inputs, window and channels, strides, padding; whether two columns go at once, and in how many parts of the batch.
CASES = {
    "plain": ((2, 6, 5, 3), (3, 3, 3, 4), 1, "SAME", False, 1),
    "one axis": ((4, 9, 3), (3, 3, 5), 2, "SAME", False, 1),
    "narrow": ((2, 5, 6, 8), (3, 3, 8, 16), 1, "SAME", True, 1),
    "narrow in parts": ((16, 32, 16, 16), (3, 3, 16, 16), 1, "SAME", True, 4),
    "narrow, even window on one axis": ((64, 9, 18, 8), (2, 3, 8, 16), 1, "VALID", True, 4),
    "narrow, uneven padding": ((2, 7, 8, 9), (5, 5, 9, 8), 1, ((0, 4), (3, 1)), True, 1),
    "in parts": ((32, 16, 16, 4), (3, 3, 4, 32), 1, "SAME", False, 8),
    "in parts, strided": ((32, 15, 16, 8), (3, 3, 8, 64), 2, ((1, 1), (1, 1)), False, 4),
    "a prime number of parts": ((17, 16, 16, 2), (3, 3, 2, 32), 1, "SAME", False, 17),
}
every_case = pytest.mark.parametrize("name", CASES)


def operands(name, dtype=jnp.float32):
    shape, kernel_shape, strides, padding, narrow, parts = CASES[name]
    key_x, key_kernel, key_g = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(key_x, shape, dtype)
    kernel = jax.random.normal(key_kernel, kernel_shape, dtype)
    y = reference(x, kernel, strides, padding)
    return x, kernel, jax.random.normal(key_g, y.shape, dtype), strides, padding, narrow, parts


def reference(x, kernel, strides, padding):
    axes = "01"[: x.ndim - 2]
    numbers = (f"N{axes}C", f"{axes}IO", f"N{axes}C")
    return lax.conv_general_dilated(x, kernel, (strides,) * len(axes), padding, dimension_numbers=numbers)


def value_and_gradients(function, x, kernel, g):
    y, back = jax.vjp(function, x, kernel)
    return y, *back(g)


@pytest.mark.quick_cases(4)
@every_case
def test_value_and_gradients_are_those_of_lax(name):
    x, kernel, g, strides, padding, *_ = operands(name)
    got = jax.jit(lambda *a: value_and_gradients(lambda x, k: conv(x, k, strides, padding), *a))(x, kernel, g)
    wide = [np.asarray(a, np.float64) for a in (x, kernel, g)]
    with jax.enable_x64(True):
        expected = value_and_gradients(lambda x, k: reference(x, k, strides, padding), *map(jnp.asarray, wide))
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6 * np.abs(np.asarray(b)).max())


@every_case
def test_each_case_takes_the_form_it_is_here_for(name):
    x, kernel, g, strides, padding, narrow, parts = operands(name)
    steps, window = (strides,) * (x.ndim - 2), kernel.shape[:-2]
    pairs = lax.padtype_to_pads(x.shape[1:-1], window, steps, padding) if isinstance(padding, str) else padding
    assert convolution._is_narrow(x, kernel, steps, tuple(pairs)) == narrow
    assert convolution._parts(g) == parts


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("name", ["narrow in parts", "in parts, strided"])
def test_forward_over_reverse_and_reverse_over_reverse(name):
    """A product of the Hessian and a vector, both ways, against `jax.lax`."""
    x, kernel, g, strides, padding, *_ = operands(name)

    def product(function, transform):
        def loss(arguments):
            return (jnp.tanh(function(*arguments, strides, padding)) * g).sum()

        arguments, along = (x, kernel), (0.1 * x, jnp.cos(kernel))
        if transform == "forward":
            return jax.jvp(jax.grad(loss), (arguments,), (along,))[1]
        inner = lambda a: sum(jnp.vdot(u, v) for u, v in zip(jax.grad(loss)(a), along, strict=True))  # noqa: E731
        return jax.grad(inner)(arguments)

    expected = jax.jit(lambda: product(reference, "forward"))()
    for transform in ("forward", "reverse"):
        got = jax.jit(lambda t=transform: product(conv, t))()
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * float(jnp.abs(b).max()))


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("name", ["narrow", "narrow, uneven padding"])
def test_derivatives_are_those_of_finite_differences(name):
    x, kernel, _, strides, padding, *_ = operands(name)
    with jax.enable_x64(True):
        wide = [jnp.asarray(np.asarray(a, np.float64)) for a in (x, kernel)]
        check_grads(lambda x, k: jnp.tanh(conv(x, k, strides, padding)), wide, order=2, modes=["fwd", "rev"], rtol=1e-4)


@pytest.mark.parametrize("name", ["narrow in parts", "in parts"])
@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0)])
def test_vmap_is_a_loop(name, axes):
    x, kernel, g, strides, padding, *_ = operands(name)
    many = [jnp.stack([a, 2 * a]) if axis == 0 else a for a, axis in zip((x, kernel), axes, strict=True)]

    def gradients(x, kernel):
        return value_and_gradients(lambda x, k: conv(x, k, strides, padding), x, kernel, g)

    got = jax.jit(jax.vmap(gradients, axes))(*many)
    for index in range(2):
        one = [a[index] if axis == 0 else a for a, axis in zip(many, axes, strict=True)]
        for a, b in zip(got, jax.jit(gradients)(*one), strict=True):
            np.testing.assert_allclose(a[index], b, rtol=1e-4, atol=1e-5 * float(jnp.abs(b).max()))


@pytest.mark.parametrize("name", ["narrow in parts", "in parts"])
def test_bfloat16_is_neither_split_nor_paired(name):
    """Sums of parts would be rounded to eight bits on their way."""
    x, kernel, g, strides, padding, *_ = operands(name, jnp.bfloat16)
    assert convolution._parts(g) == 1
    assert not convolution._is_narrow(x, kernel, (1, 1), ((1, 1), (1, 1)))
    got = jax.jit(lambda *a: value_and_gradients(lambda x, k: conv(x, k, strides, padding), *a))(x, kernel, g)
    expected = value_and_gradients(lambda x, k: reference(x, k, strides, padding), x, kernel, g)
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == jnp.bfloat16
        wide = [np.asarray(v, np.float32) for v in (a, b)]
        np.testing.assert_allclose(*wide, rtol=2e-2, atol=1e-2 * np.abs(wide[1]).max())


def lowered(platform, name):
    x, kernel, g, strides, padding, *_ = operands(name)
    step = jax.jit(lambda *a: value_and_gradients(lambda x, k: conv(x, k, strides, padding), *a))
    return step.trace(x, kernel, g).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("name", ["narrow in parts", "in parts"])
def test_only_a_cpu_gets_the_loop_and_the_pairs(name):
    """Chosen when a program is lowered for a platform."""
    for platform in ("cpu", "cuda", "tpu"):
        text = lowered(platform, name)
        assert ("stablehlo.while" in text) == (platform == "cpu")
        doubled = any("stablehlo.convolution" in line and "3x4x16x32xf32" in line for line in text.splitlines())
        assert doubled == (platform == "cpu" and name == "narrow in parts")


@pytest.fixture
def optimized():
    """Compile as users do: without optimizations XLA rounds otherwise once a tap reads the same array."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("name", ["narrow in parts", "in parts"])
def test_instrument_sees_one_layer_and_changes_nothing(name):
    """Statistics against those of the plain convolution; value and gradients to the bit, where XLA optimizes."""
    x, kernel, g, strides, padding, *_ = operands(name)

    def flow_of(function):
        def loss(params):
            return (jnp.tanh(function(x, params["Conv"]["kernel"], strides, padding)) * g).sum()

        params = {"Conv": {"kernel": kernel}}
        return jax.jit(gf.value_grad_and_flow(loss))(params), jax.jit(jax.value_and_grad(loss))(params)

    (value, grads, flow), (plain_value, plain_grads) = flow_of(conv)
    _, _, expected = flow_of(reference)[0]
    assert flow.layers == expected.layers == ("Conv",)
    np.testing.assert_allclose(value, plain_value, rtol=1e-6)
    np.testing.assert_array_equal(grads["Conv"]["kernel"], plain_grads["Conv"]["kernel"])
    for field in ("input_rms", "output_rms", "output_grad_rms", "weight_rms", "weight_grad_rms"):
        np.testing.assert_allclose(getattr(flow["Conv"], field), getattr(expected["Conv"], field), rtol=1e-4)


@without_type_checker()
def test_a_kernel_that_does_not_fit_is_named():
    with pytest.raises(ValueError, match="channels not on the last axis"):
        conv(jnp.ones((1, 3, 5, 5)), jnp.ones((3, 3, 3, 2)))
    with pytest.raises(ValueError, match="at least 3 positions"):
        conv(jnp.ones((1, 2, 5, 3)), jnp.ones((3, 3, 3, 2)), padding="VALID")


@pytest.mark.parametrize("name", ["in parts", "narrow in parts"])
def test_a_batch_on_an_explicit_mesh_has_the_gradients_of_one_device(name):
    x, kernel, g, strides, padding, *_ = operands(name)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))

    def gradients(x, kernel, g):
        return value_and_gradients(lambda x, kernel: conv(x, kernel, strides, padding), x, kernel, g)

    expected = jax.jit(gradients)(x, kernel, g)
    with jax.set_mesh(mesh):
        cut, whole = (jax.NamedSharding(mesh, spec) for spec in (jax.P("data"), jax.P()))
        got = jax.jit(gradients)(jax.device_put(x, cut), jax.device_put(kernel, whole), jax.device_put(g, cut))
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(jax.device_get(a), jax.device_get(b), rtol=1e-4, atol=1e-3)
