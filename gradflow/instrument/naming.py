"""Name each site by the path of its parameter, whatever framework wrote the path."""

from __future__ import annotations

import collections
import fnmatch
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from gradflow.instrument.errors import FlowError
from gradflow.instrument.sites import Path, Site

Select = str | Sequence[str] | Callable[[str], bool] | None


# What wrappers around an array call it: Flax NNX variables, haliax and penzai named arrays.
_WRAPPED = frozenset({"value", "raw_value", "array", "data_array"})
_COLLECTION = "params"


def leaf_names(keys: Sequence[Sequence[Any]], arguments: Sequence[str], single: bool) -> list[tuple[str, ...]]:
    """Return the names that lead to every leaf, less what frameworks add around the user's own.

    Args:
        keys: pytree paths of the leaves.
        arguments: names of the differentiated arguments.
        single: whether the paths begin inside the only one of them, not at its number.
    """
    starts: list[tuple[str, ...]] = [() if len(arguments) == 1 else (arguments[path[0].idx],) for path in keys]
    full = [
        (*start, *path_parts(path if single else path[1:], keep_collections=True))
        for start, path in zip(starts, keys, strict=True)
    ]
    less = [(*start, *path_parts(path if single else path[1:])) for start, path in zip(starts, keys, strict=True)]
    parents: dict[tuple[str, ...], set[tuple[str, ...]]] = collections.defaultdict(set)
    for long, short in zip(full, less, strict=True):
        parents[short[:-1]].add(long[:-1])
    clear = [len(parents[short[:-1]]) == 1 for short in less]
    chosen = [short if c else long for long, short, c in zip(full, less, clear, strict=True)]
    return [path or (arguments[0],) for path in chosen]


def path_parts(path: Sequence[Any], *, keep_collections: bool = False) -> tuple[str, ...]:
    """Turn a pytree path into names.

    Args:
        path: keys of the pytree.
        keep_collections: whether to keep the names of collections of variables ("params").

    Examples:
        >>> import jax
        >>> path = jax.tree_util.tree_flatten_with_path({"params": {"Dense_0": {"kernel": 1}}})[0][0][0]
        >>> path_parts(path), path_parts(path, keep_collections=True)
        (('Dense_0', 'kernel'), ('params', 'Dense_0', 'kernel'))
    """
    keys = list(path)
    while len(keys) > 1 and isinstance(keys[-1], jax.tree_util.GetAttrKey) and keys[-1].name in _WRAPPED:
        keys.pop()
    kept = [k for k in keys[:-1] if keep_collections or not _is_collection(k)] + keys[-1:]
    return tuple(p for key in kept for p in jax.tree_util.keystr((key,), simple=True).split("/"))


def _is_collection(key: Any) -> bool:
    return isinstance(key, jax.tree_util.DictKey) and key.key == _COLLECTION


def name_sites(sites: Sequence[Site], leaf_parts: Sequence[tuple[str, ...]]) -> list[str]:
    """Return a distinct name for every site.

    A layer is its leaf's path less the leaf's own name; two leaves under one path keep their own names; a second use of
    the same leaf, or of a name given by hand, is `name#2`. A leaf known only by its number in a list is named by the
    scope it was used in, and by its role there (`kernel`, `recurrent_kernel`). What a scan carries is `h` where a layer
    reads it, `c` beside that, and else `carry_0`, `carry_1`.

    Args:
        sites: to be named.
        leaf_parts: names that lead to every leaf.
    """
    scopes = _scopes(sites, leaf_parts)
    bases = [_base(site, leaf_parts, scopes) for site in sites]
    under: dict[str, dict[frozenset[int], Site]] = collections.defaultdict(dict)
    for site, base in zip(sites, bases, strict=True):
        if site.weight is not None:
            under[base].setdefault(site.weight.leaves, site)
    own = {base: _own(leaves, leaf_parts) for base, leaves in under.items() if len(leaves) > 1}
    names = [
        _with_leaf(base, own[base][site.weight.leaves]) if site.weight is not None and base in own else base
        for site, base in zip(sites, bases, strict=True)
    ]
    return _distinct(_with_carries(sites, bases, names))


def selected(names: Sequence[str], select: Select, also: Sequence[str] = ()) -> list[bool]:
    """Tell which names match a pattern (`fnmatch`), any of several, or a predicate.

    Args:
        names: to choose from.
        select: the pattern; None chooses all.
        also: further names that it may mean.

    Raises:
        FlowError: if no name matches.
    """
    if select is None:
        return [True] * len(names)
    if callable(select):
        matches = select
    else:
        patterns = [select] if isinstance(select, str) else list(select)

        def matches(name: str) -> bool:
            return any(fnmatch.fnmatchcase(name, p) for p in patterns)

    chosen = [bool(matches(name)) for name in names]
    if not any(chosen) and not any(matches(name) for name in also):
        raise FlowError(
            expected="select= to match at least one name",
            got=f"{select!r}, which matches none of {', '.join(names)}",
            cause="a typing error, or a pattern without wildcards (use 'Dense_*', '*/attention/*')",
            fix="choose among the names above, or leave select out",
        )
    return chosen


