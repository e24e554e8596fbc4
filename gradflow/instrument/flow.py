"""What comes back: `Flow`, a pytree of sums that reads as a mapping from layer names to statistics."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from gradflow.instrument.entries import Entry, Nonfinite
from gradflow.instrument.errors import FlowError
from gradflow.instrument.layer_flow import LayerFlow
from gradflow.instrument.nonfinite import NonfinitePlace, first_nonfinite
from gradflow.instrument.parameters import COLUMNS
from gradflow.instrument.sites import LAYER_KINDS
from gradflow.instrument.statistics import DEFAULT_STATISTICS, SCALES, STATISTICS, root_mean_square
from gradflow.instrument.table import MOST_ROWS, render


class Unseen(NamedTuple):
    """A use of a parameter whose signal no row shows.

    Attributes:
        path: of the leaf.
        why: what the use is, in words.
    """

    path: str
    why: str


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One differentiated leaf.

    Attributes:
        path: its names, joined by "/".
        shape: of the leaf.
        place: (group, index) of its sums; their rows add up to the whole leaf.
        rows: how many axes of rows the group has.
        reached: whether a cotangent can get to it.
    """

    path: str
    shape: tuple[int, ...]
    place: tuple[int, int]
    rows: int
    reached: bool


@dataclasses.dataclass(frozen=True)
class Meta:
    """The static half of a Flow."""

    entries: tuple[Entry, ...]
    leaves: tuple[Leaf, ...]
    unseen: tuple[Unseen, ...]
    wanted: frozenset[str]


class _Host(NamedTuple):
    ahead: list[Any]
    back: list[Any]
    weights: list[Any]
    loss_nonfinite: Any


class ParameterFlow:
    """One differentiated leaf: its size, and its gradient's."""

    def __init__(self, flow: Flow, leaf: Leaf) -> None:
        self._flow, self._leaf = flow, leaf

    @property
    def path(self) -> str:
        """Names that lead to the leaf, joined by "/"."""
        return self._leaf.path

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the leaf."""
        return self._leaf.shape

    @property
    def size(self) -> int:
        """Number of its entries."""
        return int(np.prod(self._leaf.shape, dtype=np.int64))

    @property
    def reached(self) -> bool:
        """Whether a cotangent can get to it; where none can, its gradient is 0 by construction."""
        return self._leaf.reached

    @property
    def has_gradient(self) -> bool:
        """Whether the flow was asked for gradients of weights."""
        return bool({"weight_grad_rms", "weight_grad_norm"} & self._flow._meta.wanted)

    @property
    def rms(self) -> Any:
        """Root mean square of its entries; NaN unless `weight_rms` was asked for."""
        return self._rms("weight", "weight_rms" in self._flow._meta.wanted)

    @property
    def gradient_rms(self) -> Any:
        """Root mean square of its gradient; NaN unless gradients of weights were asked for."""
        return self._rms("gradient", self.has_gradient)

    @property
    def gradient_norm(self) -> Any:
        """Euclidean norm of its gradient; the squares of all leaves add up to the global norm's."""
        rms = self.gradient_rms
        return rms * np.asarray(np.sqrt(max(self.size, 1)), rms.dtype)

    def _rms(self, which: str, asked: bool) -> Any:
        if not asked:
            return np.full(np.shape(self._flow.loss_nonfinite), np.nan, np.float32)
        sums = self._flow._weight_sums(self._leaf.place, which)
        rows = tuple(range(-self._leaf.rows, 0))
        return root_mean_square([s.sum(rows) for s in sums], float(max(self.size, 1)))

    def __repr__(self) -> str:
        return f"ParameterFlow({self.path!r}, shape={self.shape}, gradient_norm={self.gradient_norm!s})"


