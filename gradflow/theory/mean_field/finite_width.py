"""What a finite width does to signal and gradient: how far one network, drawn once, strays from the mean-field profile.

Over random weights, ln of the squared length of a signal, a perturbation or a gradient performs a random walk over the
layers with steps of variance of order 1/width (Hanin & Nica 2018, "Products of Many Large Random Matrices and Gradients
in Deep Neural Networks"; Hanin 2018, "Which Neural Net Architectures Give Rise to Exploding and Vanishing Gradients?").
Orthogonal weights take away what the weights themselves add to the steps; what the activation adds remains.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from gradflow.theory.mean_field.ensembles import Ensemble, spectrum_variance
from gradflow.theory.mean_field.moments import LARGEST, SMALLEST, Phi, in_range
from gradflow.theory.mean_field.nodes import nodes

__all__ = ["WidthProfile", "width_profile"]


@dataclasses.dataclass(frozen=True)
class WidthProfile:
    """Laws of ln |x_l|^2 and of ln |J_l u|^2 over random weights, to first order in 1/width.

    Attributes:
        variances: q_l of the pre-activations at infinite width, layers 1..L.
        signal_variance: variance of ln of the mean square of layer l's pre-activations, layers 1..L.
        jacobian_mean: mean of ln (|J_l u|^2 / |u|^2), J_l = D_l W_l ... D_1 W_1, u a fixed direction, layers 1..L.
        jacobian_variance: its variance.
    """

    variances: Float[np.ndarray, " depth"]
    signal_variance: Float[np.ndarray, " depth"]
    jacobian_mean: Float[np.ndarray, " depth"]
    jacobian_variance: Float[np.ndarray, " depth"]


def width_profile(
    activation: Phi,
    widths: Sequence[int],
    q0: float,
    *,
    weight_variance: float,
    bias_variance: float,
    ensemble: Ensemble = "gaussian",
) -> WidthProfile:
    """Fluctuations of z_l = W_l phi(z_(l-1)) + b_l and of its Jacobian over random weights.

    Over the n_l units of layer l, A = mean phi(z)^2 and B = mean phi'(z)^2 g^2, g ~ N(0, 1), vary around E[phi^2] and
    mu_1 = E[phi'^2] with covariances of order 1/n_l. ln |J_l u|^2 adds ln(sigma_w^2 n_l B / n_(l-1)), whose own part
    has, for W of Gaussian entries,

        variance (3 mu_2 / mu_1^2 - 1) / n_l,  mean ln(sigma_w^2 mu_1 n_l / n_(l-1)) - variance / 2,

    mu_2 = E[phi'^4]; and q_(l+1) moves by sigma_w^2 (A - E[phi^2]), which all layers above inherit through the slopes
    of the variance map and of mu_1. For ReLU the latter is 0 and the variance is 5 sum(1/n_l), whatever sigma_w^2
    (Hanin & Nica 2018: with fan-in scaling); for linear networks 2 sum(1/n_l).

    Orthogonal W keeps the lengths of z - b and of g, so that only the residuals of A and B after regression on them
    are left, of variance

        Var[phi^2] - 2 (q dE[phi^2]/dq)^2  and  (3 mu_2 - 3 mu_1^2 - 2 (q dmu_1/dq)^2) / mu_1^2  over n,

    and q_l moves by the bias, with variance (4 q_l sigma_b^2 - 2 sigma_b^4) / n. ReLU: 3 L / n; linear: 0.

    Exact in law as n_l -> infinity at fixed L / n for the ReLU family without bias; for others the mean leaves out a
    part of order 1/n from the curvature of mu_1(q). Terms of order 1/n^2 are left out everywhere. The same law holds
    for gradients, |J_l^T v|^2, with widths read backwards.

    Args:
        activation: name, record or function.
        widths: n_1..n_L of the hidden layers; the input is taken as wide as n_1 (fan_in n_0 = n_1).
        q0: mean square of the network's input.
        weight_variance: sigma_w^2.
        bias_variance: sigma_b^2.
        ensemble: of the weights, "gaussian" or "orthogonal", the latter for equal widths.

    Returns:
        The profile.

    Raises:
        ValueError: for no layers, widths below 1, orthogonal weights of unequal widths, negative variances, or a
            signal that is 0.
        ArithmeticError: where the variance passes 1e16, or averages overflow.

    Examples:
        >>> law = width_profile("relu", [100] * 10, 1.0, weight_variance=2.0, bias_variance=0.0)
        >>> round(float(law.jacobian_variance[-1]), 6), round(float(law.jacobian_mean[-1]), 6)  # 5 L / n, half of it
        (0.5, -0.25)
    """
    in_range("a weight variance", weight_variance, 0.0, LARGEST)
    in_range("a bias variance", bias_variance, 0.0, LARGEST)
    in_range("a second moment q0", q0, 0.0, LARGEST)
    _check_widths(widths, ensemble)
    q = weight_variance * q0 + bias_variance
    mean, below, rows = 0.0, widths[0], []
    # Covariance of (q_l - E, ln |J_(l-1) u|^2 - E), carried from layer to layer.
    covariance = np.zeros((2, 2))
    for number, width in enumerate(widths, 1):
        if not SMALLEST < q <= LARGEST:
            raise ArithmeticError(
                f"the variance is {q:g} at layer {number}: the signal {'dies' if q < 1 else 'explodes'}. Fix: a weight "
                "variance nearer critical (`critical_weight_variance`), or fewer layers"
            )
        step = _step(activation, q, weight_variance, ensemble)
        # Gaussian weights draw the units anew around q_l; with orthogonal ones q_l is their mean square itself.
        drawn = 2 * q**2 if ensemble == "gaussian" else (4 * q - 2 * bias_variance) * bias_variance
        signal = covariance[0, 0] + drawn / width
        if ensemble == "orthogonal":
            covariance[0, 0] = signal
        covariance = step.transition @ covariance @ step.transition.T + step.noise / width
        mean += np.log(weight_variance * step.mu_1 * width / below) - step.noise[1, 1] / (2 * width)
        rows.append((q, signal / q**2, mean, covariance[1, 1]))
        q, below = weight_variance * step.square + bias_variance, width
    return WidthProfile(*np.array(rows).T)


def _check_widths(widths: Sequence[int], ensemble: str) -> None:
    spectrum_variance(ensemble)
    if len(widths) < 1 or min(widths) < 1:
        raise ValueError(f"expected the widths of one or more layers, each at least 1, got {list(widths)}")
    if ensemble == "orthogonal" and min(widths) != max(widths):
        raise ValueError(
            f"expected equal widths for orthogonal weights, got {min(widths)} to {max(widths)}. "
            "Orthogonal weights between unequal widths do not keep lengths. Fix: equal widths, or ensemble='gaussian'"
        )


@dataclasses.dataclass(frozen=True)
class _Step:
    """What one layer does to the covariance of (q, ln |J u|^2), and the noise it adds, times its width."""

    square: float
    mu_1: float
    transition: Float[np.ndarray, "2 2"]
    noise: Float[np.ndarray, "2 2"]


@functools.lru_cache(maxsize=256)
def _step(activation: Phi, q: float, weight_variance: float, ensemble: Ensemble) -> _Step:
    at = nodes(activation, q)
    power, slope = at.value**2, at.slope**2
    a, mu_1, mu_2 = at.mean(power), at.mean(slope), at.mean(slope**2)
    if mu_1 <= 0:
        raise ValueError(
            f"expected an activation with a slope on N(0, {q:g}), got one that is flat there, so that J is 0"
        )
    # d E[f] / dq = E[f (x^2 - 1)] / 2q for x standard: no derivative of f, which may have kinks.
    leaning = (at.standard**2 - 1) / (2 * q)
    derivative = np.array([at.mean(power * leaning), at.mean(slope * leaning)])
    noise = np.array(
        [
            [at.mean(power**2) - a**2, at.mean(power * slope) - a * mu_1],
            [at.mean(power * slope) - a * mu_1, 3 * mu_2 - mu_1**2],
        ]
    )
    if ensemble == "orthogonal":
        noise -= 2 * q**2 * np.outer(derivative, derivative) + np.diag([0.0, 2 * mu_1**2])
    scale = np.array([weight_variance, 1 / mu_1])
    transition = np.array([[scale[0] * derivative[0], 0.0], [scale[1] * derivative[1], 1.0]])
    return _Step(a, mu_1, transition, np.outer(scale, scale) * noise)
