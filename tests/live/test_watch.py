"""The watch in a plain loop: the flow that it records, the programs that it makes, what it refuses."""

from __future__ import annotations

import dataclasses
import logging
import re
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow.instrument import FlowError
from gradflow.live.watch import STATISTICS
from tests.live import problems
from tests.live.problems import Collected, Snapshots, batch, loss_fn, make_train_step, parameters
from tests.user_errors import without_type_checker

STEPS = 7
FEW = ("output_grad_rms", "weight_grad_norm")  # where the numbers are not what a test is about


@pytest.fixture(scope="module")
def oracle():
    """Values, parameters and flows of plain gradient descent, one step after the other."""
    plain = jax.jit(jax.value_and_grad(loss_fn))
    look = jax.jit(gf.value_grad_and_flow(loss_fn, statistics=STATISTICS))
    params, values, flows = parameters(), [], []
    for step in range(STEPS):
        flows.append(look(params, batch(step))[2])
        value, grads = plain(params, batch(step))
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
        values.append(float(value))
    return params, values, flows


def assert_flow(got, want):
    assert got.layers == want.layers
    for name in want.layers:
        for statistic in STATISTICS:
            if statistic != "nonfinite":
                a, b = (getattr(f[name], statistic) for f in (got, want))
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-9, err_msg=f"{name} {statistic}")
    for path, leaf in want.parameters.items():
        np.testing.assert_allclose(got.parameters[path].gradient_norm, leaf.gradient_norm, rtol=1e-5)


def train(watch, step_function, steps=STEPS, as_step=int):
    params, values = parameters(), []
    with watch:
        for step in range(steps):
            params, value, record = step_function(as_step(step), params, batch(step))
            watch.write(record)
            values.append(value)
    return params, [float(v) for v in values]


WAYS = {
    "watch.jit": (lambda watch, fun: watch.jit(fun), int),
    "watch.jit, a step on the device": (lambda watch, fun: watch.jit(fun), jnp.int32),
    "a branch inside jit": (lambda watch, fun: jax.jit(fun), int),
}


def test_outside_of_jit_a_step_is_recorded_too(oracle):
    writer = Collected()
    watch = gf.watch(loss_fn, every=3, writers=[writer], statistics="output_grad_rms")
    _, losses = train(watch, make_train_step(watch), steps=2)
    assert list(writer.flows) == [0]
    for name in oracle[2][0].layers:
        layer = oracle[2][0][name]
        np.testing.assert_allclose(writer.flows[0][name].output_grad_rms, layer.output_grad_rms, rtol=1e-5)
    np.testing.assert_allclose(losses, oracle[1][:2], rtol=1e-5)


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("way", WAYS)
def test_records_are_the_flows_of_the_steps(oracle, way):
    compiled, as_step = WAYS[way]
    params, values, flows = oracle
    writer = Collected()
    watch = gf.watch(loss_fn, every=3, writers=[writer])
    got, losses = train(watch, compiled(watch, make_train_step(watch)), as_step=as_step)
    assert list(writer.flows) == [0, 3, 6]
    assert writer.closed == 1
    for step, flow in writer.flows.items():
        assert_flow(flow, flows[step])
    np.testing.assert_allclose(losses, values, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), got, params)


def test_a_branch_changes_no_bit():
    watch = gf.watch(loss_fn, statistics=FEW, every=2)
    watched = jax.jit(make_train_step(watch))
    plain = jax.jit(make_train_step(lambda step, *args: jax.value_and_grad(loss_fn)(*args)))
    a = b = parameters()
    for step in range(4):
        a, b = watched(step, a, batch(step))[0], plain(step, b, batch(step))[0]
    jax.tree.map(np.testing.assert_array_equal, a, b)


def compiled_text(program, *args):
    text = program.lower(*args).compile().as_text()
    text = re.sub(r", metadata=\{[^}]*\}", "", text)
    return re.sub(r"\n(FileNames|FunctionNames|FileLocations|StackFrames)\n(.*\n)*?(?=\n|$)", "\n", text)


