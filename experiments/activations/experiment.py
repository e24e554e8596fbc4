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
from experiments.framework import progress
from experiments.framework.bands import constant_answer, share_error
from experiments.framework.claims import Claim
from experiments.framework.images import Images, load, rows
from experiments.framework.runner import Experiment


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
    return Results(
        test_images=len(images[1].y), dead=found["born dead"], profile=found["gradients"], kick=found["large rate"],
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
    found = [*_born_dead(results.dead), *_gradients(results.profile)]
    if results.training.steps[-1] < bands.LEARNING:
        return found
    return [*found, *_training(results), *_kicked(results), *_slopes(results)]


def _born_dead(dead: born_dead.Shares) -> list[Claim]:
    """Shares of networks against bounds and exact values."""
    error = functools.partial(share_error, draws=dead.networks)
    outside = np.maximum(
        (dead.lower - dead.share) / error(dead.lower), (dead.share - dead.upper) / error(dead.upper)
    ).max()
    ray = np.abs(dead.ray - dead.upper) / error(dead.upper)
    exact = np.array([born_dead.three_layers(int(width)) for width in dead.widths])
    third = np.abs(dead.share[:, dead.layers == 3][:, 0] - exact) / error(exact)
    return [
        Claim(
            "born-dead-bounds", "born dead: standard errors beyond the bounds, worst of all networks",
            bands.born_dead(2 * dead.share.size), outside,
        ),
        Claim(
            "born-dead-exact", "one ray of any depth, networks of 3 layers: worst standard errors from the exact share",
            bands.exact(ray.size + third.size), max(ray.max(), third.max()),
        ),
    ]  # fmt: skip


def _gradients(profile: profile.Profile) -> list[Claim]:
    """Gradients of untrained networks against theory, and SELU's fixed point."""
    networks, depth = profile.gradient.shape[2:]
    far = {}
    for k, name in enumerate(NAMES):
        spread = bands.rate_spread(name, float(profile.gain[0, k]), profile.width, profile.rated - 1, networks)
        far[name] = spread.outside(profile.measured[0, k].mean() - profile.rate[0, k])
    worst = max(far, key=lambda name: far[name])
    last = 2 * np.log(profile.signal[1, NAMES.index("selu"), :, -1])
    return [
        Claim(
            "gradient-rates",
            f"squared gradient a layer of {len(far)} activations: worst deviation, in standard deviations ({worst})",
            bands.rates(len(far)), far[worst],
        ),
        Claim(
            "selu-variance", f"SELU, sigma_w^2 = 1: variance of the pre-activations in layer {depth}",
            bands.selu_variance(depth, profile.width, networks), np.exp(last.mean()),
        ),
    ]  # fmt: skip


def _training(results: Results) -> list[Claim]:
    best = np.where(results.training.finite, results.training.accuracy, 0)[..., -1].max(-1)
    index = {str(name): k for k, name in enumerate(results.training.names)}
    shallow, deep = results.training.depths[[0, -1]]
    alive = np.delete(best[0], index["sigmoid"])
    rectified = [best[-1, index[name]] for name in ("relu", "leaky_relu", "prelu")]
    return [
        Claim("shallow-learn", f"{shallow} layers: lowest accuracy of all but sigmoid", bands.SHALLOW, alive.min()),
        Claim(
            "deep-sigmoid", f"{deep} layers: accuracy of sigmoid", constant_answer(results.test_images),
            best[-1, index["sigmoid"]],
        ),
        Claim(
            "deep-rectifiers", f"{deep} layers: lowest accuracy of ReLU, leaky and parametric ReLU", bands.DEEP,
            min(rectified),
        ),
    ]  # fmt: skip


def _kicked(results: Results) -> list[Claim]:
    dead, living = results.kick.accuracy[:, :, -1]
    killed = results.kick.dead[0, :, -1].max(-1).min()
    return [
        Claim("kick-kills-relu", "large rate: dead fraction of ReLU's deadest layer, least of all networks",
              bands.KILLED, killed),
        Claim("killed-accuracy", "large rate: best accuracy of ReLU networks afterwards",
              constant_answer(results.test_images), dead.max()),
        Claim("leaky-survives", "large rate: accuracy of leaky ReLU networks afterwards, median", bands.LEAKY,
              np.median(living)),
    ]  # fmt: skip


def _slopes(results: Results) -> list[Claim]:
    end = results.slopes.mean[:, -1].mean(0)
    claim = "parametric ReLU: learned slope of the first layer over the mean of the others"
    return [Claim("first-slope", claim, bands.SLOPES, end[0] / end[1:].mean())]


EXPERIMENT = Experiment("activations", package.__doc__ or "", PRESETS, run, claims, figures.draw)
