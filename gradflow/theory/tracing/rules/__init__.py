"""Rules of mean-field theory, by primitive; an import fills their column of `gradflow.primitives.RULES`."""

from __future__ import annotations

from gradflow.primitives import RULES, RandomFieldRule
from gradflow.theory.tracing.rules import elementwise, graphs, pooling, reductions, shapes

__all__ = ["elementwise", "graphs", "pooling", "reductions", "rule_of", "shapes"]


def rule_of(primitive: str) -> RandomFieldRule | None:
    """Return the rule of a primitive, None where there is none.

    Args:
        primitive: its name.
    """
    entry = RULES.get(primitive)
    return None if entry is None else entry.random_field
