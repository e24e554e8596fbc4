"""The handlers, held against float64 NumPy and against the reductions in JAX."""

from __future__ import annotations

import concurrent.futures
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow.instrument import statistics as gs
from gradflow.instrument.native.library import TARGETS
from tests.instrument.test_range import ALL, ARRANGEMENTS, WIDE, check, layout_for, make, named, true_rms

TYPES = ("float32", "bfloat16", "float16", "float64")
LENGTHS = (1, 7, 63, 65)
FLUSH = gs.flush_below(jnp.float16)


def columns(layout, units=1):
    """The three reductions of an array, its last axes being the units."""

    def reduced(x):
        axes = tuple(range(x.ndim))
        unit_axes, examples = axes[x.ndim - units :], axes[: x.ndim - units]
        return (
            gs.forward(x, x, layout, unit_axes, examples, ()),
            gs.backward(x, layout, unit_axes, (), FLUSH),
            gs.reduce_input_cotangent(x, layout),
        )

    return reduced


def formed(layout, reduced, size):
    """What a user sees of the columns: sums of squares and totals may stand in different ones of them."""
    ahead, back, input_back = named(layout, reduced)
    seen = {name: column for kind in (ahead, back) for name, column in kind.items() if not name.endswith(gs.SCALES)}
    for kind, prefix in ((ahead, "input"), (ahead, "output"), (back, "cotangent"), (input_back, "cotangent")):
        if f"{prefix}_sum" in kind:
            sums = [kind[f"{prefix}_{scale}"] for scale in gs.SCALES]
            seen[f"{prefix}{len(kind)}_rms"] = gs.root_mean_square(sums, float(max(size, 1)))
    if "total_sum" in ahead:
        seen["mean"] = gs.mean([ahead[name] for name in layout.total], float(max(size, 1)))
    return seen


def same(layout, want, got, size, scale=1.0):
    want, got = formed(layout, want, size), formed(layout, got, size)
    assert want.keys() == got.keys()
    for name, value in want.items():
        loose = {"mean": 1e-5 * scale, "direction": 1e-4 * max(size, 1)}.get(name, 0)
        np.testing.assert_allclose(got[name], value, rtol=2e-5, atol=loose, err_msg=name)


@pytest.mark.quick_cases(9)
@pytest.mark.quick_cases(3)
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
@pytest.mark.parametrize("dtype", TYPES)
def test_every_arrangement_of_exponents(native, arrangement, dtype):
    layout = layout_for(dtype)
    with jax.enable_x64(dtype in WIDE):
        reduce = jax.jit(columns(layout))
        for seed, shape in enumerate([(12, 3, 16), (33, 5), (7, 2100)]):
            x = make(np.random.default_rng(seed), arrangement, shape, dtype)
            check(x, layout, named(layout, reduce(jnp.asarray(x))))


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("dtype", TYPES)
def test_every_length(native, dtype):
    layout = layout_for(dtype)
    reduce = columns(layout)
    with jax.enable_x64(dtype in WIDE):
        for shape in itertools.product(LENGTHS, LENGTHS):
            x = make(np.random.default_rng(sum(shape)), "each", shape, dtype)
            check(x, layout, named(layout, reduce(jnp.asarray(x))))


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0,), (0, 0)])
def test_nothing_to_reduce(both, shape):
    layout = layout_for("float32")
    same(layout, *both(columns(layout), jnp.zeros(shape)), 0)


@pytest.mark.parametrize("shape, units", [((), 0), ((5,), 0), ((5,), 1), ((3, 4, 6), 2), ((3, 4, 6), 3), ((2, 3), 0)])
def test_scalars_and_several_axes_of_units(both, shape, units):
    layout = layout_for("float32")
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape).astype(np.float32))
    same(layout, *both(columns(layout, units), x), x.size)


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    "kind", ["zeros", "subnormals", "one huge entry", "huge rows", "NaN", "Inf", "-Inf", "Inf, NaN"]
)
def test_what_is_special_is_what_the_reference_makes_of_it(both, dtype, kind):
    layout = layout_for(dtype)
    info = jnp.finfo(dtype)
    x = np.random.default_rng(1).normal(size=(9, 21)).astype(info.dtype)
    x[:, 4] = 0
    if kind == "zeros":
        x[:] = 0
    elif kind == "subnormals":
        x[:, :9] = np.asarray(info.smallest_subnormal) * 3
        x[3:5] = np.asarray(info.smallest_subnormal)
    elif kind == "one huge entry":
        x[2, 3] = info.max
    elif kind == "huge rows":
        x[1:6] = np.sign(x[1:6]) * (info.max / np.asarray(8, info.dtype))
    else:
        x[2, 3] = float(kind.split(",")[0])
        x[5, 3] = float(kind.split(", ")[-1])
    with jax.enable_x64(dtype in WIDE):
        if kind == "subnormals":  # which of them the histogram tells from 0 depends on the backend
            layout = gs.Layout(layout.wanted - {"exponent_histogram"}, layout.dtype)
        want, got = both(columns(layout), x)  # from the host: NaN is put on the device where it is no error
        scale = float(np.max(np.abs(x[np.isfinite(x)]).astype(np.float64)))
        same(layout, want, got, x.size, scale)


