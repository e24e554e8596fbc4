"""The public transformation: like `jax.value_and_grad`, and with it the flow of every layer."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core as jax_core

from gradflow.instrument import parameters
from gradflow.instrument.analysis import find_sites
from gradflow.instrument.arguments import Traced, trace
from gradflow.instrument.description import describe
from gradflow.instrument.flow import Flow, Meta, validate_statistics
from gradflow.instrument.interpreter import Interpreter
from gradflow.instrument.jaxprs import empty_like, opened, varying_axes
from gradflow.instrument.naming import Select, name_sites, selected
from gradflow.instrument.origins import Kind, Origin
from gradflow.instrument.sinks import pack_sites
from gradflow.instrument.sites import Findings, Site
from gradflow.instrument.statistics import Layout, flush_below
from gradflow.instrument.tap import TapSpec

_INPUT_FIELDS = frozenset({"output_rms", "output_mean", "similarity", "nonfinite"})


def value_grad_and_flow(
    fun: Callable[..., Any] | Any,
    argnums: Any = 0,
    has_aux: bool = False,
    *,
    select: Select = None,
    statistics: Iterable[str] | str | None = None,
    activations: bool = False,
    data_gradients: bool = True,
    underflow_dtype: Any = jnp.float16,
) -> Callable[..., tuple[Any, Any, Flow]]:
    r"""Return a function that gives the value, the gradients and every layer's forward and backward signal.

    One reverse pass computes all: every layer's output y passes through an identity that reduces y to a few numbers,
    which become outputs, and whose derivative rule reduces the cotangent dL/dy. No activation is stored or returned.

    Args:
        fun: the loss function, any JAX code that can be traced; it returns a scalar, or (scalar, aux) with `has_aux`.
        argnums: which positional arguments to differentiate: pytrees of floating-point or complex arrays. A Flax NNX
            module is differentiated and updated as by `nnx.value_and_grad` (`nnx.DiffState` may stand here, too), an
            Equinox module as by `eqx.filter_value_and_grad`.
        has_aux: whether `fun` returns a pair whose second part is passed through.
        select: report only names that match this `fnmatch` pattern, any of several, or a predicate on the name.
        statistics: fields of `LayerFlow` to compute, by default `DEFAULT_STATISTICS`, which is all but the largest
            cotangent and the histogram of exponents; what is not asked for costs nothing.
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
        FlowError: a loss that is not a scalar, `select` that matches nothing, a tap in a while loop.
        TypeError: parameters that are not floating-point or complex.
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
            f"value_grad_and_flow: expected a function, got {type(fun).__name__}. Fix: pass loss_fn, not loss_fn(...)"
        )
    options = _Options(
        select, validate_statistics(statistics), activations, data_gradients, flush_below(underflow_dtype)
    )

    @functools.wraps(fun, assigned=("__module__", "__name__", "__qualname__", "__doc__"))
    def value_grad_and_flow_f(*args: Any, **kwargs: Any) -> tuple[Any, Any, Flow]:
        with trace(fun, argnums, has_aux, args, kwargs) as traced:
            value, aux, grads, flow = _run(traced, options)
        return ((value, aux) if has_aux else value), grads, flow

    return value_grad_and_flow_f


@dataclasses.dataclass(frozen=True)
class _Options:
    select: Select
    wanted: frozenset[str]
    activations: bool
    data_gradients: bool
    flush_below: float


