"""Where NaN or Inf began: the first place, in the order of computation, that holds one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gradflow.instrument.errors import FlowError

if TYPE_CHECKING:
    from gradflow.instrument.views import FlowView, LayerView

_LEAF, _FORWARD, _LOSS, _BACKWARD, _GRADIENT = range(5)


@dataclasses.dataclass(frozen=True)
class NonfinitePlace:
    """The first place that holds NaN or Inf.

    Attributes:
        name: of the layer, carry, tap or input; the path of a leaf; "loss".
        kind: as `LayerFlow.kind`, or "leaf" or "loss".
        direction: "forward" (the value), or "backward" (dL/d(output) of a layer, the gradient of a leaf).
        steps: of the scans around it, outermost first.
        record: where flows are stacked (by `vmap` or `scan` around the transformation), the index of the first one.
    """

    name: str
    kind: str
    direction: Literal["forward", "backward"]
    steps: tuple[int, ...] = ()
    record: tuple[int, ...] = ()

    @property
    def label(self) -> str:
        """The name with the steps of the scans around it: `cell[3]`."""
        return self.name + "".join(f"[{step}]" for step in self.steps)

    def __str__(self) -> str:
        """Say it in words."""
        at = f" at step {', '.join(map(str, self.steps))}" if self.steps else ""
        record = f", record {', '.join(map(str, self.record))}" if self.record else ""
        backward = self.direction == "backward"
        if self.kind == "loss":
            return f"forward, in the loss, behind the last layer{record}"
        if self.kind == "leaf":
            return f"{'backward, in the gradient of' if backward else 'in the parameter'} {self.name}{record}"
        if self.kind == "input":
            return f"forward, in the data ({self.name}){at}{record}"
        where = "backward, at the output of" if backward else "forward, in the output of"
        return f"{where} {self.kind} {self.name}{at}{record}"


def first_nonfinite(flow: FlowView) -> NonfinitePlace | None:
    """Return where NaN or Inf began, None if all is finite.

    The order is that of computation: parameters, layers forward (scans step by step, in their direction), the loss,
    layers backward, gradients of the parameters.

    Args:
        flow: with the statistic `nonfinite`; of stacked flows the first record that holds one counts.

    Raises:
        FlowError: for a flow without that statistic.
    """
    if "nonfinite" not in flow.statistics:
        raise FlowError(
            expected="a flow with the statistic 'nonfinite'",
            got=", ".join(flow.statistics),
            cause="statistics= left it out",
            fix="add 'nonfinite' to statistics=",
        )
    found = [*_leaves(flow), *_loss(flow)]
    for name in flow:
        found += _sites(flow[name])
    return min(found, key=lambda item: item[0])[1] if found else None


_Found = Iterator[tuple[tuple[Any, ...], NonfinitePlace]]


def _sites(layer: LayerView) -> _Found:
    for direction, counts in zip(("forward", "backward"), layer.nonfinite, strict=True):
        stacked = np.ndim(counts) - len(layer.lengths)
        for index in np.argwhere(np.nan_to_num(np.asarray(counts)) > 0):
            where = tuple(int(i) for i in index)
            record, steps = where[:stacked], where[stacked:]
            order = layer.order(*steps)
            backward = direction == "backward"
            key = (record, _BACKWARD if backward else _FORWARD, tuple(-k for k in order) if backward else order)
            yield key, NonfinitePlace(layer.name, layer.kind, direction, steps, record)  # type: ignore[arg-type]


def _leaves(flow: FlowView) -> _Found:
    for number, (path, leaf) in enumerate(flow.parameters.items()):
        for phase, value in ((_LEAF, leaf.rms), (_GRADIENT, leaf.gradient_norm)):
            asked = "weight_rms" in flow.statistics if phase == _LEAF else leaf.has_gradient
            if not asked:
                continue
            for index in np.argwhere(~np.isfinite(np.asarray(value))):
                record = tuple(int(i) for i in index)
                direction = "forward" if phase == _LEAF else "backward"
                yield (record, phase, (number,)), NonfinitePlace(path, "leaf", direction, (), record)  # type: ignore[arg-type]


def _loss(flow: FlowView) -> _Found:
    for index in np.argwhere(np.asarray(flow.loss_nonfinite) > 0):
        record = tuple(int(i) for i in index)
        yield (record, _LOSS, ()), NonfinitePlace("loss", "loss", "forward", (), record)
