"""Run and claims of `recurrent`."""

from __future__ import annotations

import math

import numpy as np

import experiments.recurrent as package
from experiments.framework import claims as check
from experiments.framework.claims import Claim
from experiments.framework.runner import Experiment
from experiments.recurrent import bands, figures, tasks, theory
from experiments.recurrent.results import Results
from experiments.recurrent.settings import PRESETS, Config
from experiments.recurrent.training import CHRONO, FORGETFUL, GRU, IRNN, LSTM, RNN, Trained

FEW = (RNN, IRNN, GRU, LSTM)


def run(config: Config) -> Results:
    """Measure gradients at initialization, then train.

    Args:
        config: settings.
    """
    longest = config.adding_lengths[-1]
    return Results(
        steps=config.steps,
        width=config.width,
        every=config.every,
        hidden=config.hidden,
        batch=config.batch,
        theory=theory.measure(config.width, config.steps, config.networks, config.seed),
        baselines=tasks.baselines(tuple(bands.PAPER_COPY), config.seed),
        adding={
            length: tasks.adding(length, config.arms if length == longest else FEW, config.training(config.updates))
            for length in config.adding_lengths
        },
        original={
            length: tasks.original(length, (RNN, LSTM), config.training(config.original_updates))
            for length in config.original_lengths
        },
        copy={
            pause: tasks.copy(pause, (RNN, LSTM, CHRONO), config.training(config.copy_updates))
            for pause in config.copy_pauses
        },
        images={
            reading: tasks.images(config.data, reading, FEW, config.training(config.image_updates))
            for reading in config.readings
        },
    )


def claims(results: Results) -> list[Claim]:
    """Check a run.

    Args:
        results: from `run`.

    Returns:
        The claims.
    """
    return [
        *retention_claims(results),
        *radius_claims(results),
        *mean_field_claims(results),
        *baseline_claims(results),
        *adding_claims(results),
        *reach_claims(results),
        *other_claims(results),
    ]


def retention_claims(results: Results) -> list[Claim]:
    """The memory cell of an LSTM with small weights keeps the product of its forget gates."""
    steps, source = results.steps, "Hochreiter & Schmidhuber 1997; Gers et al. 2000"
    measured, expected = results.theory.retention[:, 0], results.theory.retention_theory
    found = [
        check.close(
            f"LSTM, forget bias {bias:g}: |dL/dc| after {steps} steps, sigma(b)^{steps}", source, theory_value, value,
            relative=bands.RETENTION_BAND,
        )
        for bias, value, theory_value in zip(theory.FORGET_BIASES, measured, expected, strict=False)
    ]  # fmt: skip
    spread = theory.chrono_retention(steps)[1] / math.sqrt(results.width)
    return [
        *found,
        check.close(
            f"LSTM, chrono: |dL/dc| after {steps} steps", "f = u / (1 + u), u uniform (Tallec & Ollivier 2018)",
            expected[-1], measured[-1], relative=bands.DEVIATIONS * spread / 2,
        ),
    ]  # fmt: skip


def radius_claims(results: Results) -> list[Claim]:
    """Pascanu et al.: below radius 1 every step shrinks dL/dh_t; above 1 it may still shrink."""
    profiles, radii = results.theory.radius_gradient.astype(np.float64), np.array(theory.RADII)
    linear, weak, strong = profiles
    normal = np.where(profiles > np.finfo(np.float32).tiny, profiles, np.nan)
    factors = np.nanmax(normal[1:, :, :-1] / normal[1:, :, 1:], axis=(0, 2)) / radii
    error = np.abs(linear[:, 0] ** (1 / (linear.shape[1] - 1)) / radii - 1).max()
    source = "Pascanu et al. 2013, section 2.1"
    return [
        check.below("linear: rate a step / spectral radius - 1, largest over radii", "exact", 1e-4, error),
        check.below("tanh: largest factor of any step / radius, all radii", source, 1 + 1e-5, factors.max()),
        check.below("tanh, radius 0.9: first / last", source, 0.9 ** (weak.shape[1] - 1), weak[2, 0]),
        check.above("tanh, radius 1.5, weak inputs: first / last", source, 1.0, weak[-1, 0]),
        check.below("tanh, radius 1.5, strong inputs: first / last, vanishes too", source, 1e-6, strong[-1, 0]),
    ]


def mean_field_claims(results: Results) -> list[Claim]:
    """Rates of wide random cells: theory for the RNN, and for gated ones with fresh weights."""
    rnn, gated = results.theory.rnn_rate.mean(1), results.theory.gated_rate.mean(-1)
    chen, gilboa = "Chen et al. 2018: chi_1", "Gilboa et al. 2019: chi, weights drawn anew"
    found = [
        check.close(
            f"tanh RNN, sigma_w = {sigma:g}: squared gradient a step back",
            chen,
            chi,
            value,
            relative=bands.MEAN_FIELD_BAND,
        )
        for sigma, chi, value in zip(theory.SIGMAS, results.theory.rnn_theory, rnn, strict=True)
    ]
    for name, (_, fresh), chi in zip(results.theory.gated_names, gated, results.theory.gated_theory, strict=True):
        found.append(
            check.close(f"{name}: squared gradient a step back", gilboa, chi, fresh, relative=bands.MEAN_FIELD_BAND)
        )
    ratio = (gated[:, 0] / gated[:, 1]).min()
    reach = "gated cells: rate with shared weights / with fresh ones, smallest"
    return [*found, check.above(reach, "states and weights are correlated", 1.1, ratio)]


