"""The figures of `activations`, drawn from its results alone."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.activations.results import Results
from experiments.activations.settings import KICKED, NAMES
from experiments.activations.slopes import PAPER_FIRST
from gradflow import plots

STYLES = plots.line_styles()
GREY = "#999999"


@plots.styled
def draw(results: Results) -> dict[str, Figure]:
    """Draw every figure.

    Args:
        results: from `experiments.activations.experiment.run`.

    Returns:
        Name to figure.
    """
    return {
        "born_dead": born_dead(results),
        "gradients": gradients(results),
        "training": over_training(results),
        "dying": dying(results),
        "slopes": learned(results),
    }


def born_dead(results: Results) -> Figure:
    """Lu et al. 2019: probability of being born dead over depth, between its bounds."""
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    axes = figure.subplots()
    for width, share, low, high, style in zip(
        results.dead.widths, results.dead.share, results.dead.lower, results.dead.upper, STYLES, strict=False
    ):
        layers = results.dead.layers
        axes.fill_between(layers, low, high, color=style["color"], alpha=0.15, linewidth=0)
        axes.plot(layers, share, label=f"width {width}", markevery=4, **style)
    axes.set_xlabel("layers, output included")
    axes.set_ylabel("share of networks born dead")
    axes.set_title("Deep narrow ReLU networks are born dead (bands: bounds of Lu et al. 2019)")
    axes.set_ylim(0, 1.18)
    axes.legend(loc="upper center", ncols=4)
    return figure


def _grid(title: str, ylabel: str, xlabel: str, count: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(10.0, 7.6), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    panels = figure.subplots(3, -(-count // 3), sharex=True, sharey=True)
    for axes in panels[:, 0]:
        axes.set_ylabel(ylabel)
    for axes in panels[-1]:
        axes.set_xlabel(xlabel)
    return figure, list(panels.flat)


def gradients(results: Results) -> Figure:
    """Gradient over depth before training, one panel an activation, theory behind."""
    figure, panels = _grid(
        "Gradient before training: networks (lines) and mean field (grey)", "rms dL/dz over the last layer's",
        "layer", len(NAMES),
    )  # fmt: skip
    for axes, name, k in zip(panels, NAMES, range(len(NAMES)), strict=True):
        for scheme, label in enumerate(("σ_w² = gain²", "σ_w² = 1")):
            theory = results.profile.theory[scheme, k]
            measured = results.profile.gradient[scheme, k]
            layers = np.arange(1, len(theory) + 1)
            axes.semilogy(layers, theory, color="#BBBBBB", linewidth=5)
            middle = np.exp(np.log(measured / measured[:, -1:]).mean(0))
            axes.semilogy(layers, middle, label=label, markevery=5, **STYLES[scheme])
        axes.set_title(name)
    panels[0].legend(loc="lower right")
    return figure


def over_training(results: Results) -> Figure:
    """Test accuracy by depth, and dead and saturated units over the training of the deepest networks."""
    figure = Figure(figsize=(11.5, 4.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    finite = np.where(results.training.finite, results.training.accuracy, 0)[..., -1]
    best, chosen = finite.max(-1), finite[-1].argmax(-1)
    for k, (name, style) in enumerate(zip(results.training.names, STYLES, strict=False)):
        left.plot(results.training.depths, best[:, k], label=name, **style)
        for axes, values in ((middle, results.training.dead), (right, results.training.saturated)):
            axes.plot(results.training.steps, values[-1, k, chosen[k]], markevery=0.25, **style)
    deepest = results.training.depths[-1]
    left.set(xlabel="hidden layers", ylabel="test accuracy, best rate", ylim=(0, 1), title="(a) what can be trained")
    middle.set(xlabel="training step", ylabel="fraction of units", title=f"(b) dead units, {deepest} layers")
    right.set(xlabel="training step", ylabel="fraction of activations", title=f"(c) saturated, {deepest} layers")
    figure.legend(loc="outside right center")
    return figure


def dying(results: Results) -> Figure:
    """A living network that a large rate kills, and a leaky one that lives on."""
    figure = Figure(figsize=(9.5, 4.2), layout="constrained")
    figure.suptitle("A learning rate far too large for the shaded steps", x=0.01, ha="left", fontsize=12)
    steps = results.kick.steps
    panels = figure.subplots(1, 2, sharex=True)
    columns = ((results.kick.dead.max(-1), "dead units, deadest layer"), (results.kick.accuracy, "test accuracy"))
    for axes, (values, label), letter in zip(panels, columns, "ab", strict=True):
        for name, runs, style in zip(("ReLU", "leaky ReLU"), values, STYLES, strict=False):
            for number, run in enumerate(runs):
                axes.plot(steps, run, label=name if number == 0 else None, markevery=5, **style)
        axes.axvspan(0, steps[-1] / KICKED, color=GREY, alpha=0.2, linewidth=0)
        axes.set(xlabel="training step", ylabel=label, ylim=(-0.02, 1.02), title=f"({letter})")
    panels[0].legend(loc="center right")
    return figure


def learned(results: Results) -> Figure:
    """Slopes of parametric ReLU by layer, as in He et al. 2015, Table 1."""
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.subplots()
    mean, low, high = (values[:, -1] for values in (results.slopes.mean, results.slopes.low, results.slopes.high))
    layers = np.arange(1, mean.shape[-1] + 1)
    for number, style in zip(range(len(mean)), STYLES, strict=False):
        axes.plot(layers, mean[number], label=f"network {number + 1}: mean over channels", **style)
        axes.fill_between(layers, low[number], high[number], color=style["color"], alpha=0.15, linewidth=0)
    axes.axhline(0.25, color=GREY, linewidth=1, label="start")
    axes.plot([1, 1], PAPER_FIRST, "k_", markersize=14, label="first layer in the paper (ImageNet)")
    axes.set(xlabel="convolution", ylabel="slope (band: quartiles)", title="Slopes that parametric ReLU has learned")
    axes.set_xticks(layers)
    axes.legend()
    return figure
