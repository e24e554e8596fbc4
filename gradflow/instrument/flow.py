"""What comes back: `Flow`, a pytree of sums that reads as a mapping from layer names to statistics."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow.instrument.statistics import (
    DEFAULT_STATISTICS,
    SCALES,
    STATISTICS,
    Layout,
    mean,
    root_mean_square,
    similarity,
)
from gradflow.instrument.table import render
from gradflow.instrument.weights import Part

LAYER_KINDS = ("layer", "embedding", "activation")


class Nonfinite(NamedTuple):
    """How many NaN and Inf entries there were in the value and in its cotangent."""

    forward: Any
    backward: Any


@dataclasses.dataclass(frozen=True)
class Entry:
    """What is known of one tapped place before anything has run.

    Attributes:
        name: as in `flow[name]`.
        kind: "layer", "embedding", "activation", "tap" or "carry".
        shape: of the tapped value, for one call.
        units: number of units (1 where the contraction gives a single number).
        input_size: entries of the input, 0 where there is none.
        examples: length of the axis that `similarity` runs over, 0 where there is none.
        lengths: lengths of the scans around it.
        pack, main, handed: which array of sums, and where its columns begin; `handed` is -1 where there are none.
        weight: (group, index) of its weight's sums, None where there is none.
        weight_size: entries of the weight.
        part: which part of the parameters the weight is, None where there is none.
        order: places in the program that lead to it, None where the step of a scan belongs.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    units: int
    input_size: int
    examples: int
    lengths: tuple[int, ...]
    pack: int
    main: int
    handed: int
    weight: tuple[int, int] | None
    weight_size: int
    part: Part | None
    order: tuple[int | None, ...]


@dataclasses.dataclass(frozen=True)
class Meta:
    """The static half of a Flow."""

    entries: tuple[Entry, ...]
    main_columns: tuple[str, ...]
    handed_columns: tuple[str, ...]
    weight_columns: tuple[str, ...]
    wanted: frozenset[str]


