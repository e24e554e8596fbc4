"""The figures of `clipping`, drawn from its results alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from experiments.clipping import order, smoothness, surface
from experiments.clipping.results import Results
from gradflow import plots

PLAIN, CLIPPED, THIRD, FOURTH = plots.line_styles()[:4]
LINES = dict(zip(order.LIMITS, (PLAIN, CLIPPED, THIRD, FOURTH), strict=True))
WORDS = {
    "none": "not clipped",
    "norm": f"norm of the gradient at most {order.BY_NORM:g}",
    "value": f"each entry at most {order.BY_VALUE:g}",
    "adaptive": f"each unit at most {order.BY_UNIT:g} of its weights",
}
COARSE = 4  # points of the grid for one of the surface in 3-D
JUMP = 0.5  # in the plane of w and b
AFTERWARDS = 40  # steps drawn after the longest one
ABOVE = 0.005  # the surface, so that lines are seen
LEVELS = (0.001, 0.01, 0.03, 0.05, 0.07, 0.08, 0.085, 0.1, 0.15, 0.2, 0.3, 0.4, 0.45)
LABELLED = (0.01, 0.08, 0.4)  # those away from the cliff, where there is room
PATHS = ("plain descent", f"clipped at {surface.LIMIT:g}")


@plots.styled
def draw(results: Results) -> dict[str, Figure]:
    """Draw every figure.

    Args:
        results: from `experiments.clipping.experiment.run`.

    Returns:
        Name to figure.
    """
    return {
        "surface": cliff(results),
        "norms": norms(results),
        "temporal_order": temporal_order(results),
        "smoothness": curvature(results),
    }


def without_marker(style: dict[str, Any]) -> dict[str, Any]:
    """Return a line style for curves of many points.

    Args:
        style: one of `plots.line_styles`.
    """
    return {name: value for name, value in style.items() if name != "marker"}


def shown_path(results: Results) -> int:
    """Return the path to draw: the first that the cliff throws and that stays in view; else the first.

    Args:
        results: from `run`.
    """
    places = results.path.places
    low, high = (np.array(limits) for limits in zip(surface.WEIGHTS, surface.BIASES, strict=True))
    inside = ((places >= low) & (places <= high)).all((0, 1, 3))
    thrown = np.linalg.norm(np.diff(places[0], axis=0), axis=-1).max(0) > JUMP
    return int(np.argmax(inside & thrown))


def cliff(results: Results) -> Figure:
    """Pascanu et al.'s Fig. 6: the surface and two descents on it, in space and from above."""
    figure = Figure(figsize=(10.5, 4.8), layout="constrained")
    figure.suptitle(f"A cliff in the error of one recurrent unit, {surface.TIME} steps", x=0.01, ha="left", fontsize=12)
    index = shown_path(results)
    jumps = np.linalg.norm(np.diff(results.path.places[0, :, index], axis=0), axis=-1)
    shown = np.s_[: int(np.argmax(jumps)) + AFTERWARDS]
    paths = [(results.path.places[run, shown, index], results.path.error[run, shown, index]) for run in (0, 1)]
    space = figure.add_subplot(1, 2, 1, projection="3d")
    _in_space(space, results, paths)
    axes = figure.add_subplot(1, 2, 2)
    _from_above(axes, results)
    for name, (places, _), style in zip(PATHS, paths, (THIRD, CLIPPED), strict=True):
        axes.plot(*places.T, label=name, zorder=4, markevery=_markers(places), **style | {"linewidth": 1.2})
    axes.plot(*paths[0][0][0], "*", color="black", markersize=11, label="start", zorder=5)
    axes.legend(loc="lower left", frameon=True)
    return figure


def _markers(places: np.ndarray) -> list[int]:
    """Return one step in five, and both ends of every long one."""
    long = np.flatnonzero(np.linalg.norm(np.diff(places, axis=0), axis=-1) > JUMP)
    return sorted({*range(0, len(places), 5), *long.tolist(), *(long + 1).tolist()})


def _from_above(axes: Axes, results: Results) -> None:
    weights, biases, errors = results.surface.weights, results.surface.biases, results.surface.error
    gradient = results.surface.gradient
    limits = LogNorm(1e-3, gradient.max())
    mesh = axes.pcolormesh(
        weights, biases, np.maximum(gradient, 1e-3).T, norm=limits, cmap="Greys", rasterized=True, shading="nearest"
    )
    axes.figure.colorbar(mesh, ax=axes, label="norm of the gradient")
    lines = axes.contour(weights, biases, errors.T, levels=LEVELS, colors="#555555", linewidths=0.7)
    axes.clabel(lines, LABELLED, fontsize=7)
    axes.set_xlim(*surface.WEIGHTS)
    axes.set_ylim(*surface.BIASES)
    axes.set_xlabel("weight w")
    axes.set_ylabel("bias b")
    axes.set_title("(b) from above: lines of equal error")


