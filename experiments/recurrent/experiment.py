"""Run and claims of `recurrent`."""

from __future__ import annotations

import numpy as np

import experiments.recurrent as package
from experiments.framework.claims import Claim
from experiments.framework.images import load
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
    data = load(config.data) if config.readings else None  # before hours of training, in case that it is not there
    return Results(
        steps=config.steps,
        width=config.width,
        every=config.every,
        hidden=config.hidden,
        batch=config.batch,
        theory=theory.measure(config.width, config.steps, config.networks, config.seed),
        adding={
            length: tasks.adding(length, config.arms if length == longest else FEW, config.training(config.updates))
            for length in config.adding_lengths
        },
        original={
            length: tasks.original(length, (RNN, CHRONO), config.training(config.original_updates))
            for length in config.original_lengths
        },
        copy={
            pause: tasks.copy(pause, (RNN, LSTM, CHRONO), config.training(config.copy_updates))
            for pause in config.copy_pauses
        },
        images={
            reading: tasks.images(data, reading, FEW, config.training(config.image_updates))
            for reading in config.readings
            if data is not None
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
        *initial_claims(results),
        *mean_field_claims(results),
        *adding_claims(results),
        *reach_claims(results),
        *other_claims(results),
    ]


def initial_claims(results: Results) -> list[Claim]:
    """What an LSTM of small weights keeps, and what tanh makes of a spectral radius above 1."""
    steps, width = results.steps, results.width
    kept = results.theory.retention[:, 0] / results.theory.retention_theory
    back = f"|dL/dc| after {steps} steps"
    strong, weak = (results.theory.radius_gradient[k, -1].astype(np.float64) for k in (2, 1))
    rates = [(profile[0] / profile[-1]) ** (1 / (len(profile) - 1)) for profile in (weak, strong)]
    radius = f"tanh, radius {theory.RADII[-1]:g}"
    return [
        Claim("retention", f"LSTM: {back} over sigma(b)^{steps}, farthest from 1 of b = 0, 1, 2",
              bands.retention(steps, width), _farthest(kept[:-1])),
        Claim("chrono", f"LSTM, chrono: {back} over the root of E f^{2 * steps}", bands.chrono(steps, width), kept[-1]),
        Claim("radius-weak", f"{radius}, weak inputs: rate of dL/dh_t a step back", bands.exploding_rate(), rates[0]),
        Claim("radius-strong", f"{radius}, strong inputs: the same", bands.bent_rate(), rates[1]),
    ]  # fmt: skip


def _farthest(ratios: np.ndarray) -> float:
    """The one of some ratios that is farthest from 1."""
    return float(ratios[np.abs(np.log(np.maximum(ratios, 1e-300))).argmax()])


def mean_field_claims(results: Results) -> list[Claim]:
    """Rates of wide random cells: theory for the RNN, and for gated ones with fresh weights."""
    rnn = np.log(results.theory.rnn_rate.mean(1) / results.theory.rnn_theory)
    shared, fresh = results.theory.gated_rate.mean(-1).T
    names = f"{len(fresh)} gated cells"
    return [
        Claim("rnn-rate", f"tanh RNN: |ln| of the squared gradient a step back over chi_1, largest of {len(rnn)} "
              "sigma_w", bands.chi(), np.abs(rnn).max()),
        Claim("gated-rate", f"{names}, fresh weights: |ln| of the squared gradient a step back over chi, largest",
              bands.gated_chi(), np.abs(np.log(fresh / results.theory.gated_theory)).max()),
        Claim("shared-rate", f"{names}: rate with shared weights over that with fresh ones, smallest", bands.shared(),
              (shared / fresh).min()),
    ]  # fmt: skip


def adding_claims(results: Results) -> list[Claim]:
    """Who learns the adding problem."""
    found = []
    for length, trained in results.adding.items():
        errors = dict(zip(trained.arms, trained.loss[:, -bands.RECORDS :].mean(1), strict=True))
        plain = errors.pop(RNN)
        claim = f"adding, T = {length}: mean squared error after training"
        worst = max(errors, key=lambda name: errors[name])
        found.append(
            Claim(f"adding-{length}", f"{claim}, largest but the tanh RNN's ({worst})", bands.adding(), errors[worst])
        )
        if length >= bands.LONG:
            found.append(Claim(f"adding-{length}-rnn", f"{claim}, tanh RNN", bands.stuck(), plain))
    return found


def reach_claims(results: Results) -> list[Claim]:
    """How far the gradient reaches before and after the longest adding problem is learned."""
    length, trained = list(results.adding.items())[-1]
    if length < bands.LONG:
        return []
    # dL/dc_t of an LSTM, dL/dh_t of the others; first step over last, (arms, records + 1)
    reach = trained.gradient_c[..., 0].astype(np.float64) / trained.gradient_c[..., -1]
    before = dict(zip(trained.arms, reach[:, 0], strict=True))
    solved = reach[trained.loss[:, -bands.RECORDS :].mean(1) <= bands.LEARNED, -1]
    what = f"gradient of state 1 over that of state {length}"
    found = []
    if shut := [before[name] for name in (GRU, FORGETFUL) if name in before]:
        claim = f"before training, larger of GRU and {FORGETFUL}: rate of the gradient a step back"
        found.append(Claim("closed-rate", claim, bands.closed(), max(shut) ** (1 / (length - 1))))
    if IRNN in before:
        claim = f"IRNN, before training: {what}"
        found.append(Claim("half-alive", claim, bands.half_alive(results.hidden), before[IRNN]))
    if solved.size:
        claim = f"after training, smallest of the {solved.size} that learned: {what}"
        found.append(Claim("opened", claim, bands.opened(), solved.min()))
    return found


def other_claims(results: Results) -> list[Claim]:
    """Adding as first posed, copy memory, images."""
    found = []
    for length, trained in results.original.items():
        if trained.loss.shape[1] * results.every * results.batch >= bands.SEQUENCES.get(length, 0):
            claim = f"adding of 1997, T = {length}, LSTM, chrono: part of 1,000 sequences within .04"
            found.append(Claim(f"original-{length}", claim, bands.original(), trained.accuracy[1]))
    if results.copy:
        over = {
            pause: trained.loss[:, -bands.RECORDS :].mean(1) / _baseline(trained)
            for pause, trained in results.copy.items()
        }
        what = "nats a step over 10 ln 8 / (T + 20)"
        plain = np.array([ratios[0] for ratios in over.values()])
        claim = f"copy memory, tanh RNN: {what}, farthest from 1 of T = {', '.join(map(str, over))}"
        found.append(Claim("copy-rnn", claim, bands.memoryless(), _farthest(plain)))
        found += [
            Claim(f"copy-{pause}-lstm", f"copy memory, T = {pause}, worse of two LSTMs: {what}", bands.remembers(),
                  ratios[1:].max())
            for pause, ratios in over.items() if pause <= bands.SHORT
        ]  # fmt: skip
    for reading, trained in results.images.items():
        plain, _, *gated = trained.accuracy
        claim, name = f"images by {reading}: test accuracy, worse of GRU and LSTM", reading.replace(" ", "-")
        found.append(Claim(f"images-{name}", claim, bands.images(), min(gated)))
        found.append(Claim(f"images-{name}-better", f"{claim}, minus tanh RNN", bands.better(), min(gated) - plain))
    return found


def _baseline(trained: Trained) -> float:
    assert trained.baseline is not None
    return trained.baseline


EXPERIMENT = Experiment("recurrent", package.__doc__ or "", PRESETS, run, claims, figures.draw, smoke_computes=True)
