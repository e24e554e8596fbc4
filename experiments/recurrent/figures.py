"""The figures of `recurrent`, drawn from its results alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.recurrent import theory
from experiments.recurrent.bands import LEARNED
from experiments.recurrent.results import Results
from experiments.recurrent.training import ARMS, Trained
from gradflow import plots

GREY = "#BBBBBB"
LINES = plots.line_styles()
STYLES = dict(zip((arm.name for arm in ARMS), LINES, strict=False))
BEFORE, AFTER, CELL = LINES[5], LINES[1], LINES[2]
LOWEST = 1e-15  # of a relative gradient that is drawn
HEAT_LIMITS = (1e-6, 10.0)
TALLEST = 1.0  # loss on the adding problem that is drawn; an IRNN's leaves the axes now and then


@plots.styled
def draw(results: Results) -> dict[str, Figure]:
    """Draw every figure.

    Args:
        results: from `experiments.recurrent.experiment.run`.

    Returns:
        Name to figure.
    """
    return {
        "initialization": initialization(results),
        "over_time": over_time(results),
        "heatmap": heatmaps(results),
        "tasks": tasks(results),
    }


def longest(results: Results) -> Trained:
    """Return the task that all networks are trained on."""
    return list(results.adding.values())[-1]


def relative(profile: Float[np.ndarray, "... steps"]) -> Float[np.ndarray, "... steps"]:
    """Divide a gradient over time by that of the last step."""
    return profile / profile[..., -1:]


def initialization(results: Results) -> Figure:
    """What theory says of the gradient before training."""
    figure = Figure(figsize=(11.5, 7.2), layout="constrained")
    grid = figure.subplots(2, 3)
    figure.suptitle("Before training: the gradient on its way back in time", x=0.01, ha="left", fontsize=12)
    for axes, letter, name, profiles in zip(
        grid[0], "abc", theory.RADIUS_CELLS, results.theory.radius_gradient, strict=True
    ):
        _fan(axes, profiles)
        axes.set_title(f"({letter}) {name}")
    grid[0, 0].set_ylabel(r"rms of $\partial L/\partial h_t$, last step = 1")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    grid[0, 2].legend(handles[::-1], labels[::-1], title="spectral radius", loc="upper left", ncols=2)
    _retention(grid[1, 0], results)
    _plain_rates(grid[1, 1], results)
    _gated_rates(grid[1, 2], results)
    return figure


def _fan(axes: Axes, profiles: Float[np.ndarray, "radii steps"]) -> None:
    steps = profiles.shape[-1]
    back = np.arange(steps)[::-1]
    for radius, profile, style in zip(theory.RADII, profiles, LINES, strict=False):
        axes.plot(back, np.where(profile > 0, profile, np.nan), label=f"{radius:g}", markevery=steps // 6, **style)
    axes.set_yscale("log")
    axes.set_ylim(1e-20, 1e20)
    axes.set_xlabel("steps back from the last")


def _retention(axes: Axes, results: Results) -> None:
    steps = results.steps
    labels = [*(f"forget bias {bias:g}" for bias in theory.FORGET_BIASES), "chrono"]
    for label, profile, expected, style in zip(
        labels, results.theory.retention, results.theory.retention_theory, LINES, strict=False
    ):
        axes.plot(np.arange(steps + 1)[::-1], profile, label=label, markevery=steps // 6, **style)
        axes.plot(steps, expected, "*", color=style["color"], markersize=13, clip_on=False, zorder=5)
    axes.set_yscale("log")
    axes.set_xlabel("steps back from the last")
    axes.set_ylabel(r"rms of $\partial L/\partial c_t$, last step = 1")
    axes.plot([], [], "*", color=GREY, markersize=13, label=r"theory: $\sigma(b)^T$; chrono: $E[f^{2T}]^{1/2}$")
    axes.set_title("(d) LSTM, small weights")
    axes.legend(fontsize=8)


def _plain_rates(axes: Axes, results: Results) -> None:
    axes.plot(theory.CURVE, results.theory.rnn_curve, color=GREY, lw=4, label=r"mean field: $\chi_1$", zorder=1)
    for number, rates in enumerate(results.theory.rnn_rate.T):
        axes.plot(
            theory.SIGMAS, rates, ls="none", marker="o", color="black", mfc="none", label=None if number else "networks"
        )
    axes.axhline(1, color="#777777", lw=1, ls=":")
    axes.set_xlabel(r"spectral radius $\sigma_w$, Gaussian weights")
    axes.set_ylabel("squared gradient, factor a step back")
    axes.set_title("(e) tanh RNN, weak inputs")
    axes.legend()


def _gated_rates(axes: Axes, results: Results) -> None:
    places = np.arange(len(results.theory.gated_names))
    shared, fresh = results.theory.gated_rate.mean(-1).T
    axes.bar(places - 0.2, fresh, 0.4, color=GREY, edgecolor="black", label="weights drawn anew at every step")
    axes.bar(
        places + 0.2, shared, 0.4, color=plots.COLORS[1], edgecolor="black", label="the same weights at every step"
    )
    for place, value in zip(places, results.theory.gated_theory, strict=True):
        axes.plot((place - 0.42, place + 0.02), (value, value), color=plots.COLORS[2], lw=2.5)
    axes.plot([], [], color=plots.COLORS[2], lw=2.5, label="mean field")
    axes.set_xticks(places, [str(name).replace(", ", ",\n") for name in results.theory.gated_names], fontsize=8)
    axes.set_ylim(0, 1.35)
    axes.set_ylabel("squared gradient, factor a step back")
    axes.set_title("(f) gated cells")
    axes.legend(loc="upper left")


def over_time(results: Results) -> Figure:
    """Gradient over time before and after training on the adding problem, one panel a network."""
    task = longest(results)
    arms = task.arms.tolist()
    columns = min(4, len(arms))
    rows = math.ceil(len(arms) / columns)
    figure = Figure(figsize=(max(7.5, 2.9 * columns + 0.4), 2.5 * rows + 1.2), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    steps = np.arange(1, task.gradient.shape[-1] + 1)
    for axes, name, h, c in zip(grid.flat, arms, task.gradient, task.gradient_c, strict=False):
        lines = [(h[0], r"$h_t$, before", BEFORE), (h[-1], r"$h_t$, after", AFTER)]
        if (c != h).any():
            lines += [(c[0], r"$c_t$, before", BEFORE | {"marker": "", "color": GREY}), (c[-1], r"$c_t$, after", CELL)]
        for profile, label, style in lines:
            axes.plot(steps, relative(profile), label=label, markevery=len(steps) // 5, **style)
        axes.set_yscale("log")
        axes.set_title(name)
    for axes in grid.flat[len(arms) :]:
        axes.set_axis_off()
    grid[0, 0].set_ylim(bottom=max(LOWEST, grid[0, 0].get_ylim()[0]))
    _label_lowest(grid, len(arms), "time step t")
    for row in grid:
        row[0].set_ylabel("rms of gradient,\nlast step = 1")
    handles, labels = grid.flat[len(arms) - 1].get_legend_handles_labels()
    place = {"loc": "outside lower center", "ncols": 4} if len(arms) == grid.size else {"loc": "lower right"}
    figure.legend(handles, labels, title=r"$\partial L/\partial$ state", **place)
    figure.suptitle(
        f"Credit over time, before and after {_updates(results, task)} training steps on the adding problem",
        x=0.01, ha="left", fontsize=12,
    )  # fmt: skip
    return figure


def _label_lowest(grid: np.ndarray, count: int, label: str) -> None:
    """Label the time axis of the lowest panel of each column, of which the first `count` are used."""
    for axes in grid.flat[max(0, count - grid.shape[1]) : count]:
        axes.set_xlabel(label)
        axes.tick_params(labelbottom=True)


def heatmaps(results: Results) -> Figure:
    """Gradient over time as colours, over training."""
    task = longest(results)
    arms = task.arms.tolist()
    columns = min(4, len(arms))
    rows = math.ceil(len(arms) / columns)
    figure = Figure(figsize=(max(9.5, 2.9 * columns + 1.2), 2.5 * rows + 0.8), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    records = np.arange(task.gradient.shape[1]) * results.every
    learned = (task.loss <= LEARNED).cumsum(1) == 1
    for axes, name, profiles, first in zip(grid.flat, arms, task.gradient, learned, strict=False):
        plots.heatmap(
            np.clip(relative(profiles), *HEAT_LIMITS).T, records, label="", limits=HEAT_LIMITS, xlabel="", ylabel="",
            title=name, colorbar=False, axes=axes,
        )  # fmt: skip
        if first.any():
            axes.axvline(records[first.argmax() + 1], color="white", lw=1.6, ls="--")
    for axes in grid.flat[len(arms) :]:
        axes.set_axis_off()
    _label_lowest(grid, len(arms), "training step")
    for row in grid:
        row[0].set_ylabel("time step t")
    label = r"rms of $\partial L/\partial h_t$, last step = 1"
    figure.colorbar(grid.flat[0].images[0], ax=grid, label=label, extend="both", shrink=0.8)
    figure.suptitle(
        f"The gradient over time while the adding problem is learned (dashed: mean squared error below {LEARNED:g})",
        x=0.01,
        ha="left",
        fontsize=12,
    )
    return figure


def tasks(results: Results) -> Figure:
    """Learning curves of all tasks."""
    panels = [
        *((task, f"adding, T = {length}", "mean squared error") for length, task in results.adding.items()),
        *((task, f"adding of 1997, T = {t}", "mean squared error") for t, task in results.original.items()),
        *((task, f"copy memory, T = {pause}", "nats a step") for pause, task in results.copy.items()),
        *((task, f"images by {reading}", "nats") for reading, task in results.images.items()),
    ]
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(max(6.0, 3.7 * columns), 3.1 * rows + 0.8), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, letter, (task, title, unit) in zip(grid.flat, "abcdefghijklmno", panels, strict=False):
        _curves(axes, results, task)
        axes.set_title(f"({letter}) {title}")
        axes.set_ylabel(f"training loss, {unit}")
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    handles, labels = _legend_of(list(grid.flat[: len(panels)]))
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)))
    figure.suptitle("Learning: dotted, what ignoring the sequence costs", x=0.01, ha="left", fontsize=12)
    return figure


def _curves(axes: Axes, results: Results, task: Trained) -> None:
    losses = task.loss
    steps = (np.arange(losses.shape[1]) + 1) * _updates(results, task) / losses.shape[1]
    for name, curve in zip(task.arms.tolist(), losses, strict=True):
        axes.plot(steps, curve, label=name, markevery=max(1, len(steps) // 6), **STYLES[name])
    if task.baseline is not None:
        axes.axhline(task.baseline, color="#777777", lw=1.4, ls=":")
    if any(task is one for one in results.adding.values()):
        axes.set_yscale("log")
        axes.set_ylim(top=TALLEST)
    axes.set_xlabel("training step")


def _legend_of(panels: Sequence[Axes]) -> tuple[list[Any], list[str]]:
    """Collect one entry for each network, in the order of `ARMS`."""
    found = {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    ordered = [name for name in STYLES if name in found]
    return [found[name] for name in ordered], ordered


def _updates(results: Results, task: Trained) -> int:
    return task.loss.shape[1] * results.every
