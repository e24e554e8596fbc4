"""The ledger: how much each stage between the loss and the first layer adds to the signal, or takes from it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float

from gradflow.diagnosis.expectation import (
    Budget,
    Expected,
    activation_slopes,
    slope_gain,
    weight_gain,
    weight_statistics,
)
from gradflow.diagnosis.ledger_table import render, sentence
from gradflow.instrument.analysis import find_sites
from gradflow.instrument.arguments import Traced, trace
from gradflow.instrument.causes import Stage
from gradflow.instrument.jaxprs import opened
from gradflow.instrument.naming import name_sites
from gradflow.instrument.origins import Kind, Origin
from gradflow.instrument.path_norms import PathNorms, measure
from gradflow.instrument.signal_path import LINKS, Move, SignalPath, find_path

_NOTHING = 1e-6  # decades: what a link between a scan and its surroundings may show without being an entry


@dataclasses.dataclass(frozen=True, eq=False)
class Entry:
    """One line of the ledger.

    Attributes:
        cause: "weights", "activation", "normalization", "skip", "time", "loss" or "other".
        where: name of the layer that it belongs to: the one whose weights these are, whose output the activation reads,
            what the layers of a branch have in common; "loss" behind the last layer.
        operation: what is computed there.
        log10_gain: log10 of the norm of the cotangent below over that above it, over all steps of a scan. -inf where
            the signal becomes exactly 0; NaN where there is none (`remark` says why).
        forward_log10_gain: log10 of the norm of the value above over that below it.
        shares: for each branch its part in the cotangent below, the projection on the whole, which add up to 1 and may
            be negative; empty where branches were not told apart.
        layers: names of the layers inside it, where it holds several branches.
        steps: gains of the steps that it was passed at, from the first step to the last; None outside of scans.
        expected: band of `log10_gain` at this width, for weights and signals of the size that was measured; None where
            theory says nothing, or had no time left. It takes weights and slopes for independent of the cotangent that
            arrives. Of the last layer's weights and of the activation below it nothing is expected, because a loss such
            as mean(output^2) sends the output itself back.
        remark: what has to be said in words, "" mostly.
    """

    cause: str
    where: str
    operation: str
    log10_gain: float
    forward_log10_gain: float
    shares: Mapping[str, float]
    layers: tuple[str, ...]
    steps: Float[np.ndarray, " steps"] | None
    expected: Expected | None
    remark: str

    @property
    def beyond_chance(self) -> bool | None:
        """Whether the gain is outside of what theory expects; None where it expects nothing."""
        if self.expected is None or math.isnan(self.log10_gain):
            return None
        return not self.expected.low <= self.log10_gain <= self.expected.high

    def to_record(self) -> dict[str, Any]:
        """Return plain Python values, ready for JSON: None for NaN, "-Infinity" for a signal that becomes 0."""
        return {
            "cause": self.cause,
            "where": self.where,
            "operation": self.operation,
            "log10_gain": _plain(self.log10_gain),
            "forward_log10_gain": _plain(self.forward_log10_gain),
            "shares": dict(self.shares),
            "layers": list(self.layers),
            "steps": None if self.steps is None else [_plain(float(x)) for x in self.steps],
            "expected": None if self.expected is None else self.expected._asdict(),
            "remark": self.remark,
        }


@dataclasses.dataclass(frozen=True, eq=False)
class Book:
    """Where the signal is lost or gained, from the loss down to the first layer; `print` shows a table.

    Attributes:
        entries: from the loss downwards.
        total: log10 of the norm of dL/d(first layer's output) over that of dL/d(last layer's output). The gains of all
            entries but those of the loss add up to it.
        first, last: names of these layers.
        path: which path it follows, in words.
        aside: names of layers that are not on it, and why.
        loss: the value of the loss.
    """

    entries: tuple[Entry, ...]
    total: float
    first: str
    last: str
    path: str
    aside: Mapping[str, str]
    loss: float

    @property
    def by_cause(self) -> dict[str, float]:
        """Sum of the gains of each cause, the loss aside."""
        out: dict[str, float] = {}
        for entry in self.entries:
            if entry.cause != "loss" and not math.isnan(entry.log10_gain):
                out[entry.cause] = out.get(entry.cause, 0.0) + entry.log10_gain
        return out

    @property
    def expected(self) -> Expected | None:
        """Band of `total`: expected and independent gains where theory has them, the measured ones elsewhere.

        None where theory expects nothing at all.
        """
        entries = [e for e in self.entries if e.cause != "loss"]
        bands = [e.expected for e in entries if e.expected is not None]
        if not bands:
            return None
        mean = math.fsum(e.log10_gain if e.expected is None else e.expected.mean for e in entries)
        half = math.sqrt(sum((band.high - band.mean) ** 2 for band in bands))
        return Expected(mean, mean - half, mean + half)

    @property
    def summary(self) -> str:
        """One sentence: "Of 11.4 decades lost, 9.8 are the activations', 1.6 the weights'."."""
        return sentence(self)

    def to_records(self) -> list[dict[str, Any]]:
        """Return one dict of plain Python values an entry, ready for JSON."""
        return [entry.to_record() for entry in self.entries]

    def table(self, *, width: int | None = None, rows: int | None = 40) -> str:
        """Return the ledger as a table of text.

        Args:
            width: columns, at least 60; by default those of the terminal.
            rows: lines at most; the entries that change least are counted and added up in one line. None for all.
        """
        return render(self, width, rows)

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        return f"Book({len(self.entries)} entries, total={self.total:+.2f} decades, {self.last} -> {self.first})"

    def _repr_html_(self) -> str:
        from gradflow.diagnosis.ledger_html import book_html

        return book_html(self)


def ledger(
    loss_fn: Callable[..., Any],
    params: Any,
    *args: Any,
    has_aux: bool = False,
    theory_seconds: float = 2.0,
    **kwargs: Any,
) -> Book:
    r"""Split the loss or gain of the backward signal by its causes, from the loss down to the first layer.

    A path runs through the values that every differentiable way from the first layer to the loss passes. Between two
    of them lies a stage: a layer's weights, an activation, a normalization, or a stretch in which branches come
    together, a skip connection. Its gain is log10 of |dL/d(value below)| / |dL/d(value above)|, so that gains add up.
    The norm counts, not the rms, so that a change of width is no loss. Scans over layers are followed step by step, and
    so is the recurrent state of the lowest scan over time.

    Args:
        loss_fn: a loss, as for `jax.value_and_grad`.
        params: its first argument, which is differentiated.
        *args: its other arguments.
        has_aux: whether it returns (loss, aux).
        theory_seconds: how long theory may take; entries that it does not come to have `expected` None.
        **kwargs: of the loss.

    Returns:
        The ledger. Where no path can be followed it has no entries, and `aside` says why.

    Raises:
        FlowError: inside `jit`, `vmap` or `grad`, or for a loss that `value_grad_and_flow` refuses.

    Examples:
        >>> import jax, jax.numpy as jnp, gradflow as gf
        >>> keys = jax.random.split(jax.random.key(0), 3)
        >>> params = [jax.random.normal(k, (64, 64)) / 8 for k in keys]
        >>> def loss(params, x):
        ...     for w in params[:-1]:
        ...         x = jax.nn.sigmoid(x @ w)
        ...     return jnp.mean((x @ params[-1]) ** 2)
        >>> book = gf.ledger(loss, params, jnp.ones((8, 64)))
        >>> [(entry.cause, entry.where) for entry in book.entries if entry.cause != "loss"]
        [('weights', '2'), ('activation', '1'), ('weights', '1'), ('activation', '0')]
    """
    with trace(loss_fn, 0, has_aux, (params, *args), kwargs) as traced:
        traced.require_numbers("gf.ledger", "call it outside; it compiles what it runs itself")
        path, norms = _measured_path(traced)
        return _book(path, norms, traced.leaves, Budget(theory_seconds))


def _measured_path(traced: Traced) -> tuple[SignalPath, PathNorms]:
    """Measure the path from the first layer, or from one beside it where the first is cut off by an exact zero.

    The gate of a cell whose state is 0, and a low-rank update whose second factor is 0, have a cotangent of 0 by
    construction. A layer beside them, which does not depend on them, tells what the signal does.
    """
    path = _path_of(traced, {})
    norms = measure(traced, path)
    passed_over: dict[str, str] = {}
    other, seen = path, norms
    while other.moves and seen.at(other.moves[-1].lower, backward=True) == -math.inf:
        passed_over[other.first] = "its cotangent is exactly 0, that of a layer beside it is not"
        other = _path_of(traced, passed_over)
        if other.moves or other.first:
            seen = measure(traced, other)
    return (other, seen) if other.moves else (path, norms)


def _path_of(traced: Traced, passed_over: Mapping[str, str]) -> SignalPath:
    origins = [Origin(Kind.VIEW, frozenset({k}), active=True) for k in range(len(traced.leaves))]
    data = [Origin(Kind.DATA) for _ in opened(traced.jaxpr)[1]]
    sites = find_sites(traced.jaxpr, origins, data, activations=False).sites
    names = name_sites(sites, traced.paths)
    owners = ["/".join(path[:-1]) or path[-1] for path in traced.paths]
    return find_path(traced.jaxpr, sites, names, owners, passed_over)


def _book(path: SignalPath, norms: PathNorms, leaves: Sequence[Any], budget: Budget) -> Book:
    order = list(dict.fromkeys(move.stage for move in path.moves))
    grouped: dict[int, list[Move]] = {k: [] for k in order}
    for move in path.moves:
        grouped[move.stage].append(move)
    entries = []
    independent = _independent_of_loss([path.stages[k] for k in order])
    for k, alone in zip(order, independent, strict=True):
        entry = _entry(path.stages[k], grouped[k], norms, path, leaves, budget, alone)
        if path.stages[k].operation not in LINKS or not abs(entry.log10_gain) < _NOTHING:
            entries.append(entry)
    ends = [m for m in path.moves if path.stages[m.stage].cause != "loss"]
    total = math.nan
    if ends:
        total = norms.at(ends[-1].lower, backward=True) - norms.at(ends[0].upper, backward=True)
    elif path.first and path.first == path.last:
        total = 0.0
    return Book(
        tuple(entries), total, path.first, path.last, _words(path), MappingProxyType(dict(path.aside)), norms.loss
    )


def _entry(
    stage: Stage,
    moves: Sequence[Move],
    norms: PathNorms,
    path: SignalPath,
    leaves: Sequence[Any],
    budget: Budget,
    independent: bool,
) -> Entry:
    backward = [_gain(m.upper, m.lower, norms, backward=True) for m in moves]
    forward = [_gain(m.lower, m.upper, norms, backward=False) for m in moves]
    in_scan = len(moves) > 1 or moves[0].lower.step is not None
    return Entry(
        stage.cause,
        stage.where,
        stage.operation,
        _sum(backward),
        _sum(forward),
        _shares(stage, norms),
        stage.layers,
        np.asarray(backward[::-1]) if in_scan else None,
        _expected(stage, moves, norms, path, leaves, budget) if independent else None,
        _remark(moves, norms),
    )


def _independent_of_loss(stages: Sequence[Stage]) -> list[bool]:
    """Tell which stages get a cotangent that does not depend on them: those below the last layer and its activation."""
    weights = [k for k, stage in enumerate(stages) if stage.cause in ("weights", "time")]
    second = weights[1] if len(weights) > 1 else len(stages)
    return [k >= second for k in range(len(stages))]


def _gain(start: Any, end: Any, norms: PathNorms, *, backward: bool) -> float:
    a, b = norms.at(start, backward=backward), norms.at(end, backward=backward)
    return math.nan if not math.isfinite(a) else b - a


def _sum(gains: Sequence[float]) -> float:
    """Add up gains; below the step at which the signal becomes 0 there are none."""
    return -math.inf if -math.inf in gains else math.fsum(gains) if all(map(math.isfinite, gains)) else math.nan


def _shares(stage: Stage, norms: PathNorms) -> dict[str, float]:
    parts = norms.shares[stage.fork] if stage.fork >= 0 else None
    if parts is None:
        return {}
    shares: dict[str, float] = {}
    for name, part in zip((*stage.branches, "other uses"), parts, strict=True):
        shares[name] = shares.get(name, 0.0) + part
    return {name: share for name, share in shares.items() if name != "other uses" or share != 0}


def _remark(moves: Sequence[Move], norms: PathNorms) -> str:
    """Say why a gain is no number."""
    above = [norms.at(m.upper, backward=True) for m in moves]
    below = [norms.at(m.lower, backward=True) for m in moves]
    if all(math.isfinite(x) for x in (*above, *below)):
        return ""
    if any(x == math.inf for x in (*above, *below)):
        return "Inf"
    if any(math.isfinite(a) and b == -math.inf for a, b in zip(above, below, strict=True)):
        sites = [k for m in moves for k in m.lower.sites]
        return "zero or flushed" if any(norms.flushes[k] for k in sites) else "the signal is exactly 0 from here on"
    if any(x == -math.inf for x in above):
        return "no signal left"
    return "NaN, or no cotangent arrives"


def _expected(
    stage: Stage, moves: Sequence[Move], norms: PathNorms, path: SignalPath, leaves: Sequence[Any], budget: Budget
) -> Expected | None:
    known = []
    for move in moves:
        band = _expected_move(stage, move, norms, path, leaves, budget)
        if band is None:
            return None
        known.append(band)
    mean, half = sum(b.mean for b in known), math.sqrt(sum((b.high - b.mean) ** 2 for b in known))
    return Expected(mean, mean - half, mean + half)


def _expected_move(
    stage: Stage, move: Move, norms: PathNorms, path: SignalPath, leaves: Sequence[Any], budget: Budget
) -> Expected | None:
    if stage.layer is not None and stage.operation.endswith("dot_general"):
        found = weight_statistics(stage.layer, leaves)
        if found is None:
            return None
        squares, fan_in = found
        square = float(squares if squares.ndim == 0 else squares[move.lower.step])
        return weight_gain(square, fan_in) if square > 0 and math.isfinite(square) else None
    if stage.entering < 0 or not budget.left:
        return None
    site, entering = path.sites[stage.entering], norms.forward[stage.entering]
    size = max(1, math.prod(site.shape))
    rms = 10 ** (float(entering if move.lower.step is None else entering[move.lower.step]) - 0.5 * math.log10(size))
    slopes = activation_slopes(stage, site.shape, rms, site.dtype)
    return None if slopes is None else slope_gain(slopes, site.shape[-1] if site.shape else 1)


def _words(path: SignalPath) -> str:
    if not path.moves:
        return "no path: " + "; ".join(f"{n}: {why}" for n, why in path.aside) if path.aside else "no layer"
    first = f"{path.first} at the first step" if path.first_step else path.first
    last = path.last or "the state after the last step"
    return f"{' and '.join(path.kinds)}, from {last} down to {first}"


def _plain(x: float) -> float | str | None:
    if math.isfinite(x):
        return x
    return None if math.isnan(x) else "Infinity" if x > 0 else "-Infinity"


__all__ = ["Book", "Entry", "ledger"]