@pytest.mark.quick_cases(5)
@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("field", gs.STATISTICS)
def test_any_subset(both, field):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32))
    for wanted in ({field}, ALL - {field}, {field, "similarity", "underflow_fraction"}):
        layout = gs.Layout(frozenset(wanted))
        want, got = both(lambda x, layout=layout: columns(layout)(x)[: 3 if layout.input_cotangent else 2], x)
        assert [c.shape for c in want] == [c.shape for c in got]
        pad = [np.zeros(0)] * (3 - len(want))
        same(layout, (*want, *pad), (*got, *pad), x.size)


def test_mixed_types_of_input_and_output(both):
    x, y = jnp.ones((4, 3), jnp.bfloat16) * 3, jnp.ones((4, 5), jnp.float32)
    layout = layout_for("float32")
    want, got = both(lambda y, x: gs.forward(y, x, layout, (1,), (0,), ()), y, x)
    np.testing.assert_allclose(want, got, rtol=1e-5)
    with jax.enable_x64(True):
        layout = layout_for("float64")
        want, got = both(lambda y, x: gs.forward(y, x, layout, (1,), (0,), ()), y, x)
        np.testing.assert_allclose(want, got, rtol=1e-6)


def test_sums_of_squares_of_many_arrays(both):
    rng = np.random.default_rng(0)
    arrays = [10.0 ** rng.uniform(-37, 37, n).astype(np.float32) * rng.choice([-1, 1], n) for n in (0, 1, 7, 5000)]
    arrays = [jnp.asarray(a, jnp.float32) for a in arrays]
    _, got = both(lambda *arrays: gs.sums_of_squares(arrays, "float32"), *arrays)
    for sums, a in zip(np.split(np.asarray(got), 4), arrays, strict=True):
        want = true_rms(a) if a.size else 0.0
        np.testing.assert_allclose(gs.root_mean_square(list(sums), float(max(a.size, 1))), want, rtol=1e-6)


def call(name, *arrays, columns, dtype=jnp.float32, **attributes):
    shape = jax.ShapeDtypeStruct((columns,), dtype)
    return jax.jit(lambda *arrays: jax.ffi.ffi_call(TARGETS[name], shape)(*arrays, **attributes))(*arrays)


def test_wrong_arguments_are_errors(handlers):
    x = jnp.ones((4, 3))
    squares = {"flags": np.int64(0)}
    back = {"flags": np.int64(1), "unit_axes": np.int64(1), "flush": np.float64(0)}
    np.testing.assert_allclose(call("squares", x, columns=3, **squares), [0, 12, 0])
    for name, array, width, attributes, message in (
        ("squares", jnp.ones((4, 3), jnp.int32), 3, squares, "operands are float32, float64, bfloat16 or float16"),
        ("squares", x.astype(jnp.complex64), 3, squares, "operands are float32"),
        ("squares", x, 4, squares, "another number of columns"),
        ("squares", x, 3, {}, "attribute flags missing"),
        ("squares", x, 3, {"flags": np.int32(0)}, "attribute flags missing"),
        ("forward", x, 2, {"flags": np.int64(1)}, "another number of columns"),
        ("forward", jnp.ones(()), 2, {"flags": np.int64(6)}, "a scalar has no examples"),
        ("backward", x, 3, {"flags": np.int64(1)}, "unit_axes or flush missing"),
        ("backward", x, 3, back | {"unit_axes": np.int64(3)}, "more axes of units than axes"),
        ("backward", x, 3, back | {"unit_axes": np.int64(-1)}, "more axes of units than axes"),
    ):
        with pytest.raises(Exception, match=message):
            jax.block_until_ready(call(name, array, columns=width, **attributes))
    with jax.enable_x64(True), pytest.raises(Exception, match="float64 needs columns of float64"):
        jax.block_until_ready(call("squares", jnp.ones(3, jnp.float64), columns=3, **squares))
    with pytest.raises(Exception, match="columns are float32 or float64"):
        jax.block_until_ready(call("squares", x, columns=3, dtype=jnp.bfloat16, **squares))


def test_the_same_bits_from_every_thread(native):
    layout = layout_for("float32")
    x = jnp.asarray(make(np.random.default_rng(0), "each", (257, 301), "float32"))
    program = jax.jit(columns(layout)).lower(x).compile()
    want = [np.asarray(c).tobytes() for c in program(x)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for got in pool.map(lambda _: program(x), range(64)):
            assert [np.asarray(c).tobytes() for c in got] == want
