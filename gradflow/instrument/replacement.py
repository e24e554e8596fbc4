"""Functions in JAX for which code of a platform can stand in, where it can do the same."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

# By the function's name: takes the function itself and its arguments, and returns None where it leaves them to it.
REPLACEMENTS: dict[str, Callable[..., Any]] = {}


def replaceable(function: F) -> F:
    """Let an entry of `REPLACEMENTS` compute a function in its place.

    Args:
        function: the reference, which also serves every case that the other leaves out.

    Returns:
        A function of the same signature.
    """

    @functools.wraps(function)
    def chosen(*args: Any) -> Any:
        other = REPLACEMENTS.get(function.__name__)
        made = None if other is None else other(function, *args)
        return function(*args) if made is None else made

    return chosen  # type: ignore[return-value]


@contextlib.contextmanager
def references_alone() -> Iterator[None]:
    """Let the references compute everything that is traced meanwhile."""
    replaced = dict(REPLACEMENTS)
    REPLACEMENTS.clear()
    try:
        yield
    finally:
        REPLACEMENTS.update(replaced)
