"""Numbers as colours."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Num
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from gradflow.plots.style import HEAT, axes_or_new, depth_ticks, figure_of, positive, scale_limits, styled

__all__ = ["heatmap"]


@styled
def heatmap(
    values: Float[np.ndarray, "layers steps"],
    steps: Num[np.ndarray, " steps"],
    *,
    label: str,
    limits: tuple[float, float] | None = None,
    xlabel: str = "training step",
    ylabel: str = "layer",
    title: str = "",
    log: bool = True,
    colorbar: bool = True,
    axes: Axes | None = None,
) -> Figure:
    """One number a layer and step as colours, the layer nearest the input at the bottom.

    Args:
        values: the numbers; non-positive ones stay grey on a log scale.
        steps: position of each column, evenly spaced.
        label: what the values are, with unit, for the colour bar.
        limits: lowest and highest value of the colour scale; by default those of the values.
        xlabel: label of the horizontal axis.
        ylabel: label of the vertical axis.
        title: title of the panel.
        log: logarithmic colour scale.
        colorbar: whether to draw the colour bar.
        axes: where to draw; a new figure by default.

    Returns:
        The figure.
    """
    axes = axes_or_new(axes)
    shown = np.ma.masked_invalid(positive(values, log))
    low, high = limits if limits is not None else scale_limits(shown, log)
    norm = LogNorm(low, high, clip=True) if log else Normalize(low, high)
    half = (steps[1] - steps[0]) / 2 if len(steps) > 1 else 0.5
    extent = (float(steps[0] - half), float(steps[-1] + half), 0.5, len(values) + 0.5)
    image = axes.imshow(
        shown, origin="lower", aspect="auto", extent=extent, norm=norm, cmap=HEAT, interpolation="nearest"
    )
    axes.set_facecolor("#BBBBBB")
    axes.grid(False)
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axes.set_yticks(depth_ticks(len(values)))
    figure = figure_of(axes)
    if colorbar:
        figure.colorbar(image, ax=axes, label=label)
    return figure
