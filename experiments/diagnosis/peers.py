"""Rules of other tools, from their published thresholds, on what the flow of a network shows.

Their tools read tensors; the flow has sums over them. Where a rule asks for a mean of absolute values, the root mean
square times sqrt(2/pi) stands for it, which is exact for Gaussian entries. Where it asks for entries that are 0 or
below, the share of units without a gradient stands for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from gradflow.diagnosis import Diagnosis

__all__ = ["RULES"]


def _gradients(d: Diagnosis) -> list[tuple[float, float]]:
    """Return (norm, root mean square) of each weight's gradient, from the first layer to the last."""
    leaves = {path: leaf for path, leaf in d.measurements.leaves.items() if leaf.is_weight}
    return [(leaf.gradient_norm, leaf.gradient_norm / math.sqrt(math.prod(leaf.shape))) for leaf in leaves.values()]


def _mean(rms: float) -> float:
    """Return the mean absolute value of Gaussian entries."""
    return math.sqrt(2 / math.pi) * rms


def _small(d: Diagnosis) -> bool:
    """Tell whether the mean absolute gradient of a weight is below 1e-7, which SageMaker and DeepDiagnosis share."""
    return any(_mean(rms) < 1e-7 for _, rms in _gradients(d))


def _dead(d: Diagnosis) -> float:
    """Return the largest share of units without a gradient, over the hidden layers."""
    layers = [d.flow[name] for name in d.flow.layers[:-1]]
    shares = [float(np.max(layer.dead_fraction)) for layer in layers if layer.kind == "layer"]
    return max((share for share in shares if not math.isnan(share)), default=0.0)


def _updates(d: Diagnosis) -> np.ndarray:
    """Return update over weight, of weights that are not 0."""
    trial = d.measurements.trial
    ratios = np.zeros(0) if trial is None else trial.update_ratios.reshape(-1)
    return ratios[np.isfinite(ratios)]


def sagemaker(d: Diagnosis) -> bool:
    """SageMaker Debugger: mean |g| below 1e-7, NaN or Inf, over half of a layer dead, updates over 10 or below 1e-8."""
    ratios = _updates(d)
    return _small(d) or not d.measurements.finite or _dead(d) > 0.5 or bool(np.any((ratios > 10) | (ratios < 1e-8)))


def autotrainer(d: Diagnosis) -> bool:
    """AutoTrainer: |g_first|/|g_last| below 1e-3 with |g_first| below 1e-4, or above 70; 70 % dead; NaN."""
    norms = [norm for norm, _ in _gradients(d)]
    ratio = norms[0] / norms[-1] if norms and norms[-1] > 0 else 1.0
    vanishing = ratio < 1e-3 and norms[0] < 1e-4
    return vanishing or ratio > 70 or _dead(d) >= 0.7 or not d.measurements.finite


def deepdiagnosis(d: Diagnosis) -> bool:
    """DeepDiagnosis: mean |g| below 1e-7, 70 % dead, NaN."""
    return _small(d) or _dead(d) >= 0.7 or not d.measurements.finite


def deepchecker(d: Diagnosis) -> bool:
    """TheDeepChecker: mean |g| below 1e-6 or above 1e6, over half dead, log10 of an update outside [-4, -1], NaN."""
    bad = any(not 1e-6 <= _mean(rms) <= 1e6 for _, rms in _gradients(d))
    ratios = _updates(d)
    updates = bool(np.any((ratios < 1e-4) | (ratios > 1e-1)))
    return bad or _dead(d) > 0.5 or updates or not d.measurements.finite


def torchlens(d: Diagnosis) -> bool:
    """TorchLens: a gradient's norm below 1e-7 or above 1e4."""
    return any(not 1e-7 <= norm <= 1e4 for norm, _ in _gradients(d))


def small_norm(d: Diagnosis) -> bool:
    """The usual advice: a gradient's norm below 1e-7."""
    return any(norm < 1e-7 for norm, _ in _gradients(d))


def always(d: Diagnosis) -> bool:
    """Call everything sick."""
    return True


RULES: dict[str, Callable[[Diagnosis], bool]] = {
    "SageMaker Debugger": sagemaker,
    "AutoTrainer": autotrainer,
    "DeepDiagnosis": deepdiagnosis,
    "TheDeepChecker": deepchecker,
    "TorchLens": torchlens,
    "norm below 1e-7": small_norm,
    "always sick": always,
}
