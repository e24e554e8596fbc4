"""Measure a signal's path: norms of value and cotangent at each of its points, from one backward pass."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core
from jaxtyping import Float

from gradflow.instrument import parameters
from gradflow.instrument.arguments import Traced
from gradflow.instrument.interpreter import Interpreter
from gradflow.instrument.jaxprs import opened
from gradflow.instrument.signal_path import Point, SignalPath
from gradflow.instrument.sinks import offsets, pack_sites
from gradflow.instrument.sites import Site
from gradflow.instrument.statistics import SCALES, Layout, flush_below, root_mean_square
from gradflow.instrument.tap import TapSpec

_WANTED = frozenset({"output_rms", "output_grad_rms"})


@dataclasses.dataclass(frozen=True)
class PathNorms:
    """What was measured at the sites of a path.

    Attributes:
        loss: the value of the loss.
        forward: for each site, log10 of the value's norm, one number a step of its scan; -inf for 0.
        backward: the same of the cotangent; NaN where none arrived.
        shares: for each site, the parts of its branches in the cotangent, the last for all else that reads the value;
            None without a fork, or where the cotangent is 0 or not finite.
        flushes: for each site, whether its cotangents are float16, in which an exact 0 may have been flushed.
    """

    loss: float
    forward: list[Float[np.ndarray, "..."]]
    backward: list[Float[np.ndarray, "..."]]
    shares: list[tuple[float, ...] | None]
    flushes: list[bool]

    def at(self, point: Point, *, backward: bool) -> float:
        """Return log10 of the norm at a point; that of the loss's own cotangent is 0."""
        if not point.sites:
            return 0.0 if backward else _log10(abs(self.loss))
        found = [(self.backward if backward else self.forward)[k] for k in point.sites]
        numbers = [float(x if point.step is None else x[point.step]) for x in found]
        if len(numbers) == 1:
            return numbers[0]
        top = max(numbers)
        if not math.isfinite(top) or any(math.isnan(n) for n in numbers):
            return math.nan if any(math.isnan(n) for n in numbers) else top
        return top + 0.5 * math.log10(sum(10 ** (2 * (n - top)) for n in numbers))


def measure(traced: Traced, path: SignalPath) -> PathNorms:
    """Run a loss forward and backward with taps on a path.

    Args:
        traced: the loss.
        path: of its signal.
    """
    specs = [_spec(site) for site in path.sites]
    packs = pack_sites(path.sites, specs)
    interpreter = Interpreter(path.sites, specs, packs)
    jaxpr, consts = opened(traced.jaxpr)

    def tapped(sinks: list[Any], leaves: list[Any], consts: list[Any]) -> tuple[Any, Any]:
        (loss, *_), ahead = interpreter(core.ClosedJaxpr(jaxpr, consts), leaves, sinks)
        return loss, ahead

    run = jax.jit(jax.value_and_grad(tapped, has_aux=True))  # data are arguments, so that XLA folds no constants
    (loss, ahead), back = run([pack.zeros() for pack in packs], traced.leaves, list(consts))
    ahead, back = jax.device_get((ahead, back))
    places = {piece: (n, at) for n, pack in enumerate(packs) for piece, at in offsets(pack.ahead).items()}
    sinks = {piece: (n, at) for n, pack in enumerate(packs) for piece, at in offsets(pack.back).items()}
    forward, backward, shares = [], [], []
    for k, (site, spec) in enumerate(zip(path.sites, specs, strict=True)):
        forward.append(_norm(ahead, places[(k, "value")], spec.layout.forward, "output", site))
        backward.append(_norm(back, sinks[(k, "value")], spec.layout.backward, "cotangent", site))
        shares.append(_shares(back, sinks[(k, "products")], spec) if site.readers else None)
    return PathNorms(float(loss), forward, backward, shares, [str(site.dtype) == "float16" for site in path.sites])


def _spec(site: Site) -> TapSpec:
    layout = Layout(_WANTED, parameters.column_dtype(site), bool(np.issubdtype(site.dtype, np.complexfloating)))
    back = {"value": len(layout.backward)}
    if site.readers:
        back["products"] = 3 * (len(site.readers) + 1)
    return TapSpec(
        layout, site.unit_axes, site.example_axes, (), flush_below(np.float16), False,
        {"value": len(layout.forward)}, back,
    )  # fmt: skip


def _norm(
    arrays: Sequence[np.ndarray], place: tuple[int, int], columns: tuple[str, ...], what: str, site: Site
) -> np.ndarray:
    """Return log10 of the norm, NaN where nothing came through."""
    number, start = place
    array = np.asarray(arrays[number])
    size = max(1, math.prod(site.shape))
    sums = [array[..., start + columns.index(f"{what}_{s}")] for s in SCALES]
    calls = array[..., start]
    rms = np.asarray(root_mean_square(sums, float(size)), np.float64)
    with np.errstate(divide="ignore"):
        return np.where(calls > 0, np.log10(rms) + 0.5 * math.log10(size), np.nan)


def _shares(arrays: Sequence[np.ndarray], place: tuple[int, int], spec: TapSpec) -> tuple[float, ...] | None:
    """Return the projections on the sum as parts of its square."""
    number, start = place
    columns = np.asarray(arrays[number], np.float64)[start : start + spec.back["products"]].reshape(-1, 3)
    scale = int(np.abs(columns).sum(0).argmax())  # one scale serves all branches of a fork
    total = columns[:, scale].sum()
    if not np.isfinite(columns).all() or total <= 0:
        return None
    return tuple(float(x) for x in columns[:, scale] / total)


def _log10(x: float) -> float:
    return math.log10(x) if x > 0 else -math.inf if x == 0 else math.nan


__all__ = ["PathNorms", "measure"]
