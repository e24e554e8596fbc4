"""Run and claims of `initialization`."""

from __future__ import annotations

import jax
import numpy as np

import experiments.initialization as package
from experiments.framework import claims as check
from experiments.framework.bands import product_variance
from experiments.framework.claims import Claim
from experiments.framework.images import load, rows
from experiments.framework.runner import Experiment
from experiments.initialization import bands, figures, glorot, table, training
from experiments.initialization.results import Results
from experiments.initialization.settings import PRESETS, Config
from experiments.initialization.training import SCHEMES

GLOROT, HE, LSUV, HANIN = "Glorot & Bengio 2010", "He et al. 2015", "Mishkin & Matas 2016", "Hanin & Nica 2018"


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
    return Results(flow, trained, spread, errors)


def hanin(config: Config) -> glorot.Spread:
    """Sample the spread of ln |J u|^2 over networks.

    Args:
        config: settings.
    """
    depths = config.hanin_depths
    logs = glorot.log_norms(
        jax.random.key(config.seed), depths=depths, width=config.hanin_width, networks=config.hanin_networks
    )
    variance = np.array([product_variance(depth, config.hanin_width) for depth in depths])
    return glorot.Spread(
        depths=np.array(depths),
        width=config.hanin_width,
        logs=logs,
        variance=variance,
        mean=-variance / 2,  # so that E |J u|^2 stays 1
    )


def claims(results: Results) -> list[Claim]:
    """Check a run.

    Args:
        results: from `run`.

    Returns:
        The claims.
    """
    return [
        *glorot_claims(results),
        *start_claims(results),
        *training_claims(results),
        *hanin_claims(results),
        *table.claims(results.table),
    ]


def glorot_claims(results: Results) -> list[Claim]:
    """Signals, gradients and Jacobians of tanh networks at the start."""
    standard, normalized = results.glorot.jacobian_mean
    middle, band = bands.STANDARD_VALUE
    low, high = bands.NORMALIZED_VALUES
    found = [
        check.close(
            "standard: mean singular value of the top hidden layer's Jacobian", f"{GLOROT}, section 4.2.1",
            middle, standard[-1], absolute=band,
        ),
        check.between(
            "normalized: smallest mean singular value from layer 3 on", f"{GLOROT}, section 4.2.1",
            low, high, normalized[1:].min(),
        ),
        check.between(
            "normalized: largest mean singular value from layer 3 on", f"{GLOROT}, section 4.2.1",
            low, high, normalized[1:].max(),
        ),
    ]  # fmt: skip
    for name, measured, theory in zip(
        results.glorot.schemes, results.glorot.gradient_std, results.glorot.gradient_theory, strict=True
    ):
        found.append(
            check.close(
                f"{name}: back-propagated gradient, first hidden layer over last",
                f"{GLOROT}, Fig. 7; product of n Var[W] E[tanh'^2]",
                theory[0] / theory[-1],
                measured[0] / measured[-1],
                relative=bands.SIGNAL_BAND,
            )
        )
    hidden = results.glorot.weight_gradient_std[0, 1:-1]
    found.append(
        check.below(
            "standard: deviation of weight gradients over inner layers, largest over smallest",
            f"{GLOROT}, Fig. 8 and eq. 14", bands.EVEN, hidden.max() / hidden.min(),
        )
    )  # fmt: skip
    last = results.glorot.activation_std[:, -1]
    found.append(
        check.above(
            "activations of the last hidden layer, normalized over standard",
            f"{GLOROT}, Fig. 6",
            2.0,
            last[1] / last[0],
        )
    )
    return found


