"""Run and claims of `isometry`."""

from __future__ import annotations

import numpy as np

import experiments.isometry as package
from experiments.framework.claims import Claim
from experiments.framework.images import load
from experiments.framework.pilots import at_least, at_most
from experiments.framework.runner import Experiment
from experiments.isometry import bands, cnn, figures, linear, spectrum, training
from experiments.isometry.results import Results
from experiments.isometry.settings import PRESETS, Config


def run(config: Config) -> Results:
    """Measure and train.

    Args:
        config: settings.
    """
    data, seed = load(config.data), config.seed
    saxe, deep = linear.measure(
        depths=config.linear_depths, draws=config.linear_draws, steps=config.linear_steps,
        saxe_steps=config.saxe_steps, seed=seed,
    )  # fmt: skip
    spectra = spectrum.measure(
        depths=config.spectrum_depths, width=config.spectrum_width, draws=config.spectrum_draws, seed=seed
    )
    learning = training.measure(
        data, depths=config.depths, width=config.width, steps=config.steps, rates=config.rates, seed=seed
    )
    convolutions = cnn.measure(
        data, depth=config.cnn_depth, deepest=config.cnn_deepest, channels=config.cnn_channels,
        pooled=config.cnn_pooled, steps=config.cnn_steps, rate=config.cnn_rate, seed=seed,
    )  # fmt: skip
    return Results(saxe, deep, spectra, learning, convolutions)


def claims(results: Results) -> list[Claim]:
    """Check a run.

    Args:
        results: from `run`.

    Returns:
        The claims.
    """
    return [*linear_claims(results), *spectrum_claims(results), *learning_claims(results), *cnn_claims(results)]


def linear_claims(results: Results) -> list[Claim]:
    """Saxe et al.: the course of each mode, and learning time over depth."""
    error = np.abs(results.saxe.measured - results.saxe.theory).max()
    found = [
        Claim("saxe-course", "linear, one hidden layer: largest error of u(t) over modes and time",
              bands.saxe(linear.STRENGTHS, results.saxe.time), error),
    ]  # fmt: skip
    depths, orthogonal = results.linear.depths.tolist(), results.linear.steps[0].mean(-1)
    deepest = depths[-1]
    if deepest < bands.PILOT_DEPTHS["linear"] or 10 not in depths:
        return found
    source = "Saxe et al. 2014, Fig. 6"
    return [
        *found,
        Claim("linear-time", f"linear, orthogonal: learning time at {deepest} layers over that at 10",
              at_most(bands.LINEAR_TIME, f"{source}: saturates"), orthogonal[-1] / orthogonal[depths.index(10)]),
        Claim("linear-gaussian", f"linear, Gaussian, {deepest} layers: least part of the loss left by any rate",
              at_least(bands.LINEAR_LEFT, f"{source}: slower with depth"), results.linear.loss[1, -1].min()),
    ]  # fmt: skip


def spectrum_claims(results: Results) -> list[Claim]:
    """Second moments and edges, measured and by free probability, at the greatest depth."""
    spectrum, depth = results.spectrum, int(results.spectrum.depths[-1])
    # Of products of orthogonal matrices all singular values are 1: a unit test.
    rows = [index for index, name in enumerate(spectrum.networks) if name != "identity, orthogonal"]
    away: dict[str, tuple[float, float]] = {}
    for index in rows:
        values, name = spectrum.values[index, -1], str(spectrum.networks[index])
        squares = np.mean(values**2, -1)
        second = np.mean(values**4, -1) / squares**2
        # Over the root mean square, which strays as a whole and says nothing of the shape.
        largest = values.max(-1) / np.sqrt(squares)
        given = name.partition(",")[0], depth, values.shape[-1], len(rows)
        away[name] = (
            abs(np.log(second.mean() / spectrum.second[index, -1])) / bands.allowance(second, *given),
            2 * abs(np.log(largest.mean() / spectrum.largest[index, -1])) / bands.allowance(largest**2, *given),
        )
    found = []
    for place, (name, what, band) in enumerate(
        (("spectrum-moments", "E[s^4] / E[s^2]^2", bands.moments()), ("spectrum-edges", "largest s", bands.edges()))
    ):
        worst = max(away, key=lambda network: away[network][place])
        line = f"{what}, {depth} layers: farthest of {len(rows)} networks from theory, in what is allowed ({worst})"
        found.append(Claim(name, line, band, away[worst][place]))
    return found


