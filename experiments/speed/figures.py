"""The figure of `speed`, drawn from its results alone."""

from __future__ import annotations

import functools

from matplotlib.figure import Figure

from experiments.framework import ratio_figures
from experiments.speed import bands
from experiments.speed.results import OVER_DEVICES, Results, ratios


def draw(results: Results) -> dict[str, Figure]:
    """Draw the ratios.

    Args:
        results: from `run`.

    Returns:
        Name to figure.
    """
    over, word = ("torch", "PyTorch's") if "torch" in results.networks["lstm"] else ("flax", "stock Flax's")
    found = {name: ratios(results.networks[name], over) for name in bands.TARGETS}
    sides = {"gradflow": "gradflow", OVER_DEVICES: "gradflow, batch\ncut over cores", "flax": "stock Flax"}
    series = {
        label: {name: value[side] for name, value in found.items() if side in value} for side, label in sides.items()
    }
    draw = functools.partial(ratio_figures.draw, names=list(bands.TARGETS), targets=list(bands.TARGETS.values()))
    title, axis = "How long a training step takes", f"training step over {word} (median, 10th to 90th percentile)"
    return {"ratios": draw({label: row for label, row in series.items() if row}, title=title, label=axis)}
