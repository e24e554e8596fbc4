"""Correlation between the gradients of two inputs: how fast they turn into white noise with depth.

Balduzzi et al. 2017, "The Shattered Gradients Problem: If resnets are the answer, then what is the question?"
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from gradflow.theory.mean_field.moments import LARGEST, SMALLEST, Numbers, Phi, activation_moments, in_range

__all__ = ["gradient_correlation"]


def gradient_correlation(
    activation: Phi,
    correlations: Numbers,
    variances: Numbers = 1.0,
    *,
    weight_variance: Numbers = 1.0,
    branch_scale: float | None = None,
) -> Float[np.ndarray, " depth"]:
    """Correlation of dL/dx_0 for two inputs, given those of their pre-activations, after 1, 2, ... L layers.

    One layer passes the products of the gradients of two inputs on with sigma_w^2 E[phi'(z) phi'(z')] instead of
    sigma_w^2 E[phi'(z)^2], so that

        plain:     prod_l E[phi'(z_l) phi'(z'_l)] / E[phi'(z_l)^2]
        residual:  prod_l (1 + a^2 sigma_w^2 E[phi'(z_l) phi'(z'_l)]) / (1 + a^2 sigma_w^2 E[phi'(z_l)^2])

    For ReLU the plain factor is 1 - arccos(c_l) / pi. Correlations c_l = 0 (independent masks) at weight variance 2
    give Balduzzi's (1/2)^L for plain and (3/4)^L for residual networks; with weight variances 2 / l, what batch
    normalization makes of a stream whose variance grows by 1 a block, L^(-1/2) up to a constant.

    Args:
        activation: name, record or function.
        correlations: c_l of the pre-activations, l = 1..L.
        variances: q_l, the same for both inputs; one for all layers, or L of them.
        weight_variance: sigma_w^2, one or L; only their ratio to the skip connection matters.
        branch_scale: a of x_l = x_(l-1) + a phi(z_l); None for a plain network.

    Returns:
        Correlations; the last is that of the gradients with respect to the network's input.

    Raises:
        ValueError: for values out of range, or an activation that is flat.

    Examples:
        >>> gradient_correlation("relu", [0.0, 0.0, 0.0]).round(6).tolist()
        [0.5, 0.25, 0.125]
        >>> gradient_correlation("relu", [0.0, 0.0], weight_variance=2.0, branch_scale=1.0).round(6).tolist()
        [0.75, 0.5625]
    """
    c = np.atleast_1d(in_range("correlations", correlations, -1.0, 1.0))
    q = np.broadcast_to(in_range("variances", variances, 0.0, LARGEST), c.shape)
    sigma = np.broadcast_to(in_range("weight variances", weight_variance, 0.0, LARGEST), c.shape)
    moments = activation_moments(activation)
    factors = []
    for c_l, q_l, sigma_l in zip(c.tolist(), q.tolist(), sigma.tolist(), strict=True):
        own, both = moments.slope_square(q_l), moments.slope_pair(c_l, max(q_l, SMALLEST))
        if own <= 0:
            raise ValueError(f"expected an activation with a slope, got {moments.name}, flat on N(0, {q_l:g})")
        if branch_scale is None:
            factors.append(both / own)
        else:
            gain = branch_scale**2 * sigma_l
            factors.append((1 + gain * both) / (1 + gain * own))
    return np.cumprod(factors)
