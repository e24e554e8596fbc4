"""What `speed` measures besides steps: many small runs as one program, and compilation over depth."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

import gradflow as gf
from experiments.framework.timing import interleaved
from experiments.speed.results import Seconds

RATES = (0.003, 0.1)  # lowest and highest
DEPTHS = (10, 10_000)


def grid(rounds: int, steps: int, side: int) -> tuple[Seconds, dict[str, float]]:
    """Time `side` seeds x `side` learning rates of a small network in five forms.

    Args:
        rounds: in which the forms that are compiled already have their turn.
        steps: of each run.
        side: seeds, and learning rates.

    Returns:
        Seconds for all runs by form, compiled before: "one program", "program a run", "step by step"; and, compilation
        included, "one program" and "run by run", where each run compiles its own step because its optimizer is another
        function, as it is when runs are started one by one. The runs of one seed are timed, and counted for each seed.
    """
    source, example = _data()
    axes = {"seed": jnp.arange(side), "rate": jnp.geomspace(*RATES, side)}
    every = [(seed, rate) for seed in axes["seed"] for rate in axes["rate"]]
    whole = functools.partial(_whole, example, steps)
    single, single_step, start = jax.jit(whole), jax.jit(_one_step), jax.jit(functools.partial(_start, example))

    def one_program() -> None:
        jax.block_until_ready(gf.training.grid(whole, axes, source))

    def program_a_run() -> None:
        for seed, rate in every:
            jax.block_until_ready(single(source, seed, rate))

    def step_by_step() -> None:
        for seed, rate in every:
            state = start(seed, rate)
            for _ in range(steps):
                state = single_step(source, state, rate)
            jax.block_until_ready(state)

    cold = {
        "one program": _seconds(one_program),
        "run by run": side * _seconds(_cold, source, example, steps, side),
    }
    forms: dict[str, Callable[[], None]] = {
        "one program": one_program,
        "program a run": program_a_run,
        "step by step": step_by_step,
    }
    seconds = interleaved(list(forms.values()), rounds, 0.0)
    return dict(zip(forms, seconds, strict=True)), cold


def compilation(rounds: int) -> dict[int, np.ndarray]:
    """Time the compilation of a training gradient of scanned MLPs of 10 and of 10,000 layers.

    Args:
        rounds: in which the two have their turn.

    Returns:
        Depth to seconds.
    """
    found: dict[int, list[float]] = {depth: [] for depth in DEPTHS}
    for _ in range(rounds):
        for depth in DEPTHS:
            model = gf.models.MLP(depth=depth, width=32, outputs=10, scan=True)
            x = jax.ShapeDtypeStruct((16, 32), jnp.float32)
            params = jax.eval_shape(model.init, jax.random.key(0), x)

            def loss(params: Any, x: Array, model: Any = model) -> Array:
                return (model.apply(params, x) ** 2).mean()

            jax.clear_caches()
            found[depth].append(_seconds(lambda f, *a: jax.jit(f).lower(*a).compile(), jax.grad(loss), params, x))
    return {depth: np.array(seconds) for depth, seconds in found.items()}


def _model() -> Any:
    return gf.models.MLP(depth=10, width=16, outputs=10)


def _data() -> tuple[Any, Float[Array, "2 28 28 1"]]:
    data = gf.data.load()
    source = gf.data.on_device(data.train.images, data.train.labels, 16, normalization=data.normalization())
    return source, jnp.ones((2, 28, 28, 1))


def _start(example: Array, seed: Any, rate: Any) -> Any:
    return gf.training.init(_model(), optax.sgd(rate), jax.random.key(seed), example)


def _advance(source: Any, state: Any, rate: Any, steps: int) -> Any:
    step = gf.training.make_step(gf.training.classification(_model()), optax.sgd(rate))
    return gf.training.run(step, state, source, steps, every=steps, data_key=jax.random.key(7))


def _whole(example: Array, steps: int, source: Any, seed: Any, rate: Any) -> Any:
    return _advance(source, _start(example, seed, rate), rate, steps)[1]


def _one_step(source: Any, state: Any, rate: Any) -> Any:
    return _advance(source, state, rate, 1)[0]


def _cold(source: Any, example: Array, steps: int, side: int) -> None:
    """Each run of one seed as a program of its own, its rate a Python number."""
    for rate in np.geomspace(*RATES, side):
        run = jax.jit(lambda source, rate=float(rate): _whole(example, steps, source, 0, rate))
        jax.block_until_ready(run(source))


def _seconds(function: Callable[..., Any], *arguments: Any) -> float:
    started = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - started
