"""The figures of `initialization`, drawn from its results alone."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.initialization.results import Results
from experiments.initialization.table import ARMS, PAPER
from experiments.initialization.training import LABELS
from gradflow import plots

GREY = "#BBBBBB"
STYLES = plots.line_styles()


@plots.styled
def draw(results: Results) -> dict[str, Figure]:
    """Draw every figure.

    Args:
        results: from `experiments.initialization.experiment.run`.

    Returns:
        Name to figure.
    """
    found = {"depth": depth(results), "histograms": histograms(results), "flow": flow(results)}
    if len(results.table.names):
        found["table"] = table(results)
    return found


def histograms(results: Results) -> Figure:
    """Glorot & Bengio's Figs 6 and 7: histograms of activations and gradients, one line a layer."""
    figure = Figure(figsize=(9.0, 6.6), layout="constrained")
    grid = figure.subplots(2, 2, sharex="row", sharey="row")
    layers, width = results.glorot.activation_density.shape[1], results.glorot.jacobian_values.shape[-1]
    figure.suptitle(
        f"{layers} tanh layers of {width} before training (Glorot & Bengio 2010, Figs 6 and 7)",
        x=0.01, ha="left", fontsize=12,
    )  # fmt: skip
    found = results.glorot
    kinds = (
        ("activation", "activation", found.activation_edges, found.activation_density),
        ("gradient", "gradient of the loss, dL/dz", found.gradient_edges, found.gradient_density),
    )
    for row, (kind, label, edges, by_scheme) in zip(grid, kinds, strict=True):
        middles = (edges[:-1] + edges[1:]) / 2
        for axes, name, densities in zip(row, found.schemes, by_scheme, strict=True):
            for layer, density in enumerate(densities):
                style = {**STYLES[layer % len(STYLES)], "marker": ""}
                # Bins without an entry leave gaps on a logarithmic axis.
                axes.semilogy(middles, np.where(density > 0, density, np.nan), label=f"layer {layer + 1}", **style)
            axes.set_xlabel(label)
            axes.set_title(f"({'abcd'[2 * (kind == 'gradient') + (name == 'normalized')]}) {name}: {kind}s")
        row[0].set_ylabel("density")
    grid[1, 0].legend(loc="upper left")
    return figure


def flow(results: Results) -> Figure:
    """Glorot & Bengio's Fig. 8, layer Jacobians, and the spread of the gradient over networks."""
    figure = Figure(figsize=(10.5, 6.6), layout="constrained")
    grid = figure.subplots(2, 3)
    figure.suptitle("What flows at the start: gradients, Jacobians, chance", x=0.01, ha="left", fontsize=12)
    _gradients(grid[0, 0], results)
    _weight_gradients(grid[0, 1], results)
    _jacobian_means(grid[0, 2], results)
    _jacobian_values(grid[1, 0], results)
    _chance(grid[1, 1], results)
    _variances(grid[1, 2], results)
    return figure


def _gradients(axes: Axes, results: Results) -> None:
    for name, values, theory, style in zip(
        results.glorot.schemes, results.glorot.gradient_std, results.glorot.gradient_theory, STYLES, strict=False
    ):
        layers = np.arange(1, len(values) + 1)
        axes.semilogy(layers, theory * values[-1], color=GREY, linewidth=4)
        axes.semilogy(layers, values, label=name, **style)
    axes.set_xticks(layers)
    axes.set_xlabel("hidden layer")
    axes.set_ylabel("deviation of dL/dz")
    axes.set_title("(a) gradient; grey: theory")
    axes.legend()


def _weight_gradients(axes: Axes, results: Results) -> None:
    for name, values, style in zip(results.glorot.schemes, results.glorot.weight_gradient_std, STYLES, strict=False):
        axes.semilogy(np.arange(1, len(values) + 1), values, label=name, **style)
    axes.set_xticks(np.arange(1, len(values) + 1))
    axes.set_xlabel("layer of weights (last: output)")
    axes.set_ylabel("deviation of dL/dW")
    axes.set_title("(b) gradient of the weights (Fig. 8)")
    axes.legend()


def _jacobian_means(axes: Axes, results: Results) -> None:
    for name, values, style in zip(results.glorot.schemes, results.glorot.jacobian_mean, STYLES, strict=False):
        axes.plot(np.arange(2, len(values) + 2), values, label=name, **style)
    axes.axhline(8 / (3 * np.pi), color=GREY, linewidth=1, label="limits for linear units")
    axes.axhline(8 / (3 * np.pi) / np.sqrt(3), color=GREY, linewidth=1)
    axes.set_xticks(np.arange(2, results.glorot.jacobian_mean.shape[1] + 2))
    axes.set_ylim(0, 1)
    axes.set_xlabel("hidden layer")
    axes.set_ylabel("mean singular value")
    axes.set_title("(c) Jacobian of one layer")
    axes.legend(loc="lower right")


