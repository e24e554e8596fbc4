"""Name each site by the path of its parameter, whatever framework wrote the path."""

from __future__ import annotations

import collections
import fnmatch
from collections.abc import Callable, Sequence
from typing import Any

import jax

from gradflow.instrument.errors import FlowError
from gradflow.instrument.sites import Site

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
    full = [(*start, *path_parts(path if single else path[1:], keep_collections=True)) for start, path in zip(starts, keys, strict=True)]
    less = [
        (*start, *path_parts(path if single else path[1:]))
        for start, path in zip(starts, keys, strict=True)
    ]
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
    scope it was used in.
    """
    bases = [_base(site, leaf_parts) for site in sites]
    leaves_of: dict[str, set[frozenset[int]]] = collections.defaultdict(set)
    for site, base in zip(sites, bases, strict=True):
        if site.weight is not None:
            leaves_of[base].add(site.weight.leaves)
    names: list[str] = []
    for site, base in zip(sites, bases, strict=True):
        if site.weight is not None and len(leaves_of[base]) > 1:
            base = _with_leaf(base, site, leaf_parts)
        names.append(base)
    names = _with_carries(sites, names)
    return _distinct(names)


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


def _base(site: Site, leaf_parts: Sequence[tuple[str, ...]]) -> str:
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
        if len(site.weight.leaves) == 1:
            own = "/".join(leaf_parts[next(iter(site.weight.leaves))])
            return site.scope or own if own.isdigit() else own or "weight"
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


def _with_leaf(base: str, site: Site, leaf_parts: Sequence[tuple[str, ...]]) -> str:
    assert site.weight is not None
    own = "+".join(leaf_parts[k][-1] for k in sorted(site.weight.leaves) if leaf_parts[k])
    return base if base == own or base.endswith("/" + own) else f"{base}/{own}"


def _with_carries(sites: Sequence[Site], names: Sequence[str]) -> list[str]:
    """Name a scan's carries after what the layers inside it have in common."""
    out = list(names)
    for k, site in enumerate(sites):
        if site.kind != "carry":
            continue
        scan = site.chain[-1]
        inside = [
            tuple(n.split("/"))
            for s, n in zip(sites, names, strict=True)
            if s.kind not in ("carry", "tap", "input", "silence") and s.path[: len(scan)] == scan
        ]
        common = _common_start(inside)
        out[k] = "/".join((*common, f"carry_{site.order[-1]}"))
    return out


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
