"""What is read off the values that enter a layer: numbers of the data and of tables, and second moments of signals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend import core

from gradflow.theory.tracing.abstract_values import Data, Known, Parts, Signal, Value
from gradflow.theory.tracing.contractions import data_correlation, node_moments

__all__ = ["moments_of", "nodes_of", "normalized", "table_square"]


def table_square(eqn: core.JaxprEqn, values: Sequence[Value]) -> float | None:
    """Return the mean square of an embedding's table: its rows are random with respect to what is looked up.

    Args:
        eqn: the look-up.
        values: of its operands.
    """
    table = values[0] if eqn.primitive.name == "gather" else None
    if not isinstance(table, Known) or not table.is_numeric or not np.size(table.value):
        return None
    square = float(np.mean(np.square(table.array())))
    return square if math.isfinite(square) else None


def normalized(moments: dict[str, Any], name: str) -> Any:
    """Return measured second moments between positions as those of a field of mean square 1; None for one that is 0.

    Args:
        moments: what was measured.
        name: which array it is of.
    """
    mean, square = abs(float(moments[f"{name} mean"])), float(moments[f"{name} square"])
    return np.clip((moments[f"{name} positions"] + mean) / square, -1.0, 1.0) if square > 0 else None


def nodes_of(product: core.JaxprEqn, source: int, entering: Value) -> Any:
    """Return the covariance between every two examples of a layer's output, over its variance; None if unknown.

    Args:
        product: the contraction.
        source: which operand enters.
        entering: what enters.
    """
    if isinstance(entering, Signal) and (nodes := entering.nodes) is not None:
        return (nodes + entering.mean**2) / max(entering.square, 1e-300)
    return node_moments(product, source, entering.value) if isinstance(entering, (Data, Known)) else None


def moments_of(product: core.JaxprEqn, source: int, entering: Value, measured: Any) -> Any:
    """Return second moments between positions of what enters a layer, by distance; None where they are not known.

    Args:
        product: the contraction.
        source: which operand enters.
        entering: what enters.
        measured: what was measured, where it is outside the theory.
    """
    if isinstance(entering, (Parts, Signal)):
        return None if entering.spatial is None else entering.spatial + entering.mean**2
    if isinstance(entering, (Data, Known)):
        return data_correlation(product, source, entering.value)
    return measured
