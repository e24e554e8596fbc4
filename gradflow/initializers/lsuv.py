"""LSUV: weights rescaled layer by layer until each layer's output has unit variance on a batch, for any model.

Mishkin & Matas 2016, "All you need is a good init".

Examples:
    >>> import jax, jax.numpy as jnp
    >>> apply = lambda params, x: jnp.tanh(x @ params["w0"]) @ params["w1"]
    >>> params = {"w0": jnp.ones((8, 30)), "w1": jnp.ones((30, 5))}
    >>> params, report = lsuv(apply, params, jax.random.normal(jax.random.key(0), (100, 8)), key=jax.random.key(1))
    >>> [(layer.name, round(float(layer.variance_after), 3)) for layer in report]
    [('w0', 1.0), ('w1', 1.0)]
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gradflow import initializers
from gradflow.instrument import Flow, LayerFlow, value_grad_and_flow

__all__ = ["LayerRescaling", "Params", "lsuv"]

Params = TypeVar("Params")

_CONSTANT = 1e-6  # part of the mean square below which float32 cannot tell a variance from 0


class LayerRescaling(NamedTuple):
    """What was done to one weight. Arrays have shape (), or (T,) for a weight stacked along a scan of length T.

    Attributes:
        name: of its layer, as the flow has it; of the first, where layers share the weight.
        iterations: how often it was rescaled.
        variance_before: of the layer's output with the parameters that were given.
        variance_after: of the layer's output with those returned.
        factor: by which the weight (the orthonormal one, if one was drawn) was multiplied.
        reason: why it is out of tolerance; "" if it is not.
    """

    name: str
    iterations: Int[np.ndarray, "*rows"]
    variance_before: Float[np.ndarray, "*rows"]
    variance_after: Float[np.ndarray, "*rows"]
    factor: Float[np.ndarray, "*rows"]
    reason: str


def lsuv(
    fn: Callable[..., Any],
    params: Params,
    *batch: Any,
    key: Array | None = None,
    tolerance: float = 0.1,
    target: float = 1.0,
    max_iterations: int = 10,
    select: str | Sequence[str] | Callable[[str], bool] | None = None,
) -> tuple[Params, tuple[LayerRescaling, ...]]:
    r"""Rescale each layer's weight, in forward order, until the variance of the layer's output is the target.

    W <- W sqrt(target / Var[y]) until \|Var[y] / target - 1\| < tolerance, y = W x over all units and examples of the
    batch: the output of the contraction, before a bias is added. As y is linear in W, one step is enough unless the
    layer's input depends on W too. Mishkin & Matas 2016, algorithm 1.

    Layers are found by `value_grad_and_flow`, in whatever framework. Each row of weights stacked along a scan is
    rescaled on its own. A weight used more than once (shared layers, a recurrent network over time) gets one factor, by
    the variance pooled over its uses. Embedding tables are left as they are, and so are weights computed from several
    parameters (weight normalization, low-rank updates), which are named in a warning.

    Runs on the host around one compiled program, about once for each weight (each row of it): not inside `jit`.

    Args:
        fn: `fn(params, *batch)`, a model's outputs or a loss; arrays of any shape, in any pytree.
        params: pytree of floating-point arrays.
        batch: further arguments of `fn`, pytrees of arrays. Put flags into `fn` itself.
        key: for orthonormal weights to start from, as in the paper; None keeps the values in `params`. Kernels of more
            than two axes are flattened to (everything else, units).
        tolerance: largest relative deviation from the target; the paper's 0.1.
        target: variance of each layer's output.
        max_iterations: times that one weight is rescaled.
        select: only layers whose names match this `fnmatch` pattern, any of several, or a predicate.

    Returns:
        Parameters like `params`, with biases and all else untouched, and what was done to each weight.

    Raises:
        ValueError: for impossible options, or a model without layers.
        ArithmeticError: for a layer whose output is not finite.

    Warns:
        UserWarning: names layers that were left out of tolerance and says why (constant output, not reached).
    """
    if not (target > 0 and tolerance > 0 and max_iterations >= 1):
        raise ValueError(
            "expected a positive target and tolerance and at least 1 iteration, got "
            f"{target}, {tolerance}, {max_iterations}"
        )
    leaves, tree = jax.tree.flatten(params)
    run = value_grad_and_flow(_sum_of_outputs(fn), select=select, statistics=("output_rms", "output_mean"))
    weights = _weights(jax.eval_shape(run, params, *batch)[2])

    @jax.jit
    def statistics(leaves: list[Array], factors: list[Array], batch: Any) -> list[list[tuple[Array, Array, Array]]]:
        flow = run(jax.tree.unflatten(tree, _rescale(leaves, weights, factors)), *batch)[2]
        return [[(flow[n].output_rms, flow[n].output_mean, flow[n].calls) for n in w.names] for w in weights]

    def measure(leaves: list[Array], factors: list[np.ndarray]) -> list[_Measurement]:
        found = statistics(leaves, [jnp.asarray(f, jnp.float32) for f in factors], batch)
        return [_pool(weight, values) for weight, values in zip(weights, found, strict=True)]

    state = _State([np.ones(w.rows) for w in weights], [np.zeros(w.rows, np.int32) for w in weights])
    before = measure(leaves, state.factors)
    if key is not None:
        leaves = _orthonormal(leaves, weights, key)
    after = measure(leaves, state.factors) if key is not None else before
    units = sorted((w.order(row), k, row) for k, w in enumerate(weights) for row in np.ndindex(w.rows))
    goal = _Goal(target, tolerance, max_iterations)
    while (chosen := _next([unit[1:] for unit in units], weights, after, state, goal)) is not None:
        number, row = chosen
        state.factors[number][row] *= math.sqrt(target / after[number].variance[row])
        state.iterations[number][row] += 1
        after = measure(leaves, state.factors)
    _warn(state.abandoned, weights)
    factors = [jnp.asarray(f, jnp.float32) for f in state.factors]
    report = tuple(
        LayerRescaling(
            w.names[0],
            state.iterations[k],
            before[k].variance,
            after[k].variance,
            state.factors[k],
            _reason_of(state, k),
        )
        for k, w in enumerate(weights)
    )
    return jax.tree.unflatten(tree, _rescale(leaves, weights, factors)), report


@dataclasses.dataclass(frozen=True)
class _Weight:
    """One part of the parameters, and the layers that use it."""

    uses: tuple[LayerFlow, ...]
    rows: tuple[int, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(use.name for use in self.uses)

    @property
    def part(self) -> Any:
        return self.uses[0].weight

    def order(self, row: tuple[int, ...]) -> tuple[int, ...]:
        """When this row is first used."""
        use, steps = self.uses[0], [0] * len(self.uses[0].lengths)
        for scan, step in zip(self.part.scans, row, strict=True):
            steps[scan] = step
        return use.order(*steps)


class _Goal(NamedTuple):
    target: float
    tolerance: float
    max_iterations: int


class _Measurement(NamedTuple):
    """Variance and mean square of a weight's outputs, of shape `rows`, and how often they were computed."""

    variance: np.ndarray
    square: np.ndarray
    calls: np.ndarray


