"""Measure how good predictions are, for docs/predict.md: `python -m tests.theory.tracing.measure [SEEDS]`.

Fresh networks of every family: share of layers predicted, share of numbers inside their bands, false alarms, median
width of the bands. Then networks with a fault of growing size: which layers leave their bands.
"""

from __future__ import annotations

import sys
import tempfile
import time
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gradflow import theory
from tests.theory.tracing.test_architectures import (
    IMAGES,
    VECTORS,
    ActorCritic,
    GatedUnits,
    MobileNet,
    ResNet,
    UNet,
    predicted,
)

FAMILIES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "ResNet": (ResNet(), IMAGES),
    "MobileNet": (MobileNet(), IMAGES),
    "UNet": (UNet(), IMAGES),
    "GatedUnits": (GatedUnits(), VECTORS),
    "ActorCritic": (ActorCritic(), IMAGES),
}
DEPTH, WIDTH, BROKEN = 6, 200, 3


def fresh(seeds: int) -> None:
    """Print the figures of fresh networks."""
    print(
        "| family | layers | forward | backward | outputs inside | gradients inside | layers with an outlier | width |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, (module, shape) in FAMILIES.items():
        rows, coverage = [], []
        for seed in range(seeds):
            prediction = predicted(module, jax.random.normal(jax.random.key(1000 + seed), shape), seed=seed)
            coverage.append(prediction.coverage)
            rows += prediction.layers
        said = [r for r in rows if not r.anchored]
        outputs = np.mean(["output" not in r.deviations for r in rows])
        gradients = np.mean(["gradient" not in r.deviations for r in said])
        alarms = sum(bool(r.deviations) for r in rows)
        widths = np.median([r.output_band for r in rows]), np.median([r.output_grad_band for r in said])
        forward, backward = np.mean(coverage, 0)
        print(
            f"| {name} | {len(rows) // seeds} | {forward:.0%} | {backward:.0%} | {outputs:.1%} | {gradients:.1%} | "
            f"{alarms} of {len(rows)} | x{widths[0]:.2f}, x{widths[1]:.2f} |",
            flush=True,
        )


def plain(params: list[jax.Array], x: jax.Array) -> jax.Array:
    """Six layers of tanh."""
    for w in params:
        x = jnp.tanh(x) @ w
    return x


def broken(fault: str, size: float, seed: int) -> theory.Prediction:
    """Predict a plain network whose fourth layer has a fault.

    Args:
        fault: "correlated" (a part of rank 1 along its mean input), "dead" (units without weights), "scaled".
        size: share of the weight's variance, share of the units, or factor.
        seed: of weights and batch.
    """
    keys = jax.random.split(jax.random.key(seed), DEPTH + 1)
    params: list[Any] = [1.2 * jax.random.normal(k, (WIDTH, WIDTH)) / WIDTH**0.5 for k in keys[1:]]
    x = jax.random.normal(keys[0], (32, WIDTH)) + 1.0
    if fault == "correlated":
        entering = jnp.tanh(plain(params[:BROKEN], x)).mean(0)
        rank_one = jnp.outer(entering / jnp.linalg.norm(entering), jnp.ones(WIDTH) / WIDTH**0.5)
        rank_one = rank_one * jnp.linalg.norm(params[BROKEN])
        params[BROKEN] = (1 - size) ** 0.5 * params[BROKEN] + size**0.5 * rank_one
    elif fault == "dead":
        params[BROKEN] = params[BROKEN] * (jnp.arange(WIDTH) >= size * WIDTH)
    else:
        params[BROKEN] = size * params[BROKEN]
    return theory.predict(plain, params, x)


def faults(seeds: int) -> None:
    """Print which layers leave their bands."""
    print("\n| fault of layer 3 | size | networks with an outlier | layers |\n|---|---|---|---|")
    for fault, sizes in {
        "correlated": (0.01, 0.03, 0.1, 0.3),
        "dead": (0.5, 0.9),
        "scaled": (3.0,),
    }.items():
        for size in sizes:
            outliers = [[layer.name for layer in broken(fault, size, seed).outliers] for seed in range(seeds)]
            names = sorted({name for each in outliers for name in each})
            found = sum(bool(each) for each in outliers)
            print(f"| {fault} | {size:g} | {found} of {seeds} | {', '.join(names) or '-'} |", flush=True)


def main() -> None:
    """Measure, with compiled programs kept between networks of one family."""
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    jax.config.update("jax_disable_most_optimizations", True)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        fresh(seeds)
        faults(max(seeds // 4, 1))
    print(f"\n{seeds} seeds, {time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main()
