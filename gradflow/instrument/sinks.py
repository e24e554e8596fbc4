"""The sinks: one small array for each nest of scans, whose gradient is the statistics of every tap inside that nest."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from gradflow.instrument.layers import Path, Site
from gradflow.instrument.statistics import Layout

Chain = tuple[Path, ...]
SiteKey = tuple[str, int, str]
Sinks = dict[SiteKey, Array]


@dataclasses.dataclass(frozen=True)
class Pack:
    """The sinks of all sites inside the same scans, side by side along the last axis.

    Attributes:
        chain: the scans, outermost first; () for the top level.
        lengths: their lengths, the leading axes of the array.
        pieces: (site, "main" or "handed", width), in order.
    """

    chain: Chain
    lengths: tuple[int, ...]
    pieces: tuple[tuple[int, str, int], ...]

    @property
    def width(self) -> int:
        """Length of the last axis."""
        return sum(width for _, _, width in self.pieces)

    def zeros(self) -> Float[Array, "*lengths width"]:
        """Return the sinks' value: what it is does not matter, only its gradient does."""
        return jnp.zeros((*self.lengths, self.width), jnp.float32)

    def split(self, array: Float[Array, " width"]) -> Sinks:
        """Cut one step's row into the sinks of its sites."""
        parts = lax.split(array, [width for _, _, width in self.pieces], axis=array.ndim - 1)
        return {("site", k, which): part for (k, which, _), part in zip(self.pieces, parts, strict=True)}

    def offsets(self) -> dict[tuple[int, str], int]:
        """Return where each piece begins."""
        out, at = {}, 0
        for site, which, width in self.pieces:
            out[(site, which)] = at
            at += width
        return out


def pack_sites(sites: Sequence[Site], layout: Layout, handed: Sequence[bool]) -> tuple[Pack, ...]:
    """Group sites by the scans around them; `handed` tells which of them also tap their input's cotangent."""
    groups: dict[Chain, list[int]] = {}
    for k, site in enumerate(sites):
        groups.setdefault(site.chain, []).append(k)
    packs = []
    for chain, members in groups.items():
        pieces = []
        for k in members:
            pieces.append((k, "main", len(layout.forward + layout.backward)))
            if handed[k]:
                pieces.append((k, "handed", len(layout.handed)))
        packs.append(Pack(chain, sites[members[0]].lengths, tuple(pieces)))
    return tuple(packs)
