"""Run and claims of `overhead`."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

import experiments.overhead as package
import gradflow as gf
from experiments.framework.claims import Claim
from experiments.framework.progress import track
from experiments.framework.runner import Experiment
from experiments.framework.timing import interleaved, torch_installed
from experiments.overhead import bands, cases, figures
from experiments.overhead.results import Deep, Results
from experiments.overhead.settings import PRESETS, Config
from gradflow.instrument.replacement import REPLACEMENTS, references_alone


def run(config: Config) -> Results:
    """Time every network and every alternative."""
    names = list(bands.TIME_TARGETS)
    rows = [_measure(_case(name, config.shrink), config) for name in track(names, "network")]
    by_statistic = {
        name: _by_statistic(_case(name, config.shrink), config) for name in track(list(cases.FULL), "statistics")
    }
    others = {
        name: _alternatives(_case(name, config.shrink), config) for name in track(list(cases.FULL), "alternative")
    }
    return Results(
        shrink=config.shrink,
        cases=np.array(names),
        native=bool(REPLACEMENTS),
        **{field: np.stack([row[field] for row in rows]) for field in rows[0]},
        floors=_floors(dict(zip(names, rows, strict=True)), config.shrink),
        statistics=np.array(gf.instrument.statistics.DEFAULT_STATISTICS),
        by_statistic=by_statistic,
        like={name: found["like"] for name, found in others.items()},
        flax={name: found["flax"] for name, found in others.items()},
        flax_memory={name: float(found["flax memory"]) for name, found in others.items()},
        torch={name: found["torch"] for name, found in others.items() if "torch" in found},
        deep=_deep(config),
    )


def _case(name: str, shrink: int) -> cases.Case:
    target = bands.TIME_TARGETS[name]
    if name in cases.FULL:
        return cases.mlp(name, shrink, target)
    return cases.lstm(shrink, target) if name.startswith("lstm") else cases.resnet(shrink, target)


def _measure(case: cases.Case, config: Config) -> dict[str, np.ndarray]:
    alone = functools.partial(gf.value_grad_and_flow, statistics="output_grad_rms")
    programs = [_compile(case, transform) for transform in (jax.value_and_grad, gf.value_grad_and_flow, alone)]
    with references_alone():
        programs.append(_compile(case, gf.value_grad_and_flow))
    seconds = interleaved([program.step for program in programs], config.rounds, config.seconds)
    return {
        "seconds": seconds,
        "time_ratio": seconds[1] / seconds[0],
        "time_ratio_alone": seconds[2] / seconds[0],
        "time_ratio_reference": seconds[3] / seconds[0],
        "compile_seconds": np.array([program.compile_seconds for program in programs]),
        "memory_bytes": np.array([program.memory for program in programs], np.int64),
    }


class _Program(NamedTuple):
    """A compiled step, what it took to compile it, and its temporary memory in bytes."""

    step: Callable[[], None]
    compile_seconds: float
    memory: int


def _compile(case: cases.Case, transform: Callable[..., Any]) -> _Program:
    started = time.perf_counter()
    program = jax.jit(transform(case.loss)).lower(case.params, case.x).compile()
    return _Program(
        _blocking(program, case.params, case.x), time.perf_counter() - started, _temporary_bytes(program)
    )  # fmt: skip


def _by_statistic(case: cases.Case, config: Config) -> np.ndarray:
    """Return step time, compile time and memory of each statistic alone, over plain."""
    names = gf.instrument.statistics.DEFAULT_STATISTICS
    plain = _compile(case, jax.value_and_grad)
    programs = [_compile(case, functools.partial(gf.value_grad_and_flow, statistics=name)) for name in names]
    seconds = interleaved([program.step for program in (plain, *programs)], config.rounds, config.seconds)
    return np.stack([
        np.median(seconds[1:] / seconds[0], axis=1),
        np.array([program.compile_seconds / plain.compile_seconds for program in programs]),
        np.array([program.memory / plain.memory for program in programs]),
    ], axis=1)  # fmt: skip


def _floors(rows: dict[str, dict[str, np.ndarray]], shrink: int) -> dict[str, float]:
    """Return what reading every reduced array once more costs, for the MLPs, whose arrays are known.

    A layer of width n and a batch of b: output, input, two cotangents of b n numbers, a matrix and its gradient of n^2.
    """
    speed = _bytes_per_second()
    out = {}
    for name in cases.FULL:
        depth, width, batch = cases.sizes(name, shrink)
        numbers = depth * (4 * batch * width + 2 * width * width)
        out[name] = 1.0 + 4 * numbers / speed / float(np.median(rows[name]["seconds"][0]))
    return out


def _bytes_per_second() -> float:
    """Return how fast a sum reads an array of 256 MiB, which no cache holds."""
    x = jax.numpy.ones(2**26, jax.numpy.float32)
    total = jax.jit(jax.numpy.sum)
    return x.nbytes / float(np.median(interleaved([_blocking(total, x)], 5, 0.1)))


def _temporary_bytes(program: Any) -> int:
    return program.memory_analysis().temp_size_in_bytes


def _blocking(program: Callable[..., Any], *args: Any) -> Callable[[], None]:
    return lambda: jax.block_until_ready(program(*args))


def _alternatives(case: cases.Case, config: Config) -> dict[str, np.ndarray]:
    plain = jax.jit(jax.value_and_grad(case.loss)).lower(case.params, case.x).compile()
    edited = jax.jit(cases.flax_alternative(case, config.shrink)).lower(case.params, case.x).compile()
    like = _compile(case, functools.partial(gf.value_grad_and_flow, statistics=cases.LIKE))
    steps = [*(_blocking(program, case.params, case.x) for program in (plain, edited)), like.step]
    seconds = interleaved(steps, config.rounds, config.seconds)
    found = {"flax": seconds[1] / seconds[0], "like": seconds[2] / seconds[0]}
    found["flax memory"] = np.array(_all_bytes(edited) / _all_bytes(plain))
    if torch_installed():
        seconds = interleaved(cases.torch_alternative(case, config.shrink), config.rounds, config.seconds)
        found["torch"] = seconds[1] / seconds[0]
    return found


def _all_bytes(program: Any) -> int:
    """What a program needs beside its arguments; what it captures comes out as outputs."""
    analysis = program.memory_analysis()
    return analysis.temp_size_in_bytes + analysis.output_size_in_bytes


def _deep(config: Config) -> Deep:
    """Instrument an MLP of thousands of layers, and one of ten, written as a scan over layers."""
    compile_seconds, step_seconds, bytes_, profile = [], [], [], np.zeros(0)
    for depth in (10, config.deep):
        model = gf.models.MLP(depth=depth, width=64, outputs=10, scan=True)
        x = jax.random.normal(jax.random.key(config.seed + 1), (32, 64))
        params = jax.jit(model.init)(jax.random.key(config.seed), x)
        loss = lambda p, x, model=model: jax.numpy.mean(jax.numpy.square(model.apply(p, x)))  # noqa: E731
        started = time.perf_counter()
        program = jax.jit(gf.value_grad_and_flow(loss)).lower(params, x).compile()
        compile_seconds.append(time.perf_counter() - started)
        program(params, x)
        started = time.perf_counter()
        _, _, flow = jax.block_until_ready(program(params, x))
        step_seconds.append(time.perf_counter() - started)
        plain = jax.jit(jax.value_and_grad(loss)).lower(params, x).compile()
        bytes_.append([_temporary_bytes(p) for p in (plain, program)])
        profile = max((np.asarray(flow[n].output_grad_rms) for n in flow.layers), key=np.size)
    return Deep(
        depths=np.array([10, config.deep]),
        compile_seconds=np.array(compile_seconds),
        step_seconds=np.array(step_seconds),
        memory_bytes=np.array(bytes_, np.int64),
        profile=profile,
    )


def claims(results: Results) -> list[Claim]:
    """Hold ratios against the targets; at sizes other than the full ones only what does not depend on size.

    Args:
        results: from `run`.
    """
    few, many = results.deep.compile_seconds
    depth = int(results.deep.depths[1])
    title = f"scanned MLP, instrumented: compilation of {depth:,} layers over that of {results.deep.depths[0]}"
    found = [Claim("deep-compilation", title, bands.deep_compilation(), many / few)]
    if results.shrink != 1:
        return found
    memory = results.memory_bytes[:, 1] / results.memory_bytes[:, 0]
    compiling = results.compile_seconds[:, 1] / results.compile_seconds[:, 0]
    times = np.median(results.time_ratio, axis=1)
    return [
        *found,
        *(
            Claim(f"time-{_words(name)}", f"{name}: step time, instrumented over plain", bands.time(name), ratio)
            for name, ratio in zip(map(str, results.cases), times, strict=True)
        ),
        Claim("memory", f"temporary memory, {_largest(results, memory)}", bands.memory(), memory.max()),
        Claim("compilation", f"compilation, {_largest(results, compiling)}", bands.compilation(), compiling.max()),
    ]


def _words(name: str) -> str:
    return "-".join(name.lower().replace("=", " ").split())


def _largest(results: Results, ratios: np.ndarray) -> str:
    return f"instrumented over plain, largest of {ratios.size} networks ({results.cases[ratios.argmax()]})"


def files(results: Results) -> dict[str, str]:
    """Write the table of docs/results/overhead.md."""
    lines = [
        f"The kernel for CPUs {'formed' if results.native else 'was not there to form'} the statistics.",
        "",
        "| network | time (10-90 %) | floor | without the kernel | dL/doutput alone | plain step | memory "
        "| compilation | without the kernel |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for k, name in enumerate(map(str, results.cases)):
        ratio, memory = results.time_ratio[k], results.memory_bytes[k]
        low, middle, high = np.percentile(ratio, [10, 50, 90])
        compiling = results.compile_seconds[k]
        floor = f"{results.floors[name]:.3f}" if name in results.floors else ""
        lines.append(
            f"| {name} | {middle:.3f} ({low:.3f}-{high:.3f}) | {floor} | "
            f"{np.median(results.time_ratio_reference[k]):.3f} | {np.median(results.time_ratio_alone[k]):.3f} | "
            f"{1e3 * np.median(results.seconds[k, 0]):.1f} ms | {memory[1] / memory[0]:.3f} | "
            f"{compiling[1] / compiling[0]:.1f} | {compiling[3] / compiling[0]:.1f} |"
        )
    lines += ["", *_like_with_like(results), "", *_statistics(results)]
    deep = results.deep.memory_bytes[1]
    lines.append(
        f"\n{int(results.deep.depths[1]):,} layers of 64 as a scan: "
        f"compiled in {results.deep.compile_seconds[1]:.2f} s "
        f"(10 layers: {results.deep.compile_seconds[0]:.2f} s), step {results.deep.step_seconds[1]:.2f} s, "
        f"temporary memory {deep[1] / 2**20:.0f} MiB (plain {deep[0] / 2**20:.0f} MiB)."
    )
    return {"table.md": "\n".join(lines) + "\n"}


def _like_with_like(results: Results) -> list[str]:
    """Return the table of what records about the same numbers."""
    tools = {
        "gradflow, 4 numbers": results.like,
        "Flax's perturb, 6": results.flax,
        "PyTorch's hooks, 6": results.torch,
    }
    names = list(results.like)
    return [
        f"| step time over plain | {' | '.join(names)} |",
        f"|---|{'---|' * len(names)}",
        *(
            f"| {tool} | {' | '.join(f'{np.median(ratios[name]):.2f}' for name in names)} |"
            for tool, ratios in tools.items() if set(names) <= set(ratios)
        ),
    ]  # fmt: skip


def _statistics(results: Results) -> list[str]:
    """Return the table of what each statistic costs alone."""
    names = list(results.by_statistic)
    return [
        f"| alone: step, compilation, memory, over plain | {' | '.join(names)} |",
        f"|---|{'---|' * len(names)}",
        *(
            f"| `{statistic}` | {' | '.join(_triple(results.by_statistic[name][k]) for name in names)} |"
            for k, statistic in enumerate(map(str, results.statistics))
        ),
    ]


def _triple(ratios: np.ndarray) -> str:
    step, compiling, memory = ratios
    return f"{step:.3f}, {compiling:.2f}, {memory:.3f}"


EXPERIMENT = Experiment(
    name="overhead",
    head=package.__doc__ or "",
    presets=PRESETS,
    run=run,
    claims=claims,
    figures=figures.draw,
    files=files,
)