@jax.tree_util.register_pytree_node_class
class Flow(Mapping[str, Any]):
    """Forward and backward signal of every layer, from one backward pass.

    A mapping from names, in forward order, to `LayerFlow`; also a pytree, so that it can be returned from `jit`,
    stacked by `vmap` and `scan` (statistics gain the leading axes) and summed over devices. `layers` are the
    contractions and embedding look-ups, `carries` what scans carry from step to step, `taps` what was named by hand,
    `inputs` the data that enters layers.

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

    def __init__(self, meta: Meta, ahead: Any, back: Any, weights: Any, loss_nonfinite: Any) -> None:
        self._meta = meta
        self._arrays = (ahead, back, weights, loss_nonfinite)

    def tree_flatten(self) -> tuple[tuple[Any, ...], Meta]:
        """Split into arrays and static description (for JAX)."""
        return self._arrays, self._meta

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

    def _names(self, *kinds: str) -> tuple[str, ...]:
        return tuple(e.name for e in self._meta.entries if e.kind in kinds)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the contractions and embedding look-ups, in forward order."""
        return self._names(*LAYER_KINDS)

    @property
    def carries(self) -> tuple[str, ...]:
        """Names of the values that scans carry from step to step (h_t, c_t of a recurrent cell)."""
        return self._names("carry")

    @property
    def taps(self) -> tuple[str, ...]:
        """Names given by `gradflow.tap`."""
        return self._names("tap")

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the data that enters layers; `flow["input"].output_rms` and `output_mean` are its own."""
        return self._names("input")

    @property
    def statistics(self) -> tuple[str, ...]:
        """Fields that were asked for; the others are NaN."""
        return tuple(s for s in STATISTICS if s in self._meta.wanted)

    @functools.cached_property
    def parameters(self) -> Mapping[str, ParameterFlow]:
        """Every differentiated leaf once, by its path: rms, rms and norm of its gradient."""
        return MappingProxyType({leaf.path: ParameterFlow(self, leaf) for leaf in self._meta.leaves})

    @property
    def unseen(self) -> tuple[Unseen, ...]:
        """Uses of leaves whose signal no row shows, with the reason; their gradients stand in `parameters`."""
        return self._meta.unseen

    @property
    def loss_nonfinite(self) -> Any:
        """How many devices have a loss that is NaN or Inf: 0 or 1 outside of a `shard_map` around the whole."""
        return self._host.loss_nonfinite

    @property
    def first_nonfinite(self) -> NonfinitePlace | None:
        """Where NaN or Inf began, in the order of computation; None if all is finite."""
        return first_nonfinite(self)

    def to_records(self, *, everything: bool = False) -> list[dict[str, Any]]:
        """Return one dict of plain Python values a layer, ready for JSON; see `LayerFlow.to_record`.

        Args:
            everything: also list inputs, carries and taps.
        """
        names = tuple(self) if everything else self.layers
        return [self[name].to_record() for name in names]

    @property
    def is_traced(self) -> bool:
        """Whether it is part of a function that is being traced, so that there are no numbers yet."""
        return any(isinstance(a, jax.core.Tracer) for a in jax.tree.leaves(self._arrays))

    def __str__(self) -> str:
        return repr(self) if self._has_no_numbers else self.table()

    def table(self, *, rows: int | None = MOST_ROWS, sort: str = "forward", width: int | None = None) -> str:
        """Return the flow as a table of text, what its numbers do not say in the lines below; `print(flow)` shows it.

        A layer inside a scan shows its mean over the steps that ran (rms as rms) and a curve over the steps, in the
        order of their index; "·" is a step without a number, "0" an exact zero, "×" NaN or Inf.

        Args:
            rows: lines at most. Blocks whose names differ in a number are folded to the first, the last and the
                extremes of dL/d(output); the worst rows are always shown. None for all.
            sort: "forward", or a statistic: from its largest value to its smallest, with "-" in front the other way;
                NaN and Inf first, rows without a number last.
            width: columns, at least 60; by default those of the terminal.

        Raises:
            ValueError: for fewer rows than 2, a narrower table, a statistic that is unknown or was not asked for.
            FlowError: while it is being traced, when there are no numbers yet.
        """
        self._require_numbers()
        return render(self, rows, sort, width)

    def _repr_html_(self) -> str | None:
        """Return the table for notebooks."""
        if self._has_no_numbers:
            return None
        from gradflow.instrument.html import flow_html

        return flow_html(self)

    @property
    def _has_no_numbers(self) -> bool:
        return any(isinstance(a, (jax.core.Tracer, jax.ShapeDtypeStruct)) for a in jax.tree.leaves(self._arrays))

    def _require_numbers(self) -> None:
        if self._has_no_numbers:
            raise FlowError(
                expected="a flow with numbers",
                got="one that is being traced",
                cause="print(flow) or flow.table() inside jit, vmap or scan",
                fix="return the flow from the jitted function and print it outside",
            )

    def __repr__(self) -> str:
        return f"Flow({len(self.layers)} layers, {len(self.carries)} carries, {len(self.taps)} taps)"

    @functools.cached_property
    def _host(self) -> _Host:
        """The sums as NumPy arrays, fetched once; as they are while being traced."""

        def fetch(x: Any) -> Any:
            return x if isinstance(x, (jax.core.Tracer, jax.ShapeDtypeStruct)) else np.asarray(x)

        ahead, back, weights, loss = self._arrays
        return _Host([fetch(a) for a in ahead], [fetch(b) for b in back], [fetch(w) for w in weights], fetch(loss))

    def _weight_sums(self, place: tuple[int, int], which: str) -> list[Any]:
        group, index = place
        array = self._host.weights[group]
        return [array[..., index * len(COLUMNS) + COLUMNS.index(f"{which}_{s}")] for s in SCALES]


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


__all__ = [
    "LAYER_KINDS", "Entry", "Flow", "LayerFlow", "Leaf", "Meta", "Nonfinite", "ParameterFlow", "Unseen",
    "validate_statistics",
]  # fmt: skip
