"""Look a name up in a family, or say which name was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


def find(kind: str, name: str, known: Mapping[str, T]) -> T:
    """Return `known[name]`.

    Args:
        kind: what is looked up, for the error: "activation", "cell".
        name: as the user wrote it.
        known: the family.

    Raises:
        ValueError: for an unknown name, with the nearest known ones.

    Examples:
        >>> find("activation", "rleu", {"relu": 1, "tanh": 2})
        Traceback (most recent call last):
        ValueError: unknown activation 'rleu'; did you mean 'relu'? Known: relu, tanh
    """
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name.lower(), known, n=2)
    meant = f"; did you mean {' or '.join(map(repr, near))}?" if near else ";"
    raise ValueError(f"unknown {kind} {name!r}{meant} Known: {', '.join(known)}")