def test_between_records_the_program_is_the_one_without():
    """Identical compiled text, with donation; that with the flow is another, which shows that texts can differ."""
    args = (jnp.int32(1), parameters(), batch(0))
    watch = gf.watch(loss_fn, every=3)
    watched = watch.jit(make_train_step(watch), donate_argnums=1)
    plain = jax.jit(make_train_step(lambda step, *rest: jax.value_and_grad(loss_fn)(*rest)), donate_argnums=1)
    with jax.debug_nans(False):  # JAX donates nothing where it may have to run a program again
        want = compiled_text(plain, *args)
        assert "input_output_alias" in want
        assert compiled_text(watched.plain, *args) == want
        assert compiled_text(watched.recording, *args) != want


def test_two_programs_are_compiled_and_no_more(caplog):
    watch = gf.watch(loss_fn, statistics=FEW, every=3)
    step_function = watch.jit(make_train_step(watch))
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        train(watch, step_function)
    compiled = [r.getMessage() for r in caplog.records if r.getMessage().startswith("Compiling jit(train_step)")]
    assert len(compiled) == 2


def test_donated_buffers_are_reused():
    watch = gf.watch(loss_fn, statistics=FEW, every=2)
    step_function = watch.jit(make_train_step(watch), donate_argnums=1)
    with jax.debug_nans(False), watch:  # JAX donates nothing where it may have to run a program again
        params = parameters()
        for step in range(3):
            before = params["first"]["kernel"]
            params, _, record = step_function(step, params, batch(step))
            watch.write(record)
            assert before.is_deleted()


def test_inside_a_step_nothing_goes_to_the_host():
    watch = gf.watch(loss_fn, statistics=FEW, every=2, history=50)
    args = (jnp.int32(1), parameters(), batch(0))
    step_function = watch.jit(make_train_step(watch))
    for program in (step_function.plain, step_function.recording, jax.jit(make_train_step(watch))):
        assert "callback" not in program.lower(*args).as_text()
    _, params, x = args
    step_function(0, params, x)
    with jax.transfer_guard_device_to_host("disallow"), watch:
        for number in range(1, 5):
            params, _, record = step_function(number, params, x)
            watch.write(record)


def test_a_scan_takes_many_steps(oracle):
    params, values, flows = oracle
    writer = Collected()
    watch = gf.watch(loss_fn, every=3, writers=[writer])
    xs = jnp.stack([batch(step) for step in range(STEPS)])

    @jax.jit
    def run(params, xs):
        def body(params, at):
            params, value, record = make_train_step(watch)(*at[:1], params, at[1])
            return params, (value, record)

        return jax.lax.scan(body, params, (jnp.arange(STEPS), xs))

    with watch:
        got, (losses, record) = run(parameters(), xs)
        assert record.holds_flow.tolist() == [True, False, False, True, False, False, True]
        watch.write(record)
    assert list(writer.flows) == [0, 3, 6]
    for step, flow in writer.flows.items():
        assert_flow(flow, flows[step])
    np.testing.assert_allclose(losses, values, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), got, params)


