"""Run and claims of `batchnorm`."""

from __future__ import annotations

import numpy as np

import experiments.batchnorm as package
from experiments.batchnorm import bands, figures, initialization, training
from experiments.batchnorm.results import Results
from experiments.batchnorm.settings import PRESETS, Config
from experiments.batchnorm.training import KINDS, LANDSCAPE_RATE
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
    return Results(config.batch, config.width, sigmoid, landscape, explosion, linear, streams)


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
    steps = results.sigmoid.steps
    plain, normalized = results.sigmoid.accuracy
    early = np.flatnonzero(steps <= bands.EARLY)[-1]
    accuracy = f"accuracy of three layers of sigmoids after {steps[early]} steps"
    taken = [first_step(steps, curve, bands.LEARNED) for curve in (plain, normalized)]
    return [
        Claim(
            "sigmoid-normalized", f"batch norm: {accuracy}",
            bands.normalized_accuracy(), normalized[early],
        ),
        Claim(
            "sigmoid-plain", f"plain: {accuracy}",
            bands.plain_accuracy(), plain[early],
        ),
        Claim(
            "sigmoid-speedup",
            f"steps to accuracy {bands.LEARNED}: plain over batch norm (at least, where plain never gets there)",
            bands.speedup(), taken[0] / taken[1],
        ),
    ]  # fmt: skip


def landscape_claims(results: Results) -> list[Claim]:
    """Learning rates, smoothness along the gradient, and noise."""
    landscape = results.landscape
    final = dict(zip(KINDS, landscape.accuracy[:, :, -1], strict=True))
    works = {kind: landscape.rates[accuracy >= bands.WORKS].max(initial=0.0) for kind, accuracy in final.items()}
    at_rate = int(np.flatnonzero(landscape.rates == LANDSCAPE_RATE)[0])
    found = []
    if len(landscape.rates) >= bands.SWEEP:
        ratio = works["batch norm"] / works["plain"] if works["plain"] else np.nan
        line = f"largest rate that reaches accuracy {bands.WORKS}: batch norm over plain"
        found.append(Claim("largest-rate", line, bands.largest_rate(), ratio))
    if landscape.steps[-1] < bands.TRAINED:
        return found
    for changes, name in ((landscape.loss_range, "loss"), (landscape.gradient_change, "gradient")):
        plain, *normalized = np.median(changes[:, at_rate, 1:], axis=1)
        line = f"change of the {name} along the gradient: plain over the larger of batch norm and noisy batch norm"
        found.append(Claim(f"smoother-{name}", line, bands.smoother(), plain / max(normalized)))
    wobble = np.median(landscape.wobble[2, at_rate])
    gain = landscape.accuracy[2, at_rate, -1] - landscape.accuracy[1, at_rate, -1]
    return [
        *found,
        Claim(
            "noise-wobble", "noisy batch norm: wobble of a unit's mean, in its own deviations", bands.wobble(), wobble
        ),
        Claim("noise-accuracy", "accuracy: noisy batch norm minus batch norm", bands.noise_gain(), gain),
    ]


def explosion_claims(results: Results) -> list[Claim]:
    """Yang et al.'s rates: ReLU by itself, the worst of all others."""
    explosion, linear, width = results.explosion, results.linear, results.width
    rows = [
        (str(name), str(name), expected, rates)
        for name, expected, rates in zip(explosion.activations, explosion.theory, explosion.rate, strict=True)
    ]
    relu = [row for row in rows if row[0] == "relu"]
    others = [row for row in rows if row[0] != "relu"] + [
        (f"linear, batch {size}", "identity", expected, rates)
        for size, expected, rates in zip(linear.batches, linear.theory, linear.rate, strict=True)
    ]
    line = f"squared gradient a layer, batch {results.batch}, ReLU"
    found = [
        Claim("explosion-relu", line, bands.relu_rate(rates, expected, width), np.exp(np.log(rates).mean()))
        for _, _, expected, rates in relu
    ]
    away = {
        name: abs(np.log(rates).mean() - np.log(expected)) / bands.rate_allowance(rates, activation, width, len(others))
        for name, activation, expected, rates in others
    }
    worst = max(away, key=lambda name: away[name])
    line = f"squared gradient a layer: farthest of {len(others)} others from theory, in what is allowed ({worst})"
    plain, depth, networks = explosion.plain[0], len(explosion.plain), explosion.rate.shape[1]
    return [
        *found,
        Claim("explosion-others", line, bands.other_rates(), away[worst]),
        Claim(
            "plain-gradient", "first over last gradient without batch norm, ReLU and He's weights",
            bands.plain_gradient(depth, width, networks), plain,
        ),
    ]  # fmt: skip


def stream_claims(results: Results) -> list[Claim]:
    """Growth of a residual stream: linear with batch norm in the branch, exponential without."""
    normalized, plain = results.streams.normalized[:, -1], results.streams.plain[:, -1]
    networks, blocks = results.streams.plain.shape
    grown = np.exp(np.log(plain).mean()) / 2.0**blocks
    line = f"variance after {blocks} residual blocks"
    return [
        Claim(
            "stream-normalized", f"{line} with batch norm in the branch",
            bands.normalized_stream(blocks, results.width, results.batch, networks), normalized.mean(),
        ),
        Claim(
            "stream-plain", f"{line} without, over 2^{blocks}",
            bands.plain_stream(blocks, results.width, networks), grown,
        ),
    ]  # fmt: skip


EXPERIMENT = Experiment("batchnorm", package.__doc__ or "", PRESETS, run, claims, figures.draw, smoke_computes=True)