def value_grad_and_flow_if(
    fun: Callable[..., Any] | Any,
    argnums: Any = 0,
    has_aux: bool = False,
    *,
    select: Select = None,
    statistics: Iterable[str] | str | None = None,
) -> Callable[..., tuple[Any, Any, Flow]]:
    """Return a function that gives value and gradients as ever, and the flow only where a traced condition holds.

    Value and gradients are formed outside of the branch, so that the condition changes none of their bits. The branch
    runs the loss once more, and its backward pass as far as the layers' cotangents go.

    Args:
        fun: as for `value_grad_and_flow`.
        argnums: as for `value_grad_and_flow`.
        has_aux: as for `value_grad_and_flow`.
        select: as for `value_grad_and_flow`.
        statistics: as for `value_grad_and_flow`.

    Returns:
        A function of the condition, a boolean scalar, and the arguments of `fun`; where the condition does not hold,
        the arrays of the flow are 0.
    """
    options = _Options(select, validate_statistics(statistics), False, False, flush_below(jnp.float16))

    def value_grad_and_flow_if_f(condition: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any, Flow]:
        with trace(fun, argnums, has_aux, args, kwargs) as traced:
            run = jax_core.jaxpr_as_fun(traced.jaxpr)

            def loss(leaves: list[Any]) -> tuple[Any, Any]:
                value, *aux = run(*leaves)
                return value, aux

            (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(traced.leaves)
            flow = _flow_if(condition, traced, options, value, grads)
            aux, grads = traced.rebuild_aux(aux), traced.rebuild_grads(grads)
        return ((value, aux) if has_aux else value), grads, flow

    return value_grad_and_flow_if_f


def _flow_if(condition: Any, traced: Traced, options: _Options, value: Any, grads: list[Any]) -> Flow:
    made: list[Meta] = []

    def measure(leaves: list[Any], value: Any, grads: list[Any]) -> Any:
        instrument = _instrumented(dataclasses.replace(traced, leaves=leaves), options)
        (_, (_, ahead)), back = jax.value_and_grad(instrument.loss, argnums=1, has_aux=True)(leaves, instrument.sinks)
        flow = instrument.flow(value, grads, ahead, back)
        made.append(flow._meta)
        return flow._arrays

    measure = jax.jit(measure)  # traced once, for its shapes and for the branch
    shapes = jax.eval_shape(measure, traced.leaves, value, grads)

    def nothing(*_: Any) -> Any:
        return jax.tree.map(empty_like, shapes)

    return Flow(made[0], *lax.cond(condition, measure, nothing, traced.leaves, value, grads))


@dataclasses.dataclass(frozen=True)
class _Instrument:
    """A loss with taps in place.

    Attributes:
        loss: (leaves, sinks) -> (loss, (aux, forward numbers)); the gradient of the sinks are the backward numbers.
        sinks: zeros.
        flow: (loss, gradients of leaves, forward numbers, backward numbers) -> flow.
    """

    loss: Callable[..., Any]
    sinks: list[Any]
    flow: Callable[..., Flow]


def _run(traced: Traced, options: _Options) -> tuple[Any, Any, Any, Flow]:
    instrument = _instrumented(traced, options)
    differentiate = jax.value_and_grad(instrument.loss, argnums=(0, 1), has_aux=True)
    (value, (aux, ahead)), (grads, back) = differentiate(traced.leaves, instrument.sinks)
    flow = instrument.flow(value, grads, ahead, back)
    return value, traced.rebuild_aux(aux), traced.rebuild_grads(grads), flow


def _instrumented(traced: Traced, options: _Options) -> _Instrument:
    findings = _find(traced, options)
    names = name_sites(findings.sites, traced.paths)
    sites, names, leaves = _chosen(findings, names, traced, options)
    specs = [_spec(site, options) for site in sites]
    packs = pack_sites(sites, specs)
    interpreter = Interpreter(sites, specs, packs)

    def instrumented(leaves: list[Any], sinks: list[Any]) -> tuple[Any, Any]:
        (loss, *aux), ahead = interpreter(traced.jaxpr, leaves, sinks)
        return loss, (aux, ahead)

    def flow(value: Any, grads: list[Any], ahead: Any, back: Any) -> Flow:
        groups = parameters.group(sites, traced.leaves, leaves)
        sums = parameters.reduce(groups, traced.leaves, grads, options.wanted)
        meta = describe(findings, sites, names, specs, packs, groups, leaves, traced, options.wanted)
        bad = (~jnp.isfinite(lax.stop_gradient(value))).astype(jnp.float32)
        return Flow(meta, tuple(_over_devices(a) for a in ahead), tuple(back), sums, _over_devices(bad))

    return _Instrument(instrumented, [pack.zeros() for pack in packs], flow)


def _over_devices(ahead: jax.Array) -> jax.Array:
    """Inside a `shard_map` around the transformation, add up what each device saw, as gradients of sinks are."""
    axes = tuple(sorted(varying_axes(ahead)))
    return lax.psum(ahead, axes) if axes else ahead


def _find(traced: Traced, options: _Options) -> Findings:
    _, consts = opened(traced.jaxpr)
    origins = [
        Origin(Kind.VIEW, frozenset({k}), active=True, axes=varying_axes(leaf)) for k, leaf in enumerate(traced.leaves)
    ]
    data = [Origin(Kind.DATA, axes=varying_axes(c)) for c in consts]
    return find_sites(traced.jaxpr, origins, data, activations=options.activations)


def _chosen(
    findings: Findings, names: Sequence[str], traced: Traced, options: _Options
) -> tuple[list[Site], list[str], tuple[int, ...]]:
    """Return the sites to tap, their names, and the leaves to report."""
    shown = [k for k, site in enumerate(findings.sites) if site.kind != "silence"]
    if options.select is None:
        keep = set(shown)
        leaves = tuple(range(len(traced.leaves)))
    else:
        paths = ["/".join(path) for path in traced.paths]
        by_name = selected([names[k] for k in shown], options.select, also=paths)
        keep = {k for k, wanted in zip(shown, by_name, strict=True) if wanted}
        used = frozenset[int]().union(*(s.weight.leaves for k in keep if (s := findings.sites[k]).weight is not None))
        matching = selected(paths, options.select, also=names)
        leaves = tuple(k for k, match in enumerate(matching) if match or k in used)
    if not options.wanted & (_INPUT_FIELDS | {"input_rms"}):
        keep = {k for k in keep if findings.sites[k].kind != "input"}
    paths_kept = {findings.sites[k].path for k in keep}
    if "dead_fraction" in options.wanted:
        keep |= {k for k, s in enumerate(findings.sites) if s.kind == "silence" and s.parent in paths_kept}
    order = sorted(keep)
    return [findings.sites[k] for k in order], [names[k] for k in order], leaves


def _spec(site: Site, options: _Options) -> TapSpec:
    """Decide which numbers a site gives."""
    wanted = options.wanted
    if site.kind == "input":
        wanted = wanted & _INPUT_FIELDS | ({"output_rms"} if "input_rms" in wanted else frozenset())
    is_complex = jnp.issubdtype(site.dtype, jnp.complexfloating)
    layout = Layout(frozenset(wanted), parameters.column_dtype(site), is_complex)
    ahead, back = {"value": len(layout.forward)}, {"value": len(layout.backward)}
    if site.kind == "silence":
        ahead, back = {"silent": 2}, {}
    elif site.forward_only:
        back = {}
    elif layout.input_cotangent and site.source is not None and (site.source_active or options.data_gradients):
        back["input_cotangent"] = len(layout.input_cotangent)
    if site.experts:
        ahead["experts"] = back["experts"] = site.experts
    return TapSpec(
        layout, site.unit_axes, site.example_axes, site.mesh_axes, options.flush_below, site.single_reader, ahead, back
    )
