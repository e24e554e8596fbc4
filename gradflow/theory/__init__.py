"""What theory predicts before training: how signal and gradient travel through a network at initialization.

Examples:
    >>> point = fixed_point("tanh", weight_variance=1.0, bias_variance=0.05)
    >>> point.phase, round(point.chi_1, 3)
    ('ordered', 0.759)
"""

from gradflow.theory.gaussian import Moments, expectation, moments, pair_expectation
from gradflow.theory.residual import ResidualProfile, residual_profile
from gradflow.theory.signal_propagation import (
    FixedPoint,
    backward_rates,
    batchnorm_rate,
    correlation_map,
    critical_weight_variance,
    fixed_point,
    variance_map,
    variance_profile,
)

__all__ = [
    "FixedPoint",
    "Moments",
    "ResidualProfile",
    "backward_rates",
    "batchnorm_rate",
    "correlation_map",
    "critical_weight_variance",
    "expectation",
    "fixed_point",
    "moments",
    "pair_expectation",
    "residual_profile",
    "variance_map",
    "variance_profile",
]