def test_a_step_on_the_device_is_counted_from_where_the_run_goes_on():
    writer = Collected()
    watch = gf.watch(loss_fn, statistics=FEW, every=3, writers=[writer])
    step_function, params = watch.jit(make_train_step(watch)), parameters()
    with watch:
        for step in range(100, 107):
            params, _, record = step_function(jnp.int32(step), params, batch(step))
            watch.write(record)
    assert list(writer.flows) == [100, 102, 105]  # the first one tells the number
    assert list(gf.live.FlowHistory.__dataclass_fields__) == ["steps", "layers", "values"]


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("way", ["watch.jit", "a branch inside jit"])
def test_updates_are_beside_the_weights(way):
    writer = Snapshots()
    watch = gf.watch(loss_fn, statistics=FEW, every=2, writers=[writer])

    def train_step(step, params, x):
        _, grads, record = watch(step, params, x)
        updates = jax.tree.map(lambda g: -0.1 * g, grads)
        record = watch.updates(record, updates, params)
        return jax.tree.map(jnp.add, params, updates), grads, record

    run, params = WAYS[way][0](watch, train_step), parameters()
    params["head"]["bias"] += 2
    with watch:
        old = params
        params, grads, record = run(0, params, batch(0))
        watch.write(record)
        watch.write(run(1, params, batch(1))[2])
    assert list(writer.taken) == [0]
    taken = writer.taken[0]
    norm = lambda x: float(np.linalg.norm(np.asarray(x, np.float64)))  # noqa: E731
    for path, ratio in taken.update_ratios.items():
        layer, leaf = path.split("/")
        if leaf == "bias" and layer != "head":
            assert np.isnan(ratio)  # beside weights of 0 no update has a ratio
        else:
            np.testing.assert_allclose(ratio, 0.1 * norm(grads[layer][leaf]) / norm(old[layer][leaf]), rtol=1e-5)
    whole = np.sqrt(sum(norm(g) ** 2 for g in jax.tree.leaves(grads)))
    np.testing.assert_allclose(taken.update_norm, 0.1 * whole, rtol=1e-5)
    assert taken.loss is not None


def test_a_step_that_updates_nothing_has_no_ratios():
    writer = Snapshots()
    watch = gf.watch(loss_fn, statistics=FEW, every=1, writers=[writer])
    with watch:
        _, _, record = watch(0, parameters(), batch(0))
        watch.write(watch.updates(record, jax.tree.map(jnp.zeros_like, parameters()), parameters()))
    assert writer.taken[0].update_ratios is None
    assert writer.taken[0].update_norm is None


def test_write_returns_at_once_and_two_flows_wait_at_most():
    gate, written = threading.Event(), []

    class Slow:
        def write(self, flow, step):
            gate.wait(20)
            written.append(step)

    watch = gf.watch(loss_fn, statistics=FEW, every=1, writers=[Slow()])
    record = watch(0, parameters(), batch(0))[2]
    with watch:
        began = time.monotonic()
        watch.write(record)
        watch.write(record)
        assert time.monotonic() - began < 5
        third = threading.Thread(target=watch.write, args=(record,))
        third.start()
        third.join(0.2)
        assert third.is_alive()  # it waits, so that a kill cannot lose more than two
        gate.set()
        third.join(20)
    assert written == [0, 0, 0]


def write_three(watch, record, *, interrupt=False):
    for step in range(3):
        watch.write(dataclasses.replace(record, step=jnp.int32(step)))
    if interrupt:
        raise KeyboardInterrupt
    watch.close()


def test_a_writer_that_fails_says_so_once():
    class Broken:
        def write(self, flow, step):
            raise OSError("disk full")

    writer = Collected()
    watch = gf.watch(loss_fn, statistics=FEW, every=1, writers=[Broken(), writer])
    record = watch(0, parameters(), batch(0))[2]
    with pytest.warns(RuntimeWarning, match=r"the writer Broken failed: OSError: disk full\. Training goes on") as said:
        write_three(watch, record)
    assert len(said) == 1
    assert list(writer.flows) == [0, 1, 2]


def test_an_exception_loses_no_record():
    writer = Collected()
    watch = gf.watch(loss_fn, statistics=FEW, every=1, writers=[writer])
    record = watch(0, parameters(), batch(0))[2]
    with pytest.raises(KeyboardInterrupt), watch:
        write_three(watch, record, interrupt=True)
    assert list(writer.flows) == [0, 1, 2]
    with pytest.raises(RuntimeError, match="expected an open watch"):
        watch.write(watch(0, parameters(), batch(0))[2])


