"""Run and claims of `initialization`."""

from __future__ import annotations

import jax
import numpy as np

import experiments.initialization as package
from experiments.framework.bands import constant_answer, signal_spread
from experiments.framework.claims import Claim
from experiments.framework.images import load, rows
from experiments.framework.runner import Experiment
from experiments.initialization import bands, figures, glorot, table, training
from experiments.initialization.results import Results
from experiments.initialization.settings import PRESETS, Config
from experiments.initialization.training import SCHEMES


def run(config: Config) -> Results:
    """Measure and train.

    Args:
        config: settings.
    """
    data = load(config.data)
    flow = glorot.measure(data, depth=config.glorot_depth, width=config.glorot_width, seed=config.seed)
    train = rows(data, data.train)
    test = rows(data, data.test, config.test_images)
    trained = training.measure(
        train, test, depths=config.depths, width=config.width, steps=config.steps, rate=config.rate, seed=config.seed
    )
    spread = hanin(config)
    errors = table.measure(config.table, width=config.table_width, steps=config.table_steps, seed=config.seed)
    return Results(len(test.y), flow, trained, spread, errors)


def hanin(config: Config) -> glorot.Spread:
    """Sample the spread of ln |J u|^2 over networks.

    Args:
        config: settings.
    """
    depths = config.hanin_depths
    logs = glorot.log_norms(
        jax.random.key(config.seed), depths=depths, width=config.hanin_width, networks=config.hanin_networks
    )
    mean, variance = np.array([bands.log_norm_moments(depth, config.hanin_width) for depth in depths]).T
    return glorot.Spread(
        depths=np.array(depths),
        width=config.hanin_width,
        logs=logs,
        variance=variance,
        mean=mean,
    )


def claims(results: Results) -> list[Claim]:
    """Check a run.

    Args:
        results: from `run`.

    Returns:
        The claims.
    """
    return [
        *glorot_claims(results.glorot),
        *training_claims(results),
        *hanin_claims(results.hanin),
        *table.claims(results.table),
    ]


def glorot_claims(flow: glorot.Flow) -> list[Claim]:
    """Signals, gradients and Jacobians of tanh networks at the start."""
    standard, normalized = flow.jacobian_mean
    width, sigmas = flow.jacobian_values.shape[-1], (1 / 3, 1.0)
    variances = flow.variance
    signal = [
        signal_spread("tanh", layer + 1, width, q=float(row[0]), weight_variance=sigma).outside(2 * float(log))
        for row, logs, sigma in zip(
            variances, np.log(flow.activation_std / flow.activation_theory), sigmas, strict=True
        )
        for layer, log in enumerate(logs)
    ]
    logs = np.log(flow.gradient_std / flow.gradient_std[:, -1:] / flow.gradient_theory)[:, 0]
    gradient = [
        bands.gradient_spread(row[:-1], width).outside(2 * log) for row, log in zip(variances, logs, strict=True)
    ]
    deviations = np.array([[bands.jacobian_deviation(float(q), width) for q in row[1:]] for row in variances])
    jacobian = np.abs(flow.jacobian_mean / flow.jacobian_theory - 1) / deviations
    inner = flow.weight_gradient_std[0, 1:-1]
    return [
        Claim("activations", "rms of activations in all layers, both schemes: worst deviation, in standard deviations",
              bands.worst(len(signal), f"{bands.GLOROT}, Fig. 6; variance map"), max(signal)),
        Claim("gradients", "gradient of the first hidden layer over the last: worst deviation, in standard deviations",
              bands.worst(2, f"{bands.GLOROT}, Fig. 7; product of n Var[W] E[tanh'^2]"), max(gradient)),
        Claim("weight-gradients", "standard: deviation of weight gradients over inner layers, largest over smallest",
              bands.EVEN, inner.max() / inner.min()),
        Claim("jacobian-standard", "standard: mean singular value of the top hidden layer's Jacobian",
              bands.STANDARD_VALUE, standard[-1]),
        Claim("jacobian-ratio", "mean singular value of the top hidden layer's Jacobian, normalized over standard",
              bands.VALUE_RATIO, normalized[-1] / standard[-1]),
        Claim("jacobians", "mean singular values of all layers and schemes: worst deviation, in standard deviations",
              bands.worst(jacobian.size, "free probability: D W"), jacobian.max()),
    ]  # fmt: skip