def _in_space(axes: Any, results: Results, paths: list[tuple[np.ndarray, np.ndarray]]) -> None:
    axes.computed_zorder = False
    axes.plot_surface(
        *along_the_cliff(results), cmap=plots.HEAT, rcount=1000, ccount=1000, linewidth=0, antialiased=False, zorder=1
    )
    for (places, errors), style in zip(paths, (THIRD, CLIPPED), strict=True):
        axes.plot(*places.T, errors + ABOVE, zorder=4, **without_marker(style) | {"linewidth": 1.2})
    axes.plot(*paths[0][0][0], paths[0][1][0] + ABOVE, "*", color="black", markersize=11, zorder=6)
    axes.view_init(elev=35, azim=60)
    axes.set_box_aspect(None, zoom=0.88)
    axes.set_xlabel("weight w")
    axes.set_ylabel("bias b")
    axes.set_zlabel("error")
    axes.set_xticks(np.arange(*surface.WEIGHTS) + 1)
    axes.set_yticks(np.arange(*surface.BIASES))
    axes.set_zticks([0.0, 0.2, 0.4])
    axes.set_title("(a) the surface")


def along_the_cliff(results: Results) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return w, b and the error on a mesh whose lines follow the cliff: a rectangular one would cut teeth into it.

    Args:
        results: from `run`.
    """
    rows = np.arange(0, len(results.surface.weights), COARSE)
    drops = np.argmax(np.abs(np.diff(results.surface.error[rows])), axis=1)
    count = len(results.surface.biases)
    far = np.arange(COARSE, count, COARSE)
    offsets = np.concatenate([-far[::-1], np.arange(1 - COARSE, COARSE), far])
    columns = np.clip(drops[:, None] + offsets, 0, count - 1)
    weights = np.broadcast_to(results.surface.weights[rows, None], columns.shape)
    return weights, results.surface.biases[columns], results.surface.error[rows[:, None], columns]


def norms(results: Results) -> Figure:
    """Global norm over training, before and after clipping, for four ways of it."""
    runs, records = results.long.before.shape[1:]
    figure = Figure(figsize=(10.5, 5.8), layout="constrained")
    grid = figure.subplots(2, 2, sharex=True, sharey=True)
    figure.suptitle(
        f"Norm of the gradient over training: temporal order, T = {results.long.length}, smart tanh",
        x=0.01, ha="left", fontsize=12,
    )  # fmt: skip
    updates = results.long.every * np.arange(1, records + 1)
    for index, (axes, clip) in enumerate(zip(grid.flat, order.LIMITS, strict=True)):
        before, after = results.long.before[index].max(0), results.long.after[index].max(0)
        learned = int((results.long.error[index] < order.SOLVED).sum())
        axes.semilogy(updates, before, label="before clipping", **without_marker(PLAIN) | {"linewidth": 0.7})
        if clip != "none":
            axes.semilogy(updates, after, label="after", **without_marker(CLIPPED) | {"linestyle": "-"})
        axes.set_title(f"({'abcd'[index]}) {WORDS[clip]}: {learned} of {runs} learn")
        axes.set_ylim(1e-3, 3 * max(10, results.long.before.max()))
        axes.legend(loc="upper left", ncols=2)
    for axes in grid[1]:
        axes.set_xlabel("update")
    for axes in grid[:, 0]:
        axes.set_ylabel(f"largest norm in {results.long.every} updates\nof {runs} networks")
    return figure


def temporal_order(results: Results) -> Figure:
    """Pascanu et al.'s Fig. 7: how often the order is learned, by length, initialization and clipping."""
    inits = list(order.INITS) if results.by_length.lengths.size else []
    figure = Figure(figsize=(11.5 if inits else 5, 5.8), layout="constrained")
    grid = figure.subplots(2, len(inits) + 1, sharex="col", sharey="row", squeeze=False)
    figure.suptitle("Temporal order: who learns it, by length of the sequences", x=0.01, ha="left", fontsize=12)
    for column, init in enumerate(inits):
        _by_length(grid[0, column], grid[1, column], init, results)
        grid[0, column].set_title(f"({'abc'[column]}) {init}")
    grid[0, -1].set_title(f"({'abcd'[len(inits)]}) smart tanh, T = {results.long.length}")
    _by_clipping(grid[0, -1], grid[1, -1], results)
    for axes in grid[1]:
        axes.axhline(0.75, color="#777777", linestyle=":", linewidth=0.9)
    grid[0, 0].set_ylim(0, 1)
    grid[1, 0].set_ylim(0, 0.8)
    grid[0, 0].set_ylabel(f"part of {results.long.error.shape[-1]} networks with\nless than 1 % errors")
    grid[1, 0].set_ylabel("error, mean (dots: each network);\ndotted: chance")
    figure.legend(*grid[0, -1].get_legend_handles_labels(), loc="outside lower center", ncols=4 if inits else 1)
    return figure


