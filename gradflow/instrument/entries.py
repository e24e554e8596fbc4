"""What is known of a tapped place before anything has run."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from gradflow.instrument.parameters import Part
from gradflow.instrument.statistics import Layout

__all__ = ["BACKWARD_FIELDS", "FORWARD_FIELDS", "Entry", "Nonfinite"]

FORWARD_FIELDS = ("input_rms", "output_rms", "output_mean", "similarity")
BACKWARD_FIELDS = (
    "output_grad_rms", "input_grad_rms", "zero_grad_fraction", "dead_fraction", "underflow_fraction",
    "output_grad_max", "exponent_histogram",
)  # fmt: skip


class Nonfinite(NamedTuple):
    """How many NaN and Inf entries there were in the value and in its cotangent."""

    forward: Any
    backward: Any


@dataclasses.dataclass(frozen=True)
class Entry:
    """What is known of one tapped place before anything has run.

    Attributes:
        name: as in `flow[name]`.
        kind: "layer", "embedding", "activation", "tap", "carry" or "input".
        shape: of the tapped value, for one call.
        dtype: of the tapped value.
        units: number of units (1 where the contraction gives a single number).
        input_size: entries of the input, 0 where there is none.
        examples: length of the axis that `similarity` runs over, 0 where there is none.
        lengths: lengths of the scans around it, outermost first.
        reverse: which of them run from the last step to the first.
        layout: the columns of its sums.
        pack: number of the arrays that hold its sums.
        ahead, back: (part, where its columns begin) in the arrays of the forward and of the backward pass.
        silence: (pack, column) of the count of silent units, None where it was not taken.
        groups: number of groups of a ragged contraction (experts), 0 elsewhere.
        weight: (group, index) of its weight's sums, None where there is none.
        weight_size: entries of the weight.
        part: which part of the parameters the weight is, None where there is none.
        order: places in the program that lead to it, None where the step of a scan belongs.
        computed_in: "value", or "tangent" or "cotangent" of a derivative inside the loss.
        role: what it is used for where the name does not say: "read-out", "recurrent", "".
        cut: what lies between it and the loss where no cotangent can reach it.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    units: int
    input_size: int
    examples: int
    lengths: tuple[int, ...]
    reverse: tuple[bool, ...]
    layout: Layout
    pack: int
    ahead: tuple[tuple[str, int], ...]
    back: tuple[tuple[str, int], ...]
    silence: tuple[int, int] | None
    groups: int
    weight: tuple[int, int] | None
    weight_size: int
    part: Part | None
    order: tuple[int | None, ...]
    computed_in: str
    role: str
    cut: tuple[str, ...]

    @property
    def size(self) -> int:
        """Entries of the tapped value."""
        return int(np.prod(self.shape, dtype=np.int64))
