"""Results with one array spoiled, by which a test sees that every claim of an experiment can fail."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from typing import Any

import numpy as np

from experiments.framework.claims import Claim
from experiments.framework.storage import flat

# None of them makes NaN, with which every claim fails: a claim has to fail by a wrong number.
SPOILS: tuple[Callable[[np.ndarray], np.ndarray], ...] = (
    lambda x: x * 0,
    lambda x: x * 0 + 1,
    lambda x: x * 10,
    lambda x: x / 10,
    lambda x: x + 1,
    lambda x: 1 - x,
    lambda x: x[::-1] if x.ndim else x,
    lambda x: x[..., ::-1] if x.ndim else x,
    lambda x: np.roll(x, -1, 1) if x.ndim > 1 else x,
    lambda x: x * np.linspace(0.1, 10, x.shape[-1]) if x.ndim else x,
    lambda x: x * (1e6 ** np.linspace(0, 1, x.shape[0]).reshape(-1, *[1] * (x.ndim - 1))) if x.ndim else x,
)


def claims_that_stand(claims: Callable[[Any], list[Claim]], results: Any, theory: tuple[str, ...] = ()) -> list[str]:
    """Return the ids of claims that no spoiled measurement makes fail.

    Args:
        claims: of the experiment.
        results: of a run in which every claim holds; those that do not hold are seen to fail already.
        theory: patterns of paths of arrays that hold no measurement, such as "*.theory".
    """
    standing = {claim.id for claim in claims(results) if claim.holds}
    for path, array in flat(results).items():
        if array.dtype.kind not in "fiu" or any(fnmatch(path, pattern) for pattern in theory):
            continue
        for spoil in SPOILS:
            with np.errstate(all="ignore"):
                changed = np.asarray(spoil(array.astype(np.float64))).astype(array.dtype)
                standing -= _failing(claims, _replaced(results, path.split("."), changed))
    return sorted(standing)


def _failing(claims: Callable[[Any], list[Claim]], results: Any) -> set[str]:
    try:
        return {claim.id for claim in claims(results) if not claim.holds and not np.isnan(claim.measured)}
    except (ValueError, IndexError, ZeroDivisionError, OverflowError, np.linalg.LinAlgError):
        return set()  # spoiled beyond what claims can be formed of


def _replaced(results: Any, path: list[str], value: np.ndarray) -> Any:
    name, *rest = path
    if isinstance(results, Mapping):
        key = next(key for key in results if str(key) == name)  # a key may be a number
        old = results[key]
        return {**results, key: _replaced(old, rest, value) if rest else _like(old, value)}
    old = getattr(results, name)
    return dataclasses.replace(results, **{name: _replaced(old, rest, value) if rest else _like(old, value)})


def _like(old: Any, value: np.ndarray) -> Any:
    return value if isinstance(old, np.ndarray) else type(old)(value)
