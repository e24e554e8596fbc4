"""Activations: how each carries the gradient through depth, which units die or saturate, and what can be trained.

Paper:    Glorot & Bengio 2010; He et al. 2015; Klambauer et al. 2017; Lu et al. 2019
Figure:   gradient over depth; accuracy, dead and saturated units over training; Lu et al.'s probability of being born
          dead; learned slopes as in He et al. 2015, Table 1
Command:  python -m experiments.activations
Minutes:  2 on two cores (smoke: 20 seconds; paper: 10^6 draws, CIFAR-10, hours)
Expected: squared gradients follow chi_1 = E[phi'^2] / E[phi^2] for nine activations; width 3 and 10 layers: .577 of
          ReLU networks born dead, between bounds of .513 and .699; a large rate kills a living ReLU network and not a
          leaky one; parametric ReLU starts at .25 and learns its largest slopes in the first layer.

Weights have variance gain^2 / n with 1 / gain^2 = E[phi(z)^2], He's initialization for any activation, so that all
networks start with the same signal. What then differs is the gradient: its square changes by chi_1 a layer.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

import gradflow as gf
from experiments import activations_borndead as borndead
from experiments import activations_profile as profile
from experiments import activations_slopes as slopes
from experiments import activations_training as training
from experiments import claims as check
from experiments import progress
from experiments.claims import Claim
from experiments.runner import Experiment, Results, main

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIXED = ("sigmoid", "tanh", "relu", "leaky_relu", "elu", "selu", "gelu", "silu")
NAMES = (*FIXED, "prelu")
CLAIMED = {"sigmoid", "relu", "leaky_relu", "prelu"}  # that something is claimed about by name
LU, HE, MEAN_FIELD = "Lu et al. 2019", "He et al. 2015", "chi_1, mean field"
PAPER_DEAD = (3, 10, 0.577)  # width, layers, probability; computed beforehand, by other code
ERRORS = 3.0  # standard errors
CLOSED = 1e-6
CHANCE, LEARNS, ALIVE = 0.2, 0.5, 0.5
KICKED, CALM = 10, 0.3  # share of the steps that the large rate lasts, as 1 / share, and the rate after them
LEARNING = 500  # steps, with fewer of which nothing is claimed about training


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of one run."""

    data: str = "fashion_mnist_subset"
    """Data set, one that gradflow.data.load knows."""
    trained: tuple[str, ...] = (*FIXED, "prelu")
    """Activations of the networks that are trained."""
    depths: tuple[int, ...] = (5, 15, 30)
    """Hidden layers of the networks that are trained."""
    width: int = 64
    """Units of their hidden layers."""
    steps: int = 1000
    """Training steps."""
    rates: tuple[float, ...] = (0.01, 0.03, 0.1)
    """Learning rates, of which the best counts."""
    profile_depth: int = 30
    """Hidden layers of the networks whose gradient is measured before training; a rate is fitted to the first 2/3."""
    profile_width: int = 256
    """Their units."""
    profile_networks: int = 8
    """How many of each activation."""
    dead_widths: tuple[int, ...] = (2, 3, 4, 6)
    """Of networks that are born dead or not."""
    dead_layers: int = 40
    """Largest number of their layers."""
    dead_networks: int = 20_000
    """How many are drawn of each width."""
    kick: float = 10.0
    """Large learning rate that a living network gets for some steps."""
    slope_steps: int = 800
    """Training steps of the network with learned slopes."""
    slope_depth: int = 8
    """Its layers, 6 n + 2."""
    seed: int = 0
    """Of everything."""

    def __post_init__(self) -> None:
        """Reject settings that cannot be run."""
        if list(self.depths) != sorted(set(self.depths)) or min(self.depths, default=0) < 2:
            raise ValueError(f"depths must be growing numbers from 2 on, got {self.depths}")
        for name, unit in (
            ("steps", RECORDS), ("slope_steps", slopes.RECORDS), ("dead_networks", borndead.CHUNK),
        ):  # fmt: skip
            if getattr(self, name) < unit or getattr(self, name) % unit:
                raise ValueError(f"{name} must be a multiple of {unit}, got {getattr(self, name)}")
        if len(set(self.trained)) < len(self.trained) or not CLAIMED <= set(self.trained) <= set(NAMES):
            raise ValueError(f"trained must have {sorted(CLAIMED)} and others of {NAMES}, got {self.trained}")
        if min(self.rates, default=0) <= 0 or self.kick <= 0:
            raise ValueError(f"rates and kick must be positive, got {self.rates} and {self.kick}")


RECORDS = 20  # moments of training at which a network is looked at, after the start

