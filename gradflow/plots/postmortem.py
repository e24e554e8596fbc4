"""The steps before an event of a training run: the gradient of each layer as colours, the loss below."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from gradflow.plots.colors import heatmap
from gradflow.plots.style import COLORS, styled

if TYPE_CHECKING:
    from gradflow.live.postmortem import PostMortem

__all__ = ["postmortem"]


@styled
def postmortem(event: PostMortem, *, last: int = 60) -> Figure:
    """Each layer's gradient over its usual size, step by step, and the loss below; lines mark what moved first.

    NaN, Inf and exact zeros are grey. The sentence stands above.

    Args:
        event: of `watch.postmortems`.
        last: how many of the steps before the event are drawn.

    Returns:
        The figure.
    """
    end = int(np.searchsorted(event.steps, event.step))
    shown = slice(max(0, end - last), None)
    steps, values = event.steps[shown], event.relative[shown].T
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    top, bottom = figure.subplots(2, 1, height_ratios=(2.6, 1.0), sharex=True)
    finite = values[np.isfinite(values) & (values > 0)]
    reach = max(2.0, float(np.exp(np.abs(np.log(finite)).max()))) if finite.size else 2.0
    label = "gradient / usual size"
    heatmap(values, steps, label=label, limits=(1 / reach, reach), xlabel="", ylabel="", axes=top)
    every = max(1, len(event.layers) // 16)
    top.set_yticks(np.arange(1, len(event.layers) + 1)[::every], event.layers[::every], fontsize=8)
    bottom.plot(steps, event.losses[shown], color=COLORS[0])
    bottom.set(xlabel="training step", ylabel="loss")
    losses = event.losses[shown]
    if (losses[np.isfinite(losses)] > 0).all() and np.isfinite(losses).any():
        bottom.set_yscale("log")
    marks: dict[str, Any] = {"layer": (event.first_step, COLORS[2], "--"), "loss": (event.loss_step, COLORS[1], ":")}
    for what, (step, color, dash) in marks.items():
        if step is not None:
            for axes in (top, bottom):
                axes.axvline(step, color=color, ls=dash, label=f"{what} moved, step {step}")
    if bottom.get_legend_handles_labels()[0]:
        bottom.legend(loc="upper left")
    figure.suptitle(_wrapped(event.sentence), x=0.01, ha="left", fontsize=9.5)
    return figure


def _wrapped(text: str) -> str:
    import textwrap

    return textwrap.fill(text, 100)
