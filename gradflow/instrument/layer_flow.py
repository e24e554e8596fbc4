"""One layer of a flow: its statistics, formed from sums, and words where there is no number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gradflow.instrument.entries import BACKWARD_FIELDS, FORWARD_FIELDS, Entry, Nonfinite
from gradflow.instrument.parameters import Part
from gradflow.instrument.records import layer_record
from gradflow.instrument.statistics import (
    EXPONENT_BINS,
    SCALES,
    exponent_edges,
    mean,
    root_mean_square,
    similarity,
)

if TYPE_CHECKING:
    from gradflow.instrument.views import Sums

__all__ = ["LayerFlow"]


class LayerFlow:
    """Statistics of one layer, tap, carry or input, of shape (), (T,) inside a scan of length T, and so on outwards.

    float32; float64 for 64-bit values under x64. NaN stands for NaN in the network, and for a number that is not there:
    it was not asked for, does not apply (no input, no weight, a single example), the layer did not run (a branch not
    taken), or no cotangent reached it. `remark(field)` tells which.
    """

    def __init__(self, flow: Sums, entry: Entry) -> None:
        self._flow, self._entry = flow, entry

    @property
    def name(self) -> str:
        """The name under which the flow has it."""
        return self._entry.name

    @property
    def kind(self) -> str:
        """One of "layer", "embedding", "activation", "tap", "carry", "input"."""
        return self._entry.kind

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the layer's output for one call (one scan step, one device)."""
        return self._entry.shape

    @property
    def dtype(self) -> str:
        """Type of the layer's output."""
        return self._entry.dtype

    @property
    def units(self) -> int:
        """Number of its units, the weight's free axes."""
        return self._entry.units

    @property
    def weight(self) -> Part | None:
        """Which part of the differentiated leaves its weight is made of; None where it has none."""
        return self._entry.part

    @property
    def statistics(self) -> tuple[str, ...]:
        """Fields that the flow was asked for."""
        return self._flow.statistics

    @property
    def experts(self) -> int:
        """Number of groups of a ragged contraction, each with a weight of its own; 0 for other layers."""
        return self._entry.groups

    @property
    def lengths(self) -> tuple[int, ...]:
        """Lengths of the scans around it, outermost first: the shape of its statistics."""
        return self._entry.lengths

    @property
    def reverse(self) -> tuple[bool, ...]:
        """Which of the scans around it run from their last step to their first."""
        return self._entry.reverse

    @property
    def computed_in(self) -> str:
        """The pass it belongs to: "value"; "tangent" or "cotangent" of a derivative that the loss itself takes."""
        return self._entry.computed_in

    @property
    def role(self) -> str:
        """What it is used for: "read-out" (an embedding's second use), "recurrent" (reads a scan's carry), else ""."""
        return self._entry.role

    @property
    def cut(self) -> tuple[str, ...]:
        """What lies between it and the loss where no cotangent can reach it: ("stop_gradient",), ("argmax",)."""
        return self._entry.cut

    @property
    def flushes(self) -> bool:
        """Whether its cotangents are float16, in which an exact 0 may be a small number that was flushed."""
        return self._entry.dtype == "float16"

    @property
    def innermost_scan(self) -> tuple[int | None, ...]:
        """Place of the innermost scan around it in the program, () outside of scans."""
        scans = [k for k, place in enumerate(self._entry.order) if place is None]
        return self._entry.order[: scans[-1]] if scans else ()

    def order(self, *steps: int) -> tuple[int, ...]:
        """Key that sorts layers, and their steps, by when they run: a scan's layers alternate, step by step.

        Args:
            steps: of the scans around it, outermost first.
        """
        scans = zip(steps, self._entry.lengths, self._entry.reverse, strict=True)
        rest = iter([length - 1 - step if reverse else step for step, length, reverse in scans])
        return tuple(next(rest) if place is None else place for place in self._entry.order)

    @property
    def calls(self) -> Any:
        """How often it ran: 0 in a branch not taken, once for each device in a shard_map."""
        return self._ahead("ran")

    @property
    def backward_calls(self) -> Any:
        """How often the backward pass came through: 0 where no cotangent reached it."""
        return self._back("calls") if self._entry.back else np.zeros_like(self.calls)

    @property
    def input_rms(self) -> Any:
        """Root mean square of what enters the layer."""
        return self._forward_rms("input", self._entry.input_size)

    @property
    def output_rms(self) -> Any:
        """Root mean square of the layer's output (of the contraction, before a bias is added)."""
        return self._forward_rms("output", self._entry.size)

    @property
    def output_mean(self) -> Any:
        """Mean of the layer's output; of a complex one the modulus of the mean."""
        if "output_mean" not in self._entry.layout.wanted:
            return self._absent()
        totals = [self._ahead(name) for name in self._entry.layout.total]
        return self._where_ran(mean(totals, self.calls * float(self._entry.size)))

    @property
    def similarity(self) -> Any:
        """Mean cosine similarity between the outputs for different examples; 1 = all look alike."""
        if self._entry.examples == 0 or "similarity" not in self._entry.layout.wanted:
            return self._absent()
        return self._where_ran(similarity(self._ahead("direction"), self._ahead("alive"), self.calls))

    @property
    def compares_examples(self) -> Any:
        """Where at least two examples are not 0, so that `similarity` compares something."""
        alive = np.asarray(self._ahead("alive")) / np.maximum(self.calls, 1)
        return (np.asarray(self.calls) > 0) & (~np.isfinite(alive) | (alive > 1))

    @property
    def output_grad_rms(self) -> Any:
        """Root mean square of dL/d(output): the backward signal that arrives at the layer."""
        if "output_grad_rms" not in self._entry.layout.wanted or not self._entry.back:
            return self._absent()
        sums = [self._back(f"cotangent_{s}") for s in SCALES]
        return self._where_reached(root_mean_square(sums, self.backward_calls * float(self._entry.size)))

    @property
    def input_grad_rms(self) -> Any:
        """Root mean square of what the layer hands down to its input: its own contribution to dL/d(input)."""
        if "input_cotangent" not in dict(self._entry.back):
            return self._absent()
        calls = self._back("calls", "input_cotangent")
        sums = [self._back(f"cotangent_{s}", "input_cotangent") for s in SCALES]
        return _where(calls > 0, root_mean_square(sums, calls * float(self._entry.input_size)))

    @property
    def zero_grad_fraction(self) -> Any:
        """Fraction of the entries of dL/d(output) that are exactly 0; in float16 zero or flushed to 0."""
        return self._fraction("zero_grad_fraction", "zero", self._entry.size)

    @property
    def dead_fraction(self) -> Any:
        """Fraction of units for which dL/d(output) is exactly 0 over all examples.

        In float16, where small cotangents are flushed to 0: units whose activation is 0 over all examples; NaN where no
        activation follows the layer.
        """
        if not self.flushes:
            return self._fraction("dead_fraction", "dead", self._entry.units)
        if self._entry.silence is None:
            return self._absent()
        pack, column = self._entry.silence
        ran, silent = (self._flow._host.ahead[pack][..., column + k] for k in (0, 1))
        return self._where_reached(silent / np.maximum(ran * float(self._entry.units), 1))

    @property
    def underflow_fraction(self) -> Any:
        """Fraction of the entries of dL/d(output) that are not 0 but would be in the 16-bit type asked for.

        NaN in float16: what has been flushed is not known any more.
        """
        return self._absent() if self.flushes else self._fraction("underflow_fraction", "flushed", self._entry.size)

    @property
    def output_grad_max(self) -> Any:
        """Largest absolute entry of dL/d(output), where it was asked for."""
        return self._fraction("output_grad_max", "cotangent_max", 1)

    @property
    def exponent_histogram(self) -> Any:
        """Fractions of the entries of dL/d(output) by exponent, where they were asked for; bins: `exponent_edges`."""
        if "exponent_histogram" not in self._entry.layout.wanted or not self._entry.back:
            return self._absent()
        counts = [self._back(f"exponent_{k}") for k in range(EXPONENT_BINS)]
        xp = _namespace(counts[0])
        total = xp.maximum(self.backward_calls * float(self._entry.size), 1)
        return _where((self.backward_calls > 0)[..., None], xp.stack(counts, -1) / total[..., None])

    @property
    def exponent_edges(self) -> np.ndarray:
        """Exponents of 2 that bound the bins of `exponent_histogram`."""
        return exponent_edges(self._entry.layout.dtype)

    @property
    def expert_zero_fraction(self) -> Any:
        """Of a ragged contraction, for each group (expert) the fraction of zero entries of dL/d(output).

        One more axis than other statistics, the groups; NaN for a group without rows.
        """
        entries, zeros = self._groups()
        xp = _namespace(entries)
        return _where(entries > 0, zeros / xp.maximum(entries, 1))

    @property
    def expert_rows(self) -> Any:
        """Of a ragged contraction, how many rows (tokens) each group (expert) has."""
        entries, _ = self._groups()
        return entries / max(1, self._entry.units)

    def _groups(self) -> tuple[Any, Any]:
        if not self._entry.groups:
            raise AttributeError(
                f"expected a ragged contraction, which has experts, got {self.name!r}. Fix: a layer with `experts` > 0"
            )
        ahead, back = dict(self._entry.ahead)["experts"], dict(self._entry.back)["experts"]
        host, count = self._flow._host, self._entry.groups
        return (
            host.ahead[self._entry.pack][..., ahead : ahead + count],
            host.back[self._entry.pack][..., back : back + count],
        )

    @property
    def nonfinite(self) -> Nonfinite:
        """Counts of NaN and Inf entries in the output and in its cotangent."""
        if "nonfinite" not in self._entry.layout.wanted:
            return Nonfinite(self._absent(), self._absent())
        backward = self._back("nonfinite_backward") if self._entry.back else self._absent()
        return Nonfinite(self._ahead("nonfinite_forward"), backward)

    @property
    def weight_rms(self) -> Any:
        """Root mean square of the weight's parameter."""
        return self._weight_rms("weight", {"weight_rms"})

    @property
    def weight_grad_rms(self) -> Any:
        """Root mean square of the gradient with respect to the weight's parameter."""
        return self._weight_rms("gradient", {"weight_grad_rms"})

    @property
    def weight_grad_norm(self) -> Any:
        """Euclidean norm of the gradient with respect to the weight's parameter."""
        rms = self._weight_rms("gradient", {"weight_grad_norm"})
        return rms * np.asarray(np.sqrt(self._entry.weight_size), rms.dtype)

    def remark(self, field: str) -> str:
        """Say why a statistic is NaN, or what its 0 may mean; "" where the number is what it says.

        Args:
            field: one of `STATISTICS`.
        """
        entry = self._entry
        if field not in self._flow.statistics:
            return "not asked for"
        if field in FORWARD_FIELDS and not np.any(self.calls):
            return "did not run"
        if field in BACKWARD_FIELDS:
            return self._backward_remark(field)
        if field == "similarity" and entry.examples < 2:
            return "single example" if entry.examples else "no examples"
        if field == "input_rms" and not entry.input_size:
            return "no input"
        if field.startswith("weight") and entry.weight is None:
            return "no weight"
        return ""

    def _backward_remark(self, field: str) -> str:
        if not self._entry.back:
            return "data: no gradient"
        if not np.any(self.calls):
            return "did not run"
        if not np.any(self.backward_calls):
            return f"not reached: {', '.join(self.cut)}" if self.cut else "not reached"
        if field == "input_grad_rms" and "input_cotangent" not in dict(self._entry.back):
            return "data: not formed" if self._entry.input_size else "no input"
        if self.flushes and field == "underflow_fraction":
            return "not known in float16"
        if self.flushes and field == "dead_fraction" and self._entry.silence is None:
            return "not known in float16"
        if field in ("output_grad_rms", "zero_grad_fraction", "dead_fraction") and self._all_zero():
            if self.flushes:
                return "zero or flushed"
            return "zero or not reached"
        return "zero or flushed" if self.flushes and field == "zero_grad_fraction" else ""

    def _all_zero(self) -> bool:
        reached = np.asarray(self.backward_calls) > 0
        if "output_grad_rms" in self._flow.statistics:
            return not np.any(np.asarray(self.output_grad_rms)[reached] != 0)
        if "zero_grad_fraction" in self._flow.statistics:
            return bool(np.all(np.asarray(self.zero_grad_fraction)[reached] == 1))
        return False

    def to_record(self) -> dict[str, Any]:
        """Return the statistics as plain Python values (nested lists where there are axes), ready for JSON.

        A number that is not there is None, and `remarks` says why; NaN and Inf of the network are the strings "NaN",
        "Infinity" and "-Infinity", which `float` reads.
        """
        return layer_record(self)

    def __repr__(self) -> str:
        fields = ", ".join(f"{f}={getattr(self, f)!s}" for f in ("output_rms", "output_grad_rms"))
        return f"LayerFlow({self.name!r}, {self.kind}, shape={self.shape}, {fields})"

    def _absent(self) -> Any:
        shape = np.shape(self._ahead("ran"))
        return np.full(shape, np.nan, self._entry.layout.dtype)

    def _ahead(self, column: str) -> Any:
        start = dict(self._entry.ahead)["value"]
        return self._flow._host.ahead[self._entry.pack][..., start + self._entry.layout.forward.index(column)]

    def _back(self, column: str, part: str = "value") -> Any:
        columns = self._entry.layout.backward if part == "value" else self._entry.layout.input_cotangent
        start = dict(self._entry.back)[part]
        return self._flow._host.back[self._entry.pack][..., start + columns.index(column)]

    def _where_ran(self, value: Any) -> Any:
        return _where(self.calls > 0, value)

    def _where_reached(self, value: Any) -> Any:
        return _where(self.backward_calls > 0, value)

    def _forward_rms(self, prefix: str, size: int) -> Any:
        if size == 0 or f"{prefix}_rms" not in self._entry.layout.wanted:
            return self._absent()
        sums = [self._ahead(f"{prefix}_{s}") for s in SCALES]
        return self._where_ran(root_mean_square(sums, self.calls * float(size)))

    def _fraction(self, field: str, column: str, size: int) -> Any:
        if field not in self._entry.layout.wanted or not self._entry.back:
            return self._absent()
        total, calls = self._back(column), self.backward_calls
        xp = _namespace(total)
        return self._where_reached(total / xp.maximum(calls * float(size), 1))

    def _weight_rms(self, which: str, fields: set[str]) -> Any:
        if self._entry.weight is None or not fields & set(self._flow.statistics):
            return self._absent()
        return root_mean_square(self._flow._weight_sums(self._entry.weight, which), float(self._entry.weight_size))


def _namespace(x: Any) -> Any:
    import jax.numpy as jnp

    return np if isinstance(x, (np.ndarray, np.generic)) else jnp


def _where(there: Any, value: Any) -> Any:
    xp = _namespace(value)
    return xp.where(there, value, np.asarray(np.nan, value.dtype))