def _base(site: Site, leaf_parts: Sequence[tuple[str, ...]], scopes: Mapping[int, str]) -> str:
    if site.kind == "tap":
        return site.given
    if site.kind == "carry":
        return ""
    if site.kind in ("input", "silence"):
        return site.kind
    if site.weight is None:
        return site.scope or "contraction"
    parents = sorted({leaf_parts[k][:-1] for k in site.weight.leaves})
    if len(parents) == 1:
        if parents[0]:
            return "/".join(parents[0])
        number = _number(site.weight.leaves, leaf_parts)
        if number is not None:
            return site.scope or scopes.get(number, str(number))
        return "+".join("/".join(leaf_parts[k]) for k in sorted(site.weight.leaves))
    common = _common_start(parents)
    rests = ["/".join(p[len(common) :]) or "." for p in parents]
    return "/".join((*common, "+".join(rests))) if len(rests) <= 4 else "/".join(common) or "weight"


def _common_start(paths: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Return the parts that all paths begin with."""
    common = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return tuple(common)


def _own(weights: dict[frozenset[int], Site], leaf_parts: Sequence[tuple[str, ...]]) -> dict[frozenset[int], str]:
    """Return what weights under one path are called; by their roles in a cell where they have only numbers."""
    if all(_number(leaves, leaf_parts) is not None for leaves in weights) and any(
        site.source_carried for site in weights.values()
    ):
        return {k: "recurrent_kernel" if site.source_carried else "kernel" for k, site in weights.items()}
    return {leaves: "+".join(leaf_parts[k][-1] for k in sorted(leaves) if leaf_parts[k]) for leaves in weights}


def _number(leaves: frozenset[int], leaf_parts: Sequence[tuple[str, ...]]) -> int | None:
    """Return the number by which alone a leaf is known, in a list of variables."""
    parts = leaf_parts[next(iter(leaves))]
    return int(parts[0]) if len(leaves) == len(parts) == 1 and parts[0].isdecimal() else None


def _scopes(sites: Sequence[Site], leaf_parts: Sequence[tuple[str, ...]]) -> dict[int, str]:
    """Return scopes of leaves known by number; a recurrent kernel outside of any has that of the leaf before it."""
    weights = [(site, _number(site.weight.leaves, leaf_parts)) for site in sites if site.weight is not None]
    scopes = {number: site.scope for site, number in weights if number is not None and site.scope}
    behind = {
        number: scopes[number - 1]
        for site, number in weights
        if number is not None and site.source_carried and not site.scope and number - 1 in scopes
    }
    return behind | scopes


def _with_leaf(base: str, own: str) -> str:
    return base if base == own or base.endswith("/" + own) else f"{base}/{own}"


def _with_carries(sites: Sequence[Site], bases: Sequence[str], names: Sequence[str]) -> list[str]:
    """Name a scan's carries after what the layers inside it have in common."""
    out, taken = list(names), set(names)
    scans: dict[Path, list[int]] = collections.defaultdict(list)
    for k, site in enumerate(sites):
        if site.kind == "carry":
            scans[site.chain[-1]].append(k)
    for scan, carries in scans.items():
        inside = [
            tuple(base.split("/"))
            for s, base in zip(sites, bases, strict=True)
            if s.kind not in ("carry", "tap", "input", "silence") and s.path[: len(scan)] == scan
        ]
        start = _common_start(inside)
        states = ["/".join((*start, name)) for name in _states([sites[k] for k in carries])]
        numbered = ["/".join((*start, f"carry_{sites[k].order[-1]}")) for k in carries]
        for k, name in zip(carries, numbered if taken & set(states) else states, strict=True):
            out[k] = name
    return out


def _states(carries: Sequence[Site]) -> list[str]:
    """Return h for the one carry that a layer reads and c for the one beside it, numbers where that is not clear."""
    read = [site for site in carries if site.source_carried]
    if len(read) != 1 or len(carries) > 2 or any(site.shape != read[0].shape for site in carries):
        return [f"carry_{site.order[-1]}" for site in carries]
    return ["h" if site.source_carried else "c" for site in carries]


def _distinct(names: Sequence[str]) -> list[str]:
    """Number what occurs again: a second use is `name#2`, unless somebody chose that very name."""
    taken, out = set(names), []
    count: collections.Counter[str] = collections.Counter()
    for name in names:
        count[name] += 1
        numbered = name
        while count[name] > 1 and numbered in taken:
            numbered = f"{name}#{count[name]}"
            count[name] += numbered in taken
        taken.add(numbered)
        out.append(numbered)
    return out
