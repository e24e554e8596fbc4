"""What a value of a traced program can be to mean-field theory, and what equations make of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from gradflow.instrument import jaxprs
from gradflow.theory.tracing.random_fields import NODES, Part, Signal, Source

SAME = frozenset({"convert_element_type", "copy", "copy_p", "name", "reduce_precision", "optimization_barrier"})
SHAPED = frozenset({"reshape", "broadcast_in_dim", "transpose", "squeeze", "expand_dims", *SAME})
ELEMENTWISE = frozenset(
    {
        "add", "add_any", "sub", "mul", "div", "neg", "abs", "sign", "square", "sqrt", "rsqrt", "cbrt", "pow",
        "integer_pow", "max", "min", "clamp", "select_n", "ge", "gt", "le", "lt", "eq", "ne", "and", "or", "not",
        "is_finite", "floor", "ceil", "round", "tanh", "logistic", "exp", "exp2", "log", "log1p", "expm1", "erf",
        "erf_inv", "erfc", "sin", "cos", "tan", "sinh", "cosh", "asinh", "acosh", "atan",
    }
)  # fmt: skip
CONTRACTIONS = ("dot_general", "conv_general_dilated")


@dataclasses.dataclass(frozen=True)
class Known:
    """Numbers known beforehand: parameters and what is computed from them.

    Attributes:
        value: the numbers.
        exact: whether `value` has the shape that the program gives it (a mean over units has not).
    """

    value: Any
    exact: bool = True

    def number(self) -> float | None:
        """The one number that it holds, None if there are several."""
        array = np.asarray(self.value)
        return float(array.flat[0]) if array.size and bool((array == array.flat[0]).all()) else None


@dataclasses.dataclass(frozen=True)
class Data:
    """Depends on what is not a parameter, and on no layer."""


@dataclasses.dataclass(frozen=True)
class Outside:
    """What theory has no description for, why, and the Gaussians that it reads, which get their gradient from it."""

    reason: str
    reads: frozenset[Source] = frozenset()


@dataclasses.dataclass(frozen=True, eq=False)
class BatchMean:
    """`scale` times the mean of a signal over all examples, by unit; squared if `power` is 2; `plus` what was added."""

    signal: Signal
    scale: float
    power: int = 1
    plus: Known | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Piece:
    """Some of a signal's examples or positions, `size` before it was cut: of use only where they are put together."""

    signal: Signal
    size: int


@dataclasses.dataclass(frozen=True, eq=False)
class Series:
    """What a scan returns, stacked: one signal a step, along the axis marked "t"."""

    signals: tuple[Any, ...]
    axes: tuple[str, ...]


Value = Known | Data | Outside | BatchMean | Piece | Series | Signal


def outside(args: Sequence[Value], reason: str) -> Outside:
    """Give up on a value made of `args`, remembering what it reads."""
    return Outside(reason, frozenset().union(*(_reads(a) for a in args)))


def _reads(value: Value) -> frozenset[Source]:
    """The Gaussians that a value is made of."""
    if isinstance(value, Outside):
        return value.reads
    if isinstance(value, (BatchMean, Piece)):
        value = value.signal
    if isinstance(value, Series):
        return frozenset().union(*(_reads(v) for v in value.signals))
    return frozenset(value.parts) if isinstance(value, Signal) else frozenset()


def layers_below(signal: Signal) -> list[Source]:
    """The layers that a signal's Gaussians are made of."""
    found, todo = [], list(signal.parts)
    while todo:
        source = todo.pop()
        if source.layer is not None:
            found.append(source)
        else:
            todo.extend(parent for parent, _ in source.edges)
    return found


def key_of(signal: Signal) -> Any:
    """Equal for signals that are the same random variable."""
    parts = sorted((id(s), p.value.tobytes()) for s, p in signal.parts.items())
    return (round(signal.constant, 12), *parts)


def multiple_of(signal: Signal, other: Signal) -> float | None:
    """The k for which signal = k other, None if there is none."""
    if set(signal.parts) != set(other.parts) or not other.parts:
        return None
    own, base = (np.stack([s.parts[source].value for source in other.parts]) for s in (signal, other))
    k = float((own * base).sum() / max((base**2).sum(), 1e-300))
    close = np.abs(own - k * base).max() <= 1e-4 * np.abs(own).max()
    return k if close and math.isclose(signal.constant, k * other.constant, rel_tol=1e-4, abs_tol=1e-9) else None


def axes_of(value: Value) -> tuple[str, ...]:
    """What the axes hold, () where that is of no account."""
    return value.axes if isinstance(value, (Signal, Series)) else ()


