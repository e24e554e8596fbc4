"""Fans of a kernel: how many inputs one unit sees, and how many units one input feeds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

__all__ = ["Axes", "Fans", "Layout", "fans"]

Axes = int | Sequence[int]


class Fans(NamedTuple):
    """Fans of one kernel; of each, where several are stacked.

    Attributes:
        fan_in: inputs that one output entry sums.
        fan_out: output entries that one input entry feeds.
    """

    fan_in: float
    fan_out: float

    @property
    def fan_avg(self) -> float:
        """(fan_in + fan_out) / 2."""
        return (self.fan_in + self.fan_out) / 2


@dataclasses.dataclass(frozen=True)
class Layout:
    """What a kernel's axes mean.

    Attributes:
        groups: of a grouped convolution, whose kernel is (*window, inputs / groups, outputs). An input feeds the
            outputs of its own group only.
        stacked: number of leading axes along which independent kernels are stacked, as by a scan over layers.
        transposed: whether outputs stand before inputs, (*window, outputs, inputs): Flax's
            `ConvTranspose(transpose_kernel=True)`. Its default has a convolution's layout.
        upsampling: of a transposed convolution, the product of its strides s: only one in s entries of the window meets
            an input, so an output entry sums window * inputs / s products, on average over its place.
        in_axis: axis or axes that count inputs, for layouts that have no name above.
        out_axis: axis or axes that count outputs.
        batch_axis: axis or axes along which independent kernels are stacked.

    Raises:
        ValueError: for counts below 1 (`stacked`: below 0).
    """

    groups: int = 1
    stacked: int = 0
    transposed: bool = False
    upsampling: int = 1
    in_axis: Axes = -2
    out_axis: Axes = -1
    batch_axis: Axes = ()

    def __post_init__(self) -> None:
        for name, least in (("groups", 1), ("stacked", 0), ("upsampling", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"expected {name} of at least {least}, got {getattr(self, name)}")

    def axes(self) -> dict[str, Axes]:
        """`in_axis`, `out_axis`, `batch_axis` as `jax.nn.initializers.variance_scaling` takes them."""
        inputs, outputs = (self.out_axis, self.in_axis) if self.transposed else (self.in_axis, self.out_axis)
        batch = (*range(self.stacked), *_tuple(self.batch_axis))
        return {"in_axis": inputs, "out_axis": outputs, "batch_axis": batch}

    def fans(self, shape: Sequence[int]) -> Fans:
        """Fans of a kernel of this shape.

        Raises:
            ValueError: for a shape with fewer than two axes besides the stacked ones, or outputs that the groups do not
                divide.
        """
        sizes = {name: math.prod(shape[a] for a in self._within(axes, shape)) for name, axes in self.axes().items()}
        outputs = sizes["out_axis"]
        if outputs % self.groups:
            raise ValueError(
                f"expected outputs that {self.groups} groups divide, got {outputs} in shape {tuple(shape)}. Likely "
                "cause: another layout, or the wrong groups. Fix: give the convolution's feature_group_count"
            )
        if 0 in shape:
            raise ValueError(
                f"expected a kernel with entries, got shape {tuple(shape)}, which has no fans. Fix: sizes above 0"
            )
        window = math.prod(shape) / math.prod(sizes.values())
        return Fans(sizes["in_axis"] * window / self.upsampling, outputs * window / self.groups)

    def _within(self, axes: Axes, shape: Sequence[int]) -> tuple[int, ...]:
        rank, chosen = len(shape), _tuple(axes)
        if rank - self.stacked < 2 or not all(-rank <= a < rank for a in chosen):
            raise ValueError(
                f"expected a kernel of at least {self.stacked + 2} axes, got shape {tuple(shape)}. Likely cause: a "
                "weight scheme given to a bias or a scale, or `stacked` for a kernel that is not. Fix: `zeros` or "
                "`small_gaussian` for vectors"
            )
        return chosen


def fans(shape: Sequence[int], **layout: Any) -> Fans:
    """Fans of a kernel: dense (inputs, outputs), convolution (*window, inputs, outputs), grouped, transposed, stacked.

    fan_in = window * inputs, fan_out = window * outputs, with window 1 for a matrix.

    Args:
        shape: of the kernel.
        layout: fields of `Layout`: `groups`, `stacked`, `transposed`, `upsampling`, or axes.

    Returns:
        fan_in and fan_out; as an attribute, fan_avg.

    Raises:
        ValueError: for a shape that does not fit the layout.

    Examples:
        >>> fans((3, 3, 16, 32))
        Fans(fan_in=144.0, fan_out=288.0)
        >>> fans((3, 3, 4, 32), groups=4)
        Fans(fan_in=36.0, fan_out=72.0)
        >>> fans((50, 100, 300), stacked=1).fan_avg
        200.0
    """
    return Layout(**layout).fans(shape)


def _tuple(axes: Axes) -> tuple[int, ...]:
    return (axes,) if isinstance(axes, int) else tuple(axes)