def _jacobian_values(axes: Axes, results: Results) -> None:
    bins = np.linspace(0, 2, 41).tolist()
    for name, values, style in zip(results.glorot.schemes, results.glorot.jacobian_values, STYLES, strict=False):
        line = {"color": style["color"], "linestyle": style["linestyle"]}
        axes.hist(values[-1], bins, density=True, histtype="step", linewidth=1.6, label=name, **line)
    axes.set_xlabel("singular value, last hidden layer")
    axes.set_ylabel("density")
    axes.set_title("(d) all of them, one image")
    axes.legend()


def _chance(axes: Axes, results: Results) -> None:
    low, high = np.percentile(results.hanin.logs, [0.2, 99.8])
    bins = np.linspace(low, high, 41).tolist()
    x = np.linspace(low, high, 200)
    for depth, logs, mean, variance, style in zip(
        results.hanin.depths, results.hanin.logs, results.hanin.mean, results.hanin.variance, STYLES,
        strict=False,
    ):  # fmt: skip
        line = {"color": style["color"], "linestyle": style["linestyle"]}
        axes.hist(logs, bins, density=True, histtype="step", linewidth=1.4, label=f"{depth} layers", **line)
        axes.plot(x, np.exp(-((x - mean) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance), color="#777777")
    axes.set_xlabel("ln |J u|²")
    axes.set_ylabel("density over networks")
    axes.set_title(f"(e) chance at width {results.hanin.width}; thin: theory")
    axes.legend(loc="upper left")


def _variances(axes: Axes, results: Results) -> None:
    depths = results.hanin.depths
    axes.plot([0, depths[-1]], [0, results.hanin.variance[-1]], color=GREY, linewidth=4, label="5 × depth / width")
    axes.plot(depths, results.hanin.logs.var(1), label="measured", **{**STYLES[0], "linestyle": ""})
    axes.set_xlabel("layers")
    axes.set_ylabel("variance of ln |J u|²")
    axes.set_title("(f) it grows with depth over width")
    axes.legend()


def depth(results: Results) -> Figure:
    """He et al.'s Figs 2 and 3: training from each scheme, and the signals they start from."""
    depths = [int(d) for d in results.training.depths]
    figure = Figure(figsize=(4.6 * (len(depths) + 1), 4.0), layout="constrained")
    row = figure.subplots(1, len(depths) + 1)
    figure.suptitle(
        f"ReLU layers of {results.training.width}, from five initializations (He et al. 2015, Figs 2 and 3)",
        x=0.01, ha="left", fontsize=12,
    )  # fmt: skip
    for index, count in enumerate(depths):
        axes = row[index]
        for scheme, accuracy, style in zip(
            results.training.schemes, results.training.accuracy[index], STYLES, strict=False
        ):
            axes.plot(results.training.steps, accuracy, label=LABELS[str(scheme)], markevery=4, **style)
        axes.axhline(0.1, color="#777777", linestyle=":", linewidth=0.8)
        axes.set_ylim(0, 1)
        axes.set_xlabel("training step")
        axes.set_ylabel("test accuracy")
        axes.set_title(f"({'abcdef'[index]}) {count} layers; dotted: chance")
    signal = row[-1]
    for scheme, rms, style in zip(
        results.training.schemes, results.training.start[depths[-1]].forward, STYLES, strict=False
    ):
        hidden = rms[:-1]
        signal.semilogy(
            np.arange(1, len(hidden) + 1), hidden, label=LABELS[str(scheme)], markevery=len(hidden) // 5, **style
        )
    signal.legend(loc="lower left")
    signal.set_xlabel("layer")
    signal.set_ylabel("rms of W x")
    signal.set_title(f"({'abcdef'[len(depths)]}) signal before training, {depths[-1]} layers")
    return figure


def table(results: Results) -> Figure:
    """Glorot & Bengio's Table 1 beside ours."""
    names = [str(name) for name in results.table.names]
    figure = Figure(figsize=(4.8 * len(names), 3.6), layout="constrained")
    row = figure.subplots(1, len(names), squeeze=False)[0]
    places = np.arange(len(ARMS))
    for axes, name, errors in zip(row, names, results.table.error, strict=True):
        axes.plot(PAPER[name], places, "o", color="black", markerfacecolor="white", label="Glorot & Bengio")
        axes.plot(errors, places, "x", color=STYLES[1]["color"], label="ours")
        axes.set_yticks(places, [arm.name for arm in ARMS])
        axes.invert_yaxis()
        axes.set_xlabel("test error, %")
        axes.set_title(name)
    row[0].legend()
    figure.suptitle("Test error of 5 layers of 1,000 (Glorot & Bengio 2010, Table 1)", x=0.01, ha="left", fontsize=12)
    return figure
