"""Run and claims of `vanishing`."""

from __future__ import annotations

import math

import numpy as np

import experiments.vanishing as package
import gradflow as gf
from experiments.framework.bands import constant_answer, gradient_rate
from experiments.framework.claims import Claim
from experiments.framework.images import load, rows
from experiments.framework.runner import Experiment
from experiments.vanishing import bands, figures, tanh, training
from experiments.vanishing.arms import BY_NAME, SICK
from experiments.vanishing.results import Results
from experiments.vanishing.settings import PRESETS, Config
from experiments.vanishing.theory import predict


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
    predicted = [predict(arm, depth, width, pixels, pixel_variance) for arm in arms]
    return Results(
        arms=np.array([arm.name for arm in arms]),
        groups=np.array([arm.group for arm in arms]),
        depth=depth,
        width=width,
        theory_rate=float(sick.chi_1),
        theory_profile=np.stack([prediction.profile for prediction in predicted]),
        theory_variance=np.stack([prediction.variance for prediction in predicted]),
        tanh=tanh.measure(data, config.tanh_depth, config.tanh_width, config.tanh_seeds, config.seed),
        training=training.measure(data, arms, config.setup),
    )


def claims(results: Results) -> list[Claim]:
    """Check the results against theory.

    Args:
        results: from `run`.

    Returns:
        The claims; what cured networks learn only after as many steps as the pilot runs took.
    """
    return [*gradient_claims(results), *tanh_claims(results), *learning_claims(results)]


def gradient_claims(results: Results) -> list[Claim]:
    """Gradients at initialization, as theory predicts them."""
    depth, width = results.depth, results.width
    at_init = results.training.gradient[:, 0]
    ratios = at_init[:, 0] / at_init[:, -1]
    logs = np.log(ratios / results.theory_profile[:, 0])
    arms = [BY_NAME[str(name)] for name in results.arms]
    normalized = np.array([arm.batch_norm for arm in arms])
    far = [
        -math.inf if arm.batch_norm else bands.ratio_spread(arm, variances, width).outside(2 * log)
        for arm, log, variances in zip(arms, logs, results.theory_variance, strict=True)
    ]
    furthest = int(np.argmax(far))
    found = [
        Claim(
            "sick-rate",
            "sick network: factor of the squared gradient per layer",
            bands.sick_rate(results.theory_rate, float(results.theory_variance[0, -1]), width, depth),
            gradient_rate(at_init[:1, 1:])[0],  # the first layer's inputs are images, not sigmoids
        ),
        Claim(
            "plain-ratios",
            f"first over last gradient of the {len(arms) - normalized.sum()} networks without batch norm: "
            f"worst deviation from theory, in standard deviations ({results.arms[furthest]})",
            bands.worst(len(arms) - normalized.sum(), "mean field: product of sigma_w^2 E[phi'^2]"),
            far[furthest],
        ),
    ]
    if "ReLU + He" in results.arms:
        restored = ratios[results.arms == "ReLU + He"][0]
        band = bands.he_gradient(width, depth)
        found.append(Claim("he-gradient", "ReLU + He: first over last gradient", band, restored))
    if normalized.any():
        factor = np.exp(np.abs(logs[normalized])).max()
        claim = "first over last gradient with batch norm: largest factor between theory and measurement"
        found.append(Claim("batch-norm-ratios", claim, bands.BATCH_NORM, factor))
    return found


def cured(results: Results) -> np.ndarray:
    """Which networks theory calls cured, by their predicted first/last gradient."""
    return results.theory_profile[:, 0] >= bands.CURED


def learning_claims(results: Results) -> list[Claim]:
    """Who learns, who does not, and whose first layer moves."""
    healthy, names = cured(results), results.arms
    accuracy, movement = results.training.test_accuracy[:, -1], results.training.movement[:, -1]
    slowest = np.argmin(np.where(healthy, accuracy, np.inf))
    best_ill = np.argmax(np.where(healthy, -np.inf, accuracy))
    found = [
        Claim(
            "uncured-accuracy",
            f"highest test accuracy of the {(~healthy).sum()} uncured networks in the end ({names[best_ill]})",
            constant_answer(training.EVALUATED),
            accuracy[best_ill],
        ),
    ]
    if results.training.steps[-1] < bands.TRAINED:
        return found
    return [
        *found,
        Claim(
            "sick-movement",
            "sick network: movement of the first layer relative to the last",
            bands.sick_movement(float(results.theory_profile[0, 0])),
            movement[0, 0] / movement[0, -1],
        ),
        Claim(
            "cured-accuracy",
            f"lowest test accuracy of the {healthy.sum()} cured networks ({names[slowest]})",
            bands.CURED_LEARN,
            accuracy[slowest],
        ),
        Claim(
            "cured-movement",
            "smallest relative movement of a cured network's first layer",
            bands.CURED_MOVES,
            movement[healthy, 0].min(),
        ),
    ]


def tanh_claims(results: Results) -> list[Claim]:
    """The tanh table: fitted rate of the squared gradient, mean over networks, against chi_1."""
    table = results.tanh
    layers = table.gradient.shape[-1]
    far = []
    for variance, chi, rates in zip(table.variance, table.theory, table.rate, strict=True):
        step = bands.tanh_step(float(variance), tanh.BIAS_VARIANCE, table.width, layers)
        far.append(bands.tanh_rate(step, layers, rates.size).outside(np.log(rates).mean() - math.log(chi)))
    furthest = int(np.argmax(far))
    return [
        Claim(
            "tanh-rates",
            f"tanh: squared gradient per layer at {len(far)} weight variances, {table.rate.shape[1]} networks each: "
            f"worst deviation from chi_1, in standard deviations (sigma_w^2 = {table.variance[furthest]:g})",
            bands.worst(len(far), "Schoenholz et al. 2017: chi_1"),
            far[furthest],
        )
    ]


EXPERIMENT = Experiment("vanishing", package.__doc__ or "", PRESETS, run, claims, figures.draw)
