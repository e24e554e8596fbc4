"""Smooth activations for deep plain networks, made by scaling and shifting input and output.

phi^(x) = a (phi(c x + d) + e), with four numbers so chosen that a network of such layers, of weight variance 1 and bias
variance 0, keeps the variance and the similarity of its inputs (Martens et al. 2021; Zhang et al. 2022).
The deeper the network, the smaller c and the larger a: phi^ is nearly linear, and needs float32 or better. The leaky
ReLU, whose kink sets its kernel, is tailored by `gradflow.activations.tailored_leaky_relu`.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from gradflow import activations, gaussian
from gradflow.theory.mean_field.moments import Phi, in_range
from gradflow.theory.mean_field.nodes import off_centre_nodes

__all__ = ["Residuals", "kernel_shaped", "tailored"]

_EXACT = 1e-9  # miss of a condition, over the whole depth, that counts as none
_SCALES, _SHIFTS = (1.0, 0.3, 0.1, 0.03), (1.0, -1.0, 0.3, -0.3, 0.0)
_MOST_DEPTH = 1e5

Residuals = Callable[[Sequence[float]], Float[np.ndarray, " conditions"]]


def kernel_shaped(activation: Phi, depth: int, *, network_slope: float = 1.5) -> activations.Activation:
    """Deep kernel shaping: no mean, variance kept, and a correlation map whose slope at 1 is set for the network.

    With q -> Q(q) = E[phi^(sqrt(q) z)^2] and the correlation map C of a layer,

        Q(1) = 1,  Q'(1) = 1,  C(0) = 0,  C'(1) = E[phi^'(z)^2] = network_slope^(1 / depth)

    so that over the network orthogonal inputs stay so, and close ones move apart by sqrt(network_slope), whatever the
    depth. Martens et al. 2021, "Rapid training of deep neural networks without skip connections or normalization layers
    using Deep Kernel Shaping" (DKS).

    Args:
        activation: name, record or function, smooth.
        depth: number of layers with this activation, one after the other.
        network_slope: above 1; 1.5 in the paper.

    Returns:
        The activation, for weights of variance 1 / fan_in.

    Raises:
        ValueError: for a depth or slope out of range, an activation with kinks, or one for which no such four numbers
            are found (a linear one).
        ArithmeticError: where its averages are not finite.

    Examples:
        >>> shaped = kernel_shaped("tanh", 50).moments()
        >>> round(abs(shaped.mean), 6), round(shaped.square, 6), round(shaped.slope_square**50, 6)
        (0.0, 1.0, 1.5)
    """
    in_range("a network slope", network_slope, 1 + 1e-6, 1e6)
    record, averages = _checked(activation, depth)

    def conditions(at: Sequence[float] | np.ndarray) -> Float[np.ndarray, " conditions"]:
        mean, square, slope_square, pace, derivative, _ = averages(*at)
        scale = 1 / max(square - mean**2, 1e-300)
        slope = math.log(max(scale * slope_square, 1e-300))
        return np.array([depth * (scale * (pace - mean * derivative) - 1), depth * slope - math.log(network_slope)])

    c, d = _solved(record, conditions, shifts=1)
    mean, square, *_ = averages(c, d)
    return _transformed(record, (c, d, -mean, (square - mean**2) ** -0.5), depth, "Martens et al. 2021")


def tailored(activation: Phi, depth: int, *, network_curvature: float = 0.3) -> activations.Activation:
    """Tailored activation: critical, variance kept, and a correlation map whose curvature is set for the network.

        Q(1) = 1,  Q'(1) = 1,  C'(1) = E[phi^'(z)^2] = 1,  C''(1) = E[phi^''(z)^2] = network_curvature / depth

    The squared gradient neither shrinks nor grows, and inputs come together only as slowly as the curvature allows.
    Zhang et al. 2022, "Deep Learning without Shortcuts: Shaping the Kernel with Tailored Rectifiers" (TAT), its
    version for smooth activations.

    Args:
        activation: name, record or function, smooth.
        depth: number of layers with this activation, one after the other.
        network_curvature: positive; 0.3 in the authors' code.

    Returns:
        The activation, for weights of variance 1 / fan_in.

    Raises:
        ValueError: for a depth or curvature out of range, an activation with kinks, or one for which no such four
            numbers are found (a linear one).
        ArithmeticError: where its averages are not finite.

    Examples:
        >>> shaped = tailored("softplus", 100).moments()
        >>> round(shaped.square, 6), round(shaped.slope_square, 6)
        (1.0, 1.0)
    """
    in_range("a network curvature", network_curvature, 1e-6, 1e6)
    record, averages = _checked(activation, depth)

    def conditions(at: Sequence[float] | np.ndarray) -> Float[np.ndarray, " conditions"]:
        c, d, e = at
        mean, square, slope_square, pace, derivative, curvature = averages(c, d)
        scale = 1 / max(square + 2 * e * mean + e**2, 1e-300)
        bend = math.log(max(scale * curvature * depth / network_curvature, 1e-300))
        return np.array([depth * (scale * (pace + e * derivative) - 1), depth * (scale * slope_square - 1), bend])

    c, d, e = _solved(record, conditions, shifts=2)
    mean, square, *_ = averages(c, d)
    return _transformed(record, (c, d, e, (square + 2 * e * mean + e**2) ** -0.5), depth, "Zhang et al. 2022")


def _checked(activation: Phi, depth: int) -> tuple[activations.Activation, Callable[..., tuple[float, ...]]]:
    """The activation's record and its averages, or an error that says why it cannot be shaped."""
    in_range("a depth", depth, 1.0, _MOST_DEPTH)
    record = activations.get(activation)
    if record.kinks:
        raise ValueError(
            f"expected a smooth activation, got {record.name} with kinks at {record.kinks}. Fix: "
            "`gradflow.activations.tailored_leaky_relu(depth)`, or a smooth relative such as softplus or gelu"
        )
    return record, _averages(record)


@functools.lru_cache(maxsize=128)
def _averages(record: activations.Activation) -> Callable[[float, float], tuple[float, ...]]:
    """c, d -> E[f], E[f^2], E[f'^2], E[x f f'], E[x f'], E[f''^2] of f(x) = phi(c x + d) over N(0, 1)."""

    def all_six(z: jax.Array, weights: jax.Array, d: jax.Array, variance: jax.Array) -> jax.Array:
        phi, c = record(z), jnp.sqrt(variance)
        slope, bend = jax.jvp(record.derivative, (z,), (jnp.ones_like(z),))
        x, first, second = (z - d) / c, c * slope, variance * bend
        return jnp.stack([phi, phi**2, first**2, x * phi * first, x * first, second**2]) @ weights

    on_nodes = gaussian.on_host(record.name, all_six)

    def of_scale(c: float, d: float) -> tuple[float, ...]:
        variance = max(c**2, 1e-20)
        return on_nodes(*off_centre_nodes(d, variance), d, variance)

    return of_scale


def _solved(record: activations.Activation, conditions: Residuals, *, shifts: int) -> tuple[float, ...]:
    """Input scale and shifts that meet the conditions, from the first start that leads there."""
    from scipy import optimize

    for start in itertools.product(_SCALES, *(_SHIFTS,) * shifts):
        found = optimize.root(conditions, start, method="hybr", options={"xtol": 1e-13})
        if np.abs(conditions(found.x)).max() < _EXACT:
            return abs(float(found.x[0])), *(float(x) for x in found.x[1:])
    raise ValueError(
        f"found no scales and shifts that shape {record.name} as asked. Likely cause: an activation that is linear or "
        "all but linear where it is used, or a slope or curvature beyond what it can bend to. Fix: another activation, "
        "or one nearer 1 and 0"
    )


def _transformed(
    record: activations.Activation, numbers: tuple[float, float, float, float], depth: int, reference: str
) -> activations.Activation:
    """The record of phi^; `numbers` are c, d, e, a."""
    input_scale, input_shift, output_shift, output_scale = numbers

    def fn(x: jax.Array) -> jax.Array:
        return output_scale * (record(input_scale * x + input_shift) + output_shift)

    return activations.Activation(f"{record.name} shaped for {depth} layers", fn, reference, can_die=record.can_die)
