"""The table of rules: what each primitive makes of random fields.

A rule is a function `(algebra, eqn, values)`. It returns the value of the equation's output, a list of values where the
equation has several outputs, or None where theory has no description for these operands; the next layer then starts
anew from its measured input, with a note. `register_rule` adds one for a primitive of the user's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

from jax.extend import core

from gradflow.theory.tracing.abstract_values import Value
from gradflow.theory.tracing.algebra import FieldAlgebra

__all__ = ["RULES", "Rule", "register_rule", "shape_of"]


class Rule(Protocol):
    """What a primitive makes of its operands."""

    def __call__(
        self, algebra: FieldAlgebra, eqn: core.JaxprEqn, values: Sequence[Value], /
    ) -> Value | list[Value] | None:
        """Return the output, the outputs, or None where there is no description.

        Args:
            algebra: sums, multiples and mergers of signals.
            eqn: the equation, whose parameters it reads.
            values: its operands; at least one of them is neither `Known` exactly nor `Data`.
        """


RULES: dict[str, Rule] = {}


_R = TypeVar("_R", bound=Rule)


def register_rule(primitive: str | Iterable[str]) -> Callable[[_R], _R]:
    """Make a function the rule of a primitive, or of several; an older rule is replaced.

    Args:
        primitive: name or names, as `eqn.primitive.name` has them.

    Returns:
        A decorator that returns the rule as it is.

    Raises:
        TypeError: for a rule that is not callable, or names that are no strings.

    Examples:
        >>> @register_rule("my_activation_with_rms_1")
        ... def keep(algebra, eqn, values):
        ...     return values[0]
        >>> RULES.pop("my_activation_with_rms_1") is keep
        True
    """
    names = [primitive] if isinstance(primitive, str) else list(primitive)
    if not all(isinstance(name, str) for name in names):
        raise TypeError(
            f"expected the name of a primitive, or several, got {primitive!r}. Fix: register_rule(p.name) for a "
            "primitive p"
        )

    def register(rule: _R) -> _R:
        if not callable(rule):
            raise TypeError(f"expected a rule (algebra, eqn, values) -> value, got {rule!r}")
        RULES.update(dict.fromkeys(names, rule))
        return rule

    return register


def shape_of(atom: Any) -> tuple[int, ...]:
    """Return the shape of an equation's operand or output.

    Args:
        atom: variable or literal, from `eqn.invars` or `eqn.outvars`.
    """
    return tuple(atom.aval.shape)
