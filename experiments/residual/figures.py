"""The figures of `residual`, drawn from its results alone."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.residual import bands, cifar, paths
from experiments.residual.results import Results
from experiments.residual.shattering import KINDS, NETWORKS, PUBLISHED
from gradflow import plots

GREY = "#BBBBBB"
TALLEST = 10.0  # loss; that of a stream that doubles in every block begins far above
FAINTEST = 0.01  # correlation; the means over networks have a standard error of .016
SMOOTHED = 10  # steps
PLAIN, RESIDUAL = plots.line_styles()[:2]
BOTH = {"plain": PLAIN, "residual": RESIDUAL}


@plots.styled
def draw(results: Results) -> dict[str, Figure]:
    """Draw every figure.

    Args:
        results: from `experiments.residual.experiment.run`.

    Returns:
        Name to figure.
    """
    drawn = {"depth": depth, "paths": path_lengths, "shattering": shattering, "normfree": normfree}
    found = {name: draw_one(results) for name, draw_one in drawn.items()}
    return found | ({"cifar": cifar10(results.cifar)} if results.cifar else {})


def _row(title: str) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(10.5, 3.7), layout="constrained")
    row = figure.subplots(1, 3)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    return figure, row


def depth(results: Results) -> Figure:
    """He et al.'s Figs 6 and 7, the gradient before training, and Veit et al.'s Fig. 3."""
    figure = Figure(figsize=(9.0, 6.6), layout="constrained")
    (left, profile), (middle, right) = figure.subplots(2, 2)
    figure.suptitle("Depth, with and without skip connections", x=0.01, ha="left", fontsize=12)
    _profile(profile, results)
    for index, (name, style) in enumerate(BOTH.items()):
        left.plot(results.depths, 100 * results.training.training_error[:, index], label=name, **style)
    left.set_xlabel("blocks")
    left.set_ylabel("training error, %")
    left.set_ylim(0, 100)
    left.set_title("(a) error after training")
    left.legend()
    deepest = int(results.depths[-1])
    for index, (name, style) in enumerate(BOTH.items()):
        responses = results.training.responses[deepest][index]
        middle.semilogy(np.arange(1, deepest + 1), responses, label=name, markevery=6, **style)
    middle.set_xlabel("block")
    middle.set_ylabel("deviation of what a branch adds")
    middle.set_title(f"(c) responses, {deepest} blocks")
    middle.legend()
    _deletion(right, results)
    return figure


def _profile(axes: Axes, results: Results) -> None:
    typical = np.exp(np.log(results.profile.measured.astype(np.float64)).mean(1))
    blocks = np.arange(1, typical.shape[1] + 1)
    for theory in results.profile.theory:
        axes.semilogy(blocks, theory, color=GREY, linewidth=4)
    for (name, style), values in zip(BOTH.items(), typical, strict=True):
        axes.semilogy(blocks, values, label=name, markevery=6, **style)
    axes.set_xlabel("block")
    axes.set_ylabel("rms over that at the last block")
    axes.set_title("(b) gradient before training; grey: theory")
    axes.legend()


def _deletion(axes: Axes, results: Results) -> None:
    depths = [int(d) for d in results.depths]
    shallow = depths[1] if len(depths) > 2 else depths[0]
    for index, (name, blocks) in enumerate((("plain", shallow), ("residual", depths[-1]))):
        accuracy = results.training.deleted[blocks][index]
        place = np.linspace(0, 1, blocks)
        label = f"{name}, {blocks} blocks"
        axes.plot(place, accuracy, label=label, markevery=max(1, blocks // 9), **BOTH[name])
        axes.axhline(
            results.training.test_accuracy[depths.index(blocks), index], color=BOTH[name]["color"], linewidth=0.8
        )
    axes.axhline(0.1, color="#777777", linestyle=":", linewidth=0.8)
    axes.set_ylim(0, 1)
    axes.set_xlabel("place of the deleted block, first (0) to last (1)")
    axes.set_ylabel("test accuracy")
    axes.set_title("(d) one block deleted; thin: none")
    axes.legend(loc="center right")


def path_lengths(results: Results) -> Figure:
    """Veit et al.'s Fig. 6: how many paths, how much gradient each, how much together."""
    blocks = int(results.depths[-1])
    figure, (left, middle, right) = _row(f"The paths through {blocks} residual blocks, after training")
    lengths = np.arange(blocks + 1)
    left.bar(lengths, paths.binomial(blocks), color=GREY, edgecolor="#555555", linewidth=0.4)
    left.set_ylabel("part of all paths")
    left.set_title("(a) how many there are")
    factor, _, weights = paths.decay(results.paths, blocks)
    single = np.exp(results.paths.sampled.astype(np.float64))
    middle.semilogy(results.paths.lengths, single, ".", color=GREY, markersize=3)
    middle.semilogy(results.paths.lengths, single.mean(1), label="mean", **PLAIN)
    middle.set_ylabel("gradient by one path, that by skips alone = 1")
    middle.set_title(f"(b) one path: {factor:.2f} a branch")
    middle.legend()
    exact = results.paths.exact
    right.bar(lengths, weights / weights.sum(), color=GREY, label="norms of single paths added", width=0.9)
    right.plot(lengths, exact / exact.sum(), label="norm of their exact sum", markevery=3, **RESIDUAL)
    right.set_ylabel("part of the gradient")
    right.set_title("(c) all paths of a length")
    right.legend()
    for axes in (left, middle, right):
        axes.set_xlabel("length of the path, branches taken")
    return figure


