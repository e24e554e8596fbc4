"""How long a training step of each model takes, beside stock Flax and PyTorch.

Paper:    none; the figures of merit are the targets below
Figure:   step time over PyTorch's, by network; a scan over convolutions; many runs as one program
Command:  python -m experiments.speed
Minutes:  5 on two cores, compilation included, and nothing else running (smoke: 20 seconds)
Expected: step time over PyTorch's at most 1.0 (LSTM), .7 (GRU), .7 (simple RNN), 1.0 (MLP), 1.3 (ResNet-20); a scanned
          stack of convolutions at most 1.5 of the unrolled one; 8 x 8 small runs in one program at least 5 times as
          fast as one after the other, compilation included; 10,000 scanned layers compiled in at most 1.3 of the time
          of 10. Which are met stands in BUILD_NOTES.md.
Alone:    yes; it measures the machine

Each side makes the same step: forward, cross-entropy, gradients, plain gradient descent, on the same sizes (batch 64,
100 steps, 128 features and units; 20 layers of 512, batch 256; ResNet-20 on 32x32x3, batch 128). They run in turn,
round by round, and the figure quoted is the median over rounds of the ratio within a round. PyTorch is measured where
it happens to be installed, and claims against it are made only there. Absolute times are the machine's.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from experiments import claims as check
from experiments import speed_cases as cases
from experiments import speed_grid
from experiments.claims import Claim
from experiments.progress import track
from experiments.runner import Experiment, Results, main
from experiments.timing import interleaved, torch_installed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TARGETS = {"lstm": 1.0, "gru": 0.7, "rnn": 0.7, "mlp": 1.0, "resnet-20": 1.3}
SCAN_TARGET, GRID_TARGET, COMPILE_TARGET = 1.5, 5.0, 1.3
GRID_SIDE = 8  # seeds, and learning rates, of the many runs


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of one run."""

    rounds: int = 15
    """Rounds in which all sides have their turn."""
    seconds: float = 0.2
    """Time that one side of a round takes at least."""
    shrink: int = 1
    """What the networks' sizes are divided by; 1 for the targets to apply."""
    seed: int = 0
    """Of the many runs' initialization."""

    def __post_init__(self) -> None:
        """Reject settings that cannot be run."""
        for field in ("rounds", "seconds", "shrink"):
            if getattr(self, field) <= 0:
                raise ValueError(f"{field} must be positive, got {getattr(self, field)}")


PRESETS = {
    "smoke": Config(rounds=2, seconds=0.01, shrink=8),
    "laptop": Config(),
    "paper": Config(rounds=50, seconds=0.5),
}


