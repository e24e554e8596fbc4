"""Batch normalization: it trains what did not train, smooths the loss, and makes a deep plain network explode.

Paper:    Ioffe & Szegedy 2015; Santurkar et al. 2018; Yang et al. 2019; De & Smith 2020
Figure:   Ioffe & Szegedy Fig. 1 (a, b, c); Santurkar et al. Figs 2 and 4; Yang et al.'s explosion rates
Command:  python -m experiments.batchnorm
Minutes:  1 on two cores (smoke: 20 seconds; paper: MNIST in full, hours on a CPU)
Expected: three layers of 100 sigmoids learn within 500 steps with batch norm and not at all without; the squared
          gradient of a deep plain net grows 1.467 a layer (ReLU), (B-2)/(B-3) (linear); a residual stream's variance
          after 20 blocks is 21 with batch norm, 2^20 without.

Three parts. Training: the network of Ioffe & Szegedy's Fig. 1 (three layers of 100 sigmoids, small Gaussian weights,
batches of 60), its accuracy and the 15th, 50th and 85th percentiles of the inputs of its last hidden layer's sigmoids.
Landscape: six layers of 100 ReLU units; which learning rates work, how much loss and gradient change along the
gradient, and batch norm whose outputs are shaken by noise that changes from step to step, which trains as well: what
helps is not that distributions stand still. Initialization: the price, gradients that grow exponentially with depth in
a plain network, and what pays it, skip connections.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING

import numpy as np

import gradflow as gf
from experiments import batchnorm_init, batchnorm_training
from experiments import claims as check
from experiments.batchnorm_training import KINDS, LANDSCAPE_RATE
from experiments.claims import Claim
from experiments.runner import Experiment, Results, main

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Thresholds for this data were fixed in pilot runs on other seeds (10, 11) than those that are reported (0, 1, 2).
LEARNED, WORKS = 0.7, 0.7  # test accuracy; the ReLU networks reach .8 to .85
FEWER_STEPS = 3.0
SMOOTHER = 1.5
SWEEP = 3  # rates, with fewer of which nothing is claimed about the largest that works
RELU_BAND, LINEAR_BAND = 0.03, 0.05
# For a batch of B in a width of n, theory for large B and n is off by terms of order 1/B and 1/n; 3/B at B = 128.
FINITE_BATCH = 3.0


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of one run."""

    data: str = "fashion_mnist_subset"
    """Name of the images."""
    steps: int = 5000
    """Training steps of the sigmoid network."""
    rate: float = 0.1
    """Learning rate of the sigmoid network."""
    records: int = 51
    """How often training is looked at."""
    landscape_steps: int = 500
    """Training steps of the ReLU networks."""
    rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
    """Learning rates of the ReLU networks; the landscape is that of 0.1."""
    depth: int = 30
    """Layers of the plain networks at initialization."""
    width: int = 512
    """Their width."""
    batch: int = 128
    """Their batch."""
    activations: tuple[str, ...] = ("relu", "tanh", "gelu", "sigmoid")
    """Their activations."""
    linear_batches: tuple[int, ...] = (5, 8, 16)
    """Batches of the linear network."""
    networks: int = 16
    """How many of them are drawn."""
    blocks: int = 20
    """Residual blocks."""
    seed: int = 0
    """Of everything."""

    def __post_init__(self) -> None:
        """Reject settings that cannot be run."""
        if self.depth < 2 * batchnorm_init.SETTLED + 3:
            raise ValueError(f"depth must be at least {2 * batchnorm_init.SETTLED + 3} for a fit, got {self.depth}")
        if LANDSCAPE_RATE not in self.rates:
            raise ValueError(f"rates must contain {LANDSCAPE_RATE}, at which the landscape is looked at")
        if self.records < 2 or self.steps % (self.records - 1):
            raise ValueError(f"steps must be a multiple of records - 1, got {self.steps} and {self.records}")


PRESETS = {
    "smoke": Config(
        steps=500,
        records=11,
        landscape_steps=100,
        rates=(LANDSCAPE_RATE, 1.0),
        depth=16,
        width=128,
        activations=("relu",),
        linear_batches=(8,),
        networks=4,
    ),
    "laptop": Config(),
    "paper": Config(data="mnist", steps=50_000, records=101, landscape_steps=15_000),
}


