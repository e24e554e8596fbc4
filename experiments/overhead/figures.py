"""The figure of `overhead`, drawn from its results alone."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from experiments.framework import ratio_figures
from experiments.overhead import bands
from experiments.overhead.results import Results


def draw(results: Results) -> dict[str, Figure]:
    """Draw the time ratios, ours and the alternatives', each with the spread over rounds."""
    names = [str(n) for n in results.cases]
    figure = ratio_figures.draw(
        _series(results),
        names,
        [bands.TIME_TARGETS[n] for n in names],
        title="What it costs to watch the gradient flow",
        label="training step, instrumented / plain (median, 10th to 90th percentile)",
    )
    return {"ratios": figure}


def _series(results: Results) -> dict[str, dict[str, np.ndarray]]:
    names = [str(n) for n in results.cases]
    series = {
        "gradflow, all statistics": {n: results.time_ratio[k] for k, n in enumerate(names)},
        "gradflow, without the kernel": {n: results.time_ratio_reference[k] for k, n in enumerate(names)},
        "gradflow, dL/doutput alone": {n: results.time_ratio_alone[k] for k, n in enumerate(names)},
    }
    if not results.native:
        del series["gradflow, without the kernel"]
    alternatives = {
        "gradflow, 4 numbers": results.like, "Flax perturb, 6 numbers": results.flax,
        "PyTorch hooks, 6 numbers": results.torch,
    }  # fmt: skip
    return series | {label: found for label, found in alternatives.items() if found}