_Unit = tuple[int, tuple[int, ...]]  # number of a weight, and its row


@dataclasses.dataclass
class _State:
    """How far the search is: `abandoned` says of (weight, row) why it was given up."""

    factors: list[np.ndarray]
    iterations: list[np.ndarray]
    abandoned: dict[_Unit, str] = dataclasses.field(default_factory=dict)


def _sum_of_outputs(fn: Callable[..., Any]) -> Callable[..., Array]:
    """A scalar that depends on every output."""

    def total(params: Any, *batch: Any) -> Array:
        outputs = [x for x in jax.tree.leaves(fn(params, *batch)) if jnp.issubdtype(jnp.result_type(x), jnp.floating)]
        return sum((jnp.sum(jnp.asarray(x, jnp.float32)) for x in outputs), start=jnp.zeros((), jnp.float32))

    return total


def _weights(flow: Flow) -> list[_Weight]:
    """The distinct parts of the parameters that layers use."""
    uses: dict[Any, list[LayerFlow]] = {}
    for name in flow.layers:
        if flow[name].kind == "layer":
            uses.setdefault(flow[name].weight, []).append(flow[name])
    if not uses:
        raise ValueError(
            f"expected layers that multiply by a weight, got {', '.join(flow.layers)}. Likely cause: `select` names "
            "embeddings only. Fix: leave it out"
        )
    return [
        _Weight(tuple(layers), tuple(layers[0].lengths[scan] for scan in part.scans)) for part, layers in uses.items()
    ]