def shattering(results: Results) -> Figure:
    """Balduzzi et al.'s Figs 1 and 2."""
    figure = Figure(figsize=(10.5, 6.4), layout="constrained")
    grid = figure.subplots(2, 3)
    figure.suptitle("Gradients at neighbouring inputs, at initialization", x=0.01, ha="left", fontsize=12)
    for axes, letter, name, gradient in zip(grid[0], "abc", PUBLISHED, results.along.gradient, strict=False):
        axes.plot(results.along.x, gradient, color="black", linewidth=0.9)
        axes.set_xlabel("input")
        axes.set_ylabel("gradient of the output")
        axes.set_title(f"({letter}) {_short(name)}")
    left, middle, right = grid[1]
    _over_distance(left, middle, results)
    _over_depth(right, results)
    return figure


def _short(name: str) -> str:
    return name.replace("batch norm", "BN").replace("blocks, branch", "blocks, x")


def _over_distance(normalized: Axes, bare: Axes, results: Results) -> None:
    for theory in results.along.theory:
        bare.plot(theory, color=GREY, linewidth=4)
    for name, values, style in zip(NETWORKS, results.along.autocorrelation, plots.line_styles(), strict=False):
        (normalized if "batch norm" in name else bare).plot(values, label=_short(name), **style)
    normalized.set_title("(d) along the line, normalized")
    bare.set_title("(e) not normalized; grey: theory")
    for axes in (normalized, bare):
        axes.set(xlabel="distance, points", ylabel="autocorrelation of gradients", ylim=(-0.1, 1.5))
        axes.set_yticks(np.linspace(0, 1, 6))
        axes.legend(loc="upper right")


def _over_depth(axes: Axes, results: Results) -> None:
    depths = results.over_depth.depths
    for theory in results.over_depth.theory:
        axes.loglog(depths, theory, color=GREY, linewidth=4)
    for (name, values), style in zip(
        zip(KINDS, results.over_depth.measured, strict=True), plots.line_styles(), strict=False
    ):
        axes.loglog(depths, np.where(values > FAINTEST, values, np.nan), label=_short(name), **style)
    every = np.linspace(1, depths[-1])
    axes.loglog(every, 0.5**every, color="#555555", linestyle=":", linewidth=0.8, label="1/2^L, (3/4)^L, 1/√L")
    for law in (0.75**every, every**-0.5):
        axes.loglog(every, law, color="#555555", linestyle=":", linewidth=0.8)
    axes.set(xlabel="blocks", ylabel="correlation of two gradients", ylim=(FAINTEST, 1.1))
    axes.set_xticks(depths, [str(depth) for depth in depths])
    axes.minorticks_off()
    axes.set_title("(f) over depth; grey: theory")
    axes.legend(loc="lower left")


def normfree(results: Results) -> Figure:
    """Signal and gradient along the stack at initialization, and training."""
    layers, networks = results.normfree_depth, results.normfree
    figure, (left, middle, right) = _row(f"No normalization: {layers} layers, branches of one or two")
    # Three of them start as the same stack: markers in turn show the lines that lie on each other.
    styles = {name: {**style, "markevery": (0.05 * k, 0.25)}
              for k, (name, style) in enumerate(zip(networks, plots.line_styles(), strict=False))}  # fmt: skip
    for name, network in networks.items():
        for axes, values in ((left, network.signal), (middle, network.gradient)):
            axes.semilogy(np.arange(len(values)) * layers / len(values), values, label=name, **styles[name])
    for axes, where in ((left, "first"), (middle, "last")):
        axes.set(xlabel="layer", ylabel=f"rms over that at the {where} block")
    left.set_title("(a) stream at initialization")
    middle.set_title("(b) its gradient at initialization")
    left.legend(loc="upper left")
    right.set_title(f"(c) training, mean of {SMOOTHED} steps")
    if not networks["residual"].loss.size:
        right.set_axis_off()
        right.text(0.5, 0.5, "not trained at this size", ha="center", transform=right.transAxes)
        return figure
    for name, network in networks.items():
        smooth = np.convolve(network.loss, np.full(SMOOTHED, 1 / SMOOTHED), "valid")
        right.semilogy(np.arange(len(smooth)) + SMOOTHED, smooth, label=name, **styles[name])
    right.set(xlabel="training step", ylabel="training loss", ylim=(0.2, TALLEST))
    right.set_yticks([0.2, 0.5, 1, 2, 5, 10], ["0.2", "0.5", "1", "2", "5", "10"])
    right.legend(loc="upper right")
    return figure


def cifar10(results: cifar.Training) -> Figure:
    """He et al.'s Fig. 6: training error over steps; and their Table 6."""
    figure = Figure(figsize=(9.0, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    figure.suptitle("CIFAR-10 by He et al.'s recipe", x=0.01, ha="left", fontsize=12)
    networks = zip(results.depths.tolist(), results.residual.tolist(), strict=True)
    names = [cifar.label(network) for network in networks]
    for name, errors, style in zip(names, results.train_error, plots.line_styles(), strict=False):
        left.plot(results.steps, errors, label=name, markevery=0.2, **style)
    left.set(xlabel="training step", ylabel="training error, %", title="(a) training", ylim=(0, None))
    left.legend()
    published = [bands.CIFAR.get(int(name.split("-")[1]) if name.startswith("R") else 0) for name in names]
    places = np.arange(len(names))
    right.plot(places, results.test_error, "o", color="black", label="here")
    right.plot(places, [np.nan if value is None else value for value in published], "_", color="#D55E00", markersize=16,
               markeredgewidth=2, label="He et al., Table 6")  # fmt: skip
    right.set_xticks(places, names, rotation=45, ha="right")
    right.set(ylabel="test error, %", title="(b) after the last step", ylim=(0, None))
    right.legend()
    return figure
