"""Mean-field theory of a residual network x_l = x_(l-1) + a phi(W_l x_(l-1) + b_l) at initialization.

Yang & Schoenholz 2017, "Mean Field Residual Networks: On the Edge of Chaos", with a branch scale a.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Float

from gradflow.theory.mean_field.moments import LARGEST, Phi, activation_moments, in_range

__all__ = ["ResidualProfile", "residual_profile"]


@dataclasses.dataclass(frozen=True)
class ResidualProfile:
    """Signal and gradient of a residual network, block by block.

    Attributes:
        variances: q_l of the branch's pre-activations, blocks 1..L.
        means: mean of the stream x_l over units and random weights, after blocks 1..L.
        second_moments: mean square of the stream x_l, after blocks 1..L.
        backward_rates: factor of the mean square gradient from x_l back to x_(l-1), 1 + a^2 sigma_w^2 E[phi'(z_l)^2].
    """

    variances: Float[np.ndarray, " depth"]
    means: Float[np.ndarray, " depth"]
    second_moments: Float[np.ndarray, " depth"]
    backward_rates: Float[np.ndarray, " depth"]

    @property
    def gradient_ratio(self) -> float:
        """Rms of dL/dx_0 over that of dL/dx_L: the square root of the product of the backward rates, never below 1."""
        return math.exp(float(np.log(self.backward_rates).sum()) / 2)


def residual_profile(
    activation: Phi,
    depth: int,
    q0: float,
    *,
    weight_variance: float,
    bias_variance: float,
    mean: float = 0.0,
    branch_scale: float = 1.0,
) -> ResidualProfile:
    """Predict signal and gradient of x_l = x_(l-1) + a phi(z_l), z_l = W_l x_(l-1) + b_l, l = 1..depth.

    With m and p the mean and mean square of the stream, z_l ~ N(0, q_l):

        q_l = sigma_w^2 p_(l-1) + sigma_b^2
        m_l = m_(l-1) + a E[phi(z_l)]
        p_l = p_(l-1) + 2 a m_(l-1) E[phi(z_l)] + a^2 E[phi(z_l)^2]
        G_(l-1) = G_l (1 + a^2 sigma_w^2 E[phi'(z_l)^2]), G_l the mean square of dL/dx_l

    A branch of mean 0 (tanh) adds a bounded amount a block, one of another mean (sigmoid) makes p grow like l^2; both
    let q_l grow and the backward rate fall to 1, so that the gradient grows less than exponentially. ReLU's grows
    exponentially.

    Args:
        activation: name, record or function.
        depth: number of blocks L.
        q0: mean square of the stream that enters, x_0.
        weight_variance: sigma_w^2, W ~ N(0, sigma_w^2 / fan_in).
        bias_variance: sigma_b^2.
        mean: mean over units of x_0; at most sqrt(q0) in size.
        branch_scale: a.

    Returns:
        The profile.

    Raises:
        ValueError: for a depth below 1, a negative variance, or a mean that q0 does not allow.
        ArithmeticError: where the stream's mean square passes 1e16.

    Examples:
        >>> profile = residual_profile("identity", 3, 1.0, weight_variance=1.0, bias_variance=0.0)
        >>> profile.second_moments.round(6).tolist(), round(profile.gradient_ratio**2, 6)
        ([2.0, 4.0, 8.0], 8.0)
    """
    in_range("a weight variance", weight_variance, 0.0, LARGEST)
    in_range("a bias variance", bias_variance, 0.0, LARGEST)
    in_range("a second moment q0", q0, 0.0, LARGEST)
    in_range("a mean within the root of q0", mean, -math.sqrt(q0), math.sqrt(q0))
    if depth < 1:
        raise ValueError(f"expected a depth of at least 1, got {depth}")
    moments = activation_moments(activation)
    power, blocks = q0, []
    for block in range(1, depth + 1):
        variance = weight_variance * power + bias_variance
        if variance > LARGEST:
            raise ArithmeticError(
                f"the variance passes {LARGEST:g} at block {block}: the stream explodes. Likely cause: an unbounded "
                "activation, whose branch multiplies the stream. Fix: a branch_scale near 1 / sqrt(depth), or fewer "
                "blocks"
            )
        average = branch_scale * moments.mean(variance)
        power += 2 * mean * average + branch_scale**2 * moments.square(variance)
        mean += average
        rate = 1 + branch_scale**2 * weight_variance * moments.slope_square(variance)
        blocks.append((variance, mean, power, rate))
    return ResidualProfile(*np.array(blocks).T)