def _rescale(leaves: Sequence[Array], weights: Sequence[_Weight], factors: Sequence[Array]) -> list[Array]:
    out = list(leaves)
    for weight, factor in zip(weights, factors, strict=True):
        if len(weight.part.leaves) == 1:
            (k,) = weight.part.leaves
            rows = weight.part.take(out[k])
            wide = rows.astype(rows.dtype if jnp.finfo(rows.dtype).bits >= 32 else jnp.float32)
            scaled = wide * factor.reshape(factor.shape + (1,) * (rows.ndim - factor.ndim)).astype(wide.dtype)
            out[k] = weight.part.put(out[k], scaled.astype(rows.dtype))
    return out


def _orthonormal(leaves: Sequence[Array], weights: Sequence[_Weight], key: Array) -> list[Array]:
    out = list(leaves)
    for number, weight in enumerate(weights):
        if len(weight.part.leaves) == 1:
            (k,) = weight.part.leaves
            old = weight.part.take(out[k])
            stacked = len(weight.rows)
            matrix = _as_matrix(old.shape[stacked:], weight.uses[0].units)
            draw = initializers.orthogonal(stacked=stacked)
            new = draw(jax.random.fold_in(key, number), (*weight.rows, *matrix), old.dtype)
            out[k] = weight.part.put(out[k], new.reshape(old.shape))
    return out


def _as_matrix(shape: tuple[int, ...], units: int) -> tuple[int, int]:
    """Flatten a kernel to (rest, units), or (units, rest) where units come first."""
    for k in range(len(shape) + 1):
        if math.prod(shape[k:]) == units:
            return math.prod(shape[:k]), units
    first = math.prod(shape[:1])
    return (first, math.prod(shape[1:])) if first == units else (math.prod(shape[:-1]), math.prod(shape[-1:]))


def _pool(weight: _Weight, values: Sequence[tuple[Array, Array, Array]]) -> _Measurement:
    """Put together all uses of a weight: layers that share it, and the steps of scans that do not cut it."""
    calls, square, mean = (np.zeros(weight.rows) for _ in range(3))
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is named later
        for use, (rms, average, count) in zip(weight.uses, values, strict=True):
            others = tuple(k for k in range(len(use.lengths)) if k not in weight.part.scans)
            entries = np.asarray(count, np.float64) * math.prod(use.shape)
            ran = entries > 0  # a branch that was not taken has no numbers
            calls += entries.sum(axis=others)
            square += np.where(ran, entries * np.asarray(rms, np.float64) ** 2, 0.0).sum(axis=others)
            mean += np.where(ran, entries * np.asarray(average, np.float64), 0.0).sum(axis=others)
        square, mean = square / np.maximum(calls, 1), mean / np.maximum(calls, 1)
        return _Measurement(np.asarray(square - mean**2), np.asarray(square), calls)


def _next(
    units: Sequence[_Unit], weights: Sequence[_Weight], measured: Sequence[_Measurement], state: _State, goal: _Goal
) -> _Unit | None:
    """The first weight to rescale; notes those before it that cannot be."""
    for k, row in units:
        if (k, row) in state.abandoned:
            continue
        variance, square, calls = (values[row] for values in measured[k])
        if not math.isfinite(square):
            raise ArithmeticError(
                f"lsuv: the output of {_describe(weights[k], row)} is not finite. Likely cause: NaN or Inf in the "
                "batch or in the parameters, or an overflow before the layer. Fix: look at the batch; a smaller start"
            )
        if calls == 0:
            state.abandoned[k, row] = "it does not run on this batch"
        elif variance <= _CONSTANT * square:
            state.abandoned[k, row] = "its output is constant (zero weights, a dead or a normalized input)"
        elif abs(variance / goal.target - 1) < goal.tolerance:
            continue
        elif len(weights[k].part.leaves) > 1:
            state.abandoned[k, row] = "its weight is computed from several parameters"
        elif state.iterations[k][row] >= goal.max_iterations:
            state.abandoned[k, row] = f"its output has variance {variance:.3g} after {goal.max_iterations} iterations"
        else:
            return k, row
    return None


def _describe(weight: _Weight, row: tuple[int, ...]) -> str:
    return repr(weight.names[0]) + (f"[{', '.join(map(str, row))}]" if row else "")


def _warn(abandoned: dict[_Unit, str], weights: Sequence[_Weight]) -> None:
    if abandoned:
        reasons = "; ".join(f"{_describe(weights[k], row)}: {reason}" for (k, row), reason in abandoned.items())
        warnings.warn(f"lsuv left layers out of tolerance. {reasons}", stacklevel=3)


def _reason_of(state: _State, number: int) -> str:
    return "; ".join(dict.fromkeys(reason for (k, _), reason in state.abandoned.items() if k == number))
