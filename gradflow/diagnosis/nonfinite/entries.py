"""Which entries of its operands make one entry of an operation's output non-finite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from gradflow.instrument import jaxprs
from gradflow.primitives import ELEMENTWISE, IDENTITIES, RESHAPINGS

__all__ = ["Cause", "Entry", "Index", "broadcast", "causes", "entry", "host", "is_bad", "is_nan", "opaque_causes"]

Index = tuple[int, ...]

_COPIES = RESHAPINGS | frozenset(
    {
        "broadcast_in_dim",
        "concatenate",
        "dynamic_slice",
        "dynamic_update_slice",
        "gather",
        "pad",
        "rev",
        "slice",
        "split",
    }
)
_REDUCTIONS = frozenset({"reduce_max", "reduce_min", "reduce_prod", "reduce_sum"})
_EXTREMES = frozenset({"clamp", "max", "min", "reduce_max", "reduce_min"})
# The whole output depends on the whole input, and no entry can be exchanged without changing what is computed.
_WHOLE = frozenset(
    {
        "cholesky", "cholesky_update", "custom_linear_solve", "eig", "eigh", "ffi_call", "geqrf", "hessenberg",
        "householder_product", "lu", "pallas_call", "qr", "schur", "shard_map", "svd", "triangular_solve",
        "tridiagonal", "tridiagonal_solve",
    }
)  # fmt: skip


class Entry(NamedTuple):
    """One entry of an operand.

    Attributes:
        operand: its number.
        at: index of the entry.
    """

    operand: int
    at: Index


class Cause(NamedTuple):
    """Why an entry of an output is not finite.

    Attributes:
        entries: non-finite entries of operands that make it so.
        born: whether the operation made it: of finite entries alone where there are no `entries`, else NaN of
            infinite ones.
    """

    entries: tuple[Entry, ...]
    born: bool


def host(value: Any) -> np.ndarray:
    """Return an array on the host.

    Args:
        value: of any floating-point, complex, integer or Boolean type.
    """
    return np.asarray(value)


def entry(value: Any, index: Index) -> Any:
    """Return one entry, of a scalar the scalar itself.

    Args:
        value: an array.
        index: of the entry.
    """
    array = host(value)
    return array[index] if array.shape else array[()]


def broadcast(index: Index, operand: Any) -> Index:
    """Return the index of the entry that an elementwise operation reads for an entry of its output.

    Args:
        index: of the output.
        operand: of the shape of the output, of length 1 along some axes, or a scalar.
    """
    return tuple(0 if n == 1 else i for n, i in zip(np.shape(operand), index, strict=False))


def is_bad(value: Any, index: Index) -> bool:
    """Tell whether an entry is NaN or infinite.

    Args:
        value: an array.
        index: of the entry.
    """
    return not bool(np.isfinite(entry(value, index)))


def is_nan(value: Any, index: Index) -> bool:
    """Tell whether an entry is NaN.

    Args:
        value: an array.
        index: of the entry.
    """
    return bool(np.isnan(entry(value, index)))


def causes(
    eqn: Any, operands: Sequence[Any], out: int, value: Any, index: Index, run: Callable[[Sequence[Any]], Sequence[Any]]
) -> Cause:
    """Return why an entry of an output of a primitive operation is not finite.

    Args:
        eqn: the equation, without an inner program.
        operands: values of its operands.
        out: number of the output.
        value: of that output.
        index: of the non-finite entry.
        run: from other operands to outputs; literals of the equation stay what they are.
    """
    name = eqn.primitive.name
    if name == "optimization_barrier":
        return Cause((Entry(out, index),), born=False)
    if name == "select_n":
        chosen = 1 + int(entry(operands[0], broadcast(index, operands[0])))
        return _judged(eqn, value, index, operands, [Entry(chosen, broadcast(index, operands[chosen]))])
    if name in ELEMENTWISE or name in IDENTITIES or name in ("add_any", "stop_gradient", "copy"):
        here = [Entry(k, broadcast(index, x)) for k, x in enumerate(operands) if _is_inexact(x)]
        return _judged(eqn, value, index, operands, here)
    if name in _COPIES:
        return _copied(eqn, operands, out, index)
    if name in _REDUCTIONS and len(operands) == 1:
        return _judged(eqn, value, index, operands, _reduced(operands[0], tuple(map(int, eqn.params["axes"])), index))
    if name in _WHOLE:
        return opaque_causes(operands, value, index)
    return _by_substitution(operands, out, value, index, run, eqn)


def opaque_causes(operands: Sequence[Any], value: Any, index: Index) -> Cause:
    """Return a cause for an operation whose inside is not looked at: the first NaN that enters it, else the first Inf.

    Args:
        operands: values of its operands.
        value: of the output.
        index: of the non-finite entry.
    """
    found = []
    for test in (np.isnan, np.isinf):
        for k, x in enumerate(operands):
            if _is_inexact(x) and (at := np.argwhere(test(host(x)))).size:
                found.append(Entry(k, tuple(map(int, at[0]))))
            elif _is_inexact(x) and not np.shape(x) and bool(test(host(x))):
                found.append(Entry(k, ()))
        if found:
            return Cause(tuple(found[:1]), born=test is np.isinf and is_nan(value, index))
    return Cause((), born=True)


def _is_inexact(value: Any) -> bool:
    dtype = getattr(value, "dtype", None)
    return isinstance(value, (float, complex)) if dtype is None else bool(jnp.issubdtype(dtype, jnp.inexact))


def _judged(eqn: Any, value: Any, index: Index, operands: Sequence[Any], candidates: Sequence[Entry]) -> Cause:
    """Choose among the entries that an output entry is computed from."""
    bad = [e for e in candidates if is_bad(operands[e.operand], e.at)]
    nans = [e for e in bad if is_nan(operands[e.operand], e.at)]
    if nans:
        return Cause(tuple(nans[:2]), born=False)
    if not bad:
        return Cause((), born=True)
    if is_nan(value, index):
        return Cause(tuple(_of_both_signs(bad, operands)), born=True)
    if eqn.primitive.name in _EXTREMES:
        bad = [e for e in bad if entry(operands[e.operand], e.at) == entry(value, index)] or bad
    return Cause(tuple(bad[:2]), born=False)


def _of_both_signs(bad: Sequence[Entry], operands: Sequence[Any]) -> list[Entry]:
    """Keep the first entry of every operand and sign, since Inf - Inf needs two."""
    first: dict[Any, Entry] = {}
    for e in bad:
        first.setdefault((e.operand, str(entry(operands[e.operand], e.at))), e)
    return list(first.values())


def _copied(eqn: Any, operands: Sequence[Any], out: int, index: Index) -> Cause:
    """Number the entries of all operands, and see which number arrives."""
    start, starts, numbered = 1, [], []
    for x in operands:
        starts.append(start)
        if _is_inexact(x):
            size = int(np.size(x))
            numbered.append(jnp.arange(start, start + size, dtype=jnp.int32).reshape(np.shape(x)))
            start += size
        else:
            numbered.append(x)
    params = dict(eqn.params)
    if eqn.primitive.name == "gather":
        params["fill_value"] = 0
    outs = eqn.primitive.bind(*numbered, **params)
    arrived = int(entry(outs[out] if eqn.primitive.multiple_results else outs, index))
    for k in reversed(range(len(operands))):
        if _is_inexact(operands[k]) and arrived >= starts[k] > 0:
            at = np.unravel_index(arrived - starts[k], np.shape(operands[k])) if np.shape(operands[k]) else ()
            return Cause((Entry(k, tuple(map(int, at))),), born=False)
    return Cause((), born=True)  # a gather out of range reads NaN


def _reduced(x: Any, axes: Sequence[int], index: Index) -> list[Entry]:
    """Return the non-finite entries that a reduction over axes reads, NaN first."""
    kept = iter(index)
    where = tuple(slice(None) if axis in axes else next(kept) for axis in range(np.ndim(x)))
    row = host(x)[where]
    free = [axis for axis in range(np.ndim(x)) if axis in axes]
    found = []
    for test in (np.isnan, np.isposinf, np.isneginf) if row.dtype.kind != "c" else (np.isnan, np.isinf):
        at = np.argwhere(test(row))
        if len(at):
            summed = dict(zip(free, map(int, at[0]), strict=True))
            rest = iter(index)
            found.append(Entry(0, tuple(summed[a] if a in summed else next(rest) for a in range(np.ndim(x)))))
    return found


def _by_substitution(
    operands: Sequence[Any],
    out: int,
    value: Any,
    index: Index,
    run: Callable[[Sequence[Any]], Sequence[Any]],
    eqn: Any,
) -> Cause:
    """Put 0 in place of non-finite entries, and find by bisection those that make the output what it is."""
    test = np.isnan if is_nan(value, index) else np.isinf
    numbers = {k: host(x) for k, x in enumerate(operands) if _is_inexact(x) and jaxprs.is_var(eqn.invars[k])}
    found = [(k, np.flatnonzero(kind(x))) for kind in (np.isnan, np.isinf) for k, x in numbers.items()]
    owners = np.concatenate([np.full(len(at), k) for k, at in found]).astype(int)
    places = np.concatenate([at for _, at in found]).astype(int)

    def bad(kept: Any) -> bool:
        changed = {k: np.where(np.isfinite(x), x, 0).astype(x.dtype) for k, x in numbers.items()}
        for k, x in numbers.items():
            at = places[kept][owners[kept] == k]
            changed[k].reshape(-1)[at] = x.reshape(-1)[at]
        trial = [jnp.asarray(changed[k]) if k in changed else x for k, x in enumerate(operands)]
        return bool(test(entry(run(trial)[out], index)))

    needed: list[int] = []
    if not len(places) or bad(needed):
        return Cause((), born=True)
    while not bad(needed) and len(needed) < 3:
        low, high = 0, len(places)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if bad([*needed, *range(middle)]) else (middle, high)
        needed.append(low)
    entries = tuple(
        Entry(int(owners[n]), tuple(map(int, np.unravel_index(places[n], numbers[int(owners[n])].shape))))
        for n in needed
    )
    infinite = not any(is_nan(operands[e.operand], e.at) for e in entries)
    return Cause(entries, born=infinite and is_nan(value, index))
