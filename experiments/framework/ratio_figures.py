"""A figure of timings as ratios: one row a network, one mark a tool, whiskers over rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from gradflow import plots

Ratios = Mapping[str, Float[np.ndarray, " rounds"]]


@plots.styled
def draw(
    series: Mapping[str, Ratios], names: Sequence[str], targets: Sequence[float], *, title: str, label: str
) -> Figure:
    """Draw step-time ratios.

    Args:
        series: tool to network to ratios over rounds.
        names: networks, top row first.
        targets: the ratio aimed at, by network.
        title: of the figure.
        label: what the ratio is of what.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(7.2, 1.2 + max(0.75, 0.24 * len(series)) * len(names)), layout="constrained")
    axes = figure.subplots()
    for offset, ((tool, ratios), style) in enumerate(zip(series.items(), plots.line_styles(), strict=False)):
        rows = [k for k, name in enumerate(names) if name in ratios]
        low, middle, high = np.array([np.percentile(ratios[names[k]], [10, 50, 90]) for k in rows]).T
        y = np.array(rows) + min(0.2, 0.8 / len(series)) * (offset - (len(series) - 1) / 2)
        marker = {"color": style["color"], "marker": style["marker"]}
        axes.errorbar(
            middle, y, xerr=(middle - low, high - middle), linestyle="none", capsize=2.5, label=tool, **marker
        )
        for x, height in zip(middle, y, strict=True):
            axes.annotate(f"{x:.2f}", (x, height), xytext=(0, 5), textcoords="offset points", ha="center", fontsize=8)
    for k, target in enumerate(targets):
        axes.plot([target, target], [k - 0.42, k + 0.42], color="#777777", linestyle=(0, (2, 1.5)), linewidth=1)
    axes.plot([], [], color="#777777", linestyle=(0, (2, 1.5)), linewidth=1, label="target")
    axes.axvline(1.0, color="#BBBBBB", linewidth=1)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.set_xlabel(label)
    axes.set_title(title)
    axes.grid(axis="y", visible=False)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