PRESETS = {
    "smoke": Config(
        trained=tuple(sorted(CLAIMED)), depths=(5,), width=16, steps=20, rates=(0.03,), profile_depth=12,
        profile_width=64, profile_networks=2, dead_widths=(2, 3), dead_layers=12, dead_networks=10_000, slope_steps=8,
    ),
    "laptop": Config(),
    "paper": Config(
        data="cifar10", depths=(5, 15, 30, 50), width=256, steps=20_000, dead_networks=1_000_000, slope_steps=64_000,
        slope_depth=14,
    ),
}  # fmt: skip


def run(config: Config) -> Results:
    """Draw, measure and train.

    Args:
        config: settings.

    Returns:
        What `measure` of `activations_borndead`, `activations_profile` and `activations_slopes` returns, and what
        `kicked` and `gathered` do.
    """
    data = gf.data.load(config.data)
    images = tuple(training.images(data, split) for split in (data.train, data.test))
    slope_setup = slopes.Setup(
        config.slope_depth, stride=2, batch=64, rate=0.02, steps=config.slope_steps, networks=2, seed=config.seed
    )
    dead = functools.partial(
        borndead.measure, config.dead_widths, config.dead_layers, config.dead_networks, config.seed
    )  # fmt: skip
    gradients = functools.partial(
        profile.measure, data, NAMES, depth=config.profile_depth, width=config.profile_width,
        networks=config.profile_networks, rated=2 * config.profile_depth // 3, seed=config.seed,
    )  # fmt: skip
    parts = {
        "born dead": dead,
        "gradients": gradients,
        "large rate": functools.partial(kicked, config, *images),
        "learned slopes": functools.partial(slopes.measure, data, slope_setup),
    }
    networks = {
        f"{depth} layers, {', '.join(names)}": functools.partial(train_depth, config, depth, names, *images)
        for depth in config.depths for names in programs(config)
    }  # fmt: skip
    found: dict[str, Results] = progress.side_by_side(networks | parts, "part")
    results = {name: array for part in parts for name, array in found[part].items()}
    return results | gathered(config, [found[network] for network in networks])


def programs(config: Config) -> list[tuple[str, ...]]:
    """Return the activations that each program trains: those without parameters, and PReLU.

    Args:
        config: settings.
    """
    fixed = tuple(name for name in config.trained if name != "prelu")
    return [fixed, *([("prelu",)] if "prelu" in config.trained else [])]


def train_depth(
    config: Config, depth: int, names: tuple[str, ...], train: training.Images, test: training.Images
) -> Results:
    """Train activations at every rate.

    Args:
        config: settings.
        depth: hidden layers.
        names: activations.
        train: training images.
        test: test images.

    Returns:
        What `activations_training.train` returns, hidden layers summed up by their mean.
    """
    key, rates = jax.random.key(config.seed), jnp.asarray(config.rates, jnp.float32)
    setup = training.Setup(
        depth, config.width, batch=64, steps=config.steps, every=config.steps // RECORDS, clip=1.0
    )  # fmt: skip
    keys = jnp.broadcast_to(key, rates.shape)
    found = training.train(keys, rates, key, train, test, names=names, setup=setup)
    return {name: _by_record(np.asarray(value)) for name, value in found.items()}


