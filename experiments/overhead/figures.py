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
        "gradflow, all statistics": dict(zip(names, results.time_ratio, strict=True)),
        # Without a kernel that is the same program once more.
        "gradflow, without the kernel": dict(zip(names, results.time_ratio_reference, strict=True))
        if results.native
        else {},
        "gradflow, dL/doutput alone": dict(zip(names, results.time_ratio_alone, strict=True)),
        "gradflow, 4 numbers": results.like,
        "Flax perturb, 6 numbers": results.flax,
        "PyTorch hooks, 6 numbers": results.torch,
    }
    return {label: found for label, found in series.items() if found}
