"""Run and claims of `trainability`."""

from __future__ import annotations

import numpy as np

import experiments.trainability as package
import gradflow as gf
from experiments.framework import claims as check
from experiments.framework.claims import Claim
from experiments.framework.images import load, rows
from experiments.framework.runner import Experiment, Results
from experiments.trainability import bands, figures, signal, table, training
from experiments.trainability.settings import PRESETS, REMEDIES, Config
from experiments.trainability.signal import BIAS_VARIANCE, MEASURED, PROFILES, SHOWN
from experiments.trainability.training import Network, Training


def run(config: Config) -> Results:
    """Compute, measure and train.

    Args:
        config: settings.

    Returns:
        What `table.compute` and `signal`'s functions return; `depths`, `variances`,
        `records`, `accuracy` (depths, variances, records) of the tanh networks; `remedies`, `remedy_depths`,
        `remedy_variances`, `remedy_accuracy` (remedies, depths, variances), `remedy_limit` (remedies, variances), the
        depth over which theory has the squared gradient change by e^6; `width`, `profile_images`.
    """
    data = load(config.data)
    setup = Training(config.batch, config.learning_rate, config.records, config.seed)
    tanh = Network("tanh", BIAS_VARIANCE, None, config.width)
    images = rows(data, data.train, config.profile_images)
    accuracy = training.train_grid(data, tanh, setup, config.depths, config.weight_variances, "tanh")
    return {
        "depths": np.array(config.depths),
        "variances": np.array(config.weight_variances),
        "records": np.array(config.records),
        "accuracy": accuracy,
        "width": np.array(config.width),
        "profile_images": np.array(config.profile_images),
        **train_remedies(data, setup, config),
        **table.compute(),
        **signal.fixed_points(config.weight_variances),
        **signal.measure_convergence(config.signal_depth, config.signal_width, config.signal_networks, config.seed),
        **signal.measure_profiles(
            config.profiles, images, config.profile_depth, config.profile_width, config.profile_networks, config.seed
        ),
    }


def train_remedies(data: gf.data.ImageDataset, setup: Training, config: Config) -> Results:
    """Train the smaller grids.

    Args:
        data: images.
        setup: as for the tanh networks.
        config: settings.

    Returns:
        The entries of `run` that start with `remed`.
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
    return {
        "remedies": np.array(config.remedies, dtype=str),
        "remedy_depths": np.array(config.remedy_depths),
        "remedy_variances": np.array(config.remedy_variances),
        "remedy_accuracy": np.array(accuracy).reshape(shape),
        "remedy_limit": np.array(limits),
    }


def claims(results: Results) -> list[Claim]:
    """Check a run.

    Args:
        results: from `run`.

    Returns:
        The claims.
    """
    return [
        *table.claims(results),
        *training_claims(results),
        *remedy_claims(results),
        *signal_claims(results),
        *profile_claims(results),
    ]


def training_claims(results: Results) -> list[Claim]:
    """The heat map: who learns and who does not, by depth in units of 6 xi_c."""
    source = "Schoenholz et al. 2017, Fig. 5"
    accuracy = results["accuracy"][:, :, -1]
    relative = relative_depths(results)
    at_limit = results["accuracy"][np.argmin(np.abs(results["depths"] - 40)), :, -1]
    best = results["variances"][np.argmax(at_limit)]
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
    names = [str(name) for name in results["remedies"]]
    if "ReLU" not in names:
        return []
    row = np.argmin(np.abs(results["remedy_depths"] - 32))
    best = results["remedy_variances"][np.argmax(results["remedy_accuracy"][names.index("ReLU"), row])]
    critical = gf.theory.critical_weight_variance("relu", bias_variance=0.0)
    claim = f"sigma_w^2 that trains ReLU best, {results['remedy_depths'][row]} layers deep"
    return [check.close(claim, "He et al. 2015; chi_1 = 1", critical, best, absolute=0.25)]


def relative_depths(results: Results) -> np.ndarray:
    """Depth over 6 xi_c of every network of the grid, (depths, variances).

    Args:
        results: from `run`.
    """
    return results["depths"][:, None] / (6 * results["grid_xi"])


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
        errors = standard_errors(results, f"signal_{name}")[..., 1:]
        found += [
            check.below(
                f"{words}_l against its map, tanh, sigma_w^2 = {variance:g}: rms deviation in standard errors",
                "Poole et al. 2016",
                bands.RMS_ERROR,
                np.sqrt(np.mean(error**2)),
            )
            for variance, error in zip(SHOWN, errors, strict=True)
        ]
        at_end = np.abs(standard_errors(results, f"point_{name}"))
        found.append(
            check.below(
                f"{words}* against theory at {len(MEASURED)} sigma_w: worst deviation in standard errors",
                "Poole et al. 2016",
                bands.WORST_ERROR,
                at_end.max(),
            )
        )
    return found


def standard_errors(results: Results, name: str) -> np.ndarray:
    """Measured minus predicted, mean over networks, in standard errors of that mean.

    Args:
        results: from `run`.
        name: of the measured numbers; their last but one axis, or the last if there is no depth, is that of networks.
    """
    axis = -2 if name.startswith("signal") else -1
    measured, theory = results[name], results[f"{name}_theory"]
    spread = np.maximum(results[f"{name}_spread"], 1e-4)  # float32 cannot tell less
    return (measured.mean(axis) - theory) / spread * np.sqrt(measured.shape[axis])


def profile_claims(results: Results) -> list[Claim]:
    """The gradient over depth at initialization: its rate against chi_1 and against batch norm's."""
    found = []
    measured = signal.rates(results["profile"])
    predicted = signal.rates(results["profile_theory"][:, None])[:, 0]
    for index, rates, theory in zip(results["profile_index"], measured, predicted, strict=True):
        profile = PROFILES[index]
        batch = int(results["profile_images"])
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
