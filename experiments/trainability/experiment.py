"""Run and claims of `trainability`."""

from __future__ import annotations

import numpy as np

import experiments.trainability as package
import gradflow as gf
from experiments.framework.bands import gradient_rate
from experiments.framework.claims import Claim
from experiments.framework.images import load, rows
from experiments.framework.runner import Experiment
from experiments.trainability import bands, figures, signal, training
from experiments.trainability.results import Grid, Remedies, Results
from experiments.trainability.settings import PRESETS, REMEDIES, Config
from experiments.trainability.signal import BIAS_VARIANCE, MEASURED, PROFILES, SHOWN, Compared
from experiments.trainability.training import Network, Training


def run(config: Config) -> Results:
    """Compute, measure and train.

    Args:
        config: settings.
    """
    data = load(config.data)
    setup = Training(config.batch, config.learning_rate, config.records, config.seed)
    tanh = Network("tanh", BIAS_VARIANCE, None, config.width)
    images = rows(data, data.train, config.profile_images)
    accuracy = training.train_grid(data, tanh, setup, config.depths, config.weight_variances, "tanh")
    curves, xi = signal.fixed_points(config.weight_variances)
    grid = Grid(
        np.array(config.depths), np.array(config.weight_variances), np.array(config.records), accuracy, xi
    )  # fmt: skip
    remedies = train_remedies(data, setup, config)
    layers, end = signal.measure_convergence(
        config.signal_depth, config.signal_width, config.signal_networks, config.seed
    )  # fmt: skip
    gradients = signal.measure_profiles(
        config.profiles, images, config.profile_depth, config.profile_width, config.profile_networks, config.seed
    )
    return Results(
        config.width, config.profile_width, config.profile_images, grid, remedies, curves, layers, end, gradients
    )  # fmt: skip


def train_remedies(data: gf.data.ImageDataset, setup: Training, config: Config) -> Remedies:
    """Train the smaller grids.

    Args:
        data: images.
        setup: as for the tanh networks.
        config: settings.
    """
    accuracy, limits = [], []
    for name in config.remedies:
        network = REMEDIES[name]
        grid = training.train_grid(
            data,
            network._replace(width=config.width),
            setup._replace(records=setup.records[-1:]),
            config.remedy_depths,
            config.remedy_variances,
            name,
        )
        accuracy.append(grid[:, :, -1])
        profiles = (
            signal.Profile(network.activation, network.normalization, network.bias_variance, variance)
            for variance in config.remedy_variances
        )
        limits.append([signal.gradient_depth(profile) for profile in profiles])
    shape = (len(config.remedies), len(config.remedy_depths), len(config.remedy_variances))
    return Remedies(
        names=np.array(config.remedies, dtype=str),
        depths=np.array(config.remedy_depths),
        variances=np.array(config.remedy_variances),
        accuracy=np.array(accuracy).reshape(shape),
        limit=np.array(limits),
    )


def claims(results: Results) -> list[Claim]:
    """Check a run.

    Args:
        results: from `run`.

    Returns:
        The claims.
    """
    return [
        *training_claims(results),
        *remedy_claims(results),
        *signal_claims(results),
        *profile_claims(results),
    ]


def training_claims(results: Results) -> list[Claim]:
    """The heat map: who learns and who does not, by depth in units of 6 xi_c."""
    accuracy, relative = results.grid.accuracy[:, :, -1], relative_depths(results)
    if accuracy.size < bands.GRID:
        return []
    learnt = accuracy > bands.LEARNT
    return [
        Claim("six-xi", "depth / xi_c that parts the networks that learn from those that do not",
              bands.six_xi(results.grid.depths), 6 * parting(relative, learnt)),
        Claim("trained", f"lowest test accuracy where depth <= {bands.SHALLOW:g} x 6 xi_c", bands.trained(),
              accuracy[relative <= bands.SHALLOW].min()),
        Claim("untrained", f"highest test accuracy where depth >= {bands.DEEP:g} x 6 xi_c", bands.untrained(),
              accuracy[relative >= bands.DEEP].max()),
        Claim("ordering", "how often, of one network that learnt and one that did not, the first has the smaller "
              "depth / xi_c", bands.ordering(), ordering(relative, learnt)),
    ]  # fmt: skip


def remedy_claims(results: Results) -> list[Claim]:
    """The smaller grids, where they were trained: ReLU is at its best where chi_1 = 1."""
    names = [str(name) for name in results.remedies.names]
    if "ReLU" not in names:
        return []
    row = np.argmin(np.abs(results.remedies.depths - 32))
    variances = results.remedies.variances
    best = variances[np.argmax(results.remedies.accuracy[names.index("ReLU"), row])]
    claim = f"sigma_w^2 that trains ReLU best, {results.remedies.depths[row]} layers deep"
    return [Claim("best-relu", claim, bands.best_relu(variances), best)]


