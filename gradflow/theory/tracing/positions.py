"""Correlations between positions of one example, by distance: what windows, strides and padding make of them.

The second moments K(d) of a random field that is stationary over positions depend on the distance d alone. A random
convolution reads two positions through the same taps, and so keeps K (Xiao et al. 2018, Novak et al. 2019); what is
lost at the border is counted on average. Pooling adds up K over all pairs of positions of two windows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

__all__ = ["Window", "autocorrelation", "through_windows"]


@dataclasses.dataclass(frozen=True)
class Window:
    """A window that slides along one axis of positions.

    Attributes:
        positions: length of the axis.
        outputs: number of places that the window takes.
        size: number of taps.
        stride: between two places.
        dilation: between two taps.
        low: padding before the first position.
    """

    positions: int
    outputs: int
    size: int
    stride: int = 1
    dilation: int = 1
    low: int = 0

    @property
    def places(self) -> tuple[Float[np.ndarray, "outputs taps"], Float[np.ndarray, "outputs taps"]]:
        """The position that each tap reads at each place, and 1 where there is one, 0 in the padding."""
        at = self.stride * np.arange(self.outputs)[:, None] + self.dilation * np.arange(self.size) - self.low
        return at, ((at >= 0) & (at < self.positions)).astype(np.float64)

    @property
    def taps(self) -> float:
        """Mean number of taps that read a position."""
        return float(self.places[1].sum(1).mean())

    @property
    def overlap(self) -> float:
        """Covariance of the sums at two places, of what is the same everywhere, over the variance at one: 1 unpadded.

        Two places meet in a tap as often as both read a position by it: sum_t f_t^2 / sum_t f_t, where f_t is the share
        of places at which tap t reads one. A random convolution of a constant so has a mean over places that is smaller
        than its values.
        """
        shares = self.places[1].mean(0)
        return float((shares**2).sum() / max(shares.sum(), 1e-300))

    def operator(self, *, same_tap: bool) -> Float[np.ndarray, "outputs positions"]:
        """What each distance between inputs contributes to K at each distance between outputs, on average.

        Args:
            same_tap: whether two outputs meet in the same tap alone, as in a convolution with random weights.
        """
        at, valid = self.places
        out = np.zeros((self.outputs, self.positions))
        for distance in range(self.outputs):
            left, right = slice(0, self.outputs - distance), slice(distance, self.outputs)
            if same_tap:
                between, both = np.abs(at[right] - at[left]), valid[right] * valid[left]
            else:
                between = np.abs(at[right][:, :, None] - at[left][:, None, :])
                both = valid[right][:, :, None] * valid[left][:, None, :]
            read = both > 0
            count = np.bincount(between[read].ravel(), both[read].ravel(), self.positions)[: self.positions]
            out[distance] = count / (self.outputs - distance)
        return out


def through_windows(
    moments: Float[np.ndarray, "*distances"], windows: Sequence[Window], *, same_tap: bool
) -> Float[np.ndarray, "*outputs"] | None:
    """Return the second moments of sums over windows; None where the axes do not fit.

    Args:
        moments: K(d) of what is summed, one number where it is the same at all distances.
        windows: one an axis.
        same_tap: see `Window.operator`.
    """
    sizes = tuple(window.positions for window in windows)
    if moments.shape not in ((), sizes):
        return None
    out = np.broadcast_to(moments, sizes)
    for axis, window in enumerate(windows):
        out = np.moveaxis(np.tensordot(window.operator(same_tap=same_tap), out, (1, axis)), 0, axis)
    return out


def autocorrelation(x: Float[np.ndarray, "batch *positions units"]) -> Float[np.ndarray, "*distances"] | None:
    """Return E[x(p) x(p + d)] / E[x^2], over examples, positions and units, for distances d >= 0 of either sign.

    Args:
        x: data, examples first and units last.
    """
    axes, sizes = tuple(range(1, x.ndim - 1)), x.shape[1:-1]
    square = float(np.mean(np.square(x, dtype=np.float64)))
    if not square or not np.isfinite(square):
        return None
    if not axes:
        return np.ones(())
    padded = [2 * n for n in sizes]
    power = np.zeros([*padded[:-1], padded[-1] // 2 + 1])
    for example in x:
        power += (np.abs(np.fft.rfftn(example, padded, tuple(range(len(sizes))))) ** 2).sum(-1)
    sums = np.fft.irfftn(power, padded, tuple(range(len(sizes))))
    for axis, n in enumerate(sizes):
        count = n - np.arange(n)
        ahead, back = np.arange(n), (-np.arange(n)) % (2 * n)
        sums = (np.take(sums, ahead, axis) + np.take(sums, back, axis)) / 2
        sums = sums / count.reshape([-1 if k == axis else 1 for k in range(len(sizes))])
    return np.clip(sums / (x.shape[0] * x.shape[-1] * square), -1.0, 1.0)
