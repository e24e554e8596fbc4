"""The figures of `batchnorm`, drawn from its results alone."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.batchnorm.results import Results
from experiments.batchnorm.training import KINDS, LANDSCAPE_RATE
from gradflow import plots

STYLES = dict(zip(KINDS, plots.line_styles(), strict=False))
CHANCE = {"chance": 0.1}


@plots.styled
def draw(results: Results) -> dict[str, Figure]:
    """Draw every figure.

    Args:
        results: from `experiments.batchnorm.experiment.run`.

    Returns:
        Name to figure.
    """
    return {"training": training(results), "landscape": landscape(results), "initialization": initialization(results)}


def _row(title: str) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(10.5, 3.6), layout="constrained")
    row = figure.subplots(1, 3)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    return figure, row


def training(results: Results) -> Figure:
    """Ioffe & Szegedy's Fig. 1: accuracy, and percentiles of one unit's input, plain and normalized."""
    steps = results.sigmoid.steps
    figure, (left, *right) = _row(
        "Three layers of 100 sigmoids, small Gaussian weights; percentiles are those of test images"
    )
    curves = dict(zip(KINDS, results.sigmoid.accuracy, strict=False))
    plots.training_curves(steps, curves, reference=CHANCE, styles=STYLES, title="(a) accuracy", axes=left)
    left.set_ylim(0, 1)
    for axes, kind, letter, percentiles in zip(right, KINDS, "bc", results.sigmoid.percentiles, strict=False):
        unit = _typical_unit(percentiles)
        low, middle, high = percentiles[:, :, unit].T
        axes.fill_between(
            steps,
            low,
            high,
            color="#BBBBBB",
            linewidth=0,
            label="15th to 85th percentile",
        )
        axes.plot(steps, middle, color=STYLES[kind]["color"], label="median")
        axes.set_xlabel("training step")
        axes.set_ylabel("input of a sigmoid,\nlast hidden layer")
        axes.set_title(f"({letter}) {kind}: unit {unit + 1}")
        axes.legend()
    return figure


def _typical_unit(percentiles: np.ndarray) -> int:
    """Return the unit whose median moves through training as far as half of the units do."""
    moves = np.abs(np.diff(percentiles[:, 1], axis=0)).sum(0)
    return int(np.argsort(moves)[len(moves) // 2])


def landscape(results: Results) -> Figure:
    """Which learning rates work; how far loss and gradient change along the gradient."""
    figure, (left, middle, right) = _row("Six layers of 100 ReLU units")
    for kind, accuracy in zip(KINDS, results.landscape.accuracy[:, :, -1], strict=True):
        left.semilogx(results.landscape.rates, accuracy, label=kind, **STYLES[kind])
    left.axhline(0.1, color="#777777", linewidth=0.8, linestyle=":")
    left.set_xlabel("learning rate")
    left.set_ylabel(f"test accuracy after {results.landscape.steps[-1]} steps")
    left.set_ylim(0, 1)
    left.set_title("(a) learning rates")
    left.legend(loc="lower left", bbox_to_anchor=(0.0, 0.06))
    panels = (
        (middle, results.landscape.loss_range, "largest minus smallest loss", "(b) loss along the gradient"),
        (
            right,
            results.landscape.gradient_change,
            "largest relative change of the gradient",
            "(c) gradient along the gradient",
        ),
    )
    index = int(np.flatnonzero(results.landscape.rates == LANDSCAPE_RATE)[0])
    for axes, values, label, title in panels:
        lines = dict(zip(KINDS, values[:, index], strict=True))
        plots.training_curves(
            results.landscape.steps, lines, ylabel=label, styles=STYLES, title=title, log=True, axes=axes
        )
        axes.get_legend().remove()  # that of the first panel serves all three
    return figure


def initialization(results: Results) -> Figure:
    """Gradients that grow from layer to layer, their rates, and the residual stream."""
    figure, (left, middle, right) = _row(
        "At initialization: gradients of plain networks explode, residual streams stay small"
    )
    _explosion(left, results)
    batches = np.linspace(results.linear.batches.min(), results.linear.batches.max(), 200)
    middle.plot(batches, (batches - 2) / (batches - 3), color="#BBBBBB", linewidth=4, label="(B - 2) / (B - 3)")
    rates = results.linear.rate
    middle.errorbar(
        results.linear.batches, rates.mean(1), yerr=rates.std(1), fmt="ko", capsize=3, label="measured, ± deviation"
    )
    middle.set_xlabel("batch B")
    middle.set_ylabel("squared gradient, factor a layer")
    middle.set_title("(b) linear network")
    middle.legend()
    blocks = np.arange(1, results.streams.plain.shape[1] + 1)
    for values, theory, style, name in (
        (results.streams.normalized, blocks + 1, STYLES["batch norm"], "batch norm in the branch"),
        (results.streams.plain, 2.0**blocks, STYLES["plain"], "plain branch"),
    ):
        right.semilogy(blocks, theory, color="#BBBBBB", linewidth=4)
        right.semilogy(blocks, np.exp(np.log(values).mean(0)), label=name, **style)
    right.set_xlabel("residual block")
    right.set_ylabel("variance of the stream")
    right.set_title(r"(c) residual stream; grey: $l + 1$, $2^l$")
    right.legend()
    return figure


def _explosion(axes: Axes, results: Results) -> None:
    names = [str(name) for name in results.explosion.activations]
    lines = dict(zip(names, results.explosion.profile, strict=True))
    depth = len(results.explosion.plain)
    theory = {
        name: rate ** (np.arange(depth)[::-1] / 2) for name, rate in zip(names, results.explosion.theory, strict=True)
    }
    lines["relu, no batch norm"] = results.explosion.plain
    plots.profile(
        lines,
        ylabel=r"rms of $\partial L/\partial z$, last layer = 1",
        theory=theory,
        title=f"(a) plain networks, batch {results.batch}",
        axes=axes,
    )
