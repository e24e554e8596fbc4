"""Run and claims of `activations`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import experiments.activations as package
from experiments.activations import bands, born_dead, figures, profile, slopes, training
from experiments.activations.results import Results
from experiments.activations.settings import CALM, KICKED, NAMES, PRESETS, RECORDS, Config
from experiments.framework import claims as check
from experiments.framework import progress
from experiments.framework.bands import share_error
from experiments.framework.claims import Claim
from experiments.framework.images import Images, load, rows
from experiments.framework.runner import Experiment

LU, HE, MEAN_FIELD = "Lu et al. 2019", "He et al. 2015", "chi_1, mean field"


def run(config: Config) -> Results:
    """Draw, measure and train.

    Args:
        config: settings.
    """
    data = load(config.data)
    images = tuple(rows(data, split, unit_square=True) for split in (data.train, data.test))
    slope_setup = slopes.Setup(
        config.slope_depth, stride=2, batch=64, rate=0.02, steps=config.slope_steps, networks=2, seed=config.seed
    )
    dead = functools.partial(
        born_dead.measure, config.dead_widths, config.dead_layers, config.dead_networks, config.seed
    )  # fmt: skip
    gradients = functools.partial(
        profile.measure, data, NAMES, depth=config.profile_depth, width=config.profile_width,
        networks=config.profile_networks, rated=2 * config.profile_depth // 3, seed=config.seed,
    )  # fmt: skip
    parts: dict[str, Callable[[], Any]] = {
        "born dead": dead,
        "gradients": gradients,
        "large rate": functools.partial(kicked, config, *images),
        "learned slopes": functools.partial(slopes.measure, data, slope_setup),
    }
    networks = {
        f"{depth} layers, {', '.join(names)}": functools.partial(train_depth, config, depth, names, *images)
        for depth in config.depths for names in programs(config)
    }  # fmt: skip
    found: dict[str, Any] = progress.side_by_side(networks | parts, "part")
    profiles, moments = found["gradients"]
    return Results(
        dead=found["born dead"], profile=profiles, moments=moments, kick=found["large rate"],
        slopes=found["learned slopes"], training=gathered(config, [found[network] for network in networks]),
    )  # fmt: skip


def programs(config: Config) -> list[tuple[str, ...]]:
    """Return the activations that each program trains: those without parameters, and PReLU.

    Args:
        config: settings.
    """
    fixed = tuple(name for name in config.trained if name != "prelu")
    return [fixed, *([("prelu",)] if "prelu" in config.trained else [])]


def train_depth(
    config: Config, depth: int, names: tuple[str, ...], train: Images, test: Images
) -> dict[str, np.ndarray]:
    """Train activations at every rate.

    Args:
        config: settings.
        depth: hidden layers.
        names: activations.
        train: training images.
        test: test images.

    Returns:
        What `training.train` returns, hidden layers summed up by their mean.
    """
    key, rates = jax.random.key(config.seed), jnp.asarray(config.rates, jnp.float32)
    setup = training.Setup(
        depth, config.width, batch=64, steps=config.steps, every=config.steps // RECORDS, clip=1.0
    )  # fmt: skip
    keys = jnp.broadcast_to(key, rates.shape)
    found = training.train(keys, rates, key, train, test, names=names, setup=setup)
    return {name: _by_record(np.asarray(value)) for name, value in found.items()}


def gathered(config: Config, found: list[dict[str, np.ndarray]]) -> training.Training:
    """Put together what the programs of all depths trained.

    Args:
        config: settings.
        found: from `train_depth`, every program at every depth.
    """
    each = len(programs(config))
    by_depth = [found[start : start + each] for start in range(0, len(found), each)]
    return training.Training(
        steps=np.arange(RECORDS + 1) * (config.steps // RECORDS),
        depths=np.array(config.depths),
        names=np.array([name for names in programs(config) for name in names]),
        **{name: np.stack([np.concatenate([part[name] for part in row]) for row in by_depth]) for name in found[0]},
    )


def _by_record(value: np.ndarray) -> np.ndarray:
    return value.mean(-1) if value.ndim == 4 else value


def kicked(config: Config, train: Images, test: Images) -> training.Kick:
    """Give living ReLU and leaky ReLU networks of the same weights a rate that is far too large for a while.

    Args:
        config: settings.
        train: training images.
        test: test images.
    """
    key, networks, every = jax.random.key(config.seed), 4, config.steps // RECORDS
    setup = training.Setup(
        depth=8, width=config.width, batch=64, steps=config.steps, every=every, clip=1.0,
        kick=config.steps // KICKED, calm_rate=CALM,
    )  # fmt: skip
    found = training.train(
        jax.random.split(key, networks), jnp.full(networks, config.kick), key, train, test,
        names=("relu", "leaky_relu"), setup=setup,
    )  # fmt: skip
    kept = ("accuracy", "spread", "finite", "dead", "gradient")
    return training.Kick(np.arange(RECORDS + 1) * every, **{name: np.asarray(found[name]) for name in kept})


def claims(results: Results) -> list[Claim]:
    """Hold a run against papers and theory.

    Args:
        results: from `run`.

    Returns:
        The claims; those on training only where there was enough of it.
    """
    found = [*_born_dead(results), *_gradients(results)]
    return [*found, *_training(results), *_slopes(results)] if results.training.steps[-1] >= bands.LEARNING else found


def _born_dead(results: Results) -> list[Claim]:
    """Binomial errors of the shares, against the bounds and exact values."""
    share, low, high = results.dead.share, results.dead.lower, results.dead.upper
    networks, widths, layers = results.dead.networks, results.dead.widths.tolist(), results.dead.layers

    error = functools.partial(share_error, draws=networks)
    outside = np.maximum((low - share) / error(low), (share - high) / error(high)).max()
    # The largest of many comparisons: four standard errors rather than three.
    found = [check.below("born dead: standard errors beyond the bounds, worst of all networks", LU, 4.0, outside)]
    ray = np.abs(results.dead.ray - high) / error(high)
    found.append(check.below("one ray born dead: standard errors from 1 - (1 - 2^-N)^(L-1), worst", LU, 4.0, ray.max()))
    width, depth, value = bands.PAPER_DEAD
    measured = share[widths.index(width), int(depth - layers[0])]
    band = bands.ERRORS * float(error(value)) + 0.0005  # the value is known to three digits
    found.append(check.close("born dead: width 3, 10 layers", LU, value, measured, absolute=band))
    exact = born_dead.three_layers(width)
    third = share[widths.index(width), int(3 - layers[0])]
    found.append(
        check.close("born dead: width 3, 3 layers", "exact", exact, third, absolute=bands.ERRORS * float(error(exact)))
    )
    if layers[-1] >= 40:
        found.append(check.above("born dead: width 2, 40 layers", f"{LU}: tends to 1", 0.99, share[0, -1]))
    return found


def _gradients(results: Results) -> list[Claim]:
    """Rates of networks against theory, whose spread and shift at finite width theory gives too."""
    moments = results.moments
    closed = [
        np.nanmax(np.abs(moments.closed_square / moments.quadrature_square - 1)),
        np.nanmax(np.abs(moments.closed_slope / moments.quadrature_slope - 1)),
    ]
    found = [
        check.below(
            "E[phi^2] and E[phi'^2]: quadrature against closed forms, worst", "theory", bands.CLOSED, max(closed)
        )
    ]
    measured, networks = results.profile.measured[0], results.profile.measured.shape[-1]
    for k, name in enumerate(NAMES):
        theory, deviation, offset = results.profile.rate[0], results.profile.deviation, results.profile.offset
        band = bands.ERRORS * deviation[k] / np.sqrt(networks) + abs(offset[k])
        found.append(
            check.close(f"{name}: ln chi_1 a layer", MEAN_FIELD, theory[k], measured[k].mean(), absolute=float(band))
        )
    return found


def _training(results: Results) -> list[Claim]:
    best = np.where(results.training.finite, results.training.accuracy, 0)[..., -1].max(-1)
    deepest, shallow = best[-1], best[0]
    index = {str(name): k for k, name in enumerate(results.training.names)}
    relu, leaky = results.kick.dead[:, :, -1].max(-1)
    source = "design"
    rectified = [deepest[index[name]] for name in ("relu", "leaky_relu", "prelu")]
    deep = results.training.depths[-1]
    dead, living = results.kick.accuracy[:, :, -1]
    return [
        check.above(
            "5 layers: lowest accuracy of all but sigmoid",
            source,
            bands.LEARNS,
            np.delete(shallow, index["sigmoid"]).min(),
        ),
        check.below(
            f"{deep} layers: accuracy of sigmoid", "Glorot & Bengio 2010", bands.CHANCE, deepest[index["sigmoid"]]
        ),
        check.above(
            f"{deep} layers: lowest accuracy of ReLU, leaky and parametric ReLU", HE, bands.LEARNS, min(rectified)
        ),
        check.above("large rate: dead fraction of ReLU's deadest layer, least of all networks", LU, 1.0, relu.min()),
        check.below("large rate: that of leaky ReLU, most", LU, 0.0, leaky.max()),
        check.below("large rate: accuracy of ReLU networks afterwards, best", LU, bands.CHANCE, dead.max()),
        check.above("large rate: that of leaky ReLU networks, median", LU, bands.ALIVE, np.median(living)),
    ]


def _slopes(results: Results) -> list[Claim]:
    start, end = results.slopes.mean[:, 0], results.slopes.mean[:, -1].mean(0)
    return [
        check.close("parametric ReLU: slope at the start", HE, 0.25, start.mean(), absolute=1e-6),
        check.above(
            "parametric ReLU: learned slope of the first layer over the mean of the others", f"{HE}, Table 1", 1.0,
            end[0] / end[1:].mean(),
        ),
    ]  # fmt: skip


EXPERIMENT = Experiment("activations", package.__doc__ or "", PRESETS, run, claims, figures.draw)