def test_has_aux_argnums_and_select():
    def loss(x, params, scale):
        value = loss_fn(params, x) * scale
        return value, {"value": value}

    writer = Collected()
    watch = gf.watch(loss, every=2, writers=[writer], argnums=(1, 2), has_aux=True, select="*head", history=5)
    for compiled in (lambda f: f, jax.jit):
        (value, aux), grads, record = compiled(lambda step, *args: watch(step, *args))(0, batch(0), parameters(), 2.0)
        assert aux["value"] == value
        assert record.loss == value
        assert len(grads) == 2
        assert record.flow.layers == ("params/head",)
        assert record.layers == ("params/first", "params/head", "params/second", "scale")
    watch.close()


def inner_jit(watch):
    inner = jax.jit(lambda step, *args: watch(step, *args))
    return lambda step, params, x: inner(step, params, x)


def scanned(watch):
    def run(step, params, x):
        return jax.lax.scan(lambda c, at: (c, watch(at, params, x)[2]), 0, jnp.arange(2))

    return run


@pytest.mark.parametrize(
    "make, words",
    [
        (inner_jit, "inside another jax.jit"),
        (lambda watch: lambda step, params, x: watch(step, params, x)[:2], "the record was left out"),
        (scanned, "calls it inside a scan"),
    ],
)
def test_step_functions_that_would_lose_the_flow_are_refused(make, words):
    watch = gf.watch(loss_fn, statistics=FEW, every=2)
    step_function = watch.jit(make(watch))
    with pytest.raises(FlowError, match=words):
        [step_function(step, parameters(), batch(0)) for step in range(2)]


@without_type_checker()
def test_bad_input_is_refused():
    watch = gf.watch(loss_fn)
    with pytest.raises(
        TypeError, match=r"the number of the step, an integer, got dict\. Likely cause: the step was left out"
    ):
        watch(parameters(), batch(0))
    with pytest.raises(TypeError, match="an integer, got bool"):
        watch(True, parameters(), batch(0))
    with pytest.raises(TypeError, match="an integer, got float"):
        watch(1.0, parameters(), batch(0))
    with pytest.raises(ValueError, match="at least 1 step, got 0"):
        gf.watch(loss_fn, every=0)
    for history in (-1, 1.5, None):
        with pytest.raises(ValueError, match="expected a number of steps, got"):
            gf.watch(loss_fn, history=history)
    with pytest.raises(TypeError, match=r"expected a list of writers, got Jsonl\. Fix: writers=\["):
        gf.watch(loss_fn, writers=gf.live.Jsonl("run.jsonl"))
    assert gf.watch(writers=(Collected() for _ in range(2))).plan(None).written
    for step in (0, 1):
        with pytest.raises(ValueError, match="got argnums=0 in a call with 0 of them"):
            gf.watch(loss_fn, every=2, history=5)(step, params=parameters(), x=batch(0))
    for step in (2**31, np.int64(2**31)):
        with pytest.raises(ValueError, match="Likely cause: examples or tokens are counted"):
            watch.jit(make_train_step(watch))(step, parameters(), batch(0))
    with pytest.raises(TypeError, match=r"objects with write\(flow, step\), got str"):
        gf.watch(loss_fn, writers=["run.jsonl"])
    with pytest.raises(ValueError, match="unknown statistic"):
        gf.watch(loss_fn, statistics="output_rsm")
    with pytest.raises(TypeError, match="expected a loss function, got float"):
        gf.watch(3.0)
    with pytest.raises(TypeError, match="a watch of a loss function"):
        gf.watch()(0, parameters(), batch(0))
    with pytest.raises(TypeError, match="expected a record, the third"):
        watch.write(watch(0, parameters(), batch(0)))
    with pytest.raises(FlowError, match="inside jit or scan"):
        jax.jit(lambda step: watch.write(watch(step, parameters(), batch(0))[2]))(0)
    record = watch(0, parameters(), batch(0))[2]
    with pytest.raises(ValueError, match="expected updates of the parameters' structure, 6 leaves, got 2"):
        watch.updates(record, parameters()["head"], parameters())
    assert record.flow.layers == problems.NAMES