def run(config: Config) -> Results:
    """Time every network.

    Args:
        config: settings.

    Returns:
        `NAME gradflow`, `NAME flax`, `NAME torch` (rounds,) in seconds a step for each network, `convolutions SIDE,
        FORM`, what `speed_grid` gives, and `shrink`.
    """
    results: Results = {"shrink": np.array(config.shrink)}
    for name in track(list(TARGETS), "network"):
        size = cases.sizes(name, config.shrink)
        sides = {
            "gradflow": cases.step(cases.ours(name, size), size),
            "flax": cases.step(cases.stock(name, size), size),
        }
        if torch_installed():
            from experiments import speed_torch

            sides["torch"] = speed_torch.step(name, size)
        seconds = interleaved(list(sides.values()), config.rounds, config.seconds)
        results |= {f"{name} {side}": row for side, row in zip(sides, seconds, strict=True)}
    steps, side = max(2, 100 // config.shrink**2), max(2, GRID_SIDE // config.shrink)
    more = {} if config.shrink > 1 else speed_grid.compilation(min(config.rounds, 5))
    return results | _scanned(config) | speed_grid.grid(min(config.rounds, 5), steps, side) | more


def _scanned(config: Config) -> Results:
    size = cases.sizes("convolutions", config.shrink)
    build = {"gradflow": cases.ours, "flax": cases.stock}
    sides = {
        f"{side}, {form}": cases.step(network("convolutions", size, scan=form == "scanned"), size)
        for side, network in build.items()
        for form in ("unrolled", "scanned")
    }
    seconds = interleaved(list(sides.values()), config.rounds, config.seconds)
    return {f"convolutions {side}": row for side, row in zip(sides, seconds, strict=True)}


def ratios(results: Mapping[str, np.ndarray], name: str, over: str) -> dict[str, np.ndarray]:
    """Step times of a network over those of one side, round by round.

    Args:
        results: from `run`.
        name: of the network.
        over: the side to divide by.

    Returns:
        Side to ratios (rounds,), without `over` itself.
    """
    sides = {key.removeprefix(f"{name} "): value for key, value in results.items() if key.startswith(f"{name} ")}
    return {side: seconds / sides[over] for side, seconds in sides.items() if side != over}


def claims(results: Results) -> list[Claim]:
    """Hold the ratios against the targets, at full size only.

    Args:
        results: from `run`.

    Returns:
        One claim a target.
    """
    if int(results["shrink"]) != 1:
        smallest = min(float(value.min()) for name, value in results.items() if " " in name)
        return [check.above("every side of every network has run (seconds a step)", "design", 0.0, smallest)]
    found = []
    if "lstm torch" in results:
        for name, target in TARGETS.items():
            ratio = np.median(ratios(results, name, "torch")["gradflow"])
            found.append(check.between(f"{name}: step time over PyTorch's", "target", 0.0, target, ratio))
    scanned = np.median(ratios(results, "convolutions", "gradflow, unrolled")["gradflow, scanned"])
    found.append(check.between("convolutions: scanned over unrolled", "target", 0.0, SCAN_TARGET, scanned))
    cold = float(results["grid cold, run by run"][0] / results["grid cold, one program"][0])
    found.append(
        check.above("8 x 8 runs: one after the other over one program, both compiled", "target", GRID_TARGET, cold)
    )
    few, many = (np.median(results[f"compilation {depth}"]) for depth in speed_grid.DEPTHS)
    title = "scanned MLP: compilation of 10,000 layers over that of 10"
    found.append(check.between(title, "target", 0.0, COMPILE_TARGET, many / few))
    return found


def figures(results: Results) -> dict[str, Figure]:
    """Draw the ratios.

    Args:
        results: from `run`.

    Returns:
        Name to figure.
    """
    from experiments import ratio_figures

    over, word = ("torch", "PyTorch's") if "lstm torch" in results else ("flax", "stock Flax's")
    found = {name: ratios(results, name, over) for name in TARGETS}
    sides = {"gradflow": "gradflow", "flax": "stock Flax"}
    series = {
        label: {name: value[side] for name, value in found.items() if side in value} for side, label in sides.items()
    }
    draw = functools.partial(ratio_figures.draw, names=list(TARGETS), targets=list(TARGETS.values()))
    title, axis = "How long a training step takes", f"training step over {word} (median, 10th to 90th percentile)"
    return {"ratios": draw({label: row for label, row in series.items() if row}, title=title, label=axis)}


def files(results: Results) -> dict[str, str]:
    """Write the table that BUILD_NOTES quotes.

    Args:
        results: from `run`.

    Returns:
        File name to text.
    """
    lines = [
        "| network | gradflow | over PyTorch | target | over stock Flax | Flax over PyTorch |",
        "|---|---|---|---|---|---|",
    ]
    for name, target in TARGETS.items():
        torch = ratios(results, name, "torch") if f"{name} torch" in results else {}
        cells = [
            f"{1e3 * np.median(results[f'{name} gradflow']):.1f} ms",
            _spread(torch["gradflow"]) if torch else "",
            f"{target:g}",
            _spread(ratios(results, name, "flax")["gradflow"]),
            _spread(torch["flax"]) if torch else "",
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    for side in ("gradflow", "flax"):
        ratio = ratios(results, "convolutions", f"{side}, unrolled")[f"{side}, scanned"]
        lines.append(f"\nConvolutions, scanned over unrolled, {side}: {_spread(ratio)}.")
    for form in ("program a run", "step by step"):
        ratio = results[f"grid {form}"] / results["grid one program"]
        lines.append(f"\n8 x 8 small runs, {form} over one program, compiled before: {_spread(ratio)}.")
    cold = results["grid cold, run by run"] / results["grid cold, one program"]
    lines.append(f"\n8 x 8 small runs, one after the other over one program, compilation included: {cold[0]:.1f}.")
    return {"table.md": "\n".join(lines) + "\n"}


def _spread(ratio: np.ndarray) -> str:
    low, middle, high = np.percentile(ratio, [10, 50, 90])
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


EXPERIMENT = Experiment("speed", __doc__ or "", PRESETS, run, claims, figures, files)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
