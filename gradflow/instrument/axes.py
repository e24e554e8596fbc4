"""What the axes of a contraction mean: which of its output's are units, which are examples."""

from __future__ import annotations

from typing import Any

from jax.extend import core

from gradflow.instrument.jaxprs import shape_of

Roles = tuple[tuple[int, ...], tuple[int, ...]]


def contracts(eqn: core.JaxprEqn) -> bool:
    """Tell a sum of products from an outer or entry-by-entry product written as one."""
    if eqn.primitive.name == "conv_general_dilated":
        return True
    (lhs_contract, _), _ = _dot_dimensions(eqn)
    return bool(lhs_contract)


def axis_roles(eqn: core.JaxprEqn, weight: int) -> Roles:
    """Return (unit axes, example axes) of a contraction's output, the batch axis first among the examples.

    Args:
        eqn: a `dot_general`, `conv_general_dilated` or `ragged_dot_general`.
        weight: which operand is the weight.
    """
    if eqn.primitive.name == "conv_general_dilated":
        spec = eqn.params["dimension_numbers"].out_spec
        unit, batch = (spec[1], spec[0]) if weight == 1 else (spec[0], spec[1])
        return (unit,), (batch, *spec[2:])
    (lhs_contract, rhs_contract), (lhs_batch, rhs_batch) = _dot_dimensions(eqn)
    grouped = _group_dimensions(eqn)
    ranks = [len(shape_of(v)) for v in eqn.invars[:2]]
    # A ragged contraction over the ragged axis (the gradient of a weight) gives a leading axis of groups.
    leading = 1 if grouped is not None and _sums_over_ragged(eqn) else 0
    batch = tuple(range(leading, leading + len(lhs_batch)))
    lhs_free = ranks[0] - len(lhs_contract) - len(lhs_batch)
    rhs_free = ranks[1] - len(rhs_contract) - len(rhs_batch) - len(grouped or ())
    start = leading + len(batch)
    lhs_axes = tuple(range(start, start + lhs_free))
    rhs_axes = tuple(range(start + lhs_free, start + lhs_free + rhs_free))
    rest = (*batch, *range(leading))
    return (rhs_axes, (*lhs_axes, *rest)) if weight == 1 else (lhs_axes, (*rhs_axes, *rest))


def _dot_dimensions(eqn: core.JaxprEqn) -> tuple[Roles, Roles]:
    """Return (contracting, batch) dimensions of both operands; vmap leaves NumPy's integers among them."""
    ragged = eqn.params.get("ragged_dot_dimension_numbers")
    contracting, batch = ragged.dot_dimension_numbers if ragged is not None else eqn.params["dimension_numbers"]
    return (_integers(contracting[0]), _integers(contracting[1])), (_integers(batch[0]), _integers(batch[1]))


def _integers(numbers: Any) -> tuple[int, ...]:
    return tuple(int(n) for n in numbers)


def _group_dimensions(eqn: core.JaxprEqn) -> tuple[int, ...] | None:
    ragged = eqn.params.get("ragged_dot_dimension_numbers")
    return None if ragged is None else _integers(ragged.rhs_group_dimensions)


def _sums_over_ragged(eqn: core.JaxprEqn) -> bool:
    ragged = eqn.params["ragged_dot_dimension_numbers"]
    (lhs_contract, _), _ = ragged.dot_dimension_numbers
    return bool(set(ragged.lhs_ragged_dimensions) & set(lhs_contract))
