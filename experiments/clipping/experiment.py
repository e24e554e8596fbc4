"""Run and claims of `clipping`."""

from __future__ import annotations

import numpy as np

import experiments.clipping as package
from experiments.clipping import bands, figures, order, smoothness, surface
from experiments.clipping.results import Results
from experiments.clipping.settings import PRESETS, Config
from experiments.framework import claims as check
from experiments.framework.claims import Claim
from experiments.framework.runner import Experiment

PASCANU, ZHANG = "Pascanu et al. 2013", "Zhang et al. 2020"


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
        *quartic_claims(results),
        *radius_claims(results),
        *smoothness_claims(results),
        *order_claims(results),
    ]


def surface_claims(results: Results) -> list[Claim]:
    """The cliff, and what it does to descent."""
    gradient, source = results.surface.gradient, f"{PASCANU}, Fig. 6"
    row, column = np.unravel_index(np.argmax(gradient), gradient.shape)
    longest = steps_taken(results).max(1)
    ends = results.path.error[:, -1]
    bound = surface.RATE * surface.LIMIT * (1 + bands.ROUNDING)
    steepest = "one unit: steepest place of the surface"
    thrown = "one unit: longest plain step over the longest clipped one, median over starts"
    return [
        check.above("one unit: largest gradient norm over the median", source, bands.STEEP,
                    gradient.max() / np.median(gradient)),
        check.close(f"{steepest}, w", source, bands.CLIFF[0], results.surface.weights[row],
                    absolute=bands.CLIFF_BAND),
        check.close(f"{steepest}, b", source, bands.CLIFF[1], results.surface.biases[column],
                    absolute=bands.CLIFF_BAND),
        check.below("one unit: longest clipped step, rate times limit", "Algorithm 1", bound, longest[1].max()),
        check.above(thrown, source, bands.THROWN, np.median(longest[0]) / longest[1].max()),
        check.above("one unit: part of the starts from which clipped descent ends lower", source, bands.ENDS_LOWER,
                    np.mean(ends[1] < ends[0])),
    ]  # fmt: skip


def steps_taken(results: Results) -> np.ndarray:
    """Return the lengths of steps in the plane of w and b, (2, steps - 1, starts), plain first.

    Args:
        results: from `run`.
    """
    return np.linalg.norm(np.diff(results.path.places.astype(np.float64), axis=1), axis=-1)


def quartic_claims(results: Results) -> list[Claim]:
    """x^4: the same rate with and without clipping, and the bound that makes clipping safe."""
    x = results.quartic.x[:, 2].astype(np.float64)
    excess = 12 * x**2 - 16 - np.abs(4 * x**3)
    first = results.quartic.first
    slower = "x^4: steps at rate 1 / (12 x_0^2), safe without clipping, over steps with clipping"
    return [
        check.above("x^4, rate .01: largest |x| of plain descent", ZHANG, 1e9, np.abs(results.quartic.x[:, 0]).max()),
        check.close("x^4, rate .01: steps of clipped descent to |gradient| < .001", ZHANG, 4052, first[2], absolute=5),
        check.close(slower, "gradient flow", surface.slower_without_clipping(), first[1] / first[2], relative=0.01),
        check.below("x^4: f'' - (16 + |f'|), largest on the way", f"{ZHANG}: (L0, L1)-smooth", 0.0, excess.max()),
    ]


def radius_claims(results: Results) -> list[Claim]:
    """Below a spectral radius of 1 gradients must vanish over time; above it they may explode, or not."""
    radii, gradient = results.radius.radii, results.radius.gradient[..., 0]
    rates = smoothness.fitted_rates(results.radius.gradient[0])
    below = radii < 1
    steps = results.radius.gradient.shape[-1]
    over = f"gradient over {steps} steps of time, first over last"
    return [
        check.below("linear units: rate of dL/dh_t over the spectral radius, largest error", "eigenvalues",
                    bands.RATE_BAND, np.abs(rates / radii - 1).max()),
        check.below(f"radius below 1: {over}, largest", f"{PASCANU}, section 2.1", 1.0, gradient[:, below].max()),
        check.above(f"linear units, radius above 1: {over}, smallest", f"{PASCANU}, section 2.1", bands.EXPLODED,
                    gradient[0, ~below].min()),
        check.below(f"tanh units, radius {radii[-1]:g}: {over}", f"{PASCANU}: above 1 is not sufficient", 1.0,
                    gradient[1, -1]),
    ]  # fmt: skip


