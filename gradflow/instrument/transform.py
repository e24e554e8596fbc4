"""The public transformation: like `jax.value_and_grad`, and with it the flow of every layer."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow.instrument import naming, weights
from gradflow.instrument.errors import FlowError
from gradflow.instrument.flow import LAYER_KINDS, Entry, Flow, Meta, validate_statistics
from gradflow.instrument.interpreter import Interpreter
from gradflow.instrument.jaxprs import opened, varying_axes
from gradflow.instrument.layers import Site, find_sites
from gradflow.instrument.origins import Kind, Origin
from gradflow.instrument.sinks import Pack, pack_sites
from gradflow.instrument.statistics import Layout, flush_below
from gradflow.instrument.tap import TapSpec


def value_grad_and_flow(
    fun: Callable[..., Any] | Any,
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    *,
    select: naming.Select = None,
    statistics: Iterable[str] | str | None = None,
    activations: bool = False,
    data_gradients: bool = True,
    underflow_dtype: Any = jnp.float16,
) -> Callable[..., tuple[Any, Any, Flow]]:
    r"""Return a function that gives the value, the gradients and every layer's forward and backward signal.

    One reverse pass computes all: every layer's output y passes through an identity whose derivative rule also reduces
    y and its cotangent dL/dy to a few float32 numbers. No activation is stored or returned for it.

    Args:
        fun: the loss function, any JAX code that can be traced; it returns a scalar, or (scalar, aux) with `has_aux`.
        argnums: which positional arguments to differentiate; pytrees of floating-point arrays.
        has_aux: whether `fun` returns a pair whose second part is passed through.
        select: report only names that match this `fnmatch` pattern, any of several, or a predicate on the name.
        statistics: fields of `LayerFlow` to compute, all by default; what is not asked for costs nothing.
        activations: whether a contraction of two activations (attention scores) is a layer too.
        data_gradients: whether `input_grad_rms` of layers fed with data is formed: one more product, which
            the gradient of the parameters does not need.
        underflow_dtype: type whose flush to zero `underflow_fraction` counts, float16 or bfloat16.

    Returns:
        A function with the arguments of `fun` that returns (value, grads, flow), with `has_aux`
        ((value, aux), grads, flow). `value` and `grads` are those of `jax.value_and_grad`: to the bit where XLA
        compiles the same kernels with and without the taps, else within float rounding (reductions that XLA fuses
        otherwise once a tap reads the same array).

    Raises:
        FlowError: no layer found, a loss that is not a scalar, a tap in a while loop.
        TypeError: parameters that are not floating-point.
        ValueError: an unknown statistic.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> loss = lambda w, x: jnp.mean((x @ w) ** 2)
        >>> value, grads, flow = jax.jit(value_grad_and_flow(loss))(jnp.ones((3, 2)), jnp.ones((4, 3)))
        >>> print(float(value), grads.shape, float(flow[flow.layers[0]].output_rms))
        9.0 (3, 2) 3.0
    """
    if not callable(fun):
        raise TypeError(
            f"value_grad_and_flow: expected a function, got {type(fun).__name__}; pass loss_fn, not loss_fn(...)"
        )
    wanted = validate_statistics(statistics)
    options = _Options(select, Layout(wanted), activations, data_gradients, flush_below(underflow_dtype))

    @functools.wraps(fun, assigned=("__module__", "__name__", "__qualname__", "__doc__"))
    def value_grad_and_flow_f(*args: Any, **kwargs: Any) -> tuple[Any, Any, Flow]:
        traced = _trace(fun, argnums, has_aux, args, kwargs)
        value, aux, grads, flow = _run(traced, options)
        return ((value, aux) if has_aux else value), grads, flow

    return value_grad_and_flow_f


@dataclasses.dataclass(frozen=True)
class _Options:
    select: naming.Select
    layout: Layout
    activations: bool
    data_gradients: bool
    flush_below: float


@dataclasses.dataclass(frozen=True)
class _Traced:
    """A loss function as a jaxpr of its differentiated leaves."""

    jaxpr: Any
    leaves: list[Any]
    paths: list[tuple[str, ...]]
    rebuild_grads: Callable[[list[Any]], Any]
    rebuild_aux: Callable[[list[Any]], Any]


def _trace(
    fun: Callable[..., Any], argnums: Any, has_aux: bool, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> _Traced:
    single = isinstance(argnums, (int, np.integer))
    numbers = _normalised((argnums,) if single else tuple(argnums), len(args))
    chosen = args[numbers[0]] if single else tuple(args[n] for n in numbers)
    flat, tree = jax.tree_util.tree_flatten_with_path(chosen)
    names = _argument_names(fun, numbers)
    paths = [_leaf_parts(path, names, single) for path, _ in flat]
    leaves = [leaf for _, leaf in flat]
    _check_leaves(leaves, paths)
    kept: dict[str, Any] = {}

    def flat_fun(*leaves: Any) -> list[Any]:
        values = jax.tree_util.tree_unflatten(tree, leaves)
        full = list(args)
        for n, value in zip(numbers, (values,) if single else values, strict=True):
            full[n] = value
        out = fun(*full, **kwargs)
        loss, aux = _checked_pair(out) if has_aux else (out, None)
        _check_scalar(loss)
        aux_leaves, kept["tree"] = jax.tree_util.tree_flatten(aux)
        traced = [isinstance(a, jax.core.Tracer) for a in aux_leaves]
        kept["static"] = [None if t else a for a, t in zip(aux_leaves, traced, strict=True)]
        kept["traced"] = traced
        return [loss, *(a for a, t in zip(aux_leaves, traced, strict=True) if t)]

    jaxpr = jax.make_jaxpr(flat_fun)(*leaves)

    def rebuild_aux(values: list[Any]) -> Any:
        rest = iter(values)
        both = [next(rest) if t else s for t, s in zip(kept["traced"], kept["static"], strict=True)]
        return jax.tree_util.tree_unflatten(kept["tree"], both)

    return _Traced(jaxpr, leaves, paths, lambda g: jax.tree_util.tree_unflatten(tree, g), rebuild_aux)


def _run(traced: _Traced, options: _Options) -> tuple[Any, Any, Any, Flow]:
    sites, names = _sites(traced, options)
    layout = options.layout
    handed = [
        bool(layout.handed) and s.source is not None and (s.source_active or options.data_gradients) for s in sites
    ]
    packs = pack_sites(sites, layout, handed)
    specs = [TapSpec(layout, s.unit_axes, s.example_axes, s.mesh_axes, options.flush_below) for s in sites]
    interpreter = Interpreter(sites, specs, packs)

    def instrumented(leaves: list[Any], sinks: list[Any]) -> tuple[Any, list[Any]]:
        loss, *aux = interpreter(traced.jaxpr, leaves, sinks)
        return loss, aux

    sinks = [pack.zeros() for pack in packs]
    (value, aux), (grads, sums) = jax.value_and_grad(instrumented, argnums=(0, 1), has_aux=True)(traced.leaves, sinks)
    groups = weights.group(sites, traced.leaves)
    weight_sums = weights.reduce(groups, traced.leaves, grads, layout.wanted)
    meta = Meta(
        _entries(sites, names, packs, groups),
        layout.forward + layout.backward,
        layout.handed,
        weights.COLUMNS,
        layout.wanted,
    )
    return value, traced.rebuild_aux(aux), traced.rebuild_grads(grads), Flow(meta, tuple(sums), weight_sums)


def _sites(traced: _Traced, options: _Options) -> tuple[list[Site], list[str]]:
    jaxpr, consts = opened(traced.jaxpr)
    parameters = [
        Origin(Kind.VIEW, frozenset({k}), active=True, axes=varying_axes(leaf)) for k, leaf in enumerate(traced.leaves)
    ]
    data = [Origin(Kind.DATA, axes=varying_axes(c)) for c in consts]
    sites = find_sites(traced.jaxpr, parameters, data, activations=options.activations)
    if not any(s.kind in LAYER_KINDS or s.kind == "tap" for s in sites):
        counted = ", ".join(sorted({e.primitive.name for e in jaxpr.eqns})) or "nothing"
        raise FlowError(
            expected="a loss in which at least one contraction or look-up uses a differentiated parameter",
            got=f"none among {len(jaxpr.eqns)} operations ({counted})",
            cause="the parameters are closed over instead of passed as an argument, argnums names another argument, "
            "or the layers sit inside a custom derivative rule or a while loop",
            fix="pass the parameters as an argument and name it in argnums, or name values by gradflow.tap",
        )
    names = naming.name_sites(sites, traced.paths)
    chosen = naming.selected(names, options.select)
    return (
        [s for s, keep in zip(sites, chosen, strict=True) if keep],
        [n for n, keep in zip(names, chosen, strict=True) if keep],
    )


def _entries(sites: list[Site], names: list[str], packs: Sequence[Pack], groups: weights.Groups) -> tuple[Entry, ...]:
    place: dict[tuple[int, str], tuple[int, int]] = {}
    for number, pack in enumerate(packs):
        for piece, at in pack.offsets().items():
            place[piece] = (number, at)
    entries = []
    for k, (site, name) in enumerate(zip(sites, names, strict=True)):
        number, main = place[(k, "main")]
        weight, weight_size = groups.find(site.weight)
        entry = Entry(
            name=name,
            kind=site.kind,
            shape=site.shape,
            units=math.prod(site.shape[a] for a in site.unit_axes),
            input_size=0 if site.input_shape is None else math.prod(site.input_shape),
            examples=site.shape[site.example_axes[0]] if site.example_axes else 0,
            lengths=site.lengths,
            pack=number,
            main=main,
            handed=place.get((k, "handed"), (0, -1))[1],
            weight=weight,
            weight_size=weight_size,
            part=None if site.weight is None else weights.part_of(site.weight),
            order=_with_steps(site),
        )
        entries.append(entry)
    return tuple(entries)


def _with_steps(site: Site) -> tuple[int | None, ...]:
    """The path of a site, with None behind each scan, where the number of its step belongs."""
    order: list[int | None] = list(site.path)
    for chain in reversed(site.chain):
        order.insert(len(chain), None)
    return tuple(order)


def _normalised(numbers: tuple[int, ...], count: int) -> tuple[int, ...]:
    for n in numbers:
        if not -count <= n < count:
            raise ValueError(
                f"value_grad_and_flow: argnums={n} but the function was called with {count} positional arguments; "
                "pass the differentiated arguments by position"
            )
    return tuple(n % count for n in numbers)


def _argument_names(fun: Callable[..., Any], numbers: tuple[int, ...]) -> list[str]:
    try:
        positional = list(inspect.signature(fun).parameters)
    except (TypeError, ValueError):
        positional = []
    return [positional[n] if n < len(positional) else str(n) for n in numbers]


def _leaf_parts(path: Sequence[Any], names: list[str], single: bool) -> tuple[str, ...]:
    if single or len(names) == 1:
        parts = naming.path_parts(path if single else path[1:])
        return parts or (names[0],)
    return (names[path[0].idx], *naming.path_parts(path[1:]))


def _check_leaves(leaves: list[Any], paths: list[tuple[str, ...]]) -> None:
    for leaf, path in zip(leaves, paths, strict=True):
        name = "/".join(path)
        if not isinstance(leaf, (jax.Array, np.ndarray, np.generic, float, int, complex)):
            raise TypeError(
                f"value_grad_and_flow: expected arrays as parameters, got {type(leaf).__name__} at {name!r}. "
                "Likely cause: a model object with functions or names in it. "
                "Fix: separate the arrays (eqx.partition, nnx.split) and put the rest back inside the loss"
            )
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise TypeError(
                f"value_grad_and_flow: expected floating-point parameters, got {jnp.result_type(leaf)} at {name!r}. "
                "Likely cause: a step counter, a random key or labels among the parameters, or argnums names the wrong "
                "argument. Fix: pass it as another argument"
            )


def _checked_pair(out: Any) -> tuple[Any, Any]:
    if not isinstance(out, tuple) or len(out) != 2:
        raise TypeError(
            "value_grad_and_flow: with has_aux=True expected the loss function to return (loss, aux), "
            f"got {type(out).__name__}"
        )
    return out


def _check_scalar(loss: Any) -> None:
    expected = "a loss function that returns a floating-point scalar"
    leaves = jax.tree_util.tree_leaves(loss)
    if isinstance(loss, tuple):
        got, cause = f"a tuple of {len(loss)}", "the function also returns something else"
        raise FlowError(expected, got, cause, "pass has_aux=True")
    if len(leaves) != 1 or leaves[0] is not loss:
        raise FlowError(expected, type(loss).__name__, "the function returns no array", "return the loss")
    if jnp.shape(loss) != ():
        raise FlowError(
            expected, f"an array of shape {jnp.shape(loss)}", "one loss for each example", "return the mean"
        )
    if not jnp.issubdtype(jnp.result_type(loss), jnp.floating):
        raise FlowError(
            expected, f"one of type {jnp.result_type(loss)}", "a count or a metric", "return the loss itself"
        )
