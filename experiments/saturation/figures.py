"""The figures of `saturation`, drawn from its results alone."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.saturation.results import Results
from experiments.saturation.settings import ARMS
from experiments.saturation.training import edges
from gradflow import plots

STYLES = plots.line_styles()
GREY = "#999999"


@plots.styled
def draw(results: Results) -> dict[str, Figure]:
    """Draw every figure.

    Args:
        results: from `experiments.saturation.experiment.run`.

    Returns:
        Name to figure.
    """
    return {
        "sigmoid": sigmoid(results),
        "percentiles": percentiles(results),
        "histograms": histograms(results),
        "accuracy": accuracy(results),
    }


def sigmoid(results: Results) -> Figure:
    """Glorot & Bengio's Fig. 2: mean and spread of every layer's activations, by depth."""
    figure = Figure(figsize=(11.0, 3.9), layout="constrained")
    figure.suptitle(
        "Sigmoid networks push their top layer into saturation (Glorot & Bengio 2010, Fig. 2)",
        x=0.01, ha="left", fontsize=12,
    )  # fmt: skip
    arms = [arm for arm, (name, _) in ARMS.items() if name == "sigmoid"]
    for axes, arm, letter in zip(figure.subplots(1, 3, sharey=True), arms, "abc", strict=True):
        _means(axes, results, arm)
        axes.set_title(f"({letter}) {ARMS[arm][1]} hidden layers")
        axes.set_xlabel("training step")
        if letter == "a":
            axes.set_ylabel("activation: mean ± std over images and units")
        axes.legend(loc="upper left", ncols=2, fontsize=8)
        axes.set_ylim(0, 1.15)
    return figure


def _means(axes: Axes, results: Results, arm: str) -> None:
    found = results.arms[arm]
    for layer, style in zip(range(found.mean.shape[-1]), STYLES, strict=False):
        steps, line, spread = found.steps, found.mean[0, :, layer], found.std[0, :, layer]
        axes.plot(steps, line, label=f"layer {layer + 1}", markevery=0.2, **style)
        axes.fill_between(steps, line - spread, line + spread, color=style["color"], alpha=0.12, linewidth=0)


def percentiles(results: Results) -> Figure:
    """Glorot & Bengio's Fig. 3: 98th percentile and standard deviation of every layer's activations."""
    figure = Figure(figsize=(11.0, 4.2), layout="constrained")
    figure.suptitle(
        "tanh saturates layer by layer from the first, softsign does not (Glorot & Bengio 2010, Fig. 3)",
        x=0.01, ha="left", fontsize=12,
    )  # fmt: skip
    for axes, name, letter in zip(figure.subplots(1, 2, sharey=True), ("tanh", "softsign"), "ab", strict=True):
        arm = results.arms[f"{name}_5"]
        steps, high, std = arm.steps, arm.high, arm.std
        for layer, style in zip(range(high.shape[-1]), STYLES, strict=False):
            axes.plot(steps, high[0, :, layer], **{**style, "linestyle": ""}, markersize=4)
            axes.plot(steps, std[0, :, layer], label=f"layer {layer + 1}", **{**style, "marker": ""})
        axes.set_title(f"({letter}) {name}")
        axes.set_xlabel("training step")
    figure.axes[0].set_ylabel("activation: 98th percentile (markers), std (lines)")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center")
    return figure


def histograms(results: Results) -> Figure:
    """Glorot & Bengio's Fig. 4: activations of every layer after training."""
    figure = Figure(figsize=(11.0, 4.2), layout="constrained")
    figure.suptitle(
        "After training: tanh at its limits, softsign at its knees (Glorot & Bengio 2010, Fig. 4)",
        x=0.01, ha="left", fontsize=12,
    )  # fmt: skip
    for axes, name, letter in zip(figure.subplots(1, 2, sharey=True), ("tanh", "softsign"), "ab", strict=True):
        borders = edges(name)
        middles, shares = (borders[:-1] + borders[1:]) / 2, results.arms[f"{name}_5"].shares.mean(0)
        for layer, style in zip(range(len(shares)), STYLES, strict=False):
            density = shares[layer] / (borders[1] - borders[0])
            axes.semilogy(
                middles, np.where(density > 0, density, np.nan), label=f"layer {layer + 1}", markevery=8, **style
            )
        axes.set_title(f"({letter}) {name}")
        axes.set_xlabel("activation")
    figure.axes[0].set_ylabel("density")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center")
    return figure


def accuracy(results: Results) -> Figure:
    """Test accuracy of every network over training."""
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.subplots()
    for arm, style in zip(ARMS, STYLES, strict=False):
        name, depth = ARMS[arm]
        for number, run in enumerate(results.arms[arm].accuracy):
            label = f"{name}, {depth} layers" if number == 0 else None
            axes.plot(results.arms[arm].steps, run, label=label, markevery=0.2, **style)
    axes.axhline(1 / 10, color=GREY, linewidth=1)
    axes.annotate("chance", (0.99, 1 / 10), xycoords=("axes fraction", "data"), ha="right", va="bottom", color=GREY)
    axes.set_xlabel("training step")
    axes.set_ylabel("test accuracy")
    axes.set_ylim(0, 1)
    axes.set_title("Deeper sigmoid networks stay at chance for longer, or for good")
    figure.legend(loc="outside right center")
    return figure
