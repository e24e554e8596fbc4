"""A flow over depth, and over the steps of its scans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gradflow.plots.colors import heatmap
from gradflow.plots.style import COLORS, log_axis, positive, styled

if TYPE_CHECKING:
    from gradflow.instrument import Flow, LayerFlow

__all__ = ["flow"]

_FORWARD, _BACKWARD, _BAD = COLORS[1], COLORS[2], "#C00000"
_TOP, _BOTTOM = (0.97, 0.91), (0.03, 0.09)  # heights of the marks, forward and backward, in parts of the panel


class _Signal(NamedTuple):
    """A number a step, and at which steps there is one."""

    values: Float[np.ndarray, "*time"]
    there: Bool[np.ndarray, "*time"]


@styled
def flow(flow: Flow, *, title: str = "") -> Figure:
    """Forward and backward signal of one evaluation over depth, and over time for layers inside a scan.

    The upper panel shows the rms of every layer's output and of the loss's gradient with respect to it, on
    one log axis each; a layer inside a scan shows the last step that ran forward and the last that the backward pass
    came to, where the signals have come furthest. NaN, Inf, exact zeros and what was not reached or not run have no
    place on a log axis: they are gaps, and marks at the edges say which. Below, one row a layer inside a scan, the
    gradient over the steps as colours, in the order of their index.

    Args:
        flow: what `gradflow.value_grad_and_flow` returned, for one evaluation (no leading axis from vmap).
        title: title of the figure.

    Returns:
        The figure.

    Raises:
        ValueError: if a statistic has more axes than one, time: index the leading axes first.
    """
    names = [*flow.layers, *flow.taps, *flow.carries]
    forward = {name: _signal(flow[name].output_rms, flow[name].calls) for name in names}
    backward = {name: _signal(flow[name].output_grad_rms, flow[name].backward_calls) for name in names}
    for name in names:
        if backward[name].values.ndim > 1:
            raise ValueError(
                f"{name} has statistics of shape {backward[name].values.shape}; expected () or (time,). Likely "
                "cause: a flow from vmap or of several steps, which has leading axes. Fix: plot "
                "jax.tree.map(lambda x: x[0], flow)"
            )
    scanned = [name for name in names if backward[name].values.ndim == 1]
    figure = Figure(figsize=(7.2, 4.0 + (1.2 + 0.45 * len(scanned) if scanned else 0)), layout="constrained")
    rows = figure.subplots(2, 1, height_ratios=(4.0, 1.2 + 0.45 * len(scanned))) if scanned else [figure.subplots()]
    ends = {name: _is_reverse(flow[name]) for name in names}
    _depth_panel(
        rows[0],
        names,
        [_furthest(forward[name], last=not ends[name]) for name in names],
        [_furthest(backward[name], last=ends[name]) for name in names],
    )
    if scanned:
        _time_panel(rows[1], {name: backward[name] for name in scanned}, {name: ends[name] for name in scanned})
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure


def _signal(values: Any, calls: Any) -> _Signal:
    values = np.asarray(values, np.float64)
    return _Signal(values, np.broadcast_to(np.asarray(calls) > 0, values.shape))


def _is_reverse(layer: LayerFlow) -> bool:
    return bool(layer.reverse and layer.reverse[-1])


def _furthest(signal: _Signal, *, last: bool) -> float | None:
    """Return the number of the last, or the first, step that has one; None where no step has."""
    numbers = signal.values[signal.there]
    return float(numbers[-1 if last else 0]) if numbers.size else None


def _depth_panel(
    axes: Axes, names: Sequence[str], forward: Sequence[float | None], backward: Sequence[float | None]
) -> None:
    """Draw the forward rms against the left axis and the backward rms against the right one."""
    position = np.arange(len(names))
    right = axes.twinx()
    label = r"backward: rms of $\partial L/\partial$output"
    handles = [
        *axes.plot(position, _on_log_axis(forward), "s--", color=_FORWARD, label="forward: rms of output"),
        *right.plot(position, _on_log_axis(backward), "o-", color=_BACKWARD, label=label),
    ]
    axes.set(ylabel="forward rms")
    right.set(ylabel="backward rms")
    right.spines["right"].set_visible(True)
    right.grid(False)
    for panel, color in ((axes, _FORWARD), (right, _BACKWARD)):
        log_axis(panel)
        panel.tick_params(axis="y", colors=color)
        panel.yaxis.label.set_color(color)
    handles += _marks(right, forward, _FORWARD, 0, "forward", "not run")
    unrun = [value is None for value in forward]
    seen = [0.5 if gone else value for gone, value in zip(unrun, backward, strict=True)]
    handles += _marks(right, seen, _BACKWARD, 1, "backward", "not reached")
    shown = position[:: max(1, len(names) // 24)]
    axes.set_xticks(shown, [names[index] for index in shown], rotation=60, ha="right", fontsize=8)
    axes.set_xlim(-0.5, max(len(names) - 0.5, 0.5))
    axes.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)


def _on_log_axis(values: Sequence[float | None]) -> np.ndarray:
    numbers = np.array([np.nan if value is None else value for value in values], np.float64)
    return np.where(np.isfinite(numbers), positive(numbers, True), np.nan)


def _marks(
    axes: Axes, values: Sequence[float | None], color: str, level: int, direction: str, absent: str
) -> list[Any]:
    """Mark what has no place on a log axis, at its edges, and return the marks for the legend."""
    found = {
        "NaN or Inf": [k for k, value in enumerate(values) if value is not None and not np.isfinite(value)],
        "exactly 0": [k for k, value in enumerate(values) if value == 0],
        absent: [k for k, value in enumerate(values) if value is None],
    }
    markers = {"NaN or Inf": ("X", _TOP, color), "exactly 0": ("v", _BOTTOM, color), absent: ("o", _BOTTOM, "white")}
    handles = []
    for what, where in found.items():
        if where:
            marker, heights, fill = markers[what]
            style: dict[str, Any] = {"marker": marker, "color": color, "mfc": fill, "ls": "none", "zorder": 4}
            style |= {"transform": axes.get_xaxis_transform(), "label": f"{direction}: {what}", "clip_on": False}
            handles += axes.plot(where, [heights[level]] * len(where), **style)
    return handles


def _time_panel(axes: Axes, rows: Mapping[str, _Signal], reverse: Mapping[str, bool]) -> None:
    """Draw one row of colours a layer inside a scan; shorter scans end early."""
    longest = max(len(row.values) for row in rows.values())
    values = np.full((len(rows), longest), np.nan)
    bad = np.zeros((len(rows), longest), bool)
    for index, row in enumerate(rows.values()):
        values[index, : len(row.values)] = np.where(row.there & np.isfinite(row.values), row.values, np.nan)
        bad[index, : len(row.values)] = row.there & ~np.isfinite(row.values)
    label = r"rms of $\partial L/\partial$output"
    xlabel = "time step of the scan" + (
        " (\N{LEFTWARDS ARROW}: runs from its last step to 0)" if any(reverse.values()) else ""
    )
    heatmap(values, np.arange(longest), label=label, xlabel=xlabel, ylabel="", axes=axes)
    names = [f"{name} \N{LEFTWARDS ARROW}" if reverse[name] else name for name in rows]
    axes.set_yticks(np.arange(1, len(rows) + 1), names, fontsize=8)
    level, step = np.nonzero(bad)
    if len(level):
        axes.plot(step, level + 1, "x", color=_BAD, ls="none", label="NaN or Inf", clip_on=False)
    gaps = ~bad & ~(values > 0)
    notes = ["red \N{MULTIPLICATION SIGN}: NaN or Inf"] * bool(len(level))
    notes += ["grey: 0, not reached, or no such step"] * bool(gaps.any())
    axes.set_title("; ".join(notes), fontsize=8)