def relative_depths(results: Results) -> np.ndarray:
    """Depth over 6 xi_c of every network of the grid, (depths, variances).

    Args:
        results: from `run`.
    """
    return results.grid.depths[:, None] / (6 * results.grid.xi)


def ordering(relative: np.ndarray, learnt: np.ndarray) -> float:
    """Fraction of pairs of one network that learnt and one that did not in which the former is relatively less deep.

    NaN if there is no such pair.

    Args:
        relative: depth over 6 xi_c.
        learnt: whether a network learnt.
    """
    pairs = relative[learnt][:, None] < relative[~learnt][None, :]
    return float(np.mean(pairs)) if pairs.size else np.nan


def parting(relative: np.ndarray, learnt: np.ndarray) -> float:
    """Relative depth that parts the networks with the fewest on the wrong side; the middle of several as good.

    Args:
        relative: depth over 6 xi_c.
        learnt: whether a network learnt.
    """
    order = np.argsort(relative, axis=None)
    depths, good = relative.ravel()[order], learnt.ravel()[order]
    # Wrong if the k least deep are said to learn: those of them that did not, and those of the others that did.
    wrong = np.concatenate([[0], np.cumsum(~good)]) + np.concatenate([np.cumsum(good[::-1])[::-1], [0]])
    cuts = np.convolve(np.log(np.concatenate([depths[:1], depths, depths[-1:]])), (0.5, 0.5), "valid")
    return float(np.exp(np.median(cuts[wrong == wrong.min()])))


def signal_claims(results: Results) -> list[Claim]:
    """Finite networks against the maps of theory, in the standard errors that theory gives them."""
    found = []
    for name, words in (("q", "variance q"), ("c", "correlation c")):
        errors = standard_errors(results.signal[name], networks=-2)[..., 1:]
        rms = np.sqrt(np.mean(errors**2, axis=(1, 2)))
        at_end = np.abs(standard_errors(results.end[name], networks=-1))
        found += [
            Claim(f"layers-{name}", f"tanh: {words}_l against its map, rms deviation in standard errors, largest of "
                  f"{len(SHOWN)} sigma_w^2", bands.deviation(len(SHOWN)), rms.max()),
            Claim(f"end-{name}", f"tanh: {words}* against theory, largest deviation in standard errors of "
                  f"{len(MEASURED)} sigma_w", bands.deviation(len(MEASURED)), at_end.max()),
        ]  # fmt: skip
    return found


def standard_errors(compared: Compared, networks: int) -> np.ndarray:
    """Measured minus predicted, mean over networks, in standard errors of that mean.

    Args:
        compared: measured numbers and theory.
        networks: axis of the measured numbers that is that of networks.
    """
    spread = np.maximum(compared.spread, 1e-4)  # float32 cannot tell less
    error = compared.measured.mean(networks) - compared.theory
    return error / spread * np.sqrt(compared.measured.shape[networks])


def profile_claims(results: Results) -> list[Claim]:
    """The gradient over depth at initialization: its rate against theory's, and against batch norm's."""
    plain: dict[str, list[float]] = {}
    normalized: dict[str, list[float]] = {}
    for index, rates in zip(
        results.profile.index, gradient_rate(results.profile.measured, signal.SETTLED), strict=True
    ):
        profile, depth = PROFILES[index], results.profile.measured.shape[-1]
        if profile.normalization:
            ratio = rates.mean() / gf.theory.batchnorm_rate(profile.activation)
            normalized.setdefault(profile.activation, []).append(float(ratio))
        else:
            away = bands.rate_deviation(profile, rates, depth, results.profile_width)
            plain.setdefault(profile.activation, []).append(away)
    return [
        *(
            Claim(f"rate-{name}", f"{name}: squared gradient a layer against chi, largest deviation in standard "
                  f"errors of {len(away)} sigma_w^2", bands.deviation(len(away)), max(away))
            for name, away in plain.items()
        ),
        *(
            Claim(f"rate-{name}-batchnorm", f"{name} with batch norm: squared gradient a layer over E[phi'^2] / "
                  "Var[phi], farthest from 1", bands.batchnorm_rate(name), max(ratios, key=lambda x: abs(x - 1)))
            for name, ratios in normalized.items()
        ),
    ]  # fmt: skip


EXPERIMENT = Experiment("trainability", package.__doc__ or "", PRESETS, run, claims, figures.draw, smoke_computes=True)