def learning_claims(results: Results) -> list[Claim]:
    """Learning of tanh networks from both kinds of weights."""
    depths, losses = results.learning.depths, training.smooth(results.learning.loss)[..., -1].min(-1)
    deepest, shallowest = int(depths[-1]), int(depths[0])
    if deepest < bands.PILOT_DEPTHS["tanh"] or len(depths) < 2:
        return []
    times = np.minimum(training.times(results.learning), results.learning.loss.shape[-1])
    level, paper = f"steps to a loss of {training.REACHED:g}", "Pennington et al. 2017"
    return [
        Claim("tanh-loss", f"tanh, {deepest} layers: training loss at the end, orthogonal over Gaussian, best rates",
              at_most(bands.LOSS_RATIO, f"{paper}, Fig. 2: lower"), losses[-1, 0] / losses[-1, 1]),
        Claim("tanh-slowed", f"tanh, {deepest} layers: {level}, Gaussian (all of them, if never) over orthogonal",
              at_least(bands.SLOWED, f"{paper}: slower"), times[-1, 1] / times[-1, 0]),
        Claim("tanh-steady", f"tanh, orthogonal: {level}, {deepest} layers over {shallowest}",
              at_most(bands.STEADY, f"{paper}: about sqrt(L)"), times[-1, 0] / times[0, 0]),
    ]  # fmt: skip


def cnn_claims(results: Results) -> list[Claim]:
    """Xiao et al.: depth of plain convolutional networks."""
    cnn, deepest, xiao = results.cnn, results.cnn.backward.shape[1], "Xiao et al. 2018"
    # What float32 cannot hold counts as its smallest number.
    ranges = cnn.backward.max(1) / np.maximum(cnn.backward.min(1), np.finfo(np.float32).tiny)
    settled = (np.log(cnn.forward[0, -1] / cnn.theory[0, -1]) - cnn.signal_shift) / cnn.signal_spread
    line = f"CNN, {deepest} layers before training"
    found = [
        Claim("cnn-even", f"{line}, delta-orthogonal: ln of largest over smallest gradient of a layer, in deviations",
              bands.even_gradient(), np.log(ranges[0]) / cnn.spread[0]),
        Claim("cnn-signal", f"{line}, delta-orthogonal: ln of the last layer's signal over theory, in deviations",
              bands.steady_signal(), settled),
    ]  # fmt: skip
    if deepest < bands.PILOT_DEPTHS["cnn"]:
        return found
    found.append(
        Claim("cnn-gaussian", f"{line}, Gaussian: largest over smallest gradient of a layer",
              at_least(bands.CNN_RANGE, f"{xiao}: vanishes"), ranges[1])
    )  # fmt: skip
    if not cnn.loss.size:
        return found
    orthogonal, gaussian = training.smooth(cnn.loss)[:, -1]
    line = f"CNN, {cnn.depth} layers"
    return [
        *found,
        Claim("cnn-learnt", f"{line}, delta-orthogonal: training loss",
              at_most(bands.CNN_LEARNT, f"{xiao}: trains"), orthogonal),
        Claim("cnn-stuck", f"{line}, Gaussian: training loss",
              at_least(bands.CNN_STUCK, f"{xiao}: does not"), gaussian),
    ]  # fmt: skip


EXPERIMENT = Experiment("isometry", package.__doc__ or "", PRESETS, run, claims, figures.draw)
