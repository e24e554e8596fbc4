"""The residual stream goes on where a branch that theory does not follow is added to it, or data is.

Of s = a + b the stream a is predicted. Measured are the moments of a and s on the batch at hand, hence those of b and
its correlation with a. The sum is written as s = gamma a + r, gamma = Cov[a, s] / Var[a], where r has no correlation
with a. So Var[r] = Var[s] - gamma^2 Var[a], and likewise between two examples and between two positions.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend import core

from gradflow.instrument import jaxprs
from gradflow.theory.tracing.abstract_values import Outside, Signal, Value, outside
from gradflow.theory.tracing.algebra import FieldAlgebra
from gradflow.theory.tracing.components import Component
from gradflow.theory.tracing.measured_fields import MeasuredFields, Request
from gradflow.theory.tracing.random_fields import (
    MOST_UNEVEN,
    Gaussian,
    correlation_of,
    gaussian_signal,
    uneven_spread,
)

__all__ = ["stream_with_branch"]

_SUMS = frozenset({"add", "add_any", "sub"})


def stream_with_branch(
    algebra: FieldAlgebra,
    fields: MeasuredFields,
    eqn: core.JaxprEqn,
    values: Sequence[Value],
    failed: Outside,
    place: tuple[tuple[int, ...], tuple[int, ...]],
) -> Signal | None:
    """Return the sum of a predicted signal and what theory does not follow; None where that cannot be measured.

    The gradient of the sum goes on through the signal. What the other operand sends back is added by `Returns`.

    Args:
        algebra: that notes the Gaussian of what is added.
        fields: measured moments.
        eqn: the equation.
        values: its operands.
        failed: what the rule for sums made of it.
        place: path of the equation, and steps of the scans around it.
    """
    at = next((k for k, v in enumerate(values) if isinstance(v, Signal)), None)
    if eqn.primitive.name not in _SUMS or at is None or not jaxprs.is_inexact(eqn.outvars[0]):
        return None
    stream, shape = values[at], jaxprs.shape_of(eqn.outvars[0])
    if not isinstance(stream, Signal) or any(jaxprs.shape_of(v) != shape for v in eqn.invars):
        return None
    if len(stream.axes) != len(shape) or "u" not in stream.axes or stream.axes.count("u") == len(shape):
        return None
    path, steps = place
    sign = -1.0 if eqn.primitive.name == "sub" and at == 1 else 1.0
    moments = fields.get(Request(path, at, stream.axes, with_output=True), steps)
    if moments is None:
        if fields.final:
            return None
        rest, gamma, mean = Gaussian(max(stream.square, 1e-30), 0.0), sign, 0.0
    elif moments["unevenness"] > MOST_UNEVEN or math.isnan(stream.variance):
        return None
    else:
        rest, gamma, mean = _rest_of(stream, sign, moments)
    read = list(outside([values[1 - at]], "").reads)
    # Edges of factor 0 say what it is made of: what shares a layer with it is not independent of it.
    rest.edges, rest.kurtosis = [(g, 0.0) for g in read], [1.0] * len(read)
    algebra.branches[algebra.add(rest)] = failed.reason
    components = {g: Component(gamma * c.value, sign * c.slope) for g, c in stream.components.items()}
    constant = mean - gamma * (stream.mean - stream.constant)
    added = gaussian_signal(rest, stream.axes)
    return dataclasses.replace(Signal(constant, components, stream.axes).plus(added), axes=stream.axes)


def _rest_of(stream: Signal, sign: float, moments: dict[str, Any]) -> tuple[Gaussian, float, float]:
    """The Gaussian of what is added and has no correlation with the stream, gamma, and the mean of the sum."""
    variances, means = {}, {}
    for name in ("operand", "output"):
        root = moments[f"{name} mean"]
        means[name] = math.copysign(math.sqrt(abs(root)), root)
        variances[name] = max(float(moments[f"{name} square"] - abs(root)), 0.0)
    own = variances["operand"]
    measured = float(moments["covariance"]) / own if own > 1e-30 else sign
    # Of the branch the correlation is measured, so that the stream's own part of it has the stream's predicted size.
    ratio = math.sqrt(own / stream.variance) if stream.variance > 1e-30 else 0.0
    gamma = sign + (measured - sign) * ratio

    def left(which: str) -> Any:
        return moments[f"output {which}"] - measured**2 * moments[f"operand {which}"]

    variance = max(variances["output"] - measured**2 * own, 0.0)
    rest = Gaussian(variance, float(np.clip(left("shared") / max(variance, 1e-300), -1.0, 1.0)))
    rest.spatial = correlation_of(np.asarray(left("positions")), variance)
    if rest.spatial is not None and rest.spatial.ndim and variance > 0:
        rest.spatial[(0,) * rest.spatial.ndim] = 1.0
    elif rest.spatial is not None:
        rest.spatial = np.ones(())
    whole = gamma**2 * stream.variance + variance
    share = variance / max(whole, 1e-300)
    rest.measured = 1.0
    carried = sum(
        (gamma**2 * c.variance / max(whole, 1e-300)) ** 2 * g.unevenness for g, c in stream.components.items()
    )
    rest.unevenness = max(uneven_spread(float(moments["unevenness"])) - carried, 0.0) / max(share, 1e-3) ** 2
    # d ln Var[s] / d ln Var[a] at fixed correlation is |gamma| Var[a] / Var[s]; the components bring gamma^2 of it.
    larger = min(stream.variance / max(variance, 1e-300), 1e6)  # of one example nothing may be left beside the stream
    spread = stream.log_variance * max(gamma**2 - gamma**4, 0.0) * larger**2
    rest.log_variance = min(spread, 1e6) + rest.unevenness
    return rest, gamma, means["output"]
