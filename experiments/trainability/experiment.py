"""Run and claims of `trainability`."""

from __future__ import annotations

import numpy as np

import experiments.trainability as package
import gradflow as gf
from experiments.framework import claims as check
from experiments.framework.bands import gradient_rate
from experiments.framework.claims import Claim
from experiments.framework.images import load, rows
from experiments.framework.runner import Experiment
from experiments.trainability import bands, figures, signal, table, training
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
        config.width, config.profile_images, grid, remedies, table.compute(), curves, layers, end, gradients
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
        *table.claims(results.table),
        *training_claims(results),
        *remedy_claims(results),
        *signal_claims(results),
        *profile_claims(results),
    ]


def training_claims(results: Results) -> list[Claim]:
    """The heat map: who learns and who does not, by depth in units of 6 xi_c."""
    source = "Schoenholz et al. 2017, Fig. 5"
    accuracy = results.grid.accuracy[:, :, -1]
    relative = relative_depths(results)
    at_limit = results.grid.accuracy[np.argmin(np.abs(results.grid.depths - 40)), :, -1]
    best = results.grid.variances[np.argmax(at_limit)]
    return [
        check.above(
            f"trained: lowest test accuracy where depth <= {bands.SHALLOW:g} x 6 xi_c", source,
            bands.TRAINED, accuracy[relative <= bands.SHALLOW].min(),
        ),
        check.below(
            f"trained: highest test accuracy where depth >= {bands.DEEP:g} x 6 xi_c", source,
            bands.UNTRAINED, accuracy[relative >= bands.DEEP].max(),
        ),
        check.above(
            "depth / 6 xi_c orders the networks: how often, of one that learnt and one that did not, the first is "
            "less deep", source, 0.95, ordering(relative, accuracy > bands.TRAINED),
        ),
        check.between("sigma_w^2 that trains best about 40 layers deep; critical is 1.761", source, 1.5, 2.25, best),
    ]  # fmt: skip


def remedy_claims(results: Results) -> list[Claim]:
    """The smaller grids, where they were trained: ReLU is at its best where chi_1 = 1."""
    names = [str(name) for name in results.remedies.names]
    if "ReLU" not in names:
        return []
    row = np.argmin(np.abs(results.remedies.depths - 32))
    best = results.remedies.variances[np.argmax(results.remedies.accuracy[names.index("ReLU"), row])]
    critical = gf.theory.critical_weight_variance("relu", bias_variance=0.0)
    claim = f"sigma_w^2 that trains ReLU best, {results.remedies.depths[row]} layers deep"
    return [check.close(claim, "He et al. 2015; chi_1 = 1", critical, best, absolute=0.25)]


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


def signal_claims(results: Results) -> list[Claim]:
    """Finite networks against the maps of theory, in the standard errors that theory gives them."""
    found = []
    for name, words in (("q", "variance q"), ("c", "correlation c")):
        errors = standard_errors(results.signal[name], networks=-2)[..., 1:]
        found += [
            check.below(
                f"{words}_l against its map, tanh, sigma_w^2 = {variance:g}: rms deviation in standard errors",
                "Poole et al. 2016",
                bands.RMS_ERROR,
                np.sqrt(np.mean(error**2)),
            )
            for variance, error in zip(SHOWN, errors, strict=True)
        ]
        at_end = np.abs(standard_errors(results.end[name], networks=-1))
        found.append(
            check.below(
                f"{words}* against theory at {len(MEASURED)} sigma_w: worst deviation in standard errors",
                "Poole et al. 2016",
                bands.WORST_ERROR,
                at_end.max(),
            )
        )
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
    """The gradient over depth at initialization: its rate against chi_1 and against batch norm's."""
    found = []
    measured = gradient_rate(results.profile.measured, signal.SETTLED)
    predicted = gradient_rate(results.profile.theory, signal.SETTLED)
    for index, rates, theory in zip(results.profile.index, measured, predicted, strict=True):
        profile = PROFILES[index]
        batch = results.profile_images
        found.append(
            check.close(
                f"squared gradient a layer, {profile.name}, sigma_w^2 = {profile.weight_variance:g}, "
                f"{rates.size} networks",
                "Yang et al. 2019" if profile.normalization else "Schoenholz et al. 2017: chi",
                theory,
                rates.mean(),
                relative=bands.FINITE_BATCH / batch if profile.normalization else bands.RATE_BAND,
            )
        )
    return found


EXPERIMENT = Experiment("trainability", package.__doc__ or "", PRESETS, run, claims, figures.draw, smoke_computes=True)
