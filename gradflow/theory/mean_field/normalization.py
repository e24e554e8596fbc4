"""Gradient growth in deep plain networks with batch or layer normalization, at initialization.

Yang et al. 2019, "A Mean Field Theory of Batch Normalization".
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from gradflow import activations
from gradflow.theory.mean_field.moments import LARGEST, Phi, activation_moments, in_range

__all__ = ["batchnorm_rate", "layernorm_rate"]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
_PANELS = 12
_REACH = 12.0  # standard deviations


def batchnorm_rate(activation: Phi, batch_size: int | None = None) -> float:
    """Squared-gradient factor a layer of a plain network x -> phi(BN(W x)) at initialization, whatever sigma_w^2.

    Large batches: E[phi'(z)^2] / Var[phi(z)], z ~ N(0, 1). ReLU: pi / (pi - 1) = 1.467, linear: 1.

    For B examples, once signal and gradient have settled, a unit's normalized values h lie uniformly on the sphere of
    radius sqrt(B) in the B - 1 dimensions orthogonal to (1, ..., 1), the gradient's covariance over the batch is a
    multiple of G = I - 1 1^T / B, and with D = diag(phi'(h)), P = G - h h^T / B the factor is

        B E[tr(P D G D)] / ((B - 3) E |G phi(h)|^2)

    which is (B - 2) / (B - 3) for a linear network and the above as B -> infinity (after Yang et al. 2019, section on
    backward dynamics; the trace is integrated here over one and two entries of h).

    Args:
        activation: name, record or function.
        batch_size: B, at least 4; None for its limit.

    Returns:
        The factor; above 1, so that gradients explode, unless the activation is linear and the batch infinite.

    Raises:
        ValueError: for a constant activation, or a batch below 4, where the factor has no finite mean.
        ArithmeticError: where phi or phi' is not finite.

    Examples:
        >>> round(batchnorm_rate("relu"), 3), round(batchnorm_rate("identity", 8), 6)
        (1.467, 1.2)
    """
    record = activations.get(activation)
    if batch_size is not None:
        return _finite_batch_rate(record, batch_size)
    mean, square, slope_square, *_ = activation_moments(activation).single(1.0)
    if square - mean**2 <= 1e-14 * square:
        raise ValueError(f"expected an activation that varies, got {record.name}, constant over N(0, 1)")
    return slope_square / (square - mean**2)


def layernorm_rate(activation: Phi, *, weight_variance: float = 1.0, bias_variance: float = 0.0) -> float:
    """Squared-gradient factor a layer of a wide plain network z_l = W_l phi(LN(z_(l-1))) + b_l.

    sigma_w^2 E[phi'(z)^2] / (sigma_w^2 E[phi(z)^2] + sigma_b^2), z ~ N(0, 1): layer normalization makes every layer's
    variance 1, so that without bias sigma_w^2 has no say. ReLU: 1. Terms of order 1/width are left out.

    Args:
        activation: name, record or function.
        weight_variance: sigma_w^2, positive.
        bias_variance: sigma_b^2.

    Raises:
        ValueError: for variances out of range, or an activation that is 0.

    Examples:
        >>> round(layernorm_rate("relu"), 6), round(layernorm_rate("tanh"), 3)
        (1.0, 1.178)
    """
    in_range("a weight variance above 0", weight_variance, 1e-300, LARGEST)
    in_range("a bias variance", bias_variance, 0.0, LARGEST)
    averages = activation_moments(activation)
    _, square, slope_square, *_ = averages.single(1.0)
    if weight_variance * square + bias_variance <= 0:
        raise ValueError(f"expected a signal to normalize, got {averages.name}, which is 0 on N(0, 1)")
    return weight_variance * slope_square / (weight_variance * square + bias_variance)


def _finite_batch_rate(record: activations.Activation, b: int) -> float:
    """B E[tr(P D G D)] / ((B - 3) E |G phi(h)|^2); by symmetry of one and two entries of h alone."""
    if b < 4:
        raise ValueError(f"expected a batch of at least 4, got {b}. For fewer, the mean of 1 / |z|^2 is not finite")
    first, second, weights = _pairs_on_sphere(b, record.kinks)
    phi, slope = _evaluate(record, first)
    other, other_slope = _evaluate(record, second)

    def mean(values: Float[np.ndarray, "outer inner"]) -> float:
        return float((weights * values).sum())

    spread = (b - 1) * (mean(phi**2) - mean(phi * other))
    if spread <= 1e-12 * b * mean(phi**2):
        raise ValueError(f"expected an activation that varies, got {record.name}, constant over the sphere")
    own, along = mean(slope**2), mean(first**2 * slope**2)
    diagonal = (b - 1) * own - along
    quadratic = (b - 1) * (own - mean(slope * other_slope) - mean(first * slope * second * other_slope)) - along
    return b * (diagonal - quadratic / b) / ((b - 3) * spread)


def _pairs_on_sphere(
    b: int, kinks: tuple[float, ...]
) -> tuple[Float[np.ndarray, "outer inner"], Float[np.ndarray, "outer inner"], Float[np.ndarray, "outer inner"]]:
    """Two entries of h and the weights of a quadrature over them.

    h_1 = r sin(a), h_2 = r (rho sin(a) + sqrt(1 - rho^2) cos(a) sin(c)), r^2 = B - 1, rho = -1 / (B - 1), with density
    cos(a)^(B-3) cos(c)^(B-4); panels break where h_1 or h_2 passes a kink.
    """
    radius, rho = math.sqrt(b - 1), -1 / (b - 1)
    marks = np.asarray(kinks, np.float64) / radius
    outer, outer_weights = _panels(np.arcsin(np.clip(marks, -1, 1))[None], b - 3)
    sine, cosine = np.sin(outer[0]), np.cos(outer[0])
    across = math.sqrt(1 - rho**2) * np.maximum(cosine, 1e-300)
    breaks = np.arcsin(np.clip((marks[None] - rho * sine[:, None]) / across[:, None], -1, 1))
    inner, inner_weights = _panels(breaks, b - 4)
    first = np.broadcast_to((radius * sine)[:, None], inner.shape)
    second = radius * (rho * sine[:, None] + across[:, None] * np.sin(inner))
    return first, second, outer_weights[0][:, None] * inner_weights


def _panels(
    breaks: Float[np.ndarray, "rows marks"], power: int
) -> tuple[Float[np.ndarray, "rows nodes"], Float[np.ndarray, "rows nodes"]]:
    """Nodes and weights for density cos^power on each row's own panels."""
    reach = min(math.pi / 2, _REACH / math.sqrt(max(power, 1)))
    fixed = np.broadcast_to(np.linspace(-reach, reach, _PANELS + 1), (len(breaks), _PANELS + 1))
    edges = np.sort(np.concatenate([fixed, np.clip(breaks, -reach, reach)], axis=1), axis=1)
    centres, halves = (edges[:, 1:] + edges[:, :-1]) / 2, (edges[:, 1:] - edges[:, :-1]) / 2
    nodes = (centres[..., None] + halves[..., None] * _NODES).reshape(len(breaks), -1)
    weights = (halves[..., None] * _WEIGHTS).reshape(len(breaks), -1) * np.cos(nodes) ** power
    return nodes, weights / weights.sum(1, keepdims=True)


def _evaluate(
    record: activations.Activation, at: Float[np.ndarray, "outer inner"]
) -> tuple[Float[np.ndarray, "outer inner"], Float[np.ndarray, "outer inner"]]:
    """Give phi and phi' in double precision."""
    with (
        jax.ensure_compile_time_eval(),
        jax.enable_x64(True),
        jax.numpy_dtype_promotion("standard"),
        jax.debug_nans(False),  # the error below says more
    ):
        z = jnp.asarray(at, jnp.float64)
        value, slope = np.asarray(record(z)), np.asarray(record.derivative(z))
    if not (np.isfinite(value).all() and np.isfinite(slope).all()):
        raise ArithmeticError(
            f"{record.name} or its derivative is not finite within {_REACH:g} standard deviations. Likely cause: an "
            "activation that overflows or is not defined everywhere. Fix: one that is finite there"
        )
    return value, slope