def _by_length(top: Axes, bottom: Axes, init: str, results: Results) -> None:
    lengths = results.by_length.lengths
    for clip, style in LINES.items():
        if (init, clip) in order.ARMS:
            errors = results.by_length.error[:, order.ARMS.index((init, clip))]
            top.plot(lengths, (errors < order.SOLVED).mean(1), clip_on=False, **style)
            bottom.plot(lengths, errors.mean(1), clip_on=False, **style)
            bottom.plot(lengths, errors, ".", color=style["color"], markersize=3, alpha=0.6)
    bottom.set_xlabel(f"length T, {results.by_length.updates} updates")
    bottom.set_xticks(lengths)


def _by_clipping(top: Axes, bottom: Axes, results: Results) -> None:
    for place, (errors, (clip, style)) in enumerate(zip(results.long.error, LINES.items(), strict=True)):
        learned = (errors < order.SOLVED).mean()
        top.vlines(place, 0, learned, color=style["color"], linewidth=1)
        top.plot(place, learned, label=WORDS[clip], clip_on=False, zorder=3, **style)
        bottom.plot(place, errors.mean(), clip_on=False, **style)
        bottom.plot(np.full(len(errors), place), errors, ".", color=style["color"], markersize=3, alpha=0.6)
    bottom.set_xticks(range(len(LINES)), list(LINES))
    bottom.set_xlim(-0.5, len(LINES) - 0.5)
    bottom.set_xlabel(f"clipping, {results.long.every * results.long.loss.shape[-1]} updates")


def curvature(results: Results) -> Figure:
    """Descent on x^4, smoothness against gradient norm (Zhang et al.), gradients over time by radius."""
    figure = Figure(figsize=(10.5, 3.8), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    figure.suptitle("Where the curvature grows with the gradient", x=0.01, ha="left", fontsize=12)
    _quartic(left, results)
    _scatter(middle, results)
    back = -np.arange(results.radius.gradient.shape[-1])[::-1]
    for radius, linear, bent, style in zip(
        results.radius.radii, *results.radius.gradient, plots.line_styles(), strict=False
    ):
        line = without_marker(style) | {"linestyle": "-"}
        right.semilogy(back, linear, label=f"{radius:g}", **line)
        right.semilogy(back, bent, **line | {"linestyle": ":"})
    right.set_xlabel("time step t, the last one is 0")
    right.set_ylabel("dL/dh, the last step's = 1")
    right.set_title("(c) gradient over time")
    right.set_ylim(top=1e28)
    right.legend(title="spectral radius (dotted: tanh units)", title_fontsize=8.5, loc="upper right", ncols=2)
    return figure


def _quartic(axes: Axes, results: Results) -> None:
    steps = np.arange(1, len(results.quartic.x) + 1)
    first = results.quartic.first
    names = ("plain, rate .01", "plain, rate 1/1200", f"clipped at 1, rate .01: {first[2]} steps")
    for name, x, style in zip(names, results.quartic.x.T, (THIRD, PLAIN, CLIPPED), strict=True):
        size = np.abs(x.astype(np.float64))
        shown = size < 1e6
        axes.loglog(steps[shown], size[shown], label=name, **without_marker(style))
    axes.set_ylim(1e-2, 1e6)
    axes.set_xlabel("step")
    axes.set_ylabel("|x|")
    axes.set_title("(a) descent on x⁴ from 10")
    axes.legend()


def _scatter(axes: Axes, results: Results) -> None:
    gradient, local = results.smooth.gradient, results.smooth.local
    slope, correlation = smoothness.fitted_power(gradient, local)
    progress = np.broadcast_to(np.linspace(0, 1, gradient.shape[1]), gradient.shape)
    points = axes.scatter(gradient, local, c=progress, s=9, cmap=plots.HEAT, linewidths=0)
    axes.figure.colorbar(points, ax=axes, label="training, start (0) to end (1)")
    middle = np.exp(np.log(gradient).mean()), np.exp(np.log(local).mean())
    ends = np.array([gradient.min(), gradient.max()])
    axes.plot(ends, middle[1] * (ends / middle[0]) ** slope, color="black", linewidth=1, label=f"slope {slope:.2f}")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(ends[0] / 1.2, max(1.2 * ends[1], 12 * ends[0]))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("norm of the gradient")
    axes.set_ylabel("local smoothness")
    axes.set_title(f"(b) RNN in training, correlation {correlation:.2f}")
    axes.legend()