def smoothness_claims(results: Results) -> list[Claim]:
    """Zhang et al.: smoothness is no constant of a loss; it grows with the gradient."""
    gradient, local, source = results.smooth.gradient, results.smooth.local, f"{ZHANG}, Fig. 1"
    slope, correlation = smoothness.fitted_power(gradient, local)
    low, high = np.percentile(local, (10, 90))
    found = [
        check.above("RNN: local smoothness along training, 90 % over 10 % quantile", source, bands.VARIED, high / low),
        check.above("RNN: correlation of ln(smoothness) and ln(gradient norm)", source, bands.CORRELATED, correlation),
    ]
    if gradient.size >= bands.FITTED:
        found.append(check.between("RNN: exponent in smoothness ~ (gradient norm)^a", source, *bands.SLOPES, slope))
    return found


def order_claims(results: Results) -> list[Claim]:
    """Temporal order: what clipping does to the norm of the gradient, and who learns."""
    title, source = f"temporal order, T = {results.long.length}, smart tanh", f"{PASCANU}, Fig. 7"
    plain, clipped = (list(order.LIMITS).index(name) for name in ("none", "norm"))
    after = results.long.after[clipped].max()
    found = [
        check.below(f"{title}: largest norm after clipping", "Algorithm 1", order.BY_NORM * (1 + bands.ROUNDING), after)
    ]
    if results.long.every * results.long.loss.shape[-1] < bands.LEARNING:
        return found
    errors, before = results.long.error, results.long.before
    learned = (errors < order.SOLVED).sum(1)
    return [
        *found,
        check.above(f"{title}: largest norm, not clipped", "limit 1", bands.SPIKE, before[plain].max()),
        check.above(f"{title}: largest norm before clipping", "limit 1", bands.SPIKE, before[clipped].max()),
        check.above(f"{title}: mean error without clipping minus with", source, bands.GAIN,
                    errors[plain].mean() - errors[clipped].mean()),
        check.above(f"{title}: clipped networks that learn it", source, 1, learned[clipped]),
        check.below(f"{title}: networks not clipped that learn it", source, 0, learned[plain]),
        *(length_claims(results) if len(results.by_length.lengths) > 1 else ()),
    ]  # fmt: skip


def length_claims(results: Results) -> list[Claim]:
    """Clipped networks by initialization and length: the longer the sequences, the more the start matters."""
    source, (shortest, *_, longest) = f"{PASCANU}, Fig. 7", results.by_length.lengths
    errors = {init: results.by_length.error[:, order.ARMS.index((init, "norm"))] for init in order.INITS}
    means = {init: found.mean(1) for init, found in errors.items()}
    easy = np.stack([errors["tanh"][0], errors["smart tanh"][0]]) < order.SOLVED
    title = "temporal order, clipped"
    return [
        check.close(f"{title}, sigmoid, T = {shortest}: error; chance is .75", source, 0.75, means["sigmoid"][0],
                    absolute=bands.CHANCE_BAND),
        check.above(f"{title}, tanh and smart tanh, T = {shortest}: part of the networks that learn it", source,
                    bands.EASY, easy.mean()),
        check.above(f"{title}, tanh: error at T = {longest} minus at {shortest}", source, bands.LONGER,
                    means["tanh"][-1] - means["tanh"][0]),
        check.above(f"{title}, T = {longest}: error from tanh minus from smart tanh", source, bands.SMARTER,
                    means["tanh"][-1] - means["smart tanh"][-1]),
    ]  # fmt: skip


EXPERIMENT = Experiment("clipping", package.__doc__ or "", PRESETS, run, claims, figures.draw)
