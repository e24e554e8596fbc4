"""Run and claims of `batchnorm`."""

from __future__ import annotations

import numpy as np

import experiments.batchnorm as package
from experiments.batchnorm import bands, figures, initialization, training
from experiments.batchnorm.results import Results
from experiments.batchnorm.settings import PRESETS, Config
from experiments.batchnorm.training import KINDS, LANDSCAPE_RATE
from experiments.framework import claims as check
from experiments.framework.claims import Claim
from experiments.framework.images import load
from experiments.framework.runner import Experiment


def run(config: Config) -> Results:
    """Train and measure.

    Args:
        config: settings.
    """
    data = load(config.data)
    sigmoid, landscape = training.measure(
        data, steps=config.steps, rate=config.rate, records=config.records, landscape_steps=config.landscape_steps,
        rates=config.rates, seed=config.seed,
    )  # fmt: skip
    explosion, linear = initialization.measure(
        config.depth, config.width, config.batch, config.activations, config.linear_batches, config.networks,
        config.seed,
    )  # fmt: skip
    streams = initialization.measure_streams(config.blocks, config.width, config.batch, config.networks, config.seed)
    return Results(config.batch, sigmoid, landscape, explosion, linear, streams)


def claims(results: Results) -> list[Claim]:
    """Check a run.

    Args:
        results: from `run`.

    Returns:
        The claims.
    """
    return [*training_claims(results), *landscape_claims(results), *explosion_claims(results), *stream_claims(results)]


def first_step(steps: np.ndarray, accuracy: np.ndarray, threshold: float) -> float:
    """First recorded step at which accuracy reaches a threshold; twice the last step if none does.

    Args:
        steps: recorded steps.
        accuracy: at these.
        threshold: to be reached.
    """
    reached = np.flatnonzero(accuracy >= threshold)
    return float(steps[reached[0]] if reached.size else 2 * steps[-1])


def training_claims(results: Results) -> list[Claim]:
    """Ioffe & Szegedy's Fig. 1."""
    source, steps = "Ioffe & Szegedy 2015, Fig. 1", results.sigmoid.steps
    plain, normalized = results.sigmoid.accuracy
    early = np.flatnonzero(steps <= 500)[-1]
    return [
        check.above(f"batch norm: accuracy after {steps[early]} steps", source, bands.LEARNED, normalized[early]),
        check.below(f"plain: accuracy after {steps[early]} steps", source, 0.6, plain[early]),
        check.above(
            f"steps to accuracy {bands.LEARNED}: plain over batch norm (at least, where plain never gets there)",
            source,
            bands.FEWER_STEPS,
            first_step(steps, plain, bands.LEARNED) / first_step(steps, normalized, bands.LEARNED),
        ),
    ]


def landscape_claims(results: Results) -> list[Claim]:
    """Learning rates, smoothness along the gradient, and noise."""
    final = dict(zip(KINDS, results.landscape.accuracy[:, :, -1], strict=True))
    rates = results.landscape.rates
    works = {kind: rates[accuracy >= bands.WORKS].max(initial=0.0) for kind, accuracy in final.items()}
    at_rate = int(np.flatnonzero(rates == LANDSCAPE_RATE)[0])
    found = []
    if len(rates) >= bands.SWEEP:
        found.append(
            check.above(
                f"largest rate that reaches accuracy {bands.WORKS}: batch norm over plain",
                "Ioffe & Szegedy 2015; Bjorck et al. 2018",
                5.0,
                works["batch norm"] / works["plain"] if works["plain"] else np.nan,
            )
        )
    for changes, words in ((results.landscape.loss_range, "loss"), (results.landscape.gradient_change, "gradient")):
        plain, normalized, noisy = np.median(changes[:, at_rate, 1:], axis=1)
        for kind, value in (("batch norm", normalized), ("noisy batch norm", noisy)):
            claim = f"change of the {words} along the gradient: plain over {kind}"
            found.append(check.above(claim, "Santurkar et al. 2018, Fig. 4", bands.SMOOTHER, plain / value))
    noise = "Santurkar et al. 2018, Fig. 2"
    wobble = np.median(results.landscape.wobble[2, at_rate])
    gain = results.landscape.accuracy[2, at_rate, -1] - results.landscape.accuracy[1, at_rate, -1]
    return [
        *found,
        check.above("noisy batch norm: wobble of a unit's mean, in its own deviations", noise, 0.1, wobble),
        check.above("accuracy: noisy batch norm minus batch norm", noise, -0.03, gain),
    ]


def explosion_claims(results: Results) -> list[Claim]:
    """Yang et al.'s rates; the large-batch limit of activations other than ReLU is given room for a finite batch."""
    source, batch = "Yang et al. 2019", results.batch
    found = []
    for name, theory, rates in zip(
        results.explosion.activations, results.explosion.theory, results.explosion.rate, strict=True
    ):
        band = bands.RELU_BAND if name == "relu" else bands.FINITE_BATCH / batch * theory
        claim = f"squared gradient a layer, {name}, batch {batch}"
        found.append(check.close(claim, source, theory, rates.mean(), absolute=band))
    linear = zip(results.linear.batches, results.linear.theory, results.linear.rate, strict=True)
    for size, theory, rates in linear:
        claim = f"squared gradient a layer, linear, batch {size}: (B-2)/(B-3)"
        found.append(check.close(claim, source, theory, rates.mean(), absolute=bands.LINEAR_BAND))
    plain = results.explosion.plain
    found.append(
        check.between("first over last gradient without batch norm, ReLU + He", "He et al. 2015", 0.5, 2.0, plain[0])
    )
    return found


def stream_claims(results: Results) -> list[Claim]:
    """Growth of a residual stream: linear with batch norm in the branch, exponential without."""
    normalized, plain = results.streams.normalized, results.streams.plain
    blocks = plain.shape[1]
    doubling = 2.0**blocks
    return [
        check.close(
            f"variance after {blocks} residual blocks with batch norm", "De & Smith 2020: l + 1",
            blocks + 1, normalized[:, -1].mean(), relative=0.15,
        ),
        check.between(
            f"variance after {blocks} residual blocks without, over 2^{blocks}", "De & Smith 2020: 2^l, within 2x",
            0.5, 2.0, np.exp(np.log(plain[:, -1]).mean()) / doubling,
        ),
    ]  # fmt: skip


EXPERIMENT = Experiment("batchnorm", package.__doc__ or "", PRESETS, run, claims, figures.draw, smoke_computes=True)