def start_claims(results: Results) -> list[Claim]:
    """The signal of deep ReLU networks before training."""
    depth, width = int(results.training.depths[-1]), results.training.width
    # From the first hidden layer on: between hidden layers all fans are the same.
    start = results.training.start[depth]
    growth = start.forward[:, depth - 1] / start.forward[:, 0]
    by_name = dict(zip(SCHEMES, growth, strict=True))
    # Three standard deviations of half of ln |x|^2, as a decimal logarithm.
    noise = 3 * np.sqrt(product_variance(depth, width)) / 2 / np.log(10)
    return [
        check.close(
            f"log10 of Xavier's signal over He's through {depth - 1} layers", f"{HE}: 2^(-L/2), within a factor of 2",
            -(depth - 1) / 2 * np.log10(2), np.log10(by_name["xavier_normal"] / by_name["he_normal"]),
            absolute=np.log10(2),
        ),
        check.close(
            f"log10 of the signal of N(0, .01^2) through {depth - 1} layers", f"{HE}: sqrt(n Var[W] / 2) a layer",
            (depth - 1) * np.log10(0.01 * np.sqrt(width / 2)), np.log10(by_name["small_gaussian"]), absolute=noise,
        ),
        check.close(
            f"log10 of He's signal through {depth - 1} layers", f"{HE}; noise: {HANIN}",
            0.0, np.log10(by_name["he_normal"]), absolute=noise,
        ),
        check.below(
            "LSUV: largest |Var[y] - 1| of a layer", f"{LSUV}, algorithm 1",
            0.1, np.abs(start.lsuv_variance - 1).max(),
        ),
    ]  # fmt: skip


def training_claims(results: Results) -> list[Claim]:
    """Who learns at which depth, and when."""
    found = []
    depths = [int(depth) for depth in results.training.depths]
    deepest, last = depths[-1], {depth: results.training.accuracy[i, :, -1] for i, depth in enumerate(depths)}
    he, xavier, small = (SCHEMES.index(name) for name in ("he_normal", "xavier_normal", "small_gaussian"))
    if deepest == 30 and len(depths) > 1:
        shallow = depths[0]
        first = first_times(results, shallow)
        found += [
            check.above(f"{shallow} layers from He: test accuracy", f"{HE}, Fig. 2", bands.LEARNT, last[shallow][he]),
            check.above(f"{shallow} layers from Xavier: test accuracy", f"{HE}, Fig. 2", bands.BEGUN,
                        last[shallow][xavier]),
            check.below(
                f"{shallow} layers: steps to accuracy {bands.HALFWAY:g}, He over Xavier", f"{HE}, Fig. 2: He earlier",
                0.5, first[he] / first[xavier],
            ),
        ]  # fmt: skip
        for name in ("he_normal", "orthogonal", "lsuv"):
            claim = f"30 layers from {training.LABELS[name]}: test accuracy"
            source = LSUV if name == "lsuv" else f"{HE}, Fig. 3"
            found.append(check.above(claim, source, bands.LEARNT, last[30][SCHEMES.index(name)]))
    found += [
        check.below(
            f"{deepest} layers from Xavier: test accuracy", f"{HE}, Fig. 3", bands.STUCK, last[deepest][xavier]
        ),
        check.below(f"{deepest} layers from N(0, .01^2): test accuracy", HE, bands.CHANCE, last[deepest][small]),
    ]
    return found


def first_times(results: Results, depth: int) -> np.ndarray:
    """Training steps until each scheme's accuracy first exceeds `HALFWAY`; infinite if it never does.

    Args:
        results: from `run`.
        depth: hidden layers.
    """
    reached = results.training.accuracy[list(results.training.depths).index(depth)] > bands.HALFWAY
    return np.where(reached.any(1), results.training.steps[reached.argmax(1)], np.inf)


def hanin_claims(results: Results) -> list[Claim]:
    """The spread of ln |J u|^2 over networks."""
    found = []
    width, networks = results.hanin.width, results.hanin.logs.shape[1]
    for depth, logs, mean, variance in zip(
        results.hanin.depths, results.hanin.logs, results.hanin.mean, results.hanin.variance, strict=True
    ):
        setting = f"ReLU, {depth} layers {width} wide, {networks} networks"
        found += [
            check.close(
                f"{setting}: variance of ln |J u|^2", f"{HANIN}: 5 sum 1/n", variance, logs.var(),
                relative=bands.VARIANCE_BAND,
            ),
            check.close(
                f"{setting}: mean of ln |J u|^2", f"{HANIN}: -5/2 sum 1/n", mean, logs.mean(),
                absolute=bands.VARIANCE_BAND * variance / 2 + 3 * np.sqrt(variance / networks),
            ),
        ]  # fmt: skip
    return found


EXPERIMENT = Experiment(
    "initialization", package.__doc__ or "", PRESETS, run, claims, figures.draw, smoke_computes=True
)
