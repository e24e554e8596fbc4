"""Protocols of what tables, records and searches read from a flow and its layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

__all__ = ["FlowView", "LayerView", "Sums"]


@runtime_checkable
class LayerView(Protocol):
    """One layer of a flow, as `LayerFlow` has it."""

    @property
    def name(self) -> str:
        """The name under which the flow has it."""

    @property
    def kind(self) -> str:
        """One of "layer", "embedding", "activation", "tap", "carry", "input"."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the layer's output for one call (one scan step, one device)."""

    @property
    def dtype(self) -> str:
        """Type of the layer's output."""

    @property
    def statistics(self) -> tuple[str, ...]:
        """Fields that the flow was asked for."""

    @property
    def experts(self) -> int:
        """Number of groups of a ragged contraction, each with a weight of its own; 0 for other layers."""

    @property
    def lengths(self) -> tuple[int, ...]:
        """Lengths of the scans around it, outermost first: the shape of its statistics."""

    @property
    def reverse(self) -> tuple[bool, ...]:
        """Which of the scans around it run from their last step to their first."""

    @property
    def computed_in(self) -> str:
        """The pass it belongs to: "value"; "tangent" or "cotangent" of a derivative that the loss itself takes."""

    @property
    def role(self) -> str:
        """What it is used for: "read-out" (an embedding's second use), "recurrent" (reads a scan's carry), else ""."""

    @property
    def flushes(self) -> bool:
        """Whether its cotangents are float16, in which an exact 0 may be a small number that was flushed."""

    @property
    def innermost_scan(self) -> tuple[int | None, ...]:
        """Place of the innermost scan around it in the program, () outside of scans."""

    @property
    def calls(self) -> Any:
        """How often it ran: 0 in a branch not taken, once for each device in a shard_map."""

    @property
    def backward_calls(self) -> Any:
        """How often the backward pass came through: 0 where no cotangent reached it."""

    @property
    def compares_examples(self) -> Any:
        """Where at least two examples are not 0, so that `similarity` compares something."""

    @property
    def output_grad_rms(self) -> Any:
        """Root mean square of dL/d(output): the backward signal that arrives at the layer."""

    @property
    def expert_zero_fraction(self) -> Any:
        """Of a ragged contraction, for each group (expert) the fraction of zero entries of dL/d(output)."""

    @property
    def expert_rows(self) -> Any:
        """Of a ragged contraction, how many rows (tokens) each group (expert) has."""

    @property
    def nonfinite(self) -> Any:
        """Counts of NaN and Inf entries in the output and in its cotangent."""

    def order(self, *steps: int) -> tuple[int, ...]:
        """Key that sorts layers, and their steps, by when they run: a scan's layers alternate, step by step."""

    def remark(self, field: str) -> str:
        """Say why a statistic is NaN, or what its 0 may mean; "" where the number is what it says."""


@runtime_checkable
class FlowView(Protocol):
    """A flow, as `Flow` has it."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the contractions and embedding look-ups, in forward order."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the data that enters layers; `flow["input"].output_rms` and `output_mean` are its own."""

    @property
    def statistics(self) -> tuple[str, ...]:
        """Fields that were asked for; the others are NaN."""

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Every differentiated leaf once, by its path: rms, rms and norm of its gradient."""

    @property
    def unseen(self) -> tuple[tuple[str, str], ...]:
        """Uses of leaves whose signal no row shows, with the reason; their gradients stand in `parameters`."""

    @property
    def loss_nonfinite(self) -> Any:
        """1 where the loss is NaN or Inf, else 0."""

    @property
    def first_nonfinite(self) -> Any:
        """Where NaN or Inf began, in the order of computation; None if all is finite."""

    def __getitem__(self, name: str) -> LayerView: ...

    def __iter__(self) -> Iterator[str]: ...


@runtime_checkable
class Sums(Protocol):
    """What a layer forms its numbers from, as `Flow` holds it."""

    @property
    def statistics(self) -> tuple[str, ...]:
        """Fields that were asked for; the others are NaN."""

    @property
    def _host(self) -> Any: ...

    def _weight_sums(self, place: tuple[int, int], which: str) -> list[Any]: ...
