"""Where NaN or Inf began, as it is told."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple

__all__ = ["Operand", "Origin"]


class Operand(NamedTuple):
    """What an operation read.

    Attributes:
        shape: of the array.
        dtype: of its entries.
        low, high: smallest and largest finite entry; NaN where there is none.
        nonfinite: number of NaN and infinite entries.
        value: the entry that the bad one was computed from, None where there are several.
    """

    shape: tuple[int, ...]
    dtype: str
    low: float
    high: float
    nonfinite: int
    value: Any = None

    def __str__(self) -> str:
        """Say it in words."""
        kind = f"{self.dtype}[{','.join(map(str, self.shape))}]"
        if self.value is not None and not self.shape:
            return f"{kind} = {self.value:.6g}"
        span = f"from {self.low:.3g} to {self.high:.3g}" if self.low == self.low else "without a finite entry"
        bad = f", {self.nonfinite} not finite" if self.nonfinite else ""
        here = f"; here {self.value:.6g}" if self.value is not None else ""
        return f"{kind} {span}{bad}{here}"


@dataclasses.dataclass(frozen=True)
class Origin:
    """The first operation on the way to a non-finite loss or gradient that made a non-finite number of finite ones.

    Attributes:
        operation: in words: "sqrt at 0", "softmax of a row of -inf".
        primitive: name of JAX's operation; "" for a value that entered non-finite.
        direction: "forward" if the loss is not finite, "backward" if only gradients are not.
        line: of the user's program, "file:line"; "" where JAX knows none.
        layer: the scope under which the operation was traced; without one, the layer whose parameter is the nearest
            on the way to it.
        step: iterations of the scans and loops around it, the outermost first; in a scan the row that is read.
        index: of the entry that is not finite, in the output of the operation (backward: in the cotangent of its
            operand).
        value: of that entry.
        operands: of the operation; backward, those of the forward operation whose derivative it is.
        rule: the custom derivative rule inside which it was made; "" for none.
        leaf: path of the parameter, or of the argument, that was non-finite already; "" for none.
        masked: whether its value, or its derivative, is multiplied by 0 or not chosen, and harms the gradient all the
            same: a branch that `where` does not take.
        cause: how it comes about, in a sentence.
        remedy: what mends it, in a sentence or two.
    """

    operation: str
    primitive: str
    direction: Literal["forward", "backward"]
    line: str
    layer: str
    step: tuple[int, ...]
    index: tuple[int, ...]
    value: Any
    operands: tuple[Operand, ...]
    rule: str
    leaf: str
    masked: bool
    cause: str
    remedy: str

    def __str__(self) -> str:
        """Say it in a few lines."""
        where = [f"layer {self.layer}"] if self.layer else []
        where += [f"iteration {', '.join(map(str, self.step))}"] if self.step else []
        where += [f"entry [{', '.join(map(str, self.index))}]"] if self.index else []
        lines = [f"{self.direction}: {self.operation}" + (f" at {self.line}" if self.line else "")]
        lines += [f"  where: {', '.join(where)}"] if where else []
        lines += [f"  rule: {self.rule}"] if self.rule else []
        lines += [f"  cause: {self.cause}"]
        lines += [f"  operand {number}: {operand}" for number, operand in enumerate(self.operands)]
        lines += [f"  remedy: {self.remedy}"]
        return "\n".join(lines)

    def to_record(self) -> dict[str, Any]:
        """Return plain Python values, ready for JSON; a number that is not finite is a string."""
        record = dataclasses.asdict(self)
        record["value"] = str(self.value)
        record["operands"] = [str(operand) for operand in self.operands]
        return record