def gathered(config: Config, found: list[Results]) -> Results:
    """Put together what the programs of all depths trained.

    Args:
        config: settings.
        found: from `train_depth`, every program at every depth.

    Returns:
        `train_steps` (records,), `train_depths`, `train_names` (activations,), and `train_NAME` (depths, activations,
        rates, records) for each NAME that `train_depth` returns.
    """
    each = len(programs(config))
    rows = [found[start : start + each] for start in range(0, len(found), each)]
    return {
        "train_steps": np.arange(RECORDS + 1) * (config.steps // RECORDS),
        "train_depths": np.array(config.depths),
        "train_names": np.array([name for names in programs(config) for name in names]),
        **{f"train_{name}": np.stack([np.concatenate([part[name] for part in row]) for row in rows])
           for name in found[0]},
    }  # fmt: skip


def _by_record(value: np.ndarray) -> np.ndarray:
    return value.mean(-1) if value.ndim == 4 else value


def kicked(config: Config, train: training.Images, test: training.Images) -> Results:
    """Give living ReLU and leaky ReLU networks of the same weights a rate that is far too large for a while.

    Args:
        config: settings.
        train: training images.
        test: test images.

    Returns:
        `kick_accuracy`, `kick_spread` and `kick_finite` (2, networks, records), `kick_dead` and `kick_gradient` (2,
        networks, records, depth), ReLU first; `kick_steps` (records,).
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
    return {f"kick_{name}": np.asarray(found[name]) for name in kept} | {
        "kick_steps": np.arange(RECORDS + 1) * every,
    }


def claims(results: Results) -> list[Claim]:
    """Hold a run against papers and theory.

    Args:
        results: from `run`.

    Returns:
        The claims; those on training only where there was enough of it.
    """
    found = [*_born_dead(results), *_gradients(results)]
    return [*found, *_training(results), *_slopes(results)] if results["train_steps"][-1] >= LEARNING else found


def _born_dead(results: Results) -> list[Claim]:
    """Binomial errors of the shares, against the bounds and exact values."""
    share, low, high = (results[f"dead_{name}"] for name in ("share", "lower", "upper"))
    networks, widths, layers = results["dead_networks"], results["dead_widths"].tolist(), results["dead_layers"]

    def error(p: Any) -> np.ndarray:
        return np.sqrt(np.maximum(p * (1 - p), 1 / networks) / networks)

    outside = np.maximum((low - share) / error(low), (share - high) / error(high)).max()
    # The largest of many comparisons: four standard errors rather than three.
    found = [check.below("born dead: standard errors beyond the bounds, worst of all networks", LU, 4.0, outside)]
    ray = np.abs(results["dead_ray"] - high) / error(high)
    found.append(check.below("one ray born dead: standard errors from 1 - (1 - 2^-N)^(L-1), worst", LU, 4.0, ray.max()))
    width, depth, value = PAPER_DEAD
    measured = share[widths.index(width), int(depth - layers[0])]
    band = ERRORS * float(error(value)) + 0.0005  # the value is known to three digits
    found.append(check.close("born dead: width 3, 10 layers", LU, value, measured, absolute=band))
    exact = borndead.three_layers(width)
    third = share[widths.index(width), int(3 - layers[0])]
    found.append(
        check.close("born dead: width 3, 3 layers", "exact", exact, third, absolute=ERRORS * float(error(exact)))
    )
    if layers[-1] >= 40:
        found.append(check.above("born dead: width 2, 40 layers", f"{LU}: tends to 1", 0.99, share[0, -1]))
    return found


def _gradients(results: Results) -> list[Claim]:
    """Rates of networks against theory, whose spread and shift at finite width theory gives too."""
    closed = [
        np.nanmax(np.abs(results[f"closed_{name}"] / results[f"quadrature_{name}"] - 1)) for name in ("square", "slope")
    ]
    found = [
        check.below("E[phi^2] and E[phi'^2]: quadrature against closed forms, worst", "theory", CLOSED, max(closed))
    ]
    measured, networks = results["profile_measured"][0], results["profile_measured"].shape[-1]
    for k, name in enumerate(NAMES):
        theory, deviation, offset = results["profile_rate"][0], results["profile_deviation"], results["profile_offset"]
        band = ERRORS * deviation[k] / np.sqrt(networks) + abs(offset[k])
        found.append(
            check.close(f"{name}: ln chi_1 a layer", MEAN_FIELD, theory[k], measured[k].mean(), absolute=float(band))
        )
    return found


def _training(results: Results) -> list[Claim]:
    best = np.where(results["train_finite"], results["train_accuracy"], 0)[..., -1].max(-1)
    deepest, shallow = best[-1], best[0]
    index = {str(name): k for k, name in enumerate(results["train_names"])}
    relu, leaky = results["kick_dead"][:, :, -1].max(-1)
    source = "design"
    rectified = [deepest[index[name]] for name in ("relu", "leaky_relu", "prelu")]
    deep = results["train_depths"][-1]
    dead, living = results["kick_accuracy"][:, :, -1]
    return [
        check.above(
            "5 layers: lowest accuracy of all but sigmoid", source, LEARNS, np.delete(shallow, index["sigmoid"]).min()
        ),
        check.below(f"{deep} layers: accuracy of sigmoid", "Glorot & Bengio 2010", CHANCE, deepest[index["sigmoid"]]),
        check.above(f"{deep} layers: lowest accuracy of ReLU, leaky and parametric ReLU", HE, LEARNS, min(rectified)),
        check.above("large rate: dead fraction of ReLU's deadest layer, least of all networks", LU, 1.0, relu.min()),
        check.below("large rate: that of leaky ReLU, most", LU, 0.0, leaky.max()),
        check.below("large rate: accuracy of ReLU networks afterwards, best", LU, CHANCE, dead.max()),
        check.above("large rate: that of leaky ReLU networks, median", LU, ALIVE, np.median(living)),
    ]


def _slopes(results: Results) -> list[Claim]:
    start, end = results["slope_mean"][:, 0], results["slope_mean"][:, -1].mean(0)
    return [
        check.close("parametric ReLU: slope at the start", HE, 0.25, start.mean(), absolute=1e-6),
        check.above(
            "parametric ReLU: learned slope of the first layer over the mean of the others", f"{HE}, Table 1", 1.0,
            end[0] / end[1:].mean(),
        ),
    ]  # fmt: skip


def figures(results: Results) -> dict[str, Figure]:
    """Draw a run.

    Args:
        results: from `run`.

    Returns:
        Name to figure.
    """
    from experiments import activations_figures

    return activations_figures.draw(results)


EXPERIMENT = Experiment("activations", __doc__ or "", PRESETS, run, claims, figures)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
