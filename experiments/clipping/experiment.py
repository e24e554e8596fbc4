"""Run and claims of `clipping`."""

from __future__ import annotations

import numpy as np

import experiments.clipping as package
from experiments.clipping import bands, figures, order, smoothness, surface
from experiments.clipping.results import Results
from experiments.clipping.settings import PRESETS, Config
from experiments.framework.claims import Claim
from experiments.framework.runner import Experiment


def run(config: Config) -> Results:
    """Descend, train, and measure.

    Args:
        config: settings.
    """
    grid, path = surface.measure(config.grid, config.starts, config.path_steps, config.seed)
    along, radius = smoothness.measure(config.smooth_runs, config.smooth_updates, config.smooth_every, config.seed)
    return Results(
        surface=grid,
        path=path,
        quartic=surface.measure_quartic(),
        smooth=along,
        radius=radius,
        by_length=order.by_length(config.lengths, config.runs, config.updates, config.seed),
        long=order.at_length(config.long_length, config.runs, config.long_updates, config.every, config.seed),
    )


def claims(results: Results) -> list[Claim]:
    """Check a run.

    Args:
        results: from `run`.

    Returns:
        The claims.
    """
    return [
        *surface_claims(results),
        *radius_claims(results),
        *smoothness_claims(results),
        *order_claims(results),
        *length_claims(results),
    ]


def surface_claims(results: Results) -> list[Claim]:
    """The cliff, and what it does to descent."""
    weights, biases = results.surface.weights, results.surface.biases
    steep = weights >= bands.STEEP
    line = surface.STATE - weights[steep] / (1 + np.exp(-surface.STATE))
    spacings = (biases[results.surface.gradient[steep].argmax(1)] - line) / (biases[1] - biases[0])
    plain, clipped = steps_taken(results).max(1)
    ends = results.path.error[:, -1]
    return [
        Claim("cliff", f"one unit: steepest b over w >= {bands.STEEP:g} from the unstable fixed point, farthest "
              "(spacings of the grid)", bands.cliff(), spacings[np.abs(spacings).argmax()]),
        Claim("thrown", "one unit: longest plain step over the longest clipped one, median over starts",
              bands.thrown(), np.median(plain) / clipped.max()),
        Claim("ends-lower", "one unit: part of the starts from which clipped descent ends lower",
              bands.ends_lower(), np.mean(ends[1] < ends[0])),
    ]  # fmt: skip


def steps_taken(results: Results) -> np.ndarray:
    """Return the lengths of steps in the plane of w and b, (2, steps - 1, starts), plain first.

    Args:
        results: from `run`.
    """
    return np.linalg.norm(np.diff(results.path.places.astype(np.float64), axis=1), axis=-1)


def radius_claims(results: Results) -> list[Claim]:
    """Below a spectral radius of 1 gradients must vanish over time; above it they may explode, or not."""
    radii = results.radius.radii
    linear, tanh = smoothness.fitted_rates(results.radius.gradient)
    fitted = results.radius.gradient.shape[-1] - smoothness.SETTLED
    return [
        Claim("linear-rate", "linear units: rate of dL/dh_t over the spectral radius, largest error",
              bands.linear_rate(fitted), np.abs(linear / radii - 1).max()),
        Claim("critical-radius", "linear units: spectral radius at which dL/dh_t neither grows nor fades",
              bands.critical_radius(fitted), smoothness.critical_radius(radii, linear)),
        Claim("radius-below-1", "tanh units, radius below 1: rate of dL/dh_t a step back, largest",
              bands.vanishing_rate(), tanh[radii < 1].max()),
        Claim("radius-above-1", f"tanh units, radius {radii[-1]:g}: rate of dL/dh_t a step back",
              bands.bent_rate(), tanh[-1]),
    ]  # fmt: skip


def smoothness_claims(results: Results) -> list[Claim]:
    """Zhang et al.: smoothness is no constant of a loss; it grows with the gradient."""
    gradient, local = results.smooth.gradient, results.smooth.local
    if gradient.size < bands.FITTED:
        return []
    slope, correlation = smoothness.fitted_power(gradient, local)
    low, high = np.percentile(local, (10, 90))
    return [
        Claim("smoothness-varies", "RNN: local smoothness along training, 90 % over 10 % quantile", bands.varied(),
              high / low),
        Claim("smoothness-correlates", "RNN: correlation of ln(smoothness) and ln(gradient norm)",
              bands.correlated(), correlation),
        Claim("smoothness-exponent", "RNN: exponent in smoothness ~ (gradient norm)^a", bands.exponent(), slope),
    ]  # fmt: skip


def order_claims(results: Results) -> list[Claim]:
    """Temporal order, long training: what clipping does, and who learns."""
    title = f"temporal order, T = {results.long.length}, smart tanh"
    if results.long.every * results.long.loss.shape[-1] < bands.LEARNING:
        return []
    plain, clipped = (results.long.error[list(order.LIMITS).index(name)] for name in ("none", "norm"))
    learned = [np.mean(errors < order.SOLVED) for errors in (plain, clipped)]
    largest = results.long.before[list(order.LIMITS).index("none")].max() / order.BY_NORM
    return [
        Claim("spike", f"{title}: largest norm, not clipped, over the limit", bands.spike(), largest),
        Claim("gain", f"{title}: mean error without clipping minus with", bands.gain(), plain.mean() - clipped.mean()),
        Claim("learned", f"{title}: part of the networks that learn it, clipped minus not clipped", bands.learned(),
              learned[1] - learned[0]),
    ]  # fmt: skip


def length_claims(results: Results) -> list[Claim]:
    """Clipped networks by initialization and length: the longer the sequences, the more the start matters."""
    if len(results.by_length.lengths) < 2:
        return []
    shortest, *_, longest = results.by_length.lengths
    errors = {init: results.by_length.error[:, order.ARMS.index((init, "norm"))] for init in order.INITS}
    means = {init: found.mean(1) for init, found in errors.items()}
    easy = np.stack([errors["tanh"][0], errors["smart tanh"][0]]) < order.SOLVED
    sigmoid = errors["sigmoid"][0]
    title = "temporal order, clipped"
    return [
        Claim("sigmoid-chance", f"{title}, sigmoid, T = {shortest}: error of the network farthest from chance",
              bands.chance(), sigmoid[np.abs(sigmoid - bands.CHANCE).argmax()]),
        Claim("short-learned", f"{title}, tanh and smart tanh, T = {shortest}: part of the networks that learn it",
              bands.easy(), easy.mean()),
        Claim("longer-harder", f"{title}, tanh: error at T = {longest} minus at {shortest}", bands.longer(),
              means["tanh"][-1] - means["tanh"][0]),
        Claim("smart-further", f"{title}, T = {longest}: error from tanh minus from smart tanh", bands.smarter(),
              means["tanh"][-1] - means["smart tanh"][-1]),
    ]  # fmt: skip


EXPERIMENT = Experiment("clipping", package.__doc__ or "", PRESETS, run, claims, figures.draw)
