"""What theory predicts before training: how signal and gradient travel through a network at initialization.

Examples:
    >>> from gradflow.theory import fixed_point
    >>> point = fixed_point("tanh", weight_variance=1.0, bias_variance=0.05)
    >>> point.phase, round(point.chi_1, 3)
    ('ordered', 0.759)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradflow._lazy import attach

if TYPE_CHECKING:  # the same names for type checkers; a test holds both lists equal
    from gradflow.activations import moments as moments
    from gradflow.gaussian import Moments as Moments
    from gradflow.gaussian import expectation as expectation
    from gradflow.gaussian import pair_expectation as pair_expectation
    from gradflow.theory.mean_field.criticality import critical_weight_variance as critical_weight_variance
    from gradflow.theory.mean_field.depth import Variances as Variances
    from gradflow.theory.mean_field.depth import best_variances as best_variances
    from gradflow.theory.mean_field.depth import trainable_depth as trainable_depth
    from gradflow.theory.mean_field.finite_width import WidthProfile as WidthProfile
    from gradflow.theory.mean_field.finite_width import width_profile as width_profile
    from gradflow.theory.mean_field.layer_profile import NetworkProfile as NetworkProfile
    from gradflow.theory.mean_field.layer_profile import dropout_fixed_point as dropout_fixed_point
    from gradflow.theory.mean_field.layer_profile import network_profile as network_profile
    from gradflow.theory.mean_field.maps import FixedPoint as FixedPoint
    from gradflow.theory.mean_field.maps import backward_rates as backward_rates
    from gradflow.theory.mean_field.maps import correlation_map as correlation_map
    from gradflow.theory.mean_field.maps import fixed_point as fixed_point
    from gradflow.theory.mean_field.maps import variance_map as variance_map
    from gradflow.theory.mean_field.maps import variance_profile as variance_profile
    from gradflow.theory.mean_field.normalization import batchnorm_rate as batchnorm_rate
    from gradflow.theory.mean_field.normalization import layernorm_rate as layernorm_rate
    from gradflow.theory.mean_field.recurrent import GatedFixedPoint as GatedFixedPoint
    from gradflow.theory.mean_field.recurrent import gru_fixed_point as gru_fixed_point
    from gradflow.theory.mean_field.recurrent import lstm_fixed_point as lstm_fixed_point
    from gradflow.theory.mean_field.recurrent import minimal_rnn_fixed_point as minimal_rnn_fixed_point
    from gradflow.theory.mean_field.recurrent import recurrent_fixed_point as recurrent_fixed_point
    from gradflow.theory.mean_field.residual import ResidualProfile as ResidualProfile
    from gradflow.theory.mean_field.residual import residual_profile as residual_profile
    from gradflow.theory.mean_field.shattering import gradient_correlation as gradient_correlation
    from gradflow.theory.mean_field.tailored import kernel_shaped as kernel_shaped
    from gradflow.theory.mean_field.tailored import tailored as tailored
    from gradflow.theory.spectra.empirical import MomentEstimate as MomentEstimate
    from gradflow.theory.spectra.empirical import extreme_singular_values as extreme_singular_values
    from gradflow.theory.spectra.empirical import singular_value_moments as singular_value_moments
    from gradflow.theory.spectra.empirical import singular_values as singular_values
    from gradflow.theory.spectra.free_probability import SpectrumMoments as SpectrumMoments
    from gradflow.theory.spectra.free_probability import largest_singular_value as largest_singular_value
    from gradflow.theory.spectra.free_probability import spectrum_density as spectrum_density
    from gradflow.theory.spectra.free_probability import spectrum_moments as spectrum_moments
    from gradflow.theory.spectra.free_probability import zero_fraction as zero_fraction
    from gradflow.theory.tracing.layer_prediction import LayerPrediction as LayerPrediction
    from gradflow.theory.tracing.predict import Prediction as Prediction
    from gradflow.theory.tracing.predict import predict as predict

# Every public name and the submodule that defines it.
_HOMES = {
    "FixedPoint": "gradflow.theory.mean_field.maps",
    "GatedFixedPoint": "gradflow.theory.mean_field.recurrent",
    "LayerPrediction": "gradflow.theory.tracing.layer_prediction",
    "MomentEstimate": "gradflow.theory.spectra.empirical",
    "Moments": "gradflow.gaussian",
    "NetworkProfile": "gradflow.theory.mean_field.layer_profile",
    "Prediction": "gradflow.theory.tracing.predict",
    "ResidualProfile": "gradflow.theory.mean_field.residual",
    "SpectrumMoments": "gradflow.theory.spectra.free_probability",
    "Variances": "gradflow.theory.mean_field.depth",
    "WidthProfile": "gradflow.theory.mean_field.finite_width",
    "backward_rates": "gradflow.theory.mean_field.maps",
    "batchnorm_rate": "gradflow.theory.mean_field.normalization",
    "best_variances": "gradflow.theory.mean_field.depth",
    "correlation_map": "gradflow.theory.mean_field.maps",
    "critical_weight_variance": "gradflow.theory.mean_field.criticality",
    "dropout_fixed_point": "gradflow.theory.mean_field.layer_profile",
    "expectation": "gradflow.gaussian",
    "extreme_singular_values": "gradflow.theory.spectra.empirical",
    "fixed_point": "gradflow.theory.mean_field.maps",
    "gradient_correlation": "gradflow.theory.mean_field.shattering",
    "gru_fixed_point": "gradflow.theory.mean_field.recurrent",
    "kernel_shaped": "gradflow.theory.mean_field.tailored",
    "largest_singular_value": "gradflow.theory.spectra.free_probability",
    "layernorm_rate": "gradflow.theory.mean_field.normalization",
    "lstm_fixed_point": "gradflow.theory.mean_field.recurrent",
    "minimal_rnn_fixed_point": "gradflow.theory.mean_field.recurrent",
    "moments": "gradflow.activations",
    "network_profile": "gradflow.theory.mean_field.layer_profile",
    "pair_expectation": "gradflow.gaussian",
    "predict": "gradflow.theory.tracing.predict",
    "recurrent_fixed_point": "gradflow.theory.mean_field.recurrent",
    "residual_profile": "gradflow.theory.mean_field.residual",
    "singular_value_moments": "gradflow.theory.spectra.empirical",
    "singular_values": "gradflow.theory.spectra.empirical",
    "spectrum_density": "gradflow.theory.spectra.free_probability",
    "spectrum_moments": "gradflow.theory.spectra.free_probability",
    "tailored": "gradflow.theory.mean_field.tailored",
    "trainable_depth": "gradflow.theory.mean_field.depth",
    "variance_map": "gradflow.theory.mean_field.maps",
    "variance_profile": "gradflow.theory.mean_field.maps",
    "width_profile": "gradflow.theory.mean_field.finite_width",
    "zero_fraction": "gradflow.theory.spectra.free_probability",
}

__all__ = list(_HOMES)
__getattr__, __dir__ = attach(__name__, _HOMES)
