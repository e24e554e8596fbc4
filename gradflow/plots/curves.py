"""Lines over depth and over training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Num
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gradflow.plots.style import (
    add_legend,
    axes_or_new,
    depth_ticks,
    figure_of,
    log_axis,
    marker_spacing,
    positive,
    styled,
    styles_by_name,
)

__all__ = ["movement", "profile", "training_curves"]


@styled
def profile(
    lines: Mapping[str, Float[np.ndarray, " layers"]],
    *,
    ylabel: str,
    theory: Mapping[str, Float[np.ndarray, " layers"]] | None = None,
    styles: Mapping[str, Mapping[str, Any]] | None = None,
    xlabel: str = "layer, input side to output side",
    title: str = "",
    log: bool = True,
    axes: Axes | None = None,
) -> Figure:
    """One number a layer against depth, one line a network.

    Args:
        lines: name to values, the layer nearest the input first. Zeros are left out on a log axis.
        ylabel: what the values are, with unit.
        theory: predicted values by the names in `lines`, drawn thin and grey under the measured ones.
        styles: line style by name; by default taken from `line_styles` in order.
        xlabel: label of the depth axis.
        title: title of the panel.
        log: logarithmic vertical axis.
        axes: where to draw; a new figure by default.

    Returns:
        The figure.
    """
    axes = axes_or_new(axes)
    chosen = styles_by_name(lines, styles)
    for number, (name, predicted) in enumerate((theory or {}).items()):
        if name not in lines:
            raise ValueError(
                f"theory is given for {name!r}, but the lines are {list(lines)}. Fix: the same names in both"
            )
        depth = np.arange(1, len(predicted) + 1)
        label = "theory" if number == 0 else None
        axes.plot(depth, positive(predicted, log), color="#9A9A9A", lw=4, alpha=0.55, label=label, zorder=1)
    for name, values in lines.items():
        depth = np.arange(1, len(values) + 1)
        axes.plot(depth, positive(values, log), label=name, markevery=marker_spacing(len(values)), **chosen[name])
    if log:
        log_axis(axes)
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axes.set_xticks(depth_ticks(max(map(len, lines.values()), default=1)))
    add_legend(axes)
    return figure_of(axes)


@styled
def training_curves(
    steps: Num[np.ndarray, " steps"],
    curves: Mapping[str, Float[np.ndarray, " steps"]],
    *,
    ylabel: str = "test accuracy",
    reference: Mapping[str, float] | None = None,
    styles: Mapping[str, Mapping[str, Any]] | None = None,
    title: str = "",
    log: bool = False,
    axes: Axes | None = None,
) -> Figure:
    """One number a step against training, one line a network.

    Args:
        steps: where the curves were measured.
        curves: name to values.
        ylabel: what the values are, with unit.
        reference: name to a level drawn across, e.g. {"chance": 0.1}.
        styles: line style by name; by default taken from `line_styles` in order.
        title: title of the panel.
        log: logarithmic vertical axis.
        axes: where to draw; a new figure by default.

    Returns:
        The figure.
    """
    axes = axes_or_new(axes)
    chosen = styles_by_name(curves, styles)
    for name, level in (reference or {}).items():
        axes.axhline(level, color="#777777", lw=1, ls=":")
        axes.annotate(
            name, (1, level), xycoords=("axes fraction", "data"), xytext=(-3, -3), textcoords="offset points",
            ha="right", va="top", color="#555555", fontsize=8,
        )  # fmt: skip
    for name, values in curves.items():
        axes.plot(steps, positive(values, log), label=name, markevery=marker_spacing(len(values)), **chosen[name])
    if log:
        log_axis(axes)
    axes.set(xlabel="training step", ylabel=ylabel, title=title)
    add_legend(axes)
    return figure_of(axes)


@styled
def movement(
    lines: Mapping[str, Float[np.ndarray, " layers"]],
    *,
    zero_at: float | None = None,
    styles: Mapping[str, Mapping[str, Any]] | None = None,
    title: str = "",
    axes: Axes | None = None,
) -> Figure:
    """How far each layer's weights moved relative to their size, one line a network.

    Args:
        lines: name to ||W_t - W_0|| / ||W_0|| by layer, the layer nearest the input first.
        zero_at: where on the log axis to draw, as open markers, the layers whose weights did not change by a
            single bit; by default they are left out.
        styles: line style by name; by default taken from `line_styles` in order.
        title: title of the panel.
        axes: where to draw; a new figure by default.

    Returns:
        The figure.
    """
    axes = axes_or_new(axes)
    chosen = styles_by_name(lines, styles)
    profile(lines, ylabel=r"$\|W_t - W_0\|\,/\,\|W_0\|$", styles=chosen, title=title, axes=axes)
    if zero_at is not None:
        axes.axhline(zero_at, color="#777777", lw=1, ls=":")
        axes.annotate(
            "not a single bit changed", (1, zero_at), xycoords=("axes fraction", "data"), xytext=(-3, 3),
            textcoords="offset points", ha="right", color="#555555", fontsize=8,
        )  # fmt: skip
        for name, values in lines.items():
            still = np.flatnonzero(np.asarray(values) == 0)
            style = {"marker": chosen[name]["marker"], "color": chosen[name]["color"], "mfc": "white"}
            axes.plot(still + 1, np.full(len(still), zero_at), ls="none", zorder=3, **style)
    return figure_of(axes)
