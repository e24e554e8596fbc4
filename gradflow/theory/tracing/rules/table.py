"""How theory fills its column of the table of rules (`gradflow.primitives`): what a primitive makes of random fields.

A rule is a function `(algebra, eqn, values)`. It returns the value of the equation's output, a list of values where the
equation has several outputs, or None where theory has no description for these operands; the next layer then starts
anew from its measured input, with a note.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from gradflow.primitives import RandomFieldRule, fill_rules

__all__ = ["random_field_rule", "shape_of"]

_R = TypeVar("_R", bound=RandomFieldRule)


def random_field_rule(primitive: str | Iterable[str]) -> Callable[[_R], _R]:
    """Make a function the library's rule of a primitive, or of several.

    Args:
        primitive: name or names, as `eqn.primitive.name` has them.

    Returns:
        A decorator that returns the rule as it is.
    """
    names = [primitive] if isinstance(primitive, str) else list(primitive)

    def fill(rule: _R) -> _R:
        fill_rules(names, "random_field", rule)
        return rule

    return fill


def shape_of(atom: Any) -> tuple[int, ...]:
    """Return the shape of an equation's operand or output.

    Args:
        atom: variable or literal, from `eqn.invars` or `eqn.outvars`.
    """
    return tuple(atom.aval.shape)
