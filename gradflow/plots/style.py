"""The look of the figures, and the small parts that they share."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

__all__ = [
    "COLORS", "HEAT", "MARKERS", "add_legend", "axes_or_new", "depth_ticks", "figure_of", "line_styles", "log_axis",
    "marker_spacing", "positive", "scale_limits", "styled", "styles_by_name",
]  # fmt: skip

# Okabe & Ito, "Color Universal Design" (2008), black first, without the yellow, which is faint on white.
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


def axes_or_new(axes: Axes | None) -> Axes:
    """Return the axes given, or those of a new figure."""
    return Figure(figsize=(6.4, 4.2), layout="constrained").subplots() if axes is None else axes


def figure_of(axes: Axes) -> Figure:
    """Return the figure that axes belong to."""
    figure = axes.get_figure(root=True)
    assert isinstance(figure, Figure)
    return figure


def styles_by_name(
    names: Mapping[str, Any], styles: Mapping[str, Mapping[str, Any]] | None
) -> dict[str, dict[str, Any]]:
    """Return a line style for each name: those given, or `line_styles` in order."""
    if styles is None:
        return dict(zip(names, itertools.cycle(line_styles()), strict=False))
    return {name: dict(styles[name]) for name in names}


def positive(values: Any, log: bool) -> np.ndarray:
    """Return values for an axis: on a log axis what is not positive becomes NaN, a gap."""
    values = np.asarray(values, np.float64)
    return np.where(values > 0, values, np.nan) if log else values


def scale_limits(shown: np.ma.MaskedArray, log: bool) -> tuple[float, float]:
    """Return the ends of a colour scale for masked values."""
    if shown.count() == 0:
        return (0.1, 1.0)
    low, high = float(shown.min()), float(shown.max())
    if low < high:
        return low, high
    return (low / 2, high * 2) if log else (low - 1, high + 1)


def depth_ticks(layers: int) -> list[int]:
    """Tick the first layer and every 1, 2, 5, 10, 20, 50 ... layers after, six ticks at most."""
    steps = (factor * 10**power for power in range(9) for factor in (1, 2, 5))
    step = next(step for step in steps if layers / step <= 6)
    return sorted({1, *range(step, layers + 1, step)})


def marker_spacing(count: int) -> int:
    """Return how many points lie from one marker to the next."""
    return max(1, count // 12)


def log_axis(axes: Axes) -> None:
    """Make the vertical axis logarithmic, with few ticks."""
    if not any((np.asarray(line.get_ydata(), np.float64) > 0).any() for line in axes.get_lines()):
        axes.set_ylim(0.1, 1)  # matplotlib cannot draw a log axis without a positive number
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(numticks=8))
    axes.yaxis.set_minor_formatter(NullFormatter())


def add_legend(axes: Axes) -> None:
    """Add a legend if a line has a label."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
