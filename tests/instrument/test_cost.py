"""What the instrument may not cost: activation-sized memory, a program that grows with depth, a slow import."""

from __future__ import annotations

import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import gradflow as gf

# Compile as users do: with optimizations the older emitter of tests/conftest.py takes ten times as long.
AS_USERS = {"xla_cpu_use_fusion_emitters": True} if jax.__version_info__ < (0, 11) else None  # the newest has no other


def compiled(fun, *args):
    return jax.jit(fun).lower(*args).compile(AS_USERS)


def temporary_bytes(program):
    return program.memory_analysis().temp_size_in_bytes


def unrolled(depth, width, batch):
    params = {f"Dense_{i}": {"w": jnp.zeros((width, width)), "b": jnp.zeros(width)} for i in range(depth)}

    def loss(params, x):
        for layer in params.values():
            x = jnp.tanh(x @ layer["w"] + layer["b"])
        return jnp.mean(x**2)

    return loss, params, jnp.zeros((batch, width))


def scanned(depth, width, batch):
    params = {"layers": {"w": jnp.zeros((depth, width, width))}}

    def loss(params, x):
        return jnp.mean(lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, params["layers"]["w"])[0] ** 2)

    return loss, params, jnp.zeros((batch, width))


def normalized(depth, width, batch):
    params = {f"Dense_{i}": {"w": jnp.eye(width), "s": jnp.ones(width)} for i in range(depth)}

    def loss(params, x):
        for layer in params.values():
            y = x @ layer["w"]
            mean, square = jnp.mean(y, 0), jnp.mean(y**2, 0)
            x = jax.nn.relu((y - mean) * jax.lax.rsqrt(square - mean**2 + 1e-5) * layer["s"])
        return jnp.mean(x**2)

    return loss, params, jnp.zeros((batch, width))


def added_bytes(model, depth, **options):
    loss, params, x = model(depth, 64, 512)
    plain = temporary_bytes(compiled(jax.value_and_grad(loss), params, x))
    assert plain > depth * x.size  # the model itself keeps activations
    return temporary_bytes(compiled(gf.value_grad_and_flow(loss, **options), params, x)) - plain, x.size * 4


@pytest.mark.slow
def test_nothing_activation_sized_is_added():
    added, activation = added_bytes(unrolled, 12, data_gradients=False)
    assert added < activation / 4


@pytest.mark.slow
def test_nothing_is_added_where_several_operations_read_a_layer():
    """Batch norm reads its input three times; what holds a value back must not make another copy of it each time."""
    added, activation = added_bytes(normalized, 12, data_gradients=False)
    assert added < activation / 2


@pytest.mark.slow
def test_the_gradient_of_the_data_is_one_array_of_its_size():
    added, activation = added_bytes(unrolled, 12)
    assert added < 1.25 * activation


@pytest.mark.slow
def test_nothing_is_added_for_each_step_of_a_scan():
    """XLA copies the carry once because two kernels of the loop's body read it; more steps add nothing."""
    added, activation = added_bytes(scanned, 12)
    deeper, _ = added_bytes(scanned, 48)
    assert added < 1.25 * activation
    assert deeper - added < activation / 4


def test_the_program_of_a_scan_does_not_grow_with_depth():
    def size(depth):
        loss, params, x = scanned(depth, 8, 4)
        return len(jax.jit(gf.value_grad_and_flow(loss)).lower(params, x).as_text())

    assert size(1000) < 1.02 * size(10)


def test_statistics_left_out_cost_nothing():
    """The program for one statistic is less than half of the one for all."""
    loss, params, x = unrolled(3, 16, 32)

    def size(**options):
        return len(jax.jit(gf.value_grad_and_flow(loss, **options)).lower(params, x).as_text())

    plain = len(jax.jit(jax.value_and_grad(loss)).lower(params, x).as_text())
    assert plain < size(statistics="output_grad_rms") < 0.5 * size()


def test_a_tap_costs_nothing_outside():
    def with_tap(x):
        return jnp.sum(gf.tap("h", jnp.tanh(x)) ** 2)

    def without(x):
        return jnp.sum(jnp.tanh(x) ** 2)

    programs = [compiled(jax.grad(f), jnp.ones((8, 8))).as_text().count("fusion(") for f in (with_tap, without)]
    assert programs[0] == programs[1]


def test_import_is_as_quick_as_that_of_jax():
    code = (
        "import time, jax, sys; before = set(sys.modules); t = time.perf_counter(); import gradflow; "
        "print(time.perf_counter() - t, 'flax' in sys.modules, 'matplotlib' in sys.modules)"
    )
    seconds, flax, matplotlib = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert float(seconds) < 0.3
    assert (flax, matplotlib) == ("False", "False")