def wider(left: tuple[str, ...], right: tuple[str, ...]) -> tuple[str, ...]:
    """The axes of a result: those of the operand that was not broadcast."""
    return left if left.count("u") + left.count("e") >= right.count("u") + right.count("e") else right


def moved(name: str, eqn: core.JaxprEqn, axes: tuple[str, ...]) -> tuple[str, ...] | None:
    """What the axes hold after a change of shape; None where one would be cut in two."""
    old, new = jaxprs.shape_of(eqn.invars[0]), jaxprs.shape_of(eqn.outvars[0])
    if name in SAME or not axes:
        return axes
    if name == "transpose":
        return tuple(axes[k] for k in eqn.params["permutation"])
    if name == "broadcast_in_dim":
        placed = dict(zip(eqn.params["broadcast_dimensions"], axes, strict=True))
        return tuple(placed.get(k, "1") for k in range(len(new)))
    labels, at, out = [a for a, n in zip(axes, old, strict=True) if n != 1], 0, []
    sizes = [n for n in old if n != 1]
    for size in new:
        if size == 1:
            out.append("1")
            continue
        held, merged = 1, ""
        while held < size and at < len(sizes):
            held, merged, at = held * sizes[at], merged + labels[at], at + 1
        if held != size or ("t" in merged and merged != "t"):
            return None
        out.append("u" if "u" in merged else merged[:1] or "1")
    return tuple(out)


def summed(signal: Signal, eqn: core.JaxprEqn) -> Value | None:
    """A sum over units is a number, one over all examples a statistic of the batch; over some of them, neither."""
    shape, axes = jaxprs.shape_of(eqn.invars[0]), set(eqn.params["axes"])
    count = math.prod(shape[a] for a in axes)
    held = {signal.axes[a] for a in axes if shape[a] > 1} if len(signal.axes) == len(shape) else set()
    if "u" in held:
        return Known(np.float64(count * signal.mean), exact=False)
    examples = {k for k, a in enumerate(signal.axes) if a == "e" and shape[k] > 1}
    if held != {"e"} or not examples <= axes:
        return None
    if signal.shared <= 1e-9 * signal.variance:
        return Known(np.float64(count * signal.mean), exact=False)
    return BatchMean(signal, float(count))


def step_of(series: Series, eqn: core.JaxprEqn) -> Value | None:
    """One step of what a scan returned; the axis stays, with nothing in it."""
    at = series.axes.index("t")
    start, stop = eqn.params["start_indices"], eqn.params["limit_indices"]
    shape = jaxprs.shape_of(eqn.invars[0])
    whole = all((start[k], stop[k]) == (0, shape[k]) for k in range(len(shape)) if k != at)
    if not whole or stop[at] - start[at] != 1:
        return None
    axes = tuple("1" if a == "t" else a for a in series.axes)
    return dataclasses.replace(series.signals[start[at]], axes=axes)


def piece_of(signal: Signal, eqn: core.JaxprEqn) -> Value | None:
    """A slice that keeps all units."""
    old, new = jaxprs.shape_of(eqn.invars[0]), jaxprs.shape_of(eqn.outvars[0])
    if len(signal.axes) != len(old) or any(a != "e" and m != n for a, m, n in zip(signal.axes, old, new, strict=True)):
        return None
    return Piece(signal, math.prod(old))


def put_together(eqn: core.JaxprEqn, args: Sequence[Value]) -> Value | None:
    """Pieces around their signal, as circular and reflecting padding lay them, whose gradients add up in it."""
    along, size = eqn.params["dimension"], math.prod(jaxprs.shape_of(eqn.outvars[0]))
    signals = [a.signal if isinstance(a, Piece) else a for a in args]
    first = signals[0]
    if not all(isinstance(s, Signal) for s in signals) or not isinstance(first, Signal):
        return None
    if first.axes[along : along + 1] != ("e",) or any(key_of(s) != key_of(first) for s in signals):  # type: ignore[arg-type]
        return None
    before = max(a.size if isinstance(a, Piece) else 0 for a in args)
    if not 0 < before < size:
        return None
    parts = {s: Part(part.value, math.sqrt(size / before) * part.slope) for s, part in first.parts.items()}
    return dataclasses.replace(first, parts=parts)