def baseline_claims(results: Results) -> list[Claim]:
    """What ignoring the sequence costs."""
    found = [
        check.close("adding: error of predicting 1", "variance of two uniform numbers", 1 / 6,
                    float(results.baselines.adding), absolute=0.003),
    ]  # fmt: skip
    for pause, measured in zip(results.baselines.pauses, results.baselines.copy, strict=True):
        expected = bands.PAPER_COPY[int(pause)]
        found.append(
            check.close(
                f"copy memory, T = {pause}: nats a step without memory", "Arjovsky et al. 2016: 10 ln 8 / (T + 20)",
                expected, measured, absolute=0.0001,
            )
        )  # fmt: skip
    return found


def adding_claims(results: Results) -> list[Claim]:
    """Who learns the adding problem."""
    found = []
    for length, trained in results.adding.items():
        errors = trained.loss[:, -bands.RECORDS :].mean(1)
        for name, error in zip(trained.arms, errors, strict=True):
            claim = f"adding, T = {length}, {name}: mean squared error after training"
            if name != RNN:
                found.append(check.below(claim, "Le et al. 2015; Hochreiter & Schmidhuber 1997", bands.LEARNED, error))
            elif length >= bands.LONG:
                found.append(check.between(f"{claim}, near 1/6", "Le et al. 2015", *bands.STUCK, error))
    return found


def reach_claims(results: Results) -> list[Claim]:
    """How far the gradient reaches before and after the longest adding problem is learned."""
    length, trained = list(results.adding.items())[-1]
    if length < bands.LONG:
        return []
    # dL/dc_t of an LSTM, dL/dh_t of the others; first step over last, (arms, records + 1)
    reach = trained.gradient_c[..., 0] / trained.gradient_c[..., -1]
    by_name = dict(zip(trained.arms, reach, strict=True))
    errors = trained.loss[:, -bands.RECORDS :].mean(1)
    solved = [values[-1] for values, error in zip(by_name.values(), errors, strict=True) if error <= bands.LEARNED]
    what = f"gradient of state 1 over that of state {length}"
    found = []
    for name in (GRU, FORGETFUL):
        if name in by_name:
            claim = f"{name}, before training: {what}"
            found.append(check.below(claim, "Gers et al. 2000", bands.CLOSED, by_name[name][0]))
    if IRNN in by_name:
        # Of h_t's units half stay alive; their share of the squared read-out has this standard deviation.
        alive = math.sqrt(9 / 5 / 4 / results.hidden)
        claim = f"IRNN, before training: {what}: half of the units are alive"
        band = bands.DEVIATIONS * alive / math.sqrt(2)
        found.append(check.close(claim, "Le et al. 2015", math.sqrt(1 / 2), by_name[IRNN][0], absolute=band))
    if solved:
        claim = f"after training, smallest of the {len(solved)} that learned: {what}"
        found.append(check.above(claim, "credit has to reach the first marker", bands.OPEN, min(solved)))
    return found


def other_claims(results: Results) -> list[Claim]:
    """Adding as first posed, copy memory, images."""
    found = []
    for length, trained in results.original.items():
        ratio = trained.loss[1, -bands.RECORDS :].mean() / _baseline(trained)
        sequences = trained.loss.shape[1] * results.every * results.batch
        claim = f"adding of 1997, T = {length}, LSTM: error / baseline after {sequences} sequences"
        found.append(check.below(claim, "Hochreiter & Schmidhuber 1997", bands.ORIGINAL, ratio))
    for pause, trained in results.copy.items():
        plain, *lstms = trained.loss[:, -bands.RECORDS :].mean(1) / _baseline(trained)
        claim, source = f"copy memory, T = {pause}, {{}}: nats a step / baseline", "Arjovsky et al. 2016"
        found.append(check.between(claim.format(RNN), source, *bands.MEMORYLESS, plain))
        if pause <= bands.SHORT:
            found.append(check.below(claim.format(f"{LSTM} or chrono, the worse"), source, bands.REMEMBERS, max(lstms)))
    for reading, trained in results.images.items():
        plain, _, *gated = trained.accuracy
        claim = f"images by {reading}: test accuracy, worse of GRU and LSTM"
        source = "Le et al. 2015; Arjovsky et al. 2016"
        found.append(check.above(claim, source, bands.ACCURACY, min(gated)))
        found.append(check.above(f"{claim}, minus tanh RNN", source, bands.BETTER, min(gated) - plain))
    return found


def _baseline(trained: Trained) -> float:
    assert trained.baseline is not None
    return trained.baseline


EXPERIMENT = Experiment("recurrent", package.__doc__ or "", PRESETS, run, claims, figures.draw, smoke_computes=True)
