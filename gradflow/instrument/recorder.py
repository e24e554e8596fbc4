"""The record that the analysis keeps: sites, uses of parameters without a site, and a bit for each of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from jax.extend import core

from gradflow.instrument import jaxprs
from gradflow.instrument.origins import Origin
from gradflow.instrument.sites import Findings, Path, Place, Site, Use

# Said of uses that are fully described by the leaf's own gradient and listed only where the leaf has no row at all.
ELEMENTWISE_USE = "added to or multiplied with data (bias, scale, gate): no contraction"
INPUT_USE = "enters a layer as its input: the layer's input gradient shows its signal"
PLAIN_USES = frozenset({ELEMENTWISE_USE, INPUT_USE})


class Recorder:
    """What has been found so far.

    Attributes:
        found: sites by key; the key of a tapped output is the path of its equation.
        extra: sites that exist only together with another one: carries, inputs, silences.
        uses: uses of leaves without a site, by path.
    """

    def __init__(self) -> None:
        self.found: dict[Any, Site] = {}
        self.extra: dict[Any, Site] = {}
        self.uses: dict[Path, Use] = {}
        self.tables: dict[Any, int] = {}
        self._bits: dict[Any, int] = {}

    def bit(self, key: Any) -> int:
        """Return the bit that stands for a key in `Origin.layers`, a new one the first time."""
        return self._bits.setdefault(key, 1 << len(self._bits))

    def known_bit(self, key: Any) -> int:
        """Return the bit of a key, 0 where it has none."""
        return self._bits.get(key, 0)

    def leaf_bits(self, origin: Origin) -> int:
        """Return the bits of the leaves behind a value."""
        mask = 0
        for leaf in origin.leaves:
            mask |= self.bit(("leaf", leaf))
        return mask

    def forget(self, path: Path) -> None:
        """Drop what was found below a path: another round of a scan's fixed point finds it again."""
        depth = len(path)
        for record in (self.found, self.extra):
            for key in [key for key, site in record.items() if site.path[:depth] == path]:
                del record[key]
        for where in [where for where in self.uses if where[:depth] == path]:
            del self.uses[where]

    def add(
        self,
        eqn: core.JaxprEqn,
        path: Path,
        place: Place,
        kind: str,
        axes: tuple[tuple[int, ...], tuple[int, ...]],
        varying: Sequence[Origin],
        *,
        out: int = 0,
        source: int | None = None,
        weight: Origin | None = None,
        **more: Any,
    ) -> int:
        """Record a tapped output of an equation and return its bit."""
        shared = frozenset[str]() if weight is None else weight.axes
        entering = None if source is None or not jaxprs.is_inexact(eqn.invars[source]) else eqn.invars[source]
        self.found[path] = Site(
            path,
            kind,
            out,
            None if entering is None else source,
            weight,
            *axes,
            shape=jaxprs.shape_of(eqn.outvars[out]),
            dtype=jaxprs.dtype_of(eqn.outvars[out]),
            input_shape=None if entering is None else jaxprs.shape_of(entering),
            mesh_axes=tuple(sorted(frozenset[str]().union(*(o.axes for o in varying)) - shared)),
            lengths=place.lengths,
            reverse=place.reverse,
            chain=place.chain,
            scope=jaxprs.source_scope(eqn),
            order=path,
            **more,
        )
        return self.bit(path)

    def use(self, path: Path, leaves: frozenset[int], why: str) -> int:
        """Record a use of leaves that has no row, and return its bit."""
        self.uses[path] = Use(leaves, why)
        return self.bit(("use", path))

    def discard_tables(self, weight: Origin) -> None:
        """Drop tables of positions that turned out to be updates of a weight (W + delta)."""
        for key, bit in list(self.tables.items()):
            if bit & weight.layers and self.found.pop(key, None) is not None:
                del self.tables[key]

    def collect(self, loss: Origin, leaves: int) -> Findings:
        """Return what feeds the loss, in forward order."""
        alive = {
            key: dataclasses.replace(site, cut=_cut(loss, self._bits[key]))
            for key, site in self.found.items()
            if site.kind == "tap" or self._bits[key] & loss.layers
        }
        paths = {site.path for site in alive.values()}
        extra = []
        for key, site in self.extra.items():
            bit = self.known_bit(key)
            if site.parent in paths:
                extra.append(site)
            elif bit & loss.layers:
                extra.append(dataclasses.replace(site, cut=_cut(loss, bit)))
        bits = [self.bit(("leaf", k)) for k in range(leaves)]
        return Findings(
            tuple(sorted([*alive.values(), *extra], key=lambda s: s.order)),
            tuple(u for path, u in self.uses.items() if self._bits[("use", path)] & loss.layers),
            frozenset(k for k, bit in enumerate(bits) if bit & loss.layers),
            frozenset(k for k, bit in enumerate(bits) if bit & loss.reaching),
        )


def _cut(loss: Origin, bit: int) -> tuple[str, ...]:
    """Return what lies between a place and the loss, () if a cotangent can get there."""
    if bit & loss.reaching:
        return ()
    return tuple(name for name, mask in loss.cuts if mask & bit) or ("nothing differentiable",)
