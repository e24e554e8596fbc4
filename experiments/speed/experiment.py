"""Run and claims of `speed`."""

from __future__ import annotations

import jax
import numpy as np

import experiments.speed as package
from experiments.framework.claims import Claim
from experiments.framework.progress import track
from experiments.framework.runner import Experiment
from experiments.framework.timing import interleaved, torch_installed
from experiments.speed import bands, cases, figures, grid
from experiments.speed.results import OVER_DEVICES, Results, Seconds, ratios
from experiments.speed.settings import PRESETS, Config

GRID_SIDE = 8  # seeds, and learning rates, of the many runs


def run(config: Config) -> Results:
    """Time every network.

    Args:
        config: settings.
    """
    cases.ask_for_a_device_a_core()
    networks = {}
    for name in track(list(bands.TARGETS), "network"):
        size = cases.sizes(name, config.shrink)
        sides = {
            "gradflow": cases.step(cases.ours(name, size), size),
            "flax": cases.step(cases.stock(name, size), size),
        }
        if len(jax.devices()) > 1 and size.batch % len(jax.devices()) == 0:
            sides[OVER_DEVICES] = cases.step_over_devices(name, size)
        if torch_installed():
            from experiments.speed import pytorch

            sides["torch"] = pytorch.step(name, size)
        seconds = interleaved(list(sides.values()), config.rounds, config.seconds)
        networks[name] = dict(zip(sides, seconds, strict=True))
    steps, side = max(2, 100 // config.shrink**2), max(2, GRID_SIDE // config.shrink)
    convolutions, (forms, cold) = _scanned(config), grid.grid(min(config.rounds, 5), steps, side)
    compilation = {} if config.shrink > 1 else grid.compilation(min(config.rounds, 5))
    return Results(config.shrink, networks, convolutions, forms, cold, compilation)


def _scanned(config: Config) -> Seconds:
    size = cases.sizes("convolutions", config.shrink)
    build = {"gradflow": cases.ours, "flax": cases.stock}
    sides = {
        f"{side}, {form}": cases.step(network("convolutions", size, scan=form == "scanned"), size)
        for side, network in build.items()
        for form in ("unrolled", "scanned")
    }
    seconds = interleaved(list(sides.values()), config.rounds, config.seconds)
    return dict(zip(sides, seconds, strict=True))


def claims(results: Results) -> list[Claim]:
    """Hold the ratios against the targets, at full size only.

    Args:
        results: from `run`.

    Returns:
        One claim a target; none at other sizes.
    """
    if results.shrink != 1:
        return []
    found = []
    if "torch" in results.networks["lstm"]:
        for name in bands.TARGETS:
            ratio = np.median(ratios(results.networks[name], "torch")["gradflow"])
            found.append(Claim(f"time-{name}", f"{name}: step time over PyTorch's", bands.time(name), ratio))
        if OVER_DEVICES in results.networks["resnet-20"]:
            cut = np.median(ratios(results.networks["resnet-20"], "torch")[OVER_DEVICES])
            words = "resnet-20, batch cut over the cores: step time over PyTorch's"
            found.append(Claim("time-resnet-20-over-devices", words, bands.time("resnet-20"), cut))
    scanned = np.median(ratios(results.convolutions, "gradflow, unrolled")["gradflow, scanned"])
    cold = results.cold["run by run"] / results.cold["one program"]
    runs = f"{GRID_SIDE} x {GRID_SIDE} runs: one after the other over one program, both compiled"
    few, many = (np.median(results.compilation[depth]) for depth in grid.DEPTHS)
    deep = "scanned MLP: compilation of {1:,} layers over that of {0}".format(*grid.DEPTHS)
    return [
        *found,
        Claim("scanned-convolutions", "convolutions: step time, scanned over unrolled", bands.scanned(), scanned),
        Claim("many-runs", runs, bands.many_runs(), cold),
        Claim("deep-compilation", deep, bands.deep_compilation(), many / few),
    ]


def files(results: Results) -> dict[str, str]:
    """Write the table of docs/results/speed.md.

    Args:
        results: from `run`.

    Returns:
        File name to text.
    """
    lines = [
        "| network | gradflow | over PyTorch | target | batch cut over the cores, over PyTorch | over stock Flax | "
        "Flax over PyTorch |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, target in bands.TARGETS.items():
        sides = results.networks[name]
        torch = ratios(sides, "torch") if "torch" in sides else {}
        cells = [
            f"{1e3 * np.median(sides['gradflow']):.1f} ms",
            _spread(torch["gradflow"]) if torch else "",
            f"{target:g}",
            _spread(torch[OVER_DEVICES]) if OVER_DEVICES in torch else "",
            _spread(ratios(sides, "flax")["gradflow"]),
            _spread(torch["flax"]) if torch else "",
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    for side in ("gradflow", "flax"):
        ratio = ratios(results.convolutions, f"{side}, unrolled")[f"{side}, scanned"]
        lines.append(f"\nConvolutions, scanned over unrolled, {side}: {_spread(ratio)}.")
    for form in ("program a run", "step by step"):
        ratio = results.grid[form] / results.grid["one program"]
        lines.append(f"\n8 x 8 small runs, {form} over one program, compiled before: {_spread(ratio)}.")
    cold = results.cold["run by run"] / results.cold["one program"]
    lines.append(f"\n8 x 8 small runs, one after the other over one program, compilation included: {cold:.1f}.")
    return {"table.md": "\n".join(lines) + "\n"}


def _spread(ratio: np.ndarray) -> str:
    low, middle, high = np.percentile(ratio, [10, 50, 90])
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


EXPERIMENT = Experiment("speed", package.__doc__ or "", PRESETS, run, claims, figures.draw, files)
