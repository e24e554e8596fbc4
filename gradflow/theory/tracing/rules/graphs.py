"""Rules for sums over examples with known coefficients, as over neighbours in a graph.

Such a sum reads the second moments K(i, j) of every pair of nodes: of y = A x it leaves A K A^T. They start from those
of the data, and go on through layers and nonlinearities as any covariance does (Du et al. 2019). The mean square
differs between nodes; a nonlinearity is taken as if it scaled with its input. The gradient comes back as A^T d, whose
second moments are A^T G A, where G are those of d; they start from the measured gradient of the layers that feed the
loss (`gradflow.theory.tracing.likeness`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend import core
from jaxtyping import Float

from gradflow.theory.tracing.abstract_values import Axes, Data, Known, Signal, Value, ratio_of
from gradflow.theory.tracing.algebra import FieldAlgebra
from gradflow.theory.tracing.likeness import MOST_NODES, Carry, in_turn, lost, through_coefficients
from gradflow.theory.tracing.random_fields import Gaussian, gaussian_signal, merged_gaussian, uneven_spread
from gradflow.theory.tracing.rules.table import random_field_rule, shape_of

__all__ = ["gathered_nodes", "into_nodes", "scaled_by_node", "sum_into_nodes", "sum_over_nodes"]


@random_field_rule("dot_general")
def sum_over_nodes(algebra: FieldAlgebra, eqn: core.JaxprEqn, values: Sequence[Value]) -> Value | None:
    """Sum over all examples with the coefficients of a known matrix, such as the adjacency of a graph."""
    at = next((k for k, v in enumerate(values) if isinstance(v, Signal)), None)
    contracted, batched = eqn.params["dimension_numbers"]
    if at is None or batched[0] or len(contracted[0]) != 1:
        return None
    signal, matrix = values[at], _numbers(values[1 - at])
    if not isinstance(signal, Signal) or matrix is None or matrix.ndim != 2:
        return None
    axis = contracted[at][0]
    if sorted(signal.axes) != ["e", "u"] or signal.axes[axis] != "e":
        return None
    coefficients = np.moveaxis(matrix, contracted[1 - at][0], 1)
    return _summed(algebra, signal, coefficients, ("u", "e") if at == 0 else ("e", "u"))


@random_field_rule("scatter-add")
def sum_into_nodes(algebra: FieldAlgebra, eqn: core.JaxprEqn, values: Sequence[Value]) -> Value | None:
    """Add signals of edges up in their nodes, as `jax.ops.segment_sum` does."""
    base, indices, updates = values
    numbers, places = eqn.params["dimension_numbers"], _numbers(indices)
    if not isinstance(base, Known) or base.number() != 0.0 or not isinstance(updates, Signal) or places is None:
        return None
    rows = (numbers.update_window_dims, numbers.inserted_window_dims, numbers.scatter_dims_to_operand_dims)
    if updates.axes != ("e", "u") or rows != ((1,), (0,), (0,)):
        return None
    nodes, edges = shape_of(eqn.invars[0])[0], shape_of(eqn.invars[2])[0]
    places = places.reshape(-1)
    if max(nodes, edges) > MOST_NODES or len(places) != edges:
        return None
    kept = np.flatnonzero((places >= 0) & (places < nodes))
    coefficients = np.zeros((nodes, edges))
    coefficients[places[kept].astype(int), kept] = 1.0
    return _summed(algebra, updates, coefficients, ("e", "u"))


def gathered_nodes(gaussian: Gaussian, indices: Value) -> Any:
    """Return the covariances between the examples that indices choose; None where they are not known.

    Args:
        gaussian: whose examples they are.
        indices: along the one axis of examples.
    """
    places = _numbers(indices)
    if gaussian.nodes is None or not gaussian.nodes.ndim:
        return gaussian.nodes
    if places is None or places.size > MOST_NODES:
        return None
    rows = np.clip(places.reshape(-1).astype(int), 0, len(gaussian.nodes) - 1)
    return gaussian.nodes[np.ix_(rows, rows)]


def into_nodes(indices: Value, nodes: int) -> Carry:
    """Return what the gradients of chosen examples make of that of all nodes: those of one node add up.

    Args:
        indices: along the one axis of examples.
        nodes: number of nodes.
    """
    places = _numbers(indices)
    if places is None or places.size > MOST_NODES or nodes > MOST_NODES:
        return lost
    rows = np.clip(places.reshape(-1).astype(int), 0, nodes - 1)
    return through_coefficients(np.eye(nodes)[rows])


def scaled_by_node(algebra: FieldAlgebra, signal: Signal, by: Value, *, inverse: bool) -> Signal | None:
    """Return a signal times a known factor for each node, such as one over its degree; None for other factors.

    Args:
        algebra: that notes its Gaussian.
        signal: the signal, whose nodes are followed.
        by: the factors.
        inverse: whether to divide by them.
    """
    factors = _numbers(by)
    nodes = signal.nodes if signal.axes == ("e", "u") else None
    if nodes is None or not np.ndim(nodes) or factors is None or factors.ndim != 2 or np.ptp(factors, 1).any():
        return None
    factors = factors[:, 0] if len(factors) == len(nodes) else np.broadcast_to(factors[:, 0], len(nodes))
    if not np.ptp(factors) or (inverse and not factors.all()):
        return None
    return _summed(algebra, signal, np.diag(1 / factors if inverse else factors), signal.axes)


def _summed(
    algebra: FieldAlgebra,
    signal: Signal,
    coefficients: Float[np.ndarray, "out nodes"],
    axes: Axes,
) -> Signal | None:
    """A x, for a signal x over nodes."""
    algebra.nodes_wanted = algebra.asks_for_likeness = True
    while (made := next((algebra.sums[g] for g in signal.components if g in algebra.sums), None)) is not None:
        ratio = ratio_of(signal, made[0])
        if ratio is None:
            break
        # A sum that is divided by the degrees is one sum, whose mean is the same at all nodes.
        signal, coefficients = made[1], ratio * coefficients @ made[2]
    covariances, mean, count = signal.nodes, signal.mean, coefficients.shape[1]
    if covariances is None or max(coefficients.shape) > MOST_NODES or not np.isfinite(coefficients).all():
        return None
    if np.ndim(covariances) and len(covariances) != count:
        return None
    moments = coefficients @ (np.broadcast_to(covariances, (count, count)) + mean**2) @ coefficients.T
    squares, centre = np.diag(moments), mean * float(coefficients.sum(1).mean())
    unevenness = float(squares.var()) / max(float(squares.mean()) ** 2, 1e-300)
    variance = float(squares.mean()) - centre**2
    if variance <= 0:  # the means of the nodes differ too much to be told from their spread
        variance, centre = float(squares.mean()), 0.0
    if variance <= 0:
        return None
    factor = float(np.sum(coefficients**2)) / count
    gaussian = dataclasses.replace(
        merged_gaussian(signal),
        variance=variance,
        shared=float(np.clip((moments.mean() - centre**2) / variance, -1.0, 1.0)),
        edges=[(g, factor * slope) for g, slope in signal.edges],
        carries=[in_turn(through_coefficients(coefficients), carry) for carry in signal.carries],
        spatial=np.ones(()),
        alike=1.0,
        nodes=(moments - centre**2) / variance,
        unevenness=uneven_spread(unevenness),
    )
    algebra.add(gaussian)
    if not signal.linear:
        algebra.not_gaussian.add(gaussian)
    out = gaussian_signal(gaussian, axes, centre)
    algebra.sums[gaussian] = (out, signal, coefficients)
    return out


def _numbers(value: Value) -> Any:
    """The numbers of what is known, or of data; None where there are none."""
    if isinstance(value, Known) and value.exact and value.is_numeric:
        return value.array()
    if isinstance(value, Data) and value.value is not None and Known(value.value).is_numeric:
        return np.asarray(value.value, np.float64)
    return None
