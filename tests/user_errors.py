"""Errors as users meet them: the type checker that these tests run under is not there outside of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jaxtyping


@contextlib.contextmanager
def without_type_checker() -> Iterator[None]:
    """Let wrong types through to gradflow's own checks; a context manager, or a decorator of a test."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)
