"""What theory predicts before training: how signal and gradient travel through a network at initialization.

Examples:
    >>> point = fixed_point("tanh", weight_variance=1.0, bias_variance=0.05)
    >>> point.phase, round(point.chi_1, 3)
    ('ordered', 0.759)
"""

from gradflow.theory.depth import Variances, best_variances, trainable_depth
from gradflow.theory.finite_width import WidthProfile, width_profile
from gradflow.theory.free_probability import (
    SpectrumMoments,
    largest_singular_value,
    spectrum_density,
    spectrum_moments,
    zero_fraction,
)
from gradflow.theory.gaussian import Moments, expectation, moments, pair_expectation
from gradflow.theory.normalization import batchnorm_rate, layernorm_rate
from gradflow.theory.predict import LayerPrediction, Prediction, predict
from gradflow.theory.profile import NetworkProfile, dropout_fixed_point, network_profile
from gradflow.theory.recurrent import (
    GatedFixedPoint,
    gru_fixed_point,
    lstm_fixed_point,
    minimal_rnn_fixed_point,
    recurrent_fixed_point,
)
from gradflow.theory.residual import ResidualProfile, residual_profile
from gradflow.theory.shattering import gradient_correlation
from gradflow.theory.signal_propagation import (
    FixedPoint,
    backward_rates,
    correlation_map,
    critical_weight_variance,
    fixed_point,
    variance_map,
    variance_profile,
)
from gradflow.theory.spectrum import (
    MomentEstimate,
    extreme_singular_values,
    singular_value_moments,
    singular_values,
)
from gradflow.theory.tailored import kernel_shaped, tailored

__all__ = [
    "FixedPoint",
    "GatedFixedPoint",
    "LayerPrediction",
    "MomentEstimate",
    "Moments",
    "NetworkProfile",
    "Prediction",
    "ResidualProfile",
    "SpectrumMoments",
    "Variances",
    "WidthProfile",
    "backward_rates",
    "batchnorm_rate",
    "best_variances",
    "correlation_map",
    "critical_weight_variance",
    "dropout_fixed_point",
    "expectation",
    "extreme_singular_values",
    "fixed_point",
    "gradient_correlation",
    "gru_fixed_point",
    "kernel_shaped",
    "largest_singular_value",
    "layernorm_rate",
    "lstm_fixed_point",
    "minimal_rnn_fixed_point",
    "moments",
    "network_profile",
    "pair_expectation",
    "predict",
    "recurrent_fixed_point",
    "residual_profile",
    "singular_value_moments",
    "singular_values",
    "spectrum_density",
    "spectrum_moments",
    "tailored",
    "trainable_depth",
    "variance_map",
    "variance_profile",
    "width_profile",
    "zero_fraction",
]