def run(config: Config) -> Results:
    """Train and measure.

    Args:
        config: settings.

    Returns:
        What `batchnorm_training.measure`, `batchnorm_init.measure` and `batchnorm_init.measure_streams` return.
    """
    data = gf.data.load(config.data)
    return {
        "batch": np.array(config.batch),
        **batchnorm_training.measure(
            data,
            steps=config.steps,
            rate=config.rate,
            records=config.records,
            landscape_steps=config.landscape_steps,
            rates=config.rates,
            seed=config.seed,
        ),
        **batchnorm_init.measure(
            config.depth,
            config.width,
            config.batch,
            config.activations,
            config.linear_batches,
            config.networks,
            config.seed,
        ),
        **batchnorm_init.measure_streams(config.blocks, config.width, config.batch, config.networks, config.seed),
    }


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
    source, steps = "Ioffe & Szegedy 2015, Fig. 1", results["steps"]
    plain, normalized = results["sigmoid_accuracy"]
    early = np.flatnonzero(steps <= 500)[-1]
    return [
        check.above(f"batch norm: accuracy after {steps[early]} steps", source, LEARNED, normalized[early]),
        check.below(f"plain: accuracy after {steps[early]} steps", source, 0.6, plain[early]),
        check.above(
            f"steps to accuracy {LEARNED}: plain over batch norm (at least, where plain never gets there)",
            source,
            FEWER_STEPS,
            first_step(steps, plain, LEARNED) / first_step(steps, normalized, LEARNED),
        ),
    ]


def landscape_claims(results: Results) -> list[Claim]:
    """Learning rates, smoothness along the gradient, and noise."""
    final = dict(zip(KINDS, results["landscape_accuracy"][:, :, -1], strict=True))
    works = {kind: results["rates"][accuracy >= WORKS].max(initial=0.0) for kind, accuracy in final.items()}
    at_rate = at_landscape_rate(results)
    found = []
    if len(results["rates"]) >= SWEEP:
        found.append(
            check.above(
                f"largest rate that reaches accuracy {WORKS}: batch norm over plain",
                "Ioffe & Szegedy 2015; Bjorck et al. 2018",
                5.0,
                works["batch norm"] / works["plain"] if works["plain"] else np.nan,
            )
        )
    for name, words in (("loss_range", "loss"), ("gradient_change", "gradient")):
        plain, normalized, noisy = np.median(at_rate[name][:, 1:], axis=1)
        for kind, value in (("batch norm", normalized), ("noisy batch norm", noisy)):
            claim = f"change of the {words} along the gradient: plain over {kind}"
            found.append(check.above(claim, "Santurkar et al. 2018, Fig. 4", SMOOTHER, plain / value))
    noise = "Santurkar et al. 2018, Fig. 2"
    wobble = np.median(at_rate["wobble"][2])
    gain = at_rate["landscape_accuracy"][2, -1] - at_rate["landscape_accuracy"][1, -1]
    return [
        *found,
        check.above("noisy batch norm: wobble of a unit's mean, in its own deviations", noise, 0.1, wobble),
        check.above("accuracy: noisy batch norm minus batch norm", noise, -0.03, gain),
    ]


def at_landscape_rate(results: Results) -> Results:
    """Pick what was recorded at the rate of the landscape.

    Args:
        results: from `run`.

    Returns:
        `landscape_accuracy`, `loss_range`, `gradient_change`, `wobble` (3 kinds, records).
    """
    names = ("landscape_accuracy", "loss_range", "gradient_change", "wobble")
    index = int(np.flatnonzero(results["rates"] == LANDSCAPE_RATE)[0])
    return {name: results[name][:, index] for name in names}


def explosion_claims(results: Results) -> list[Claim]:
    """Yang et al.'s rates; the large-batch limit of activations other than ReLU is given room for a finite batch."""
    source, batch = "Yang et al. 2019", int(results["batch"])
    found = []
    for name, theory, rates in zip(
        results["explosion_activations"], results["explosion_theory"], results["explosion_rate"], strict=True
    ):
        band = RELU_BAND if name == "relu" else FINITE_BATCH / batch * theory
        claim = f"squared gradient a layer, {name}, batch {batch}"
        found.append(check.close(claim, source, theory, rates.mean(), absolute=band))
    linear = zip(results["linear_batches"], results["linear_theory"], results["linear_rate"], strict=True)
    for size, theory, rates in linear:
        claim = f"squared gradient a layer, linear, batch {size}: (B-2)/(B-3)"
        found.append(check.close(claim, source, theory, rates.mean(), absolute=LINEAR_BAND))
    plain = results["explosion_plain"]
    found.append(
        check.between("first over last gradient without batch norm, ReLU + He", "He et al. 2015", 0.5, 2.0, plain[0])
    )
    return found


def stream_claims(results: Results) -> list[Claim]:
    """Growth of a residual stream: linear with batch norm in the branch, exponential without."""
    normalized, plain = results["stream_normalized"], results["stream_plain"]
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


def figures(results: Results) -> dict[str, Figure]:
    """Draw the figures.

    Args:
        results: from `run`.

    Returns:
        Name to figure.
    """
    from experiments import batchnorm_figures

    return batchnorm_figures.draw(results)


EXPERIMENT = Experiment("batchnorm", __doc__ or "", PRESETS, run, claims, figures, smoke_computes=True)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
