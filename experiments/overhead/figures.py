"""The figure of `overhead`, drawn from its results alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from experiments.framework import ratio_figures
from experiments.overhead import bands


def draw(results: Mapping[str, np.ndarray]) -> dict[str, Figure]:
    """Draw the time ratios, ours and the alternatives', each with the spread over rounds."""
    names = [str(n) for n in results["cases"]]
    figure = ratio_figures.draw(
        _series(results),
        names,
        [bands.TIME_TARGETS[n] for n in names],
        title="What it costs to watch the gradient flow",
        label="training step, instrumented / plain (median, 10th to 90th percentile)",
    )
    return {"ratios": figure}


def _series(results: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    names = [str(n) for n in results["cases"]]
    series = {
        "gradflow, all statistics": {n: results["time_ratio"][k] for k, n in enumerate(names)},
        "gradflow, dL/doutput alone": {n: results["time_ratio_alone"][k] for k, n in enumerate(names)},
    }
    for key, label in (("flax", "Flax perturb, 3 statistics"), ("torch", "PyTorch hooks, 3 statistics")):
        found = {n: results[f"{key} {n}"] for n in names if f"{key} {n}" in results}
        if found:
            series[label] = found
    return series