@jax.tree_util.register_pytree_node_class
class Flow(Mapping[str, Any]):
    """Forward and backward signal of every layer, from one backward pass.

    A mapping from names, in forward order, to `LayerFlow`; also a pytree, so that it can be returned from `jit`,
    stacked by `vmap` and `scan` (statistics gain the leading axes) and summed over devices. `layers` are the
    contractions and embedding look-ups, `carries` what scans carry from step to step, `taps` what was named by hand.

    Examples:
        >>> import jax, jax.numpy as jnp, gradflow as gf
        >>> loss = lambda p, x: jnp.sum(jnp.tanh(x @ p["w0"]) @ p["w1"])
        >>> params = {"w0": jnp.ones((3, 4)) / 3, "w1": jnp.ones((4, 2))}
        >>> value, grads, flow = jax.jit(gf.value_grad_and_flow(loss))(params, jnp.ones((5, 3)))
        >>> flow.layers
        ('w0', 'w1')
        >>> float(flow["w1"].output_grad_rms)
        1.0
    """

    def __init__(self, meta: Meta, packs: tuple[Any, ...], weights: tuple[Any, ...]) -> None:
        self._meta, self._packs, self._weights = meta, packs, weights

    def tree_flatten(self) -> tuple[tuple[Any, ...], Meta]:
        """Split into arrays and static description (for JAX)."""
        return (self._packs, self._weights), self._meta

    @classmethod
    def tree_unflatten(cls, meta: Meta, children: tuple[Any, ...]) -> Flow:
        """Rebuild from arrays and static description (for JAX)."""
        return cls(meta, *children)

    @functools.cached_property
    def _entries(self) -> dict[str, Entry]:
        return {e.name: e for e in self._meta.entries}

    def __getitem__(self, name: str) -> LayerFlow:
        try:
            return LayerFlow(self, self._entries[name])
        except KeyError:
            raise KeyError(f"{name!r} is not in this flow, which has {', '.join(self._entries)}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the contractions and embedding look-ups, in forward order."""
        return tuple(e.name for e in self._meta.entries if e.kind in LAYER_KINDS)

    @property
    def carries(self) -> tuple[str, ...]:
        """Names of the values that scans carry from step to step (h_t, c_t of a recurrent cell)."""
        return tuple(e.name for e in self._meta.entries if e.kind == "carry")

    @property
    def taps(self) -> tuple[str, ...]:
        """Names given by `gradflow.tap`."""
        return tuple(e.name for e in self._meta.entries if e.kind == "tap")

    @property
    def statistics(self) -> tuple[str, ...]:
        """Fields that were asked for; the others are NaN."""
        return tuple(s for s in STATISTICS if s in self._meta.wanted)

    def to_records(self, *, everything: bool = False) -> list[dict[str, Any]]:
        """Return one dict of plain Python values a layer, ready for JSON; what does not apply or is not finite is None.

        Args:
            everything: also list carries and taps.
        """
        names = tuple(self) if everything else self.layers
        return [self[name].to_record() for name in names]

    def __str__(self) -> str:
        if any(isinstance(a, jax.core.Tracer) for a in (*self._packs, *self._weights)):
            return repr(self)
        return render(self)

    def __repr__(self) -> str:
        return f"Flow({len(self.layers)} layers, {len(self.carries)} carries, {len(self.taps)} taps)"

    @functools.cached_property
    def _host(self) -> tuple[list[Any], list[Any]]:
        """The sums as NumPy arrays, fetched once; as they are while being traced."""

        def fetch(x: Any) -> Any:
            return x if isinstance(x, jax.core.Tracer) else np.asarray(x)

        return [fetch(p) for p in self._packs], [fetch(w) for w in self._weights]


class LayerFlow:
    """Statistics of one layer, tap or carry: float32 of shape (), (T,) inside a scan of length T, and so on outwards.

    NaN where a statistic was not asked for or does not apply (no input, no weight, a single example). A layer in a
    branch that was never taken has `calls` 0 and zeros.
    """

    def __init__(self, flow: Flow, entry: Entry) -> None:
        self._flow, self._entry = flow, entry

    @property
    def name(self) -> str:
        """The name under which the flow has it."""
        return self._entry.name

    @property
    def kind(self) -> str:
        """One of "layer", "embedding", "activation", "tap", "carry"."""
        return self._entry.kind

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the layer's output for one call (one scan step, one device)."""
        return self._entry.shape

    @property
    def units(self) -> int:
        """Number of its units, the weight's free axes."""
        return self._entry.units

    @property
    def weight(self) -> Part | None:
        """Which part of the differentiated leaves its weight is made of; None where it has none."""
        return self._entry.part

    @property
    def lengths(self) -> tuple[int, ...]:
        """Lengths of the scans around it, outermost first: the shape of its statistics."""
        return self._entry.lengths

    def order(self, *steps: int) -> tuple[int, ...]:
        """Key that sorts layers, and their steps, by when they run: a scan's layers alternate, step by step.

        Args:
            steps: of the scans around it, outermost first.
        """
        rest = iter(steps)
        return tuple(next(rest) if place is None else place for place in self._entry.order)

    @property
    def calls(self) -> Any:
        """How often the backward pass came through: 0 in a branch not taken, once for each device in a shard_map."""
        return self._column("calls")

    @property
    def input_rms(self) -> Any:
        """Root mean square of what enters the layer."""
        return self._rms("input", self._entry.input_size)

    @property
    def output_rms(self) -> Any:
        """Root mean square of the layer's output (of the contraction, before a bias is added)."""
        return self._rms("output", self._size)

    @property
    def output_mean(self) -> Any:
        """Mean of the layer's output."""
        totals = [self._column(name) for name in Layout(self._flow._meta.wanted).total]
        return mean(totals, self._column("calls") * float(self._size))

    @property
    def output_grad_rms(self) -> Any:
        """Root mean square of dL/d(output): the backward signal that arrives at the layer."""
        return self._rms("cotangent", self._size)

    @property
    def input_grad_rms(self) -> Any:
        """Root mean square of what the layer hands down to its input: its own contribution to dL/d(input)."""
        return self._rms("cotangent", self._entry.input_size, handed=True)

    @property
    def zero_grad_fraction(self) -> Any:
        """Fraction of the entries of dL/d(output) that are exactly 0."""
        return self._mean("zero", self._size)

    @property
    def dead_fraction(self) -> Any:
        """Fraction of units for which dL/d(output) is exactly 0 over all examples."""
        return self._mean("dead", self._entry.units)

    @property
    def underflow_fraction(self) -> Any:
        """Fraction of the entries of dL/d(output) that are not 0 but would be in the 16-bit type asked for."""
        return self._mean("flushed", self._size)

    @property
    def similarity(self) -> Any:
        """Mean cosine similarity between the outputs for different examples; 1 = all look alike."""
        if self._entry.examples == 0 or "similarity" not in self._flow._meta.wanted:
            return self._absent()
        return similarity(self._column("direction"), self._column("alive"), self._column("calls"))

    @property
    def nonfinite(self) -> Nonfinite:
        """Counts of NaN and Inf entries in the output and in its cotangent."""
        return Nonfinite(self._column("nonfinite_forward"), self._column("nonfinite_backward"))

    @property
    def weight_rms(self) -> Any:
        """Root mean square of the weight's parameter."""
        return self._weight_rms("weight")

    @property
    def weight_grad_rms(self) -> Any:
        """Root mean square of the gradient with respect to the weight's parameter."""
        return self._weight_rms("gradient")

    @property
    def weight_grad_norm(self) -> Any:
        """Euclidean norm of the gradient with respect to the weight's parameter."""
        if "weight_grad_norm" not in self._flow._meta.wanted:
            return self._absent()
        rms = self._weight_rms("gradient")
        return _f32(_namespace(rms), rms * np.float32(np.sqrt(self._entry.weight_size)))

    def to_record(self) -> dict[str, Any]:
        """Return the statistics as plain Python numbers (nested lists where there are axes), ready for JSON."""
        record: dict[str, Any] = {"name": self.name, "kind": self.kind, "shape": list(self.shape)}
        record["calls"] = _plain(self.calls)
        for field in self._flow.statistics:
            value = getattr(self, field)
            if field == "nonfinite":
                record["nonfinite_forward"], record["nonfinite_backward"] = map(_plain, value)
            else:
                record[field] = _plain(value)
        return record

    def __repr__(self) -> str:
        fields = ", ".join(f"{f}={getattr(self, f)!s}" for f in ("output_rms", "output_grad_rms"))
        return f"LayerFlow({self.name!r}, {self.kind}, shape={self.shape}, {fields})"

    @property
    def _size(self) -> int:
        return int(np.prod(self._entry.shape, dtype=np.int64))

    def _absent(self) -> Any:
        calls = self._column("calls")
        return np.full(calls.shape, np.nan, np.float32)

    def _column(self, name: str, *, handed: bool = False) -> Any:
        meta, entry = self._flow._meta, self._entry
        columns, start = (meta.handed_columns, entry.handed) if handed else (meta.main_columns, entry.main)
        if name not in columns or start < 0:
            return self._absent()
        return self._flow._host[0][entry.pack][..., start + columns.index(name)]

    def _mean(self, column: str, size: int) -> Any:
        total, calls = self._column(column), self._column("calls")
        xp = _namespace(total)
        return _f32(xp, total / xp.maximum(calls * float(size), 1))

    def _rms(self, prefix: str, size: int, *, handed: bool = False) -> Any:
        if size == 0:
            return self._absent()
        sums = [self._column(f"{prefix}_{s}", handed=handed) for s in SCALES]
        return root_mean_square(sums, self._column("calls", handed=handed) * float(size))

    def _weight_rms(self, which: str) -> Any:
        meta, entry = self._flow._meta, self._entry
        wanted = {"weight": {"weight_rms"}, "gradient": {"weight_grad_rms", "weight_grad_norm"}}[which]
        if entry.weight is None or not wanted & meta.wanted:
            return self._absent()
        group, index = entry.weight
        array = self._flow._host[1][group]
        at = [index * len(meta.weight_columns) + meta.weight_columns.index(f"{which}_{s}") for s in SCALES]
        sums = [array[..., k] for k in at]
        return root_mean_square(sums, float(entry.weight_size))


def _namespace(x: Any) -> Any:
    return np if isinstance(x, (np.ndarray, np.generic)) else jnp


def _f32(xp: Any, x: Any) -> Any:
    return xp.asarray(x, dtype=xp.float32)


def _plain(x: Any) -> Any:
    """Turn an array into nested lists of floats, None for what JSON has no number for."""
    values = np.asarray(x)
    if values.ndim:
        return [_plain(v) for v in values]
    return float(values) if np.isfinite(values) else None


def validate_statistics(names: Any) -> frozenset[str]:
    """Return the fields asked for; None means `DEFAULT_STATISTICS`.

    Raises:
        ValueError: for an unknown field, with the nearest known one.
    """
    import difflib

    if names is None:
        return frozenset(DEFAULT_STATISTICS)
    chosen = (names,) if isinstance(names, str) else tuple(names)
    for name in chosen:
        if name not in STATISTICS:
            near = difflib.get_close_matches(str(name), STATISTICS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"unknown statistic {name!r}{hint} Known: {', '.join(STATISTICS)}")
    return frozenset(chosen)


__all__ = ["LAYER_KINDS", "Entry", "Flow", "LayerFlow", "Meta", "Nonfinite", "validate_statistics"]
