"""Packs: for each nest of scans one array of what goes forward, and one sink whose gradient is what comes back."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from gradflow.instrument.sites import Path, Site
from gradflow.instrument.tap import TapSpec

Chain = tuple[Path, ...]
Key = tuple[str, int, str]
Arrays = dict[Key, Array]
Piece = tuple[int, str, int]


@dataclasses.dataclass(frozen=True)
class Pack:
    """The numbers of all sites inside the same scans, side by side along the last axis.

    Attributes:
        chain: the scans, outermost first; () for the top level.
        lengths: their lengths, the leading axes of the arrays.
        dtype: of the arrays.
        ahead: (site, part, width) of what the forward pass gives, in order.
        back: the same of what the backward pass gives.
    """

    chain: Chain
    lengths: tuple[int, ...]
    dtype: str
    ahead: tuple[Piece, ...]
    back: tuple[Piece, ...]

    def zeros(self) -> Float[Array, "*lengths width"]:
        """Return the sink's value. The value has no meaning; only its gradient is used."""
        return jnp.zeros((*self.lengths, _width(self.back)), self.dtype)

    def no_forward(self, depth: int) -> Float[Array, "*inner width"]:
        """Return what a branch that was not taken gives.

        Args:
            depth: how many of the scans are around the branch.
        """
        return jnp.zeros((*self.lengths[depth:], _width(self.ahead)), self.dtype)

    def split(self, sink: Float[Array, " width"]) -> Arrays:
        """Cut one step's row of the sink into those of its sites."""
        parts = lax.split(sink, [width for _, _, width in self.back], axis=sink.ndim - 1)
        return {("site", k, part): piece for (k, part, _), piece in zip(self.back, parts, strict=True)}

    def joined(self, given: Arrays) -> Float[Array, " width"]:
        """Put the forward numbers of one step's sites side by side."""
        return jnp.concatenate([given[("site", k, part)].astype(self.dtype) for k, part, _ in self.ahead], -1)


def offsets(pieces: Sequence[Piece]) -> dict[tuple[int, str], int]:
    """Return where each (site, part) begins."""
    out, at = {}, 0
    for site, part, width in pieces:
        out[(site, part)] = at
        at += width
    return out


def _width(pieces: Sequence[Piece]) -> int:
    return sum(width for _, _, width in pieces)


def pack_sites(sites: Sequence[Site], specs: Sequence[TapSpec]) -> tuple[Pack, ...]:
    """Group sites by the scans around them."""
    groups: dict[Chain, list[int]] = {}
    for k, site in enumerate(sites):
        groups.setdefault(site.chain, []).append(k)
    packs = []
    for chain, members in groups.items():
        ahead = [(k, part, width) for k in members for part, width in specs[k].ahead.items()]
        back = [(k, part, width) for k in members for part, width in specs[k].back.items()]
        wide = any(specs[k].layout.dtype == "float64" for k in members)
        dtype = "float64" if wide else "float32"
        packs.append(Pack(chain, sites[members[0]].lengths, dtype, tuple(ahead), tuple(back)))
    return tuple(packs)
