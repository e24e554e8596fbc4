"""The figures of `vanishing`, drawn from its results alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.vanishing.arms import GROUPS, SICK
from experiments.vanishing.results import Results
from gradflow import plots

BACKWARD = r"rms of $\partial L/\partial z$"
HEAT_ARMS = (SICK.name, "ReLU + He")
OVERVIEW_ARMS = (SICK.name, "He normal", "ReLU", "ReLU + He", "residual", "batch norm", "all together")
CHANCE = {"chance": 0.1}


@plots.styled
def draw(results: Results) -> dict[str, Figure]:
    """Draw every figure.

    Args:
        results: from `experiments.vanishing.experiment.run`.

    Returns:
        Name to figure.
    """
    return {
        "overview": overview(results),
        "profile": by_group(results, profile_panel, "The gradient at initialization, from the last layer to the first"),
        "heatmap": heatmaps(results),
        "training": by_group(results, accuracy_panel, "Learning: the same images, rate and steps for every network"),
        "training_set": by_group(
            results, functools.partial(accuracy_panel, split="train"), "Learning, on the training images"
        ),
        "movement": by_group(results, movement_panel, "How far each layer's weights moved in training"),
        "saturation": saturation(results),
        "tanh": tanh_table(results),
    }


Panel = Callable[[Results, Sequence[str], Axes, str], None]


def by_group(results: Results, panel: Panel, title: str) -> Figure:
    """Draw one panel a group of remedies, the sick network in each for comparison.

    Args:
        results: results of the run.
        panel: draws some arms into axes.
        title: headline.

    Returns:
        The figure.
    """
    groups = {group: members(results, group) for group in GROUPS}
    shown = {group: names for group, names in groups.items() if names}
    figure = Figure(figsize=(3.1 * len(shown) + 0.6, 4.6), layout="constrained")
    row = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, (group, names) in zip(row, shown.items(), strict=True):
        panel(results, (SICK.name, *names), axes, group)
        axes.label_outer()
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16))
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    return figure


def members(results: Results, group: str) -> list[str]:
    """Name the arms of a group, in order."""
    return [str(name) for name, of in zip(results.arms, results.groups, strict=True) if of == group]


def pick(results: Results, values: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Pick the rows of some arms out of an array that has one row an arm."""
    position = {str(name): index for index, name in enumerate(results.arms)}
    return {name: values[position[name]] for name in names if name in position}


def styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Give the sick network black circles, and every other arm of a panel a style of its own."""
    return dict(zip(names, plots.line_styles(), strict=False))


def profile_panel(results: Results, names: Sequence[str], axes: Axes, title: str) -> None:
    """Gradient over layers at initialization, theory in grey, scaled to meet the measured last layer."""
    measured = {name: rows[0] for name, rows in pick(results, results.training.gradient, names).items()}
    relative = pick(results, results.theory_profile, names)
    theory = {name: values * measured[name][-1] for name, values in relative.items()}
    plots.profile(measured, ylabel=BACKWARD, theory=theory, styles=styles(names), title=title, axes=axes)


def accuracy_panel(results: Results, names: Sequence[str], axes: Axes, title: str, *, split: str = "test") -> None:
    """Accuracy on the test or on the training images over training steps."""
    accuracy, label = {
        "test": (results.training.test_accuracy, "test accuracy"),
        "train": (results.training.train_accuracy, "training accuracy"),
    }[split]
    plots.training_curves(
        results.training.steps,
        pick(results, accuracy, names),
        ylabel=label,
        reference=CHANCE,
        styles=styles(names),
        title=title,
        axes=axes,
    )
    axes.set_ylim(0, 1)


def movement_panel(results: Results, names: Sequence[str], axes: Axes, title: str) -> None:
    """Relative movement of each layer at the end of training."""
    lines = {name: rows[-1] for name, rows in pick(results, results.training.movement, names).items()}
    positive = results.training.movement[:, -1][results.training.movement[:, -1] > 0]
    plots.movement(lines, zero_at=float(positive.min()) / 10, styles=styles(names), title=title, axes=axes)
    axes.set_xlabel("layer, the last one is the output layer")


def heatmaps(results: Results) -> Figure:
    """Gradient by layer and step: the sick network beside a cured one, on one colour scale."""
    figure = Figure(figsize=(9.4, 3.9), layout="constrained")
    row = figure.subplots(1, len(HEAT_ARMS), sharey=True)
    heat_row(results, row)
    figure.suptitle("The gradient in every layer during training", x=0.01, ha="left", fontsize=12)
    return figure


def heat_row(results: Results, row: Sequence[Axes]) -> None:
    """Draw the two heat maps into axes; the last one carries the colour bar."""
    values = pick(results, results.training.gradient, HEAT_ARMS)
    positive = np.concatenate([rows[rows > 0] for rows in values.values()])
    limits = (float(positive.min()), float(positive.max()))
    for number, (axes, (name, rows)) in enumerate(zip(row, values.items(), strict=True)):
        plots.heatmap(
            rows.T, results.training.steps, label=BACKWARD, limits=limits, title=name, axes=axes,
            ylabel="" if number else "layer", colorbar=number == len(values) - 1,
        )  # fmt: skip


def saturation(results: Results) -> Figure:
    """Saturated and dead fractions by layer, at initialization and at the end."""
    figure = Figure(figsize=(9.4, 6.2), layout="constrained")
    grid = figure.subplots(2, 2, sharex=True, sharey=True)
    names = [name for name in OVERVIEW_ARMS if name in set(results.arms)]
    fractions = {"saturated fraction": results.training.saturated, "dead fraction": results.training.dead}
    for row, (label, values) in zip(grid, fractions.items(), strict=True):
        for axes, when, title in zip(row, (0, -1), ("at initialization", "after training"), strict=True):
            lines = {name: rows[when] for name, rows in pick(results, values, names).items()}
            plots.profile(lines, ylabel=label, styles=styles(names), title=f"{label} {title}", log=False, axes=axes)
            axes.set_ylim(-0.04, 1.04)
            axes.get_legend().remove()
            axes.label_outer()
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def tanh_table(results: Results) -> Figure:
    """Squared gradient over depth for five weight variances, with the slope of chi_1 through each."""
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    tanh_panel(results, figure.subplots(), "tanh: order, criticality, chaos")
    return figure


def tanh_panel(results: Results, axes: Axes, title: str) -> None:
    """Draw the tanh profiles, each scaled to 1 at the last layer, mean over seeds."""
    lines, theory = {}, {}
    for variance, chi, rate, rms in zip(
        results.tanh.variance, results.tanh.theory, results.tanh.rate, results.tanh.gradient, strict=True
    ):
        name = f"{variance:g}: {chi:.3f}, {rate.mean():.3f}"
        lines[name] = geometric_mean(rms / rms[:, -1:])
        theory[name] = chi ** (np.arange(len(lines[name]))[::-1] / 2)
    plots.profile(lines, ylabel=BACKWARD + ", last layer = 1", theory=theory, title=title, axes=axes)
    axes.set_ylim(top=axes.get_ylim()[1] * 50)
    axes.legend(title=r"$\sigma_w^2$: $\chi_1$ of theory, measured", loc="upper right", fontsize=8, title_fontsize=8)


def geometric_mean(values: Float[np.ndarray, "seeds layers"]) -> Float[np.ndarray, " layers"]:
    """Average over seeds on the log axis that the values are drawn on."""
    return np.exp(np.log(values).mean(0))


def overview(results: Results) -> Figure:
    """One page: profile, both heat maps, learning, movement, tanh table."""
    names = [name for name in OVERVIEW_ARMS if name in set(results.arms)]
    figure = Figure(figsize=(13.2, 8.2), layout="constrained")
    grid = figure.subplots(2, 3)
    profile_panel(results, names, grid[0, 0], "(a) gradient at initialization")
    heat_row(results, grid[0, 1:])
    for axes, letter in zip(grid[0, 1:], "bc", strict=True):
        axes.set_title(f"({letter}) gradient in training: {axes.get_title('left')}")
    accuracy_panel(results, names, grid[1, 0], "(d) learning")
    movement_panel(results, names, grid[1, 1], "(e) movement of the weights")
    tanh_panel(results, grid[1, 2], "(f) tanh: measured against mean-field theory")
    for axes in (grid[1, 0], grid[1, 1]):
        axes.get_legend().remove()
    depth, width = results.depth, results.width
    figure.suptitle(
        f"Vanishing gradients and their remedies: {depth} hidden layers of {width}, Fashion-MNIST subset",
        x=0.01, ha="left", fontsize=13,
    )  # fmt: skip
    return figure