def training_claims(results: Results) -> list[Claim]:
    """The signal of the deepest ReLU network before training; who learns at which depth, and when."""
    training_run = results.training
    depths = [int(depth) for depth in training_run.depths]
    deepest, last = depths[-1], dict(zip(depths, training_run.accuracy[..., -1], strict=True))
    he, xavier, small = (SCHEMES.index(name) for name in ("he_normal", "xavier_normal", "small_gaussian"))
    # From the first hidden layer on: between hidden layers all fans are the same.
    signal = training_run.start[deepest].forward[he]
    found = [
        Claim("he-signal", f"He: rms of the signal in layer {deepest} over that in layer 1",
              bands.he_signal(deepest, training_run.width), signal[deepest - 1] / signal[0]),
        Claim("small-stuck", f"{deepest} layers from N(0, .01^2): test accuracy",
              constant_answer(results.test_images), last[deepest][small]),
    ]  # fmt: skip
    if training_run.steps[-1] < bands.TRAINED or depths != [22, 30]:
        return found
    first = first_times(results, 22)
    learners = {
        "22, He": last[22][he],
        **{
            f"30, {training.LABELS[name]}": last[30][SCHEMES.index(name)]
            for name in ("he_normal", "orthogonal", "lsuv")
        },
    }
    slowest = min(learners, key=lambda name: learners[name])
    return [
        *found,
        Claim("learners", f"22 layers from He, 30 from He, orthogonal and LSUV: lowest test accuracy ({slowest})",
              bands.LEARNT, learners[slowest]),
        Claim("xavier-22", "22 layers from Xavier: test accuracy", bands.XAVIER_BEGINS, last[22][xavier]),
        Claim("he-earlier", f"22 layers: steps to accuracy {bands.HALFWAY:g}, He over Xavier", bands.EARLIER,
              first[he] / first[xavier]),
        Claim("xavier-30", "30 layers from Xavier: test accuracy", bands.XAVIER_STALLS, last[30][xavier]),
    ]  # fmt: skip


def first_times(results: Results, depth: int) -> np.ndarray:
    """Training steps until each scheme's accuracy first exceeds `HALFWAY`; infinite if it never does.

    Args:
        results: from `run`.
        depth: hidden layers.
    """
    reached = results.training.accuracy[list(results.training.depths).index(depth)] > bands.HALFWAY
    return np.where(reached.any(1), results.training.steps[reached.argmax(1)], np.inf)


def hanin_claims(spread: glorot.Spread) -> list[Claim]:
    """The spread of ln |J u|^2 over networks, in standard errors of as many draws from a normal law."""
    networks = spread.logs.shape[1]
    means = (spread.logs.mean(1) - spread.mean) / np.sqrt(spread.variance / networks)
    variances = (spread.logs.var(1, ddof=1) / spread.variance - 1) / np.sqrt(2 / (networks - 1))
    setting = f"ReLU, {spread.depths[-1]} layers {spread.width} wide"
    source = f"{bands.HANIN}; exact at this width"
    return [
        Claim("log-norms", f"{setting} and fewer: mean and variance of ln |J u|^2, worst of all in standard errors",
              bands.worst(2 * len(means), source), np.abs([means, variances]).max()),
    ]  # fmt: skip


EXPERIMENT = Experiment(
    "initialization", package.__doc__ or "", PRESETS, run, claims, figures.draw, smoke_computes=True
)
