"""The figures of `trainability`, drawn from its results alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from experiments.trainability.results import Results
from experiments.trainability.signal import (
    CORRELATIONS_AT_FIRST,
    CURVE_BIASES,
    MEASURED,
    PROFILES,
    SHOWN,
    VARIANCES_AT_FIRST,
)
from gradflow import plots

WEIGHT_VARIANCE = r"weight variance $\sigma_w^2$"
DEPTH = "depth, hidden layers"
BEST = 0.8  # accuracy at the bright end of the maps: about what the best networks reach
LIMIT = "#D55E00"  # of the theory lines over a heat map: seen against dark and light, in grey by its white edge


@plots.styled
def draw(results: Results) -> dict[str, Figure]:
    """Draw every figure.

    Args:
        results: from `experiments.trainability.experiment.run`.

    Returns:
        Name to figure.
    """
    return {
        "heatmap": heatmap(results),
        "steps": steps(results),
        **({"remedies": remedies(results)} if len(results.remedies.names) else {}),
        "fixed_points": fixed_points(results),
        "convergence": convergence(results),
        "profiles": profiles(results),
    }


def heatmap(results: Results) -> Figure:
    """Accuracy at the end of training over depth and weight variance, 6 xi_c over it; beside it by relative depth."""
    figure = Figure(figsize=(10.2, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    last = results.grid.accuracy[:, :, -1]
    accuracy_map(left, last, results.grid.depths, results.grid.variances)
    _limit(left, results.grid.variances, 6 * results.grid.xi, r"$6\,\xi_c$, theory before training")
    left.set_title("(a) test accuracy of every network")
    left.legend(loc="upper right", facecolor="white", framealpha=0.9, frameon=True)
    _colorbar(figure, left)
    _collapse(right, results)
    width, count = results.width, int(results.grid.records[-1])
    figure.suptitle(
        f"How deep can a tanh network be trained? {last.size} networks of width {width}, {count} steps of plain "
        r"gradient descent, $\sigma_b^2 = 0.05$",
        x=0.01, ha="left", fontsize=11.5,
    )  # fmt: skip
    return figure


def _collapse(axes: Axes, results: Results) -> None:
    """Accuracy against depth in units of 6 xi_c: ordered and chaotic networks fall onto one curve."""
    relative = results.grid.depths[:, None] / (6 * results.grid.xi)
    styles: Sequence[dict[str, Any]] = plots.line_styles()
    for ordered, name, style in ((True, "ordered phase", styles[1]), (False, "chaotic phase", styles[2])):
        chosen = (results.grid.variances < 1.761) == ordered
        axes.plot(
            relative[:, chosen].ravel(), results.grid.accuracy[:, chosen, -1].ravel(),
            ls="none", marker=style["marker"], color=style["color"], alpha=0.75, label=name,
        )  # fmt: skip
    axes.axvline(1.0, color=LIMIT, lw=2)
    axes.annotate(r"$6\,\xi_c$", (1.06, 0.9), color=LIMIT, fontsize=11)
    axes.axhline(0.1, color="#777777", lw=1, ls=":")
    axes.annotate("chance", (relative.min(), 0.11), color="#555555", fontsize=8, va="bottom")
    axes.set_xscale("log")
    axes.set(xlabel=r"depth / $6\,\xi_c$", ylabel="test accuracy", ylim=(0, 1), title="(b) the same by relative depth")
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 0.14))


def accuracy_map(
    axes: Axes, accuracy: Float[np.ndarray, "depths variances"], depths: np.ndarray, variances: np.ndarray
) -> None:
    """Draw accuracy as colours, one cell a network, on a logarithmic axis of depth.

    Args:
        axes: where to draw.
        accuracy: of every network.
        depths: of the rows.
        variances: of the columns.
    """
    across, up = _edges(variances.astype(np.float64)), np.exp(_edges(np.log(depths)))
    axes.pcolormesh(across, up, accuracy, cmap=plots.HEAT, vmin=0, vmax=BEST, edgecolors="white", linewidth=0.4)
    axes.set_yscale("log")
    axes.set_yticks(depths[:: max(1, len(depths) // 6)])
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.minorticks_off()
    axes.set(xlabel=WEIGHT_VARIANCE, ylabel=DEPTH, xlim=(across[0], across[-1]), ylim=(up[0], up[-1]))
    axes.grid(False)


def _edges(centres: Float[np.ndarray, " cells"]) -> Float[np.ndarray, " edges"]:
    middle = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])


def _limit(axes: Axes, variances: np.ndarray, depths: np.ndarray, label: str) -> None:
    """Draw a depth that theory predicts over a map: a dark line with a white edge."""
    shown = np.minimum(depths, 1e5)  # where it is infinite, the line leaves the panel
    axes.plot(variances, shown, color="white", lw=5, solid_capstyle="round", scalex=False, scaley=False)
    axes.plot(variances, shown, color=LIMIT, lw=2.5, marker="o", ms=4, label=label, scalex=False, scaley=False)


def _colorbar(figure: Figure, axes: Any) -> None:
    figure.colorbar(
        ScalarMappable(Normalize(0, BEST), plots.HEAT), ax=axes, label="test accuracy (chance 0.1)", extend="max"
    )


def steps(results: Results) -> Figure:
    """The heat map as training goes on."""
    count = len(results.grid.records)
    figure = Figure(figsize=(3.3 * count + 1.2, 3.8), layout="constrained")
    row = figure.subplots(1, count, sharex=True, sharey=True, squeeze=False)[0]
    for index, axes in enumerate(row):
        accuracy_map(axes, results.grid.accuracy[:, :, index], results.grid.depths, results.grid.variances)
        _limit(axes, results.grid.variances, 6 * results.grid.xi, r"$6\,\xi_c$")
        axes.set_title(f"after {results.grid.records[index]} steps")
        axes.label_outer()
    _colorbar(figure, list(row))
    figure.suptitle(
        r"What can be trained approaches $6\,\xi_c$ (line) as training goes on", x=0.01, ha="left", fontsize=12
    )
    return figure


def remedies(results: Results) -> Figure:
    """The smaller grids: other activations, and batch norm."""
    names = [str(name) for name in results.remedies.names]
    figure = Figure(figsize=(3.3 * len(names) + 1.2, 3.8), layout="constrained")
    row = figure.subplots(1, len(names), sharex=True, sharey=True, squeeze=False)[0]
    for axes, name, accuracy, limit in zip(row, names, results.remedies.accuracy, results.remedies.limit, strict=True):
        accuracy_map(axes, accuracy, results.remedies.depths, results.remedies.variances)
        _limit(axes, results.remedies.variances, limit, "squared gradient changed by $e^{6}$, theory")
        axes.set_title(name)
        axes.label_outer()
    _colorbar(figure, list(row))
    figure.legend(*row[0].get_legend_handles_labels(), loc="outside lower center", frameon=False)
    figure.suptitle("Other activations, and batch norm; darkest: exploded, no answer", x=0.01, ha="left", fontsize=12)
    return figure


def fixed_points(results: Results) -> Figure:
    """Poole et al.: q*, c* and chi_1 over sigma_w, finite networks as markers."""
    figure = Figure(figsize=(10.5, 3.7), layout="constrained")
    row = figure.subplots(1, 3, sharex=True)
    styles: Sequence[dict[str, Any]] = plots.line_styles()
    panels = (
        (results.curves.q, r"variance $q^*$", "(a) length of a signal"),
        (results.curves.c, r"correlation $c^*$", "(b) similarity of two inputs"),
        (results.curves.chi, r"$\chi_1$, squared gradient a layer", "(c) gradient"),
    )
    for axes, (curves, label, title) in zip(row, panels, strict=True):
        for number, bias in enumerate(CURVE_BIASES):
            style = styles[number] | {"marker": None}
            axes.plot(results.curves.deviation, curves[number], label=rf"$\sigma_b^2 = {bias:g}$", **style)
            axes.axvline(results.curves.critical[number], color=style["color"], lw=0.8, ls=":")
        axes.set(xlabel=r"$\sigma_w$, deviation of the weights", ylabel=label, title=title)
    for axes, name in zip(row, "qc", strict=False):
        measured = results.end[name].measured
        axes.errorbar(
            MEASURED, measured.mean(1), yerr=measured.std(1), fmt="s", color=styles[1]["color"], mfc="white", capsize=3,
            label=r"networks, $\sigma_b^2 = 0.05$", zorder=3,
        )  # fmt: skip
    row[2].axhline(1.0, color="#777777", lw=1)
    row[2].annotate("explodes", (0.98, 1.02), xycoords=("axes fraction", "data"), ha="right", fontsize=8)
    row[2].annotate("vanishes", (0.98, 0.98), xycoords=("axes fraction", "data"), ha="right", va="top", fontsize=8)
    row[0].legend()
    figure.suptitle("tanh: fixed points of signal propagation; dotted: critical", x=0.01, ha="left", fontsize=12)
    return figure


def convergence(results: Results) -> Figure:
    """How q_l and c_l come to their fixed points: maps of theory in grey, finite networks as lines."""
    figure = Figure(figsize=(11.0, 5.6), layout="constrained")
    grid = figure.subplots(2, len(SHOWN), sharex=True, sharey="row")
    styles: Sequence[dict[str, Any]] = plots.line_styles()
    rows = (
        ("q", VARIANCES_AT_FIRST, r"variance $q_l$", "q_1 = {:g}"),
        ("c", CORRELATIONS_AT_FIRST, r"correlation $c_l$", "c_1 = {:g}"),
    )
    for row, (name, starts, label, words) in zip(grid, rows, strict=True):
        for axes, theory, measured, variance in zip(
            row, results.signal[name].theory, results.signal[name].measured, SHOWN, strict=True
        ):
            layers = np.arange(1, theory.shape[-1] + 1)
            for number, start in enumerate(starts):
                axes.plot(layers, theory[number], color="#9A9A9A", lw=4.5, alpha=0.55)
                mean = measured[number].mean(0)
                axes.plot(
                    layers, mean, label=f"${words.format(start)}$", **styles[number], markevery=max(1, len(layers) // 8)
                )
            if name == "q":
                axes.set_title(rf"$\sigma_w^2 = {variance:g}$")
                axes.set_yscale("log")
            else:
                axes.set_xlabel("layer")
        row[0].set_ylabel(label)
        row[0].legend(loc="lower right" if name == "c" else "upper right")
    networks = results.signal["q"].measured.shape[2]
    figure.suptitle(
        f"tanh: convergence over depth; grey: theory, lines: mean of {networks} finite networks",
        x=0.01, ha="left", fontsize=12,
    )  # fmt: skip
    return figure


def profiles(results: Results) -> Figure:
    """Predicted and measured gradient over depth at initialization, one panel an activation."""
    chosen = [PROFILES[index] for index in results.profile.index]
    names = list(dict.fromkeys(profile.name for profile in chosen))
    figure = Figure(figsize=(2.55 * len(names) + 0.6, 4.0), layout="constrained")
    row = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name in zip(row, names, strict=True):
        lines, theory = {}, {}
        for profile, measured, predicted in zip(chosen, results.profile.measured, results.profile.theory, strict=True):
            if profile.name == name:
                label = rf"$\sigma_w^2 = {profile.weight_variance:g}$"
                logs = np.log(measured.astype(np.float64))
                lines[label] = np.exp((logs - logs[:, -1:]).mean(0))
                theory[label] = predicted
        plots.profile(
            lines, ylabel=r"rms of $\partial L/\partial z$, last layer = 1", theory=theory, title=name, axes=axes
        )
        axes.set_xlabel("layer")
        axes.label_outer()
        axes.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2, fontsize=8, columnspacing=0.8, handlelength=1.8
        )
    count = results.profile.measured.shape[1]
    figure.suptitle(
        f"The gradient at initialization: theory in grey, mean of {count} networks", x=0.01, ha="left", fontsize=12
    )
    return figure
