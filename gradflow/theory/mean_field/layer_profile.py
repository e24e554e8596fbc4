"""Signal, correlation and gradient of a plain network layer by layer, from its input's own statistics, with dropout.

Poole et al. 2016; Schoenholz et al. 2017, "Deep Information Propagation", for the backward signal and dropout.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Float

from gradflow.theory.mean_field.maps import FixedPoint, fixed_point
from gradflow.theory.mean_field.moments import LARGEST, SMALLEST, ActivationMoments, Phi, activation_moments, in_range

__all__ = ["NetworkProfile", "dropout_fixed_point", "lower_correlation", "network_profile"]


@dataclasses.dataclass(frozen=True)
class NetworkProfile:
    """What mean-field theory says of every layer's pre-activations z_l, l = 1..L.

    Attributes:
        variances: q_l, mean square of z_l.
        correlations: c_l, correlation of z_l between two inputs.
        backward_rates: factor of the mean square gradient from z_(l+1) back to z_l, l = 1..L-1, for equal widths.
        shared_rates: the same for the product of the gradients of the two inputs.
    """

    variances: Float[np.ndarray, " depth"]
    correlations: Float[np.ndarray, " depth"]
    backward_rates: Float[np.ndarray, " depth-1"]
    shared_rates: Float[np.ndarray, " depth-1"]

    @property
    def forward_rms(self) -> Float[np.ndarray, " depth"]:
        """Rms of z_l."""
        return np.sqrt(self.variances)

    @property
    def backward_rms(self) -> Float[np.ndarray, " depth"]:
        """Rms of dL/dz_l over that of dL/dz_L."""
        above = np.concatenate([np.log(np.maximum(self.backward_rates, 1e-300)), [0.0]])
        return np.exp(np.cumsum(above[::-1])[::-1] / 2)

    @property
    def gradient_correlations(self) -> Float[np.ndarray, " depth"]:
        """Correlation between the two inputs' dL/dz_l, 1 at the last layer.

        Raises:
            ArithmeticError: where no gradient is left.
        """
        if not (self.backward_rates > 0).all():
            raise ArithmeticError(
                f"no gradient passes layer {int(np.argmin(self.backward_rates)) + 1}, so that it has no correlation. "
                "Likely cause: an activation that is flat where its inputs lie. Fix: another activation or variance"
            )
        ratio = np.append(self.shared_rates / self.backward_rates, 1.0)
        return np.cumprod(ratio[::-1])[::-1]


def network_profile(
    activation: Phi,
    depth: int,
    q0: float,
    *,
    weight_variance: float,
    bias_variance: float,
    correlation: float = 0.0,
    keep: float = 1.0,
) -> NetworkProfile:
    """Predict z_l = W_l (m_l / rho) phi(z_(l-1)) + b_l, z_1 = W_1 x + b_1, masks m_l ~ Bernoulli(rho).

        q_1 = sigma_w^2 q_0 + sigma_b^2,      q_1 c_1 = sigma_w^2 q_0 c_0 + sigma_b^2
        q_l = sigma_w^2 E[phi^2] / rho + sigma_b^2,    q_l c_l = sigma_w^2 E[phi(z) phi(z')] + sigma_b^2
        G_l = G_(l+1) sigma_w^2 E[phi'^2] / rho,  G_l the mean square of dL/dz_l

    Dropout puts 1 / rho before second moments of one input, not before products of two, whose masks are independent:
    equal inputs drift apart (Schoenholz et al. 2017, section on dropout). The input itself is not dropped.

    Args:
        activation: name, record or function.
        depth: number of layers L.
        q0: mean square of the input, over entries and examples.
        weight_variance: sigma_w^2.
        bias_variance: sigma_b^2.
        correlation: c_0, of two inputs: E[x x'] / q0.
        keep: rho, the probability that dropout keeps a unit.

    Returns:
        The profile.

    Raises:
        ValueError: for a depth below 1, or values out of range.
        ArithmeticError: where the signal dies or explodes, with the layer.

    Examples:
        >>> profile = network_profile("relu", 3, 1.0, weight_variance=2.0, bias_variance=0.0)
        >>> profile.backward_rms.round(6).tolist(), profile.correlations.round(3).tolist()
        ([1.0, 1.0, 1.0], [0.0, 0.318, 0.494])
    """
    in_range("a weight variance", weight_variance, 0.0, LARGEST)
    in_range("a bias variance", bias_variance, 0.0, LARGEST)
    in_range("a second moment q0", q0, 0.0, LARGEST)
    in_range("a correlation", correlation, -1.0, 1.0)
    in_range("a keep probability above 0", keep, 1e-12, 1.0)
    if depth < 1:
        raise ValueError(f"expected a depth of at least 1, got {depth}")
    moments = activation_moments(activation)
    q = weight_variance * q0 + bias_variance
    product = weight_variance * q0 * correlation + bias_variance
    signal: list[tuple[float, float]] = []
    rates: list[tuple[float, float]] = []
    for layer in range(1, depth + 1):
        if not SMALLEST < q <= LARGEST:
            raise ArithmeticError(
                f"the variance is {q:g} at layer {layer}: the signal {'dies' if q < 1 else 'explodes'}. Fix: a weight "
                f"variance nearer critical (`critical_weight_variance`), or fewer than {layer} layers"
            )
        c = min(max(product / q, -1.0), 1.0)
        signal.append((q, c))
        own, shared = moments.slope_square(q), moments.slope_pair(c, q)
        rates.append((weight_variance * own / keep, weight_variance * shared))
        product = weight_variance * moments.pair(c, q) + bias_variance
        q = weight_variance * moments.square(q) / keep + bias_variance
    forward, backward = np.array(signal), np.array(rates)[:-1].reshape(-1, 2)
    return NetworkProfile(forward[:, 0], forward[:, 1], backward[:, 0], backward[:, 1])


def dropout_fixed_point(activation: Phi, *, weight_variance: float, bias_variance: float, keep: float) -> FixedPoint:
    """Fixed point with dropout: equal inputs become unlike, c* < 1, and no critical point is left.

    q* is that of weight variance sigma_w^2 / rho; then C(c) = (sigma_w^2 E[phi phi'] + sigma_b^2) / q*, with
    C(1) = 1 - sigma_w^2 E[phi^2] (1 - rho) / (rho q*) below 1, so that c* < 1 and C'(c*) < 1: xi_c is finite whatever
    the variances. Schoenholz et al. 2017.

    Args:
        activation: name, record or function.
        weight_variance: sigma_w^2.
        bias_variance: sigma_b^2.
        keep: rho, the probability that a unit is kept; 1 gives `fixed_point`.

    Returns:
        The fixed point; chi_1 is the factor of the squared gradient, sigma_w^2 E[phi'^2] / rho.

    Raises:
        ValueError: for values out of range.
        ArithmeticError: where the signal dies or explodes, so that no correlation is left to speak of.

    Examples:
        >>> point = dropout_fixed_point("tanh", weight_variance=1.761, bias_variance=0.05, keep=0.9)
        >>> round(point.c_star, 3), round(6 * point.xi_c)
        (0.356, 28)
    """
    in_range("a keep probability above 0", keep, 1e-12, 1.0)
    plain = fixed_point(activation, weight_variance=weight_variance / keep, bias_variance=bias_variance)
    if keep == 1:
        return plain
    q = plain.q_star
    if not SMALLEST < q < LARGEST:
        raise ArithmeticError(
            f"the signal {'dies' if q < 1 else 'explodes'} at weight variance {weight_variance:g} with dropout, which "
            f"acts as {weight_variance / keep:g}. Fix: a weight variance nearer {keep:g} times the critical one"
        )
    c, slope = lower_correlation(activation_moments(activation), q, weight_variance, bias_variance)
    xi_c = -1 / math.log(slope) if 0 < slope < 1 else 0.0 if slope <= 0 else math.inf
    return dataclasses.replace(plain, c_star=c, slope_at_c_star=slope, xi_c=xi_c)


def lower_correlation(
    moments: ActivationMoments, q: float, weight_variance: float, shared: float
) -> tuple[float, float]:
    """The smaller fixed point of C(c) = (sigma_w^2 E[phi phi'] + shared) / q, and the slope there.

    C is a power series in c; where its part of negative c is of no account (shared >= 0) Newton's method climbs to the
    fixed point from 0, because C is convex there.

    Args:
        moments: of the activation.
        q: variance of both pre-activations.
        weight_variance: sigma_w^2.
        shared: covariance that two inputs have besides.
    """
    c = 0.0
    for _ in range(100):
        slope = weight_variance * moments.slope_pair(c, q)
        gap = (weight_variance * moments.pair(c, q) + shared) / q - c
        updated = min(max(c + gap / max(1 - slope, 1e-12), -1.0), 1.0)
        if abs(updated - c) < 1e-13:
            break
        c = updated
    return c, weight_variance * moments.slope_pair(c, q)
