"""Statistics over the whole range of a type, whatever the arrangement of exponents: held against float64 NumPy."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from gradflow.instrument import statistics as gs

ALL = frozenset(gs.STATISTICS)
SHAPES = ((12, 3, 16), (33, 5))
TYPES = ("float32", "bfloat16", "float16", "float64", "complex64", "complex128")
WIDE = ("float64", "complex128")
ARRANGEMENTS = ("slabs", "each", "constant", "sparse", "one huge", "rows at both ends", "all large", "all small")


def exponents(rng, arrangement, shape, low, high):
    """The exponent of each entry; what is left out is 0 there."""
    if arrangement == "slabs":
        axis = rng.integers(len(shape))
        return rng.integers(low, high, [n if k == axis else 1 for k, n in enumerate(shape)]) + np.zeros(shape, int)
    if arrangement == "each":
        return rng.integers(low, high, shape)
    if arrangement == "one huge":
        e = np.full(shape, low)
        e.flat[rng.integers(e.size)] = rng.integers(low, high)
        return e
    if arrangement == "rows at both ends":
        return rng.choice([low, high - 1], (shape[0], *[1] * (len(shape) - 1))) + np.zeros(shape, int)
    at = {"all large": high - 1, "all small": low}.get(arrangement, rng.integers(low, high))
    return np.full(shape, at)


def make(rng, arrangement, shape, dtype):
    """An array of normal numbers of a type."""
    real = {"complex64": "float32", "complex128": "float64"}.get(dtype, dtype)
    info = jnp.finfo(real)
    low, high = int(info.minexp), int(info.maxexp)

    def part():
        mantissa = np.ones(shape) if arrangement == "constant" else rng.uniform(1, 1.9, shape)
        mantissa = mantissa * (1 if arrangement == "constant" else rng.choice([-1, 1], shape))
        if arrangement == "sparse":
            mantissa = mantissa * (rng.random(shape) < 0.05)
        return np.ldexp(mantissa, exponents(rng, arrangement, shape, low, high)).astype(info.dtype)

    return (part() + 1j * part()).astype(dtype) if dtype.startswith("complex") else part()


def wide(x):
    """The array in float64 and complex128, divided by its largest entry, and that."""
    x = np.asarray(x, np.complex128 if np.iscomplexobj(x) else np.float64)
    largest = max(np.max(np.abs(x.real)), np.max(np.abs(x.imag)))
    return (x / largest, largest) if largest > 0 else (x, 1.0)


def true_rms(x):
    scaled, largest = wide(x)
    with np.errstate(over="ignore"):
        return float(largest) * np.sqrt(np.mean(scaled.real**2 + scaled.imag**2))


def true_similarity(y):
    rows = [wide(row)[0].ravel() for row in y]
    units = [row / np.linalg.norm(row) for row in rows if np.any(row)]
    cosines = np.array([[np.vdot(a, b).real for b in units] for a in units])
    count = len(units)
    return np.mean(cosines[~np.eye(count, dtype=bool)]) if count > 1 else np.nan


def layout_for(dtype):
    return gs.Layout(ALL, "float64" if dtype in WIDE else "float32", dtype.startswith("complex"))


@functools.cache
def compiled(layout, mapped=False):
    def columns(x):
        units, examples = (x.ndim - 1,), tuple(range(x.ndim - 1))
        return (
            gs.forward(x, x, layout, units, examples, ()),
            gs.backward(x, layout, units, (), gs.flush_below(jnp.float16)),
            gs.reduce_input_cotangent(x, layout),
        )

    return jax.jit(jax.vmap(columns) if mapped else columns)


def named(layout, columns):
    """(forward, backward, input_back) as dicts of NumPy arrays."""
    names = layout.forward, layout.backward, layout.input_cotangent
    return [dict(zip(n, np.moveaxis(np.asarray(c), -1, 0), strict=True)) for n, c in zip(names, columns, strict=True)]


def rms_of(columns, prefix, count):
    return gs.root_mean_square([columns[f"{prefix}_{scale}"] for scale in gs.SCALES], count)


def mean_of(layout, columns, count):
    return gs.mean([columns[name] for name in layout.total], count)


def check(x, layout, columns, similarity=True):
    """Hold all statistics of one array against NumPy."""
    ahead, back, input_back = columns
    want, smallest = true_rms(x), float(jnp.finfo(layout.dtype).smallest_normal)
    for got, prefix in ((ahead, "input"), (ahead, "output"), (back, "cotangent"), (input_back, "cotangent")):
        rms = rms_of(got, prefix, x.size)
        assert rms.dtype == layout.dtype
        if want < smallest:
            assert rms <= smallest
        elif want > float(jnp.finfo(layout.dtype).max):  # the modulus of large complex numbers
            assert np.isinf(rms)
        else:
            np.testing.assert_allclose(float(rms), want, rtol=1e-5)
    if smallest <= want < np.inf:
        scaled, largest = wide(x)
        true_mean = abs(np.mean(scaled)) if layout.is_complex else np.mean(scaled)
        np.testing.assert_allclose(
            float(mean_of(layout, ahead, x.size)) / want, true_mean * (largest / want), atol=1e-5
        )
    if similarity:
        got = gs.similarity(ahead["direction"], ahead["alive"], ahead["ran"])
        np.testing.assert_allclose(got, true_similarity(x), atol=1e-4)
    half = x.dtype.itemsize == 2
    assert back["zero"] == np.sum(x == 0)
    assert back["flushed"] == (0 if half else np.sum((x != 0) & (np.maximum(abs(x.real), abs(x.imag)) <= 2.0**-25)))
    assert back["dead"] == np.sum(np.all(x == 0, axis=tuple(range(x.ndim - 1))))
    assert ahead["nonfinite_forward"] == back["nonfinite_backward"] == 0
    scaled, largest = wide(x)
    if np.max(np.abs(scaled)) * (largest / 4) < float(jnp.finfo(layout.dtype).max) / 4:  # the modulus is in the range
        np.testing.assert_allclose(float(back["cotangent_max"]), np.max(np.abs(scaled)) * largest, rtol=1e-6)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.sampled_from(ARRANGEMENTS), st.sampled_from(SHAPES), st.sampled_from(TYPES), st.integers(0, 2**32 - 1))
def test_every_range_arrangement_and_type(arrangement, shape, dtype, seed):
    x = make(np.random.default_rng(seed), arrangement, shape, dtype)
    layout = layout_for(dtype)
    with jax.enable_x64(dtype in WIDE):
        columns = compiled(layout)(jnp.asarray(x))
        check(x, layout, named(layout, columns))


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_arrangement_once(arrangement, dtype):
    x = make(np.random.default_rng(7), arrangement, SHAPES[0], dtype)
    layout = layout_for(dtype)
    with jax.enable_x64(dtype in WIDE):
        check(x, layout, named(layout, compiled(layout)(jnp.asarray(x))))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slabs_from_1e_minus_30_to_1(axis):
    steps = np.logspace(-30, 0, (50, 4, 64)[axis]).reshape([-1 if k == axis else 1 for k in range(3)])
    for order in (steps, np.flip(steps)):
        x = (order * np.ones((50, 4, 64))).astype(np.float32)
        got = gs.root_mean_square(list(gs.sum_of_squares(jnp.asarray(x))), x.size)
        np.testing.assert_allclose(got, true_rms(x), rtol=1e-5)


def test_a_few_units_of_a_dying_gradient():
    x = np.zeros((64, 128), np.float32)
    x[:, 5::16] = 1e-26
    np.testing.assert_allclose(
        gs.root_mean_square(list(gs.sum_of_squares(jnp.asarray(x))), x.size), 1e-26 / 4, rtol=1e-6
    )


@pytest.mark.parametrize("value", [1.2e-38, 1e-26, 3e-12, 1.0, 2e13, 3e38])
def test_many_equal_entries(value):
    """More of them than a float32 counts; no part of a sum is lost, no sum overflows."""
    x = jnp.full((2**12 + 1, 2**12), value, jnp.float32)
    layout = gs.Layout(frozenset({"output_rms", "output_mean", "zero_grad_fraction", "dead_fraction"}))
    f = jax.jit(lambda x: (gs.forward(x, None, layout, (1,), (0,), ()), gs.backward(x * 0, layout, (1,), (), 0.0)))
    ahead, back, _ = named(layout, (*f(x), np.zeros(0)))
    np.testing.assert_allclose(rms_of(ahead, "output", x.size), value, rtol=1e-4)
    np.testing.assert_allclose(mean_of(layout, ahead, x.size), value, rtol=1e-4)
    np.testing.assert_allclose(back["zero"], x.size, rtol=1e-6)
    assert back["dead"] == 2**12


@settings(deadline=None, max_examples=4, derandomize=True)
@given(st.integers(0, 2**32 - 1))
def test_columns_add_up_over_vmap_and_scan(seed):
    """Slabs of one array, reduced one by one, give together what the whole gives, whatever scale each of them chose."""
    layout = layout_for("float32")
    rng = np.random.default_rng(seed)
    x = make(rng, "slabs", (8, 12, 16), "float32") if seed % 2 else make(rng, "each", (8, 12, 16), "float32")
    mapped = named(layout, compiled(layout, mapped=True)(jnp.asarray(x)))
    _, stacked = jax.jit(lambda x: lax.scan(lambda c, s: (c, compiled(layout)(s)), 0.0, x))(jnp.asarray(x))
    for kind, scanned in zip(mapped, named(layout, stacked), strict=True):
        for name, column in kind.items():
            np.testing.assert_allclose(column, scanned[name], rtol=1e-5, err_msg=name)
    added = [{name: np.sum(c) for name, c in kind.items() if name[-4:] in ("_low", "_sum", "high")} for kind in mapped]
    for columns, prefix in ((added[0], "output"), (added[1], "cotangent"), (added[2], "cotangent")):
        np.testing.assert_allclose(rms_of(columns, prefix, x.size), true_rms(x), rtol=1e-5)
    for k, slab in enumerate(x):
        check(slab, layout, [{name: column[k] for name, column in kind.items()} for kind in mapped])


@pytest.mark.parametrize("vma", [True, False])
@pytest.mark.parametrize("arrangement", ["slabs", "rows at both ends"])
def test_shards_of_the_batch(arrangement, vma):
    """What four devices add up is what one holds; examples, units and the largest entry are those of all."""
    layout = layout_for("float32")
    x = make(np.random.default_rng(3), arrangement, (64, 16), "float32")
    x = np.clip(x, np.float32(-(2.0**125)), np.float32(2.0**125))  # the largest entries of four devices add up
    x[:, 3] = 0
    x[:48, 5] = 0
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))

    def columns(x):
        ahead = gs.forward(x, x, layout, (1,), (0,), ("data",))
        back = gs.backward(x, layout, (1,), ("data",), gs.flush_below(jnp.float16))
        return [lax.psum(c, "data") for c in (ahead, back, gs.reduce_input_cotangent(x, layout))]

    run = jax.jit(jax.shard_map(columns, mesh=mesh, in_specs=P("data"), out_specs=P(), check_vma=vma))
    ahead, back, input_back = named(layout, run(jnp.asarray(x)))
    assert ahead["ran"] == back["calls"] == input_back["calls"] == 4
    got = gs.similarity(ahead["direction"], ahead["alive"], ahead["ran"])
    np.testing.assert_allclose(got, true_similarity(x), atol=1e-4)
    assert back["cotangent_max"] / 4 == np.max(np.abs(x))
    assert back["dead"] / 4 == np.sum(np.all(x == 0, axis=0))
    assert back["zero"] == np.sum(x == 0)
    for columns_, prefix in ((ahead, "output"), (ahead, "input"), (back, "cotangent"), (input_back, "cotangent")):
        np.testing.assert_allclose(rms_of(columns_, prefix, x.size), true_rms(x), rtol=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_stays_nan_and_inf_stays_inf(value):
    layout = layout_for("float32")
    x = np.ones((6, 4), np.float32)
    x[2, 1] = value
    with jax.debug_nans(False):
        ahead, back, input_back = named(layout, compiled(layout)(jnp.asarray(x)))
    for columns, prefix in ((ahead, "input"), (ahead, "output"), (back, "cotangent"), (input_back, "cotangent")):
        np.testing.assert_equal(rms_of(columns, prefix, x.size), np.float32(abs(value)))
    np.testing.assert_equal(mean_of(layout, ahead, x.size), np.float32(value))
    np.testing.assert_equal(back["cotangent_max"], np.float32(abs(value)))
    assert ahead["nonfinite_forward"] == back["nonfinite_backward"] == 1


def test_zeros():
    layout = layout_for("float32")
    ahead, back, _ = named(layout, compiled(layout)(jnp.zeros((6, 4))))
    assert rms_of(ahead, "output", 24) == mean_of(layout, ahead, 24) == rms_of(back, "cotangent", 24) == 0
    assert ahead["alive"] == ahead["direction"] == 0
    assert np.isnan(gs.similarity(ahead["direction"], ahead["alive"], ahead["ran"]))
    assert (back["zero"], back["dead"], back["cotangent_max"]) == (24, 4, 0)


@pytest.mark.parametrize("shape, units", [((), ()), ((5,), ()), ((3, 4), ()), ((0, 4), (1,)), ((4, 0), (1,))])
def test_any_axes_may_be_units(shape, units):
    layout = layout_for("float32")
    x = np.zeros(shape, np.float32)
    examples = tuple(k for k in range(x.ndim) if k not in units)
    columns = jax.jit(lambda x: gs.forward(x, None, layout, units, examples, ()))(jnp.asarray(x))
    ahead = dict(zip(layout.forward, np.asarray(columns), strict=True))
    columns = jax.jit(lambda x: gs.backward(x, layout, units, (), 0.0))(jnp.asarray(x))
    back = dict(zip(layout.backward, np.asarray(columns), strict=True))
    assert rms_of(ahead, "output", x.size) == ahead["input_sum"] == 0
    assert back["zero"] == x.size
    assert back["dead"] == np.prod([shape[k] for k in units])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_exponent_histogram(dtype):
    layout = layout_for(dtype)
    x = make(np.random.default_rng(5), "each", (64, 128), dtype)
    x[:2] = 0
    edges = gs.exponent_edges(layout.dtype)
    exponent = np.frexp(np.abs(x[x != 0]).astype(np.float64))[1] - 1
    with jax.enable_x64(dtype in WIDE):
        _, back, _ = named(layout, compiled(layout)(jnp.asarray(x)))
    got = [back[f"exponent_{k}"] for k in range(gs.EXPONENT_BINS)]
    want = [np.sum((exponent >= a) & (exponent < b)) for a, b in itertools.pairwise(edges)]
    np.testing.assert_array_equal(got, want)


def test_what_16_bit_types_flush():
    values = np.array([2.0**-126, 2.0**-125, 2.0**-25, 2.0**-24, 2.0**-26, 1.0], np.float32)
    assert [v for v in values if v <= gs.flush_below(jnp.float16)] == [v for v in values if np.float16(v) == 0]
    assert not any(v <= gs.flush_below(jnp.bfloat16) for v in values)
    assert gs.flush_below(jnp.bfloat16) == pytest.approx(2.0**-126, rel=1e-6)
    with pytest.raises(ValueError, match="expected float16 or bfloat16, got float32"):
        gs.flush_below(jnp.float32)


def test_what_is_not_wanted_has_no_column():
    x = jnp.ones((4, 3))
    for name in gs.STATISTICS:
        layout = gs.Layout(frozenset({name}))
        ahead = jax.eval_shape(lambda x: gs.forward(x, x, layout, (1,), (0,), ()), x)  # noqa: B023
        back = jax.eval_shape(lambda x: gs.backward(x, layout, (1,), (), 0.0), x)  # noqa: B023
        assert (ahead.shape, back.shape) == ((len(layout.forward),), (len(layout.backward),))
        if layout.input_cotangent:
            assert gs.reduce_input_cotangent(x, layout).shape == (len(layout.input_cotangent),)
    assert gs.Layout(frozenset()).forward == ("ran",)
    assert gs.Layout(frozenset()).backward == ("calls",)


def test_numbers_are_formed_alike_on_the_host_and_traced():
    layout = layout_for("float32")
    x = make(np.random.default_rng(1), "slabs", (8, 16), "float32")
    ahead, _, _ = named(layout, compiled(layout)(jnp.asarray(x)))

    def form(ahead):
        return (
            rms_of(ahead, "output", 128),
            mean_of(layout, ahead, 128),
            gs.similarity(ahead["direction"], ahead["alive"], ahead["ran"]),
        )

    traced = jax.jit(form)({name: jnp.asarray(column) for name, column in ahead.items()})
    for got, want in zip(traced, form(ahead), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize("value", [0.0, 1e-30, 2e-38, 1.0, 1e30, 3e38])
def test_constants_known_at_compile_time(value):
    """XLA computes with constants beforehand and rewrites products of them: the rms must survive that."""
    layout = gs.Layout(frozenset({"output_rms", "similarity"}))

    @jax.jit
    def numbers():
        y = jnp.full((6, 4), value, jnp.float32)
        return gs.sum_of_squares(y), gs.forward(y, None, layout, (1,), (0,), ())

    sums, columns = numbers()
    np.testing.assert_allclose(gs.root_mean_square(list(sums), 24.0), value, rtol=1e-3)
    start = layout.forward.index("output_low")
    np.testing.assert_allclose(gs.root_mean_square(list(columns[start : start + 3]), 24.0), value, rtol=1e-3)
