"""Run and claims of `saturation`."""

from __future__ import annotations

import jax
import numpy as np

import experiments.saturation as package
import gradflow as gf
from experiments.framework import claims as check
from experiments.framework.claims import Claim
from experiments.framework.images import load, rows
from experiments.framework.progress import track
from experiments.framework.runner import Experiment
from experiments.saturation import bands, figures, training
from experiments.saturation.results import Results
from experiments.saturation.settings import ARMS, PRESETS, Config

GLOROT = "Glorot & Bengio 2010"


def run(config: Config) -> Results:
    """Train every kind of network.

    Args:
        config: settings.
    """
    data = load(config.data)
    train, test = rows(data, data.train), rows(data, data.test)
    keys = jax.random.split(jax.random.key(config.seed), config.networks)
    arms = {}
    for arm in track(list(ARMS), "network"):
        activation, depth = ARMS[arm]
        steps = config.sigmoid_steps if activation == "sigmoid" else config.steps
        setup = training.Setup(
            activation, depth, config.width, config.batch, config.rate, steps, steps // config.records
        )
        found = training.train(keys, train, test, setup=setup)
        at = np.linspace(0, steps, config.records + 1).astype(int)
        arms[arm] = training.History(at, **{name: np.asarray(value) for name, value in found.items()})
    square = float(np.square(np.asarray(test.x[: training.PROBE])).mean())
    theory = {name: predicted(name, square, 5) for name in ("tanh", "softsign")}
    return Results(config.width, arms, theory)


def predicted(activation: str, square: float, depth: int) -> np.ndarray:
    """Rms of every layer's activations before training: q_(l+1) = E[phi(sqrt(q_l) z)^2] / 3, as n Var[W] = 1/3.

    Args:
        activation: name.
        square: mean square of the inputs.
        depth: hidden layers.

    Returns:
        sqrt(E[phi^2]) of each, (depth,).
    """
    variances = [square / 3]
    for _ in range(depth):
        ahead = gf.theory.variance_map(activation, variances[-1], weight_variance=1 / 3, bias_variance=0.0)
        variances.append(float(ahead))
    return np.sqrt(3 * np.array(variances[1:]))


def claims(results: Results) -> list[Claim]:
    """Hold a run against the paper, and its start against theory.

    Args:
        results: from `run`.

    Returns:
        The claims; those on training only where there was enough of it.
    """
    found = [_start(results, name) for name in ("tanh", "softsign")]
    if results.arms["tanh_5"].steps[-1] < bands.LEARNING:
        return found
    return [*found, *_sigmoids(results), *_symmetric(results)]


def _start(results: Results, name: str) -> Claim:
    """A layer's mean square strays by about 2/n from the one before, over four layers and all networks."""
    arm, theory = results.arms[f"{name}_5"], results.predicted[name]
    spread = np.sqrt((arm.std**2 + arm.mean**2)[:, 0].mean(0))
    band = 1.5 * np.sqrt(4 * 2 / results.width / len(arm.std))
    title = f"{name}, before training: rms of the fifth layer over that of the first"
    return check.close(title, "variance map", theory[-1] / theory[0], spread[-1] / spread[0], relative=float(band))


def _sigmoids(results: Results) -> list[Claim]:
    source, found = f"{GLOROT}, Fig. 2", []
    accuracy = {depth: results.arms[f"sigmoid_{depth}"].accuracy for depth in (3, 4, 5)}
    for depth in (4, 5):
        means = results.arms[f"sigmoid_{depth}"].mean.mean(0)
        lowest = int(means[:, -1].argmin())
        top, below = means[lowest, -1], means[lowest, :-1].min()
        found += [
            check.below(f"sigmoid, {depth} layers: lowest mean activation of the top layer", source, bands.PUSHED, top),
            check.above(f"sigmoid, {depth} layers: lowest mean of the layers below, then", source, 0.5, below),
        ]
    quarter = accuracy[4].shape[1] // 4
    return [
        *found,
        check.below(
            "sigmoid, 4 layers: test accuracy at a quarter", source, bands.CHANCE, accuracy[4][:, quarter].max()
        ),
        check.above("sigmoid, 4 layers: test accuracy in the end", source, bands.ESCAPED, accuracy[4][:, -1].min()),
        check.below("sigmoid, 5 layers: test accuracy in the end", source, bands.CHANCE, accuracy[5][:, -1].max()),
        check.above("sigmoid, 3 layers: test accuracy in the end", source, bands.LEARNS, accuracy[3][:, -1].min()),
    ]


def _symmetric(results: Results) -> list[Claim]:
    size = np.abs(training.edges("tanh")[:-1] + training.edges("tanh")[1:]) / 2
    tanh, softsign = (results.arms[f"{name}_5"].shares.mean(0) for name in ("tanh", "softsign"))
    limit, knee = size > bands.LIMIT, (size > bands.KNEE[0]) & (size < bands.KNEE[1])
    beyond = tanh[:, limit].sum(1)
    crossed = first_passing(results.arms["tanh_5"].high.mean(0), bands.PASSED)
    third, fourth = f"{GLOROT}, Fig. 3", f"{GLOROT}, Fig. 4"
    return [
        check.below("tanh: pairs of layers of which the upper saturates first", third, 0, disorder(crossed)),
        check.above(
            "tanh: records between saturation of the first and the last layer", third, 1, crossed[-1] - crossed[0]
        ),
        check.above("tanh: share of the first layer beyond .9 in the end", fourth, bands.SATURATED, beyond[0]),
        check.above(
            "tanh: that over the share of the last layer", fourth, 2, tanh[0, limit].sum() / tanh[-1, limit].sum()
        ),
        check.below(
            "softsign: largest share of a layer beyond .9", fourth, bands.FREE, softsign[:, limit].sum(1).max()
        ),
        check.above("softsign: share of the first layer at .6 to .8", fourth, bands.PILED, softsign[0, knee].sum()),
        *(
            check.above(
                f"{name}: test accuracy in the end",
                third,
                bands.LEARNS,
                results.arms[f"{name}_5"].accuracy[:, -1].min(),
            )
            for name in ("tanh", "softsign")
        ),
    ]


def first_passing(values: np.ndarray, level: float) -> np.ndarray:
    """Return the first record at which each layer is above a level; the number of records where it never is.

    Args:
        values: (records, depth).
        level: the level.
    """
    return np.where((values > level).any(0), (values > level).argmax(0), len(values))


def disorder(numbers: np.ndarray) -> int:
    """Count pairs of which the later one is smaller.

    Args:
        numbers: in a row.
    """
    return int(sum((numbers[k + 1 :] < number).sum() for k, number in enumerate(numbers)))


EXPERIMENT = Experiment("saturation", package.__doc__ or "", PRESETS, run, claims, figures.draw)
