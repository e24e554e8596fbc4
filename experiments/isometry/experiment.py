"""Run and claims of `isometry`."""

from __future__ import annotations

import numpy as np

import experiments.isometry as package
from experiments.framework import claims as check
from experiments.framework.claims import Claim
from experiments.framework.images import load
from experiments.framework.runner import Experiment
from experiments.isometry import bands, cnn, figures, linear, spectrum, training
from experiments.isometry.results import Results
from experiments.isometry.settings import PRESETS, Config

SAXE, PENNINGTON, SPECTRA = "Saxe et al. 2014", "Pennington et al. 2017", "Pennington et al. 2018"
XIAO, HANIN = "Xiao et al. 2018", "Hanin & Nica 2018"


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
    error = np.abs(results.saxe.measured - results.saxe.theory).max(0)
    found = [
        check.below(
            f"linear, one hidden layer: largest error of u(t) for a mode of s = {strength:g}", f"{SAXE}, eq. 8",
            0.01, worst,
        )
        for strength, worst in zip(linear.STRENGTHS, error, strict=True)
    ]  # fmt: skip
    depths, orthogonal = list(results.linear.depths), results.linear.steps[0].mean(-1)
    deepest, ten = depths[-1], depths.index(10) if 10 in depths else 0
    return [
        *found,
        check.below(
            f"linear, orthogonal: learning time at {deepest} layers over that at {depths[ten]}", f"{SAXE}, Fig. 6",
            bands.LINEAR_STEADY, orthogonal[-1] / orthogonal[ten],
        ),
        check.above(
            f"linear, Gaussian, {deepest} layers: least part of the loss left by any rate", f"{SAXE}, Fig. 6",
            bands.LEFT, results.linear.loss[1, -1].min(),
        ),
    ]  # fmt: skip


def spectrum_claims(results: Results) -> list[Claim]:
    """Second moments and edges, measured and by free probability, at the greatest depth."""
    found = []
    depth = int(results.spectrum.depths[-1])
    for index, name in enumerate(results.spectrum.networks):
        values = results.spectrum.values[index, -1]
        if name == "identity, orthogonal":
            worst = np.abs(values - 1).max()
            claim = f"product of {depth} orthogonal matrices: largest |s - 1|"
            found.append(check.below(claim, SAXE, bands.SAME, worst))
            continue
        second = np.mean(values**4) / np.mean(values**2) ** 2
        found += [
            check.close(
                f"{name}, {depth} layers: E[s^4] / E[s^2]^2", SPECTRA,
                results.spectrum.second[index, -1], second, relative=bands.SPECTRUM_BAND,
            ),
            check.close(
                f"{name}, {depth} layers: largest singular value", SPECTRA,
                results.spectrum.largest[index, -1], values.max(-1).mean(), relative=bands.SPECTRUM_BAND,
            ),
        ]  # fmt: skip
    return found


def learning_claims(results: Results) -> list[Claim]:
    """Learning of tanh networks from both kinds of weights."""
    depths, losses = results.learning.depths, training.smooth(results.learning.loss)[..., -1].min(-1)
    deepest, shallowest = int(depths[-1]), int(depths[0])
    found = [
        check.below(
            f"tanh, {deepest} layers: training loss at the end, orthogonal over Gaussian, best rates",
            f"{PENNINGTON}, Fig. 2", bands.LOSSES, losses[-1, 0] / losses[-1, 1],
        )
    ]  # fmt: skip
    if deepest == 200 and len(depths) > 1:
        times, level = training.times(results.learning), f"steps to a loss of {training.REACHED:g}"
        found += [
            check.above(
                f"tanh, {deepest} layers: {level}, Gaussian over orthogonal", PENNINGTON,
                bands.SLOWED, times[-1, 1] / times[-1, 0],
            ),
            check.below(
                f"tanh, orthogonal: {level}, {deepest} layers over {shallowest}", PENNINGTON,
                bands.STEADY, times[-1, 0] / times[0, 0],
            ),
        ]  # fmt: skip
    return found


def cnn_claims(results: Results) -> list[Claim]:
    """Xiao et al.: depth of plain convolutional networks."""
    deepest, depth = results.cnn.backward.shape[1], results.cnn.depth
    # What float32 cannot hold counts as its smallest number.
    ranges = results.cnn.backward.max(1) / np.maximum(results.cnn.backward.min(1), np.finfo(np.float32).tiny)
    settled = results.cnn.forward[0, -1] / results.cnn.theory[0, -1]
    strayed = abs(np.log(results.cnn.backward[0, 0] / results.cnn.backward[0, -1])) / results.cnn.spread[0]
    gradient = f"CNN, {deepest} layers before training: gradient of a layer, largest over smallest"
    found = [
        check.below(f"{gradient}, delta-orthogonal", XIAO, bands.EVEN, ranges[0]),
        check.close(
            f"CNN, {deepest} layers, delta-orthogonal: signal in the last layer over theory", XIAO, 1.0, settled,
            relative=0.15,
        ),
        check.below(
            f"CNN, {deepest} layers, delta-orthogonal: |ln| of first over last layer's gradient, in standard "
            "deviations", f"{HANIN}; orthogonal weights", bands.DEVIATIONS, strayed,
        ),
    ]  # fmt: skip
    if deepest >= 10_000:
        found.append(check.above(f"{gradient}, Gaussian", XIAO, bands.UNEVEN, ranges[1]))
    if results.cnn.loss.size:
        orthogonal, gaussian = training.smooth(results.cnn.loss)[:, -1]
        found += [
            check.below(f"CNN, {depth} layers, delta-orthogonal: training loss", XIAO, bands.CNN_LEARNT, orthogonal),
            check.above(f"CNN, {depth} layers, Gaussian: training loss", XIAO, bands.CNN_STUCK, gaussian),
        ]
    return found


EXPERIMENT = Experiment("isometry", package.__doc__ or "", PRESETS, run, claims, figures.draw)
