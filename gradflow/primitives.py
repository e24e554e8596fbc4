"""The table of rules by primitive: one entry a primitive, one column for each interpreter of a traced program.

The instrument follows weights through a program (column `origin`), theory follows random fields (column
`random_field`). Each fills its own column when it is imported, and knows nothing of the other. `register_rule` adds a
rule for a primitive of the user's own, in one column or in both. The families below are what several primitives have in
common; a name that the installed JAX does not have is harmless, since the families cover several releases.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from jax.extend import core

__all__ = [
    "CONTRACTIONS",
    "ELEMENTWISE",
    "IDENTITIES",
    "RESHAPINGS",
    "RULES",
    "Column",
    "OriginRule",
    "RandomFieldRule",
    "Rules",
    "fill_rules",
    "register_rule",
]

# The output holds the values of the input, entry by entry: copies, casts, and statements about layout or devices.
IDENTITIES = frozenset(
    {
        "convert_element_type", "copy", "copy_p", "device_put", "layout_constraint", "mesh_cast", "name",
        "optimization_barrier", "pcast", "pvary", "reduce_precision", "reshard", "sharding_constraint",
    }
)  # fmt: skip

# The same entries under another shape, none lost and none repeated.
RESHAPINGS = frozenset({"expand_dims", "reshape", "squeeze", "transpose"})

# Functions of one entry, or of entries at the same place; scalars broadcast.
ELEMENTWISE = frozenset(
    {
        "abs", "acos", "acosh", "add", "add_any", "and", "asin", "asinh", "atan", "atan2", "atanh", "bessel_i0e",
        "bessel_i1e", "cbrt", "ceil", "clamp", "cos", "cosh", "digamma", "div", "eq", "erf", "erf_inv", "erfc", "exp",
        "exp2", "expm1", "floor", "ge", "gt", "igamma", "igammac", "integer_pow", "is_finite", "le", "lgamma", "log",
        "log1p", "logistic", "lt", "max", "min", "mul", "ne", "neg", "nextafter", "not", "or", "pow", "rem", "round",
        "rsqrt", "select_n", "sign", "sin", "sinh", "sqrt", "square", "sub", "tan", "tanh", "xor",
    }
)  # fmt: skip

# Sums of products, in which one operand may be a weight.
CONTRACTIONS = frozenset({"conv_general_dilated", "dot_general", "ragged_dot", "ragged_dot_general"})


@runtime_checkable
class OriginRule(Protocol):
    """How origins, parameters or data, pass through a primitive."""

    def __call__(self, eqn: core.JaxprEqn, origins: Sequence[Any], /) -> list[Any]:
        """Return the origin of each output.

        Args:
            eqn: the equation, whose parameters it reads.
            origins: of its operands; `origins[0]` says that the output is a part or another form of the first one.
        """


@runtime_checkable
class RandomFieldRule(Protocol):
    """What a primitive makes of random fields."""

    def __call__(self, algebra: Any, eqn: core.JaxprEqn, values: Sequence[Any], /) -> Any:
        """Return the output, a list of several outputs, or None where theory has no description for these operands.

        Args:
            algebra: sums, multiples and mergers of signals.
            eqn: the equation, whose parameters it reads.
            values: its operands; at least one of them is neither a known number nor data.
        """


Column: TypeAlias = Literal["origin", "random_field"]


@dataclasses.dataclass(frozen=True)
class Rules:
    """The rules of one primitive.

    Attributes:
        origin: how a weight passes through it; None where it mixes what it reads.
        random_field: what it makes of random fields; None where theory has no description.
        own: columns that the user has filled.
    """

    origin: OriginRule | None = None
    random_field: RandomFieldRule | None = None
    own: frozenset[str] = frozenset()


RULES: dict[str, Rules] = {}


def register_rule(
    primitive: str | Iterable[str],
    *,
    origin: OriginRule | None = None,
    random_field: RandomFieldRule | None = None,
) -> None:
    """Add rules for a primitive of your own, or replace those that the library has; a column left out stays as it is.

    Args:
        primitive: name or names, as `eqn.primitive.name` has them.
        origin: `(eqn, origins) -> [origin of each output]`, for `value_grad_and_flow`. Without one the outputs are
            parameters if all operands are parameters, and data otherwise.
        random_field: `(algebra, eqn, values) -> value, list of values or None`, for `theory.predict`. Without one the
            next layer starts anew from its measured input.

    Raises:
        TypeError: for names that are no strings, rules that are not callable, or no rule at all.

    Examples:
        >>> register_rule(
        ...     "my_cast", origin=lambda eqn, origins: [origins[0]], random_field=lambda algebra, eqn, values: values[0]
        ... )
        >>> RULES.pop("my_cast").own == {"origin", "random_field"}
        True
    """
    names = [primitive] if isinstance(primitive, str) else list(primitive)
    if not all(isinstance(name, str) for name in names):
        raise TypeError(
            f"expected the name of a primitive, or several, got {primitive!r}. Fix: register_rule(p.name, ...) for a "
            "primitive p"
        )
    columns: dict[str, Any] = {"origin": origin, "random_field": random_field}
    given = {column: rule for column, rule in columns.items() if rule is not None}
    if not given or not all(callable(rule) for rule in given.values()):
        raise TypeError(
            f"expected a function as `origin`, `random_field` or both, got {origin!r} and {random_field!r}. Fix: "
            "register_rule(name, origin=lambda eqn, origins: [origins[0]])"
        )
    for name in names:
        entry = RULES.get(name, Rules())
        RULES[name] = dataclasses.replace(entry, **given, own=entry.own | frozenset(given))


def fill_rules(primitives: Iterable[str], column: Column, rule: Any) -> None:
    """Fill the library's own column of some primitives; what the user has registered stays.

    Args:
        primitives: names.
        column: "origin" or "random_field".
        rule: of that column.
    """
    for name in primitives:
        entry = RULES.get(name, Rules())
        if column not in entry.own:
            RULES[name] = dataclasses.replace(entry, **{column: rule})
