"""What theory expects a layer's weights or an activation to do to the norm of a cotangent, at its width."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from gradflow.instrument.causes import Stage
from gradflow.instrument.sites import Site

__all__ = ["Budget", "Expected", "activation_slopes", "slope_gain", "weight_gain", "weight_statistics"]

_DEVIATIONS = 3.0
_LARGEST = 2**22


class Expected(NamedTuple):
    """A band for log10 of a gain.

    Attributes:
        mean: what theory expects.
        low, high: three standard deviations of one network of this width.
    """

    mean: float
    low: float
    high: float

    @classmethod
    def around(cls, log_square: float, variance: float) -> Expected:
        """Return the band of half a logarithm, from ln of the mean square and the variance of that ln."""
        mean, half = log_square / 2 / math.log(10), _DEVIATIONS * math.sqrt(variance) / 2 / math.log(10)
        return cls(mean, mean - half, mean + half)


def weight_gain(mean_square: float, fan_in: float) -> Expected:
    r"""Return the gain of a cotangent through independent weights of mean 0 that do not depend on it.

    E|W^T g|^2 = E[w^2] n |g|^2 with n inputs, and the ln of |W^T g|^2 varies by 2 / n for Gaussian weights and a single
    example (as in Hanin & Rolnick 2018); more examples vary less.

    Args:
        mean_square: of the weights.
        fan_in: how many weights reach one unit.
    """
    return Expected.around(math.log(mean_square * fan_in), 2.0 / fan_in)


def slope_gain(slope: np.ndarray, units: int) -> Expected | None:
    r"""Return the gain of a cotangent that does not depend on the slopes which multiply it: sqrt(E[f'(x)^2]).

    Its ln varies by 3 (E[f'^4] / E[f'^2]^2 - 1) / n for a Gaussian cotangent of n units.

    Args:
        slope: f' at the quantiles of the distribution of x.
        units: n.
    """
    square = float(np.mean(np.square(slope)))
    if not square > 0 or not math.isfinite(square):
        return None
    kurtosis = float(np.mean(slope**4)) / square**2
    return Expected.around(math.log(square), 3 * max(kurtosis - 1, 0.0) / max(units, 1))


def activation_slopes(stage: Stage, low_shape: Sequence[int], rms: float, dtype: Any) -> np.ndarray | None:
    """Return the slope of an elementwise stage at the quantiles of N(0, rms^2).

    Args:
        stage: an activation.
        low_shape: shape of what enters it: the quantiles are laid out like it, since operations may hold shapes.
        rms: root mean square of what enters it.
        dtype: of what enters it.

    Returns:
        None where it reads something that is not a literal (a learned slope), or where it cannot be evaluated.
    """
    size = math.prod(low_shape)
    if not 0 < size <= _LARGEST or not math.isfinite(rms):
        return None
    function = _function(stage)
    if function is None or not jnp.issubdtype(dtype, jnp.floating):
        return None
    with jax.debug_nans(False):
        x = jnp.asarray((rms * _normal_quantiles(size)).reshape(tuple(low_shape)), dtype)
        _, slope = jax.jvp(function, (x,), (jnp.ones_like(x),))
    return np.asarray(slope, np.float64)


def _normal_quantiles(count: int) -> Float[np.ndarray, " count"]:
    """Return the middles of `count` equally likely intervals of N(0, 1), by table: SciPy is slow to import."""
    grid = np.linspace(-8.5, 8.5, 2**15 + 1)
    density = np.exp(-np.square(grid) / 2)
    below = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return np.interp((np.arange(count) + 0.5) / count, below / below[-1], grid)


def _function(stage: Stage) -> Callable[[Any], Any] | None:
    """Return an elementwise stage as a function of what enters it."""
    known = {stage.low}
    for op in stage.operations:
        if any(n is not None and n not in known for n in op.reads):
            return None
        known.update(op.writes)
    if stage.high not in known:
        return None

    def run(x: Any) -> Any:
        env: dict[int, Any] = {stage.low: x}
        for op in stage.operations:
            op(env)
        return env[stage.high]

    return run


def weight_statistics(site: Site, leaves: Sequence[Any]) -> tuple[np.ndarray, float] | None:
    """Return the mean squares of a layer's weight, one a step of the scan around it, and its fan-in.

    Args:
        site: of the layer.
        leaves: the parameters.

    Returns:
        None where the weight is not one whole leaf.
    """
    weight = site.weight
    if weight is None or len(weight.leaves) != 1 or any(s[0] in ("slice", "split", "opaque") for s in weight.steps):
        return None
    leaf = np.asarray(leaves[next(iter(weight.leaves))])
    units = math.prod(site.shape[a] for a in site.unit_axes)
    square = np.square(np.abs(leaf.astype(np.complex128 if np.iscomplexobj(leaf) else np.float64)))
    if any(s[0] == "scan" for s in weight.steps):
        return square.reshape(len(leaf), -1).mean(1), leaf[0].size / units
    return np.asarray(square.mean()), leaf.size / units


class Budget:
    """A time limit.

    Args:
        seconds: from now.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> bool:
        """Whether there is time left."""
        return time.monotonic() < self._end
