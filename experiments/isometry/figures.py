"""The figures of `isometry`, drawn from its results alone."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.isometry import linear, training
from experiments.isometry.results import Results
from gradflow import plots

GREY = "#BBBBBB"
STYLES = plots.line_styles()
ORTHOGONAL, GAUSSIAN = STYLES[:2]
NAMES = {"orthogonal": "orthogonal", "gaussian": "Gaussian", "delta_orthogonal": "delta-orthogonal"}


@plots.styled
def draw(results: Results) -> dict[str, Figure]:
    """Draw every figure.

    Args:
        results: from `experiments.isometry.experiment.run`.

    Returns:
        Name to figure.
    """
    return {"learning": learning(results), "spectra": spectra(results), "cnn": cnn(results)}


def learning(results: Results) -> Figure:
    """Exact dynamics and learning time of linear networks; learning of deep tanh networks."""
    figure = Figure(figsize=(10.5, 6.6), layout="constrained")
    grid = figure.subplots(2, 2)
    figure.suptitle("Learning from orthogonal and from Gaussian weights", x=0.01, ha="left", fontsize=12)
    _saxe(grid[0, 0], results)
    _linear(grid[0, 1], results)
    _curves(grid[1, 0], results)
    _times(grid[1, 1], results)
    return figure


def _saxe(axes: Axes, results: Results) -> None:
    time = results.saxe.time
    for mode, (strength, style) in enumerate(zip(linear.STRENGTHS, STYLES, strict=False)):
        label = "theory" if mode == 0 else None
        axes.plot(time, results.saxe.theory[:, mode], color=GREY, linewidth=4, label=label)
        axes.plot(time, results.saxe.measured[:, mode], label=f"s = {strength:g}", markevery=len(time) // 8, **style)
    axes.set_xlabel("time, steps × rate")
    axes.set_ylabel("strength of the mode, u")
    axes.set_title("(a) linear network, one hidden layer")
    axes.legend()


def _linear(axes: Axes, results: Results) -> None:
    depths = results.linear.depths
    means = results.linear.steps.mean(-1)  # infinite if any network does not learn
    for kind, times, style in zip(results.linear.kinds, means, STYLES, strict=False):
        axes.semilogx(depths, np.where(np.isfinite(times), times, np.nan), label=NAMES[str(kind)], **style)
        _never(axes, depths[~np.isfinite(times)], means, NAMES[str(kind)], style["color"])
    axes.set_xticks(depths, [str(depth) for depth in depths])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("layers")
    axes.set_ylabel("steps to 5 % of the loss")
    axes.set_title("(b) deep linear networks, best rate")
    axes.legend()


def _never(axes: Axes, depths: np.ndarray, times: np.ndarray, name: str, color: str) -> None:
    """Mark depths at which the loss was never reached, above all times."""
    if len(depths):
        top = 1.3 * times[np.isfinite(times)].max(initial=1)
        axes.plot(depths, np.full(len(depths), top), "x", color=color, label=f"{name}: not in time")


def _curves(axes: Axes, results: Results) -> None:
    loss = training.smooth(results.learning.loss)[-1]
    steps = training.SMOOTHED * (np.arange(loss.shape[-1]) + 0.5)
    for name, curves, style in zip(training.ENSEMBLES, loss, STYLES, strict=False):
        best = curves[..., -1].argmin()
        label = f"{NAMES[name]}, rate {results.learning.rates[best]:g}"
        axes.plot(steps, curves[best], label=label, markevery=max(1, len(steps) // 8), **style)
    axes.axhline(np.log(10), color="#777777", linestyle=":", linewidth=0.8)
    axes.set_xlabel("training step")
    axes.set_ylabel("training loss")
    axes.set_title(f"(c) {results.learning.depths[-1]} tanh layers; dotted: chance")
    axes.legend()


def _times(axes: Axes, results: Results) -> None:
    depths, times = results.learning.depths, training.times(results.learning)
    for name, values, style in zip(training.ENSEMBLES, times.T, STYLES, strict=False):
        axes.plot(depths, np.where(np.isfinite(values), values, np.nan), label=NAMES[name], **style)
        _never(axes, depths[~np.isfinite(values)], times, NAMES[name], style["color"])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("tanh layers")
    axes.set_ylabel(f"steps to a loss of {training.REACHED:g}")
    axes.set_title("(d) learning time, best rate")
    axes.legend()


def spectra(results: Results) -> Figure:
    """Histograms of singular values of every kind of network, with free probability's densities drawn in."""
    names = results.spectrum.networks
    figure = Figure(figsize=(10.5, 6.4), layout="constrained")
    grid = figure.subplots(2, len(names) // 2, sharex=True)
    width = results.spectrum.values.shape[-1]
    figure.suptitle(
        f"Singular values of the Jacobian before training, width {width}; thick: free probability",
        x=0.01, ha="left", fontsize=12,
    )  # fmt: skip
    bins = np.geomspace(0.02, 10, 41)
    for index, (name, axes) in enumerate(zip(names, grid.T.ravel(), strict=True)):
        for place, (depth, style) in enumerate(zip(results.spectrum.depths, STYLES, strict=False)):
            values = results.spectrum.values[index, place].ravel()
            # Of ln s, so that areas are fractions on a logarithmic axis; zeros leave the axes.
            heights = np.histogram(values, bins)[0] / (len(values) * np.diff(np.log(bins)))
            label = f"{depth} layer{'s' if depth > 1 else ''}"
            line = {"color": style["color"], "linestyle": style["linestyle"]}
            density = results.spectrum.density[index, place] * results.spectrum.grid
            axes.plot(results.spectrum.grid, density, color=style["color"], alpha=0.35, linewidth=4)
            axes.stairs(heights, bins, label=label, linewidth=1.3, **line)
        axes.set_xscale("log")
        kind, ensemble = str(name).split(", ")
        axes.set_title(f"({'abcdef'[index]}) {kind.replace('relu', 'ReLU')}, {NAMES[ensemble]}")
        axes.set_xlabel("singular value s")
        axes.set_ylabel("density of ln s")
    grid[1, 0].legend()
    return figure


def cnn(results: Results) -> Figure:
    """Signal and gradient over thousands of convolutions, and their training."""
    figure = Figure(figsize=(10.5, 3.7), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    deepest = results.cnn.forward.shape[1]
    figure.suptitle(f"Plain CNNs, {results.cnn.depth} and {deepest} layers", x=0.01, ha="left", fontsize=12)
    layers = np.arange(1, deepest + 1)
    left.loglog(layers, results.cnn.theory[0], color=GREY, linewidth=4, label="theory")
    middle.semilogy(layers, results.cnn.theory[1], color=GREY, linewidth=4, label="theory")
    for name, forward, backward, style in zip(
        results.cnn.kernels, results.cnn.forward, results.cnn.backward, STYLES, strict=False
    ):
        line = {"color": style["color"], "linestyle": style["linestyle"], "linewidth": 1.2}
        left.loglog(layers, forward, label=NAMES[str(name)], **line)
        middle.semilogy(layers, backward / backward[-1], label=NAMES[str(name)], **line)
    for axes, label, title in (
        (left, "rms of the pre-activation", "(a) signal before training"),
        (middle, "gradient over that of the last", "(b) gradient before training"),
    ):
        axes.set_xlabel("layer")
        axes.set_ylabel(label)
        axes.set_title(title)
    left.legend(loc="lower left")
    _near_one(middle, results)
    _cnn_loss(right, results)
    return figure


def _near_one(axes: Axes, results: Results) -> None:
    """Inset: the gradient over delta-orthogonal kernels alone, with the band that a finite width leaves it."""
    inset = axes.inset_axes((0.1, 0.42, 0.48, 0.36))
    backward, theory, spread = results.cnn.backward[0], results.cnn.theory[1], np.exp(2 * results.cnn.spread)
    layers = np.arange(1, len(backward) + 1)
    inset.fill_between(layers, theory / spread, theory * spread, color=GREY, alpha=0.5, linewidth=0)
    inset.plot(layers, backward / backward[-1], color=ORTHOGONAL["color"], linewidth=1)
    inset.set_ylim(bottom=0)
    inset.tick_params(labelsize=7)
    inset.set_xticks([1, len(layers)])
    inset.set_title("delta-orthogonal\ngrey: theory ± 2 deviations", fontsize=7)


def _cnn_loss(axes: Axes, results: Results) -> None:
    axes.set_title(f"(c) training, {results.cnn.depth} layers")
    if not results.cnn.loss.size:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "not trained at this size", ha="center", transform=axes.transAxes)
        return
    loss = training.smooth(results.cnn.loss)
    steps = training.SMOOTHED * (np.arange(loss.shape[1]) + 0.5)
    for name, values, style in zip(results.cnn.kernels, loss, STYLES, strict=False):
        axes.plot(steps, values, label=NAMES[str(name)], markevery=max(1, len(steps) // 8), **style)
    axes.axhline(np.log(10), color="#777777", linestyle=":", linewidth=0.8)
    axes.set_xlabel("training step")
    axes.set_ylabel("training loss; dotted: chance")
    axes.legend()
