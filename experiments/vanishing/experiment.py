"""Run and claims of `vanishing`."""

from __future__ import annotations

import math

import numpy as np

import experiments.vanishing as package
import gradflow as gf
from experiments.framework import claims as check
from experiments.framework.bands import gradient_rate, product_variance
from experiments.framework.claims import Claim
from experiments.framework.images import load, rows
from experiments.framework.runner import Experiment
from experiments.vanishing import bands, figures, tanh, training
from experiments.vanishing.arms import SICK
from experiments.vanishing.results import Results
from experiments.vanishing.settings import PRESETS, Config
from experiments.vanishing.theory import gradient_profile


def run(config: Config) -> Results:
    """Measure the tanh table and train every network.

    Args:
        config: settings.
    """
    data = load(config.data)
    arms, depth, width = config.chosen, config.depth, config.width
    images = rows(data, data.train).x
    pixels, pixel_variance = images.shape[1], float(images.var(0).mean())
    sick = gf.theory.fixed_point(SICK.activation, weight_variance=SICK.weight_variance, bias_variance=0.0)
    profiles = [gradient_profile(arm, depth, width, pixels, pixel_variance) for arm in arms]
    return Results(
        arms=np.array([arm.name for arm in arms]),
        groups=np.array([arm.group for arm in arms]),
        depth=depth,
        width=width,
        theory_rate=float(sick.chi_1),
        theory_profile=np.stack(profiles),
        tanh=tanh.measure(data, config.tanh_depth, config.tanh_width, config.tanh_seeds, config.seed),
        training=training.measure(data, arms, config.setup),
    )


def claims(results: Results) -> list[Claim]:
    """Check the results against theory.

    Args:
        results: from `run`.

    Returns:
        The claims.
    """
    return [
        *sick_claims(results),
        *ratio_claims(results),
        *learning_claims(results),
        *tanh_claims(results),
    ]


def sick_claims(results: Results) -> list[Claim]:
    """The sick network: how fast its gradient dies, and that its first layer stands still."""
    depth, width = results.depth, results.width
    at_init = results.training.gradient[0, :1, 1:]  # the first layer's inputs are images, not sigmoids
    movement = results.training.movement[0, -1]
    return [
        check.close(
            "sick network: factor of the squared gradient per layer",
            "mean field: chi_1 = sigma_w^2 E[phi'^2]",
            float(results.theory_rate),
            float(gradient_rate(at_init)[0]),
            relative=bands.DEVIATIONS * math.sqrt(bands.LAYER_VARIANCE / (width * (depth - 2))),
        ),
        check.below(
            "sick network: movement of the first layer relative to the last",
            "chain rule; Glorot & Bengio 2010",
            1e-6,
            movement[0] / movement[-1],
        ),
        check.below(
            "sick network: test accuracy never leaves chance (0.1)",
            "Glorot & Bengio 2010",
            bands.AT_CHANCE,
            results.training.test_accuracy[0].max(),
        ),
    ]


def ratio_claims(results: Results) -> list[Claim]:
    """First to last gradient at initialization: as theory predicts, and near 1 in every cured network."""
    depth, width = results.depth, results.width
    decades = bands.DEVIATIONS * math.sqrt(product_variance(depth - 1, width)) / (2 * math.log(10))
    ratios = results.training.gradient[:, 0, 0] / results.training.gradient[:, 0, -1]
    by_theory = [
        check.close(
            f"{name}: log10 of first/last gradient",
            "mean field: product of sigma_w^2 E[phi'^2]",
            math.log10(predicted),
            math.log10(ratio),
            absolute=decades,
        )
        for name, ratio, predicted in zip(results.arms, ratios, results.theory_profile[:, 0], strict=True)
    ]
    return [
        *by_theory,
        check.above(
            "smallest first/last gradient of a cured network",
            "the remedy restores the gradient",
            bands.CURED[0],
            ratios[cured(results)].min(),
        ),
        check.below(
            "largest first/last gradient of a cured network, residual + batch norm aside",
            "there theory has a power of depth, see above",
            bands.CURED[1],
            ratios[cured(results) & (results.arms != "all together")].max(),
        ),
    ]


def cured(results: Results) -> np.ndarray:
    """Which networks theory calls cured: those whose predicted first/last gradient is at least 0.1."""
    return results.theory_profile[:, 0] >= bands.CURED[0]


def learning_claims(results: Results) -> list[Claim]:
    """Who learns, who does not, and whose first layer moves."""
    healthy = cured(results)
    names, accuracy, movement = results.arms, results.training.test_accuracy, results.training.movement[:, -1, 0]
    slowest = np.argmin(np.where(healthy, accuracy[:, -1], np.inf))
    best_ill = np.argmax(np.where(healthy, -np.inf, accuracy.max(1)))
    found = [
        check.above(
            f"lowest test accuracy of the {healthy.sum()} cured networks ({names[slowest]})",
            "the same steps in which the sick one stays at chance",
            bands.LEARNS,
            accuracy[slowest, -1],
        ),
        check.below(
            f"highest test accuracy of the {(~healthy).sum()} uncured networks ({names[best_ill]})",
            "theory: gradient gone at the first layers",
            bands.AT_CHANCE,
            accuracy[best_ill].max(),
        ),
        check.above(
            "smallest relative movement of a cured network's first layer",
            "chain rule",
            1e-2,
            movement[healthy].min(),
        ),
    ]
    leaky = names == "leaky ReLU + He"
    if leaky.any():
        found.append(
            check.below(
                "leaky ReLU + He: dead units at any layer and record",
                "Maas et al. 2013",
                0.0,
                results.training.dead[leaky].max(),
            )
        )
    return found


def tanh_claims(results: Results) -> list[Claim]:
    """The tanh table: fitted rate of the squared gradient, mean over seeds, against chi_1."""
    return [
        check.close(
            f"tanh, sigma_w^2 = {variance:g}: squared gradient per layer, {rates.size} seeds",
            "Schoenholz et al. 2017: chi_1",
            chi,
            rates.mean(),
            relative=bands.TANH_BAND,
        )
        for variance, chi, rates in zip(results.tanh.variance, results.tanh.theory, results.tanh.rate, strict=True)
    ]


EXPERIMENT = Experiment("vanishing", package.__doc__ or "", PRESETS, run, claims, figures.draw)
