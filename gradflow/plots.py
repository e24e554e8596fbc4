"""Arrays to matplotlib figures. Computes nothing, saves nothing.

Every function draws into the axes given, or into a figure of its own, and returns the figure. Lines differ by
colour (Okabe & Ito's palette, safe for the colour-blind), by marker and by dash, so that they survive a grey
printer; heat maps use cividis, whose lightness rises steadily.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import matplotlib as mpl
import numpy as np
from jaxtyping import Float, Num
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

if TYPE_CHECKING:
    from gradflow.instrument import Flow

# Okabe & Ito, "Color Universal Design" (2008), black first; the yellow is left out, it fades on white.
COLORS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (3, 1, 1, 1, 1, 1)))
HEAT = "cividis"

STYLE: Any = {
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "image.cmap": HEAT,
}

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def styled(draw: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Draw in gradflow's style, and leave matplotlib's settings as they were.

    Args:
        draw: a function that makes or fills a figure.

    Returns:
        The same function under the style.
    """

    @functools.wraps(draw)
    def wrapped(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        with mpl.rc_context(STYLE):
            return draw(*args, **kwargs)

    return wrapped


def line_styles() -> list[dict[str, Any]]:
    """Return distinct line styles: colour, marker and dash all change from one to the next."""
    count = len(COLORS) * len(DASHES)
    cycles = (itertools.cycle(COLORS), itertools.cycle(MARKERS), itertools.cycle(DASHES))
    return [
        {"color": color, "marker": marker, "linestyle": dash}
        for color, marker, dash in itertools.islice(zip(*cycles, strict=True), count)
    ]


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
    axes = _axes_or_new(axes)
    chosen = _styles(lines, styles)
    for number, (name, predicted) in enumerate((theory or {}).items()):
        if name not in lines:
            raise ValueError(f"theory is given for {name!r}, but the lines are {list(lines)}")
        depth = np.arange(1, len(predicted) + 1)
        label = "theory" if number == 0 else None
        axes.plot(depth, _positive(predicted, log), color="#9A9A9A", lw=4, alpha=0.55, label=label, zorder=1)
    for name, values in lines.items():
        depth = np.arange(1, len(values) + 1)
        axes.plot(depth, _positive(values, log), label=name, markevery=_markevery(len(values)), **chosen[name])
    if log:
        _log_axis(axes)
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axes.set_xticks(_depth_ticks(max(map(len, lines.values()), default=1)))
    _legend(axes)
    return _figure_of(axes)


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
    axes = _axes_or_new(axes)
    shown = np.ma.masked_invalid(_positive(values, log))
    low, high = limits if limits is not None else _limits(shown, log)
    norm = LogNorm(low, high, clip=True) if log else Normalize(low, high)
    half = (steps[1] - steps[0]) / 2 if len(steps) > 1 else 0.5
    extent = (float(steps[0] - half), float(steps[-1] + half), 0.5, len(values) + 0.5)
    image = axes.imshow(
        shown, origin="lower", aspect="auto", extent=extent, norm=norm, cmap=HEAT, interpolation="nearest"
    )
    axes.set_facecolor("#BBBBBB")
    axes.grid(False)
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axes.set_yticks(_depth_ticks(len(values)))
    figure = _figure_of(axes)
    if colorbar:
        figure.colorbar(image, ax=axes, label=label)
    return figure


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
    axes = _axes_or_new(axes)
    chosen = _styles(curves, styles)
    for name, level in (reference or {}).items():
        axes.axhline(level, color="#777777", lw=1, ls=":")
        axes.annotate(
            name, (1, level), xycoords=("axes fraction", "data"), xytext=(-3, -3), textcoords="offset points",
            ha="right", va="top", color="#555555", fontsize=8,
        )  # fmt: skip
    for name, values in curves.items():
        axes.plot(steps, _positive(values, log), label=name, markevery=_markevery(len(values)), **chosen[name])
    if log:
        _log_axis(axes)
    axes.set(xlabel="training step", ylabel=ylabel, title=title)
    _legend(axes)
    return _figure_of(axes)


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
    axes = _axes_or_new(axes)
    chosen = _styles(lines, styles)
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
    return _figure_of(axes)


@styled
def flow(flow: Flow, *, title: str = "") -> Figure:
    """Forward and backward signal of one evaluation over depth, and over time for layers inside a scan.

    The upper panel shows the rms of every layer's output and of the loss's gradient with respect to it, on
    one log axis each; a layer inside a scan shows its last step forward and its first step backward, where
    the signals have come furthest. Below, one row a layer inside a scan, the gradient over time as colours.

    Args:
        flow: what `gradflow.value_grad_and_flow` returned, for one evaluation (no leading axis from vmap).
        title: title of the figure.

    Returns:
        The figure.

    Raises:
        ValueError: if a statistic has more axes than one, time: index the leading axes first.
    """
    names = [*flow.layers, *flow.taps, *flow.carries]
    forward = {name: np.asarray(flow[name].output_rms) for name in names}
    backward = {name: np.asarray(flow[name].output_grad_rms) for name in names}
    for name in names:
        if backward[name].ndim > 1:
            raise ValueError(
                f"{name} has statistics of shape {backward[name].shape}; expected () or (time,). A flow from "
                "vmap, or of several steps, has leading axes: plot jax.tree.map(lambda x: x[0], flow)"
            )
    scanned = [name for name in names if backward[name].ndim == 1]
    figure = Figure(figsize=(7.2, 4.0 + (1.2 + 0.45 * len(scanned) if scanned else 0)), layout="constrained")
    rows = figure.subplots(2, 1, height_ratios=(4.0, 1.2 + 0.45 * len(scanned))) if scanned else [figure.subplots()]
    _depth_panel(rows[0], names, forward, backward)
    if scanned:
        _time_panel(rows[1], {name: backward[name] for name in scanned})
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure


def _depth_panel(
    axes: Axes, names: Sequence[str], forward: Mapping[str, np.ndarray], backward: Mapping[str, np.ndarray]
) -> None:
    """Draw the forward rms against the left axis and the backward rms against the right one."""
    position = np.arange(len(names))
    out = np.array([np.ravel(forward[name])[-1] for name in names])
    back = np.array([np.ravel(backward[name])[0] for name in names])
    right = axes.twinx()
    handles = [
        *axes.plot(position, _positive(out, True), "s--", color=COLORS[1], label="forward: rms of output"),
        *right.plot(
            position,
            _positive(back, True),
            "o-",
            color=COLORS[2],
            label=r"backward: rms of $\partial L/\partial$output",
        ),
    ]
    axes.set(ylabel="forward rms")
    right.set(ylabel="backward rms")
    right.spines["right"].set_visible(True)
    right.grid(False)
    for panel, color in ((axes, COLORS[1]), (right, COLORS[2])):
        _log_axis(panel)
        panel.tick_params(axis="y", colors=color)
        panel.yaxis.label.set_color(color)
    shown = position[:: max(1, len(names) // 24)]
    axes.set_xticks(shown, [names[index] for index in shown], rotation=60, ha="right", fontsize=8)
    axes.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)


def _time_panel(axes: Axes, rows: Mapping[str, np.ndarray]) -> None:
    """Draw one row of colours a layer inside a scan; shorter scans end early."""
    longest = max(len(row) for row in rows.values())
    values = np.full((len(rows), longest), np.nan)
    for index, row in enumerate(rows.values()):
        values[index, : len(row)] = row
    label = r"rms of $\partial L/\partial$output"
    heatmap(values, np.arange(longest), label=label, xlabel="time step of the scan", ylabel="", axes=axes)
    axes.set_yticks(np.arange(1, len(rows) + 1), list(rows), fontsize=8)


def _axes_or_new(axes: Axes | None) -> Axes:
    return Figure(figsize=(6.4, 4.2), layout="constrained").subplots() if axes is None else axes


def _figure_of(axes: Axes) -> Figure:
    figure = axes.get_figure(root=True)
    assert isinstance(figure, Figure)
    return figure


def _styles(names: Mapping[str, Any], styles: Mapping[str, Mapping[str, Any]] | None) -> dict[str, dict[str, Any]]:
    if styles is None:
        return dict(zip(names, itertools.cycle(line_styles()), strict=False))
    return {name: dict(styles[name]) for name in names}


def _positive(values: Any, log: bool) -> np.ndarray:
    values = np.asarray(values, np.float64)
    return np.where(values > 0, values, np.nan) if log else values


def _limits(shown: np.ma.MaskedArray, log: bool) -> tuple[float, float]:
    if shown.count() == 0:
        return (0.1, 1.0)
    low, high = float(shown.min()), float(shown.max())
    if low < high:
        return low, high
    return (low / 2, high * 2) if log else (low - 1, high + 1)


def _depth_ticks(layers: int) -> list[int]:
    """Tick the first layer and every 1, 2, 5, 10, 20, 50 ... layers after, six ticks at most."""
    steps = (factor * 10**power for power in range(9) for factor in (1, 2, 5))
    step = next(step for step in steps if layers / step <= 6)
    return sorted({1, *range(step, layers + 1, step)})


def _markevery(count: int) -> int:
    return max(1, count // 12)


def _log_axis(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(numticks=8))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
