"""What a watch costs: `python -m tests.live.costs` times steps side by side, round by round, and prints medians.

A tanh network of 50 layers of 100 units, batch 128, gradient descent. Times are those of the processor (all threads),
so that other programs count little; start it on one core (`taskset -c 1`).
"""

from __future__ import annotations

import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

import gradflow as gf
from gradflow.live.watch import STATISTICS

DEPTH, WIDTH, BATCH, STEPS = 50, 100, 128, 10
RARELY = 10**6


def problem():
    random = np.random.default_rng(0)
    kernels = random.normal(size=(DEPTH, WIDTH, WIDTH)).astype(np.float32) / np.float32(np.sqrt(WIDTH))
    params = {f"layer_{k:02}": {"kernel": jnp.asarray(w), "bias": jnp.zeros(WIDTH)} for k, w in enumerate(kernels)}
    return params, jnp.asarray(random.normal(size=(BATCH, WIDTH)).astype(np.float32))


def loss_fn(params, x):
    for name in sorted(params):
        x = jnp.tanh(x @ params[name]["kernel"] + params[name]["bias"])
    return jnp.mean(jnp.square(x))


def plain(step, params, x):
    return jax.value_and_grad(loss_fn)(params, x)


def naive(step, params, x):
    """The whole of value, gradients and flow in the branch."""
    look = gf.value_grad_and_flow(loss_fn, statistics=STATISTICS, data_gradients=False)
    shapes = jax.eval_shape(look, params, x)[2]

    def without(params, x):
        empty = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        return *jax.value_and_grad(loss_fn)(params, x), empty

    return jax.lax.cond(step % RARELY == 0, look, without, params, x)


def step_of(differentiate):
    def train_step(step, params, x):
        value, grads, *record = differentiate(step, params, x)
        return jax.tree.map(lambda p, g: p - 1e-3 * g, params, grads), value, *record

    return train_step


def scan_of(differentiate):
    def run(first, params, x):
        def body(params, step):
            params, *out = step_of(differentiate)(step, params, x)
            return params, out

        return jax.lax.scan(body, params, first + jnp.arange(STEPS))

    return run


def compiled(function, params, x):
    lowered = jax.jit(function).lower(jnp.int32(1), params, x)
    began = time.process_time()
    program = lowered.compile()
    return program, time.process_time() - began, program.memory_analysis().temp_size_in_bytes


def measure(rounds: int) -> None:
    params, x = problem()
    watch, watch_history = gf.watch(loss_fn, RARELY), gf.watch(loss_fn, RARELY, history=200)
    two, with_history = (w.jit(step_of(w)) for w in (watch, watch_history))
    programs = {
        "step": (step_of(plain), 1),
        "step, watch.jit, recorded": (two.recording.__wrapped__, 1),
        "step, history": (with_history.plain.__wrapped__, 1),
        "scan": (scan_of(plain), STEPS),
        "scan, branch of the watch": (scan_of(watch), STEPS),
        "scan, naive branch": (scan_of(naive), STEPS),
    }
    made = {name: compiled(function, params, x) for name, (function, _) in programs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, (_, steps) in programs.items():
            began = time.process_time()
            for _ in range(STEPS // steps):
                jax.block_until_ready(made[name][0](jnp.int32(1), params, x))
            seconds[name].append((time.process_time() - began) / STEPS)
    print(f"{'':28}{'ms a step':>10}{'ratio':>8}{'compile s':>11}{'ratio':>8}{'temp MB':>9}{'ratio':>8}")
    for name, (_, compile_seconds, memory) in made.items():
        base = "scan" if name.startswith("scan") else "step"
        ratio = statistics.median(a / b for a, b in zip(seconds[name], seconds[base], strict=True))
        _, base_compile, base_memory = made[base]
        print(
            f"{name:28}{1e3 * statistics.median(seconds[name]):10.2f}{ratio:8.3f}{compile_seconds:11.1f}"
            f"{compile_seconds / base_compile:8.2f}{memory / 1e6:9.2f}{memory / base_memory:8.2f}"
        )


if __name__ == "__main__":
    measure(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
