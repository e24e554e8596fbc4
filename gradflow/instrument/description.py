"""The static half of a flow: what every tapped place and every leaf is, before anything has run."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gradflow.instrument import parameters
from gradflow.instrument.arguments import Traced
from gradflow.instrument.entries import Entry
from gradflow.instrument.flow import Leaf, Meta, Unseen
from gradflow.instrument.recorder import PLAIN_USES
from gradflow.instrument.sinks import Pack, offsets
from gradflow.instrument.sites import Findings, Site
from gradflow.instrument.tap import TapSpec

_ALONE = "meets no data: a penalty, the weight of a term, or a loss of parameters alone"
_UNUSED = "not used by the loss"


def describe(
    findings: Findings,
    sites: Sequence[Site],
    names: Sequence[str],
    specs: Sequence[TapSpec],
    packs: Sequence[Pack],
    groups: parameters.Groups,
    leaves: Sequence[int],
    traced: Traced,
    wanted: frozenset[str],
) -> Meta:
    """Describe a flow.

    Args:
        findings: all that the analysis found.
        sites: what is tapped.
        names: of the sites.
        specs: of their taps.
        packs: how their numbers are grouped.
        groups: where the sums of the parameters lie.
        leaves: numbers of the leaves that are reported.
        traced: the loss.
        wanted: statistics asked for.
    """
    paths = ["/".join(path) for path in traced.paths]
    ahead = {piece: (n, at) for n, pack in enumerate(packs) for piece, at in offsets(pack.ahead).items()}
    back = {piece: at for pack in packs for piece, at in offsets(pack.back).items()}
    silences = {s.parent: ahead[(k, "silent")] for k, s in enumerate(sites) if s.kind == "silence"}
    entries = tuple(
        _entry(k, site, name, specs[k], ahead, back, groups, silences.get(site.path), sites)
        for k, (site, name) in enumerate(zip(sites, names, strict=True))
        if site.kind != "silence"
    )
    described = []
    for k in leaves:
        place = groups.leaf(k)
        shape = tuple(getattr(traced.leaves[k], "shape", ()))
        described.append(Leaf(paths[k], shape, place, groups.rows[place[0]], k in findings.reached))
    return Meta(entries, tuple(described), _unseen(findings, paths), wanted)


def _entry(
    k: int,
    site: Site,
    name: str,
    spec: TapSpec,
    ahead: dict[tuple[int, str], tuple[int, int]],
    back: dict[tuple[int, str], int],
    groups: parameters.Groups,
    silence: tuple[int, int] | None,
    sites: Sequence[Site],
) -> Entry:
    weight, weight_size = groups.find(site.weight)
    return Entry(
        name=name,
        kind=site.kind,
        shape=site.shape,
        dtype=str(site.dtype),
        units=math.prod(site.shape[a] for a in site.unit_axes),
        input_size=0 if site.input_shape is None else math.prod(site.input_shape),
        examples=site.shape[site.example_axes[0]] if site.example_axes else 0,
        lengths=site.lengths,
        reverse=site.reverse,
        layout=spec.layout,
        pack=ahead[(k, "value")][0],
        ahead=tuple((part, ahead[(k, part)][1]) for part in spec.ahead),
        back=tuple((part, back[(k, part)]) for part in spec.back),
        silence=silence if site.kind == "layer" else None,
        groups=site.experts,
        weight=weight,
        weight_size=weight_size,
        part=None if site.weight is None else parameters.part_of(site.weight),
        order=_with_steps(site),
        computed_in=site.computed_in,
        role=_role(site, sites),
        cut=site.cut,
    )


def _role(site: Site, sites: Sequence[Site]) -> str:
    if site.kind != "layer" or site.weight is None:
        return ""
    tables = (s.weight.leaves for s in sites if s.kind == "embedding" and s.weight is not None)
    if any(site.weight.leaves == leaves for leaves in tables):
        return "read-out"
    return "recurrent" if site.source_carried else ""


def _with_steps(site: Site) -> tuple[int | None, ...]:
    """The order of a site, with None behind each scan, where the number of its step belongs."""
    order: list[int | None] = list(site.order)
    for path in reversed(site.chain):
        order.insert(len(path), None)
    return tuple(order)


def _unseen(findings: Findings, paths: Sequence[str]) -> tuple[Unseen, ...]:
    """List what no row covers: leaves without one, and uses inside what cannot be looked into."""
    seen = {k for site in findings.sites if site.weight is not None for k in site.weight.leaves}
    out: dict[Unseen, None] = {}
    used: set[int] = set()
    for use in findings.uses:
        for k in sorted(use.leaves):
            if use.why not in PLAIN_USES or k not in seen | used:
                out[Unseen(paths[k], use.why)] = None
        used |= use.leaves
    for k, path in enumerate(paths):
        if k in seen or k in used:
            continue
        out[Unseen(path, _ALONE if k in findings.used else _UNUSED)] = None
    return tuple(out)