def product_of(eqn: core.JaxprEqn) -> core.JaxprEqn | None:
    """The contraction that an equation is, or that a custom rule with the same operands wraps."""
    if eqn.primitive.name in CONTRACTIONS:
        return eqn
    if eqn.primitive.name not in jaxprs.CUSTOM_RULES | jaxprs.INLINED:
        return None
    inner = jaxprs.opened(jaxprs.inner_jaxpr(eqn))[0]
    if len(inner.eqns) != 1 or list(inner.eqns[0].invars) != list(inner.invars):
        return None
    return product_of(inner.eqns[0])


def row(value: Value, step: int) -> Value:
    """What one step of a scan sees of a value that it goes through."""
    if isinstance(value, Known) and value.exact:
        return Known(value.value[step])
    if isinstance(value, Series) and value.axes[0] == "t":
        return value.signals[step]
    return value if isinstance(value, (Data, Outside)) else Outside("a scan over the examples or units of a layer")


def typical(known: Known, *, inverse: bool = False) -> float:
    """The root mean square of known factors, with the sign of their mean."""
    array = np.asarray(known.value, np.float64)
    array = 1 / array if inverse else array
    return float(math.copysign(math.sqrt(float(np.mean(array**2))), float(array.mean())))


def on_numbers(eqn: core.JaxprEqn, args: list[Any]) -> Value | None:
    """Known numbers whose shapes are no longer those of the program."""
    numbers = [a.number() for a in args]
    several = [k for k, number in enumerate(numbers) if number is None]
    if len(several) > 1:
        return None
    shape = np.shape(args[several[0]].value) if several else ()
    full = [
        np.broadcast_to(np.asarray(a.value, np.float64) if n is None else n, shape)
        for a, n in zip(args, numbers, strict=True)
    ]
    with _double():
        return Known(np.asarray(eqn.primitive.bind(*(jnp.asarray(x) for x in full), **eqn.params)), exact=False)


def on_nodes(value: Any, source: Source) -> tuple[Any, Any]:
    """Value and slope at the nodes."""
    if isinstance(value, Known):
        number = np.asarray(value.value).flat[0]
        kind = bool if np.asarray(number).dtype == bool else np.float64
        return np.full(NODES.shape, number, kind), np.zeros_like(NODES)
    part = value.parts.get(source)
    if part is None:
        return np.full(NODES.shape, value.constant), np.zeros_like(NODES)
    return (part.value if part.value.dtype == bool else value.constant + part.value), part.slope


def apply(eqn: core.JaxprEqn, args: list[tuple[Any, Any]]) -> Part | None:
    """An elementwise equation and its derivative, at the nodes, in double precision."""
    with _double():
        moving = [k for k, (value, _) in enumerate(args) if value.dtype != bool]
        whole = [jnp.asarray(value) for value, _ in args]

        def fn(*floats: Any) -> Any:
            full = list(whole)
            for k, x in zip(moving, floats, strict=True):
                full[k] = x
            return eqn.primitive.bind(*full, **eqn.params)

        primals = [whole[k] for k in moving]
        if jax.eval_shape(fn, *primals).dtype == jnp.bool_ or not moving:
            return Part(np.asarray(fn(*primals)), np.zeros_like(NODES))
        value, slope = jax.jvp(fn, primals, [jnp.asarray(args[k][1]) for k in moving])
    value, slope = np.asarray(value), np.asarray(slope)
    return Part(value, slope) if np.isfinite(value).all() and np.isfinite(slope).all() else None


class _double:
    """Double precision, whatever the user's, and no alarm: what is not finite is said in words."""

    def __enter__(self) -> None:
        self.contexts = [jax.enable_x64(True), jax.numpy_dtype_promotion("standard"), jax.debug_nans(False)]
        for context in self.contexts:
            context.__enter__()

    def __exit__(self, *error: Any) -> None:
        for context in reversed(self.contexts):
            context.__exit__(*error)


def why(name: str, args: Sequence[Value]) -> str:
    """Say what of an equation has no description."""
    signals = sum(isinstance(a, (Signal, Series)) for a in args)
    if any(isinstance(a, Piece) for a in args):
        name = "slice"
    if name in ("dot_general", "mul", "div") and signals > 1:
        return "a product of two signals, as in attention or gates"
    if name in ("reduce_max", "argmax", "reduce_window_max", "reduce_window", "reduce_window_sum", "reduce_sum"):
        return f"{name} over units, examples or positions, as in softmax or pooling"
    if name in ("slice", "split", "dynamic_slice", "gather", "concatenate"):
        return f"{name}: parts of a signal used apart, as gates are, or put together"
    if any(isinstance(a, Data) for a in args) and signals:
        return "signal and data meet otherwise than in a layer"
    return f"{name} of a signal"
