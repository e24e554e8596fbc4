"""Run and claims of `saturation`."""

from __future__ import annotations

import jax
import numpy as np

import experiments.saturation as package
import gradflow as gf
from experiments.framework.bands import constant_answer
from experiments.framework.claims import Claim
from experiments.framework.images import load, rows
from experiments.framework.progress import track
from experiments.framework.runner import Experiment
from experiments.saturation import bands, figures, training
from experiments.saturation.results import Results
from experiments.saturation.settings import ARMS, PRESETS, Config


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
    return Results(config.width, len(test.y), arms, theory)


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
    found = [_start(results)]
    if results.arms["tanh_5"].steps[-1] < bands.LEARNING:
        return found
    return [*found, *_sigmoids(results), *_symmetric(results), _learners(results)]


def _start(results: Results) -> Claim:
    """The signal through tanh and softsign networks before training."""
    far = {}
    for name, theory in results.predicted.items():
        arm = results.arms[f"{name}_5"]
        square = (arm.std**2 + arm.mean**2)[:, 0]
        logs = np.log(square[:, -1] / square[:, 0]) - 2 * np.log(theory[-1] / theory[0])
        spread = bands.start_spread(name, float(theory[0] ** 2), len(theory) - 1, results.width, len(logs))
        far[name] = spread.outside(logs.mean())
    worst = max(far, key=lambda name: far[name])
    claim = f"before training, rms of the fifth layer over the first: worst deviation, in standard deviations ({worst})"
    return Claim("start", claim, bands.START, far[worst])


def _sigmoids(results: Results) -> list[Claim]:
    accuracy = {depth: results.arms[f"sigmoid_{depth}"].accuracy for depth in (4, 5)}
    tops, below = [], []
    for depth in accuracy:
        means = results.arms[f"sigmoid_{depth}"].mean.mean(0)
        lowest = int(means[:, -1].argmin())
        tops.append(means[lowest, -1])
        below.append(means[lowest, :-1].min())
    quarter = accuracy[4].shape[1] // 4
    stuck = constant_answer(results.test_images)
    top = "sigmoid, 4 and 5 layers: lowest mean activation of the top layer, larger of both"
    others = "sigmoid, 4 and 5 layers: lowest mean of the layers below at that moment"
    return [
        Claim("top-pushed", top, bands.PUSHED, max(tops)),
        Claim("layers-below", others, bands.BELOW, min(below)),
        Claim("sigmoid-4-stuck", "sigmoid, 4 layers: best accuracy at a quarter", stuck, accuracy[4][:, quarter].max()),
        Claim("sigmoid-4-escapes", "sigmoid, 4 layers: accuracy in the end", bands.ESCAPED, accuracy[4][:, -1].min()),
        Claim("sigmoid-5-stuck", "sigmoid, 5 layers: best accuracy in the end", stuck, accuracy[5][:, -1].max()),
    ]


def _symmetric(results: Results) -> list[Claim]:
    size = np.abs(training.edges("tanh")[:-1] + training.edges("tanh")[1:]) / 2
    tanh, softsign = (results.arms[f"{name}_5"].shares.mean(0) for name in ("tanh", "softsign"))
    limit = size > bands.SATURATED
    beyond = tanh[:, limit].sum(1)
    crossed = first_passing(results.arms["tanh_5"].high.mean(0), bands.SATURATED)
    free = softsign[:, limit].sum(1).max()
    pile = size[(softsign[0] + softsign[0, ::-1]).argmax()]
    return [
        Claim("tanh-order", "tanh: share of pairs of layers of which the lower saturates first", bands.ORDER,
              ordered(crossed)),
        Claim("tanh-share", "tanh: share of the first layer beyond .9 in the end", bands.TANH_PILED, beyond[0]),
        Claim("tanh-fall", "tanh: that over the share of the last layer", bands.TANH_FALL, beyond[0] / beyond[-1]),
        Claim("softsign-share", "softsign: largest share of a layer beyond .9", bands.SOFTSIGN_FREE, free),
        Claim("softsign-pile", "softsign: size at which the first layer's activations are densest", bands.PILE, pile),
    ]  # fmt: skip


def _learners(results: Results) -> Claim:
    last = {name: results.arms[name].accuracy[:, -1].min() for name in ("sigmoid_3", "tanh_5", "softsign_5")}
    worst = min(last, key=lambda name: last[name])
    claim = f"lowest accuracy in the end of 3 sigmoid, 5 tanh and 5 softsign layers ({worst.replace('_', ', ')})"
    return Claim("others-learn", claim, bands.LEARNT, last[worst])


def first_passing(values: np.ndarray, level: float) -> np.ndarray:
    """Return the first record at which each layer is above a level; the number of records where it never is.

    Args:
        values: (records, depth).
        level: the level.
    """
    return np.where((values > level).any(0), (values > level).argmax(0), len(values))


def ordered(numbers: np.ndarray) -> float:
    """Return the share of pairs of which the later number is the larger.

    Args:
        numbers: in a row.
    """
    later = numbers[None] > numbers[:, None]
    return float(later[np.triu_indices(len(numbers), 1)].mean())


EXPERIMENT = Experiment("saturation", package.__doc__ or "", PRESETS, run, claims, figures.draw)
