"""Reading and running pieces of a jaxpr through JAX's public API; what differs between JAX releases stays in here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

INLINED = frozenset({"jit", "pjit", "closed_call", "core_call"})
REMAT = frozenset({"remat2", "remat", "checkpoint"})
CUSTOM_RULES = frozenset({"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr", "custom_vmap_call"})


def opened(jaxpr: Any) -> tuple[core.Jaxpr, Sequence[Any]]:
    """Split a jaxpr, closed or not, into the open jaxpr and the values of its constants."""
    return getattr(jaxpr, "jaxpr", jaxpr), tuple(getattr(jaxpr, "consts", ()))


def inner_jaxpr(eqn: core.JaxprEqn) -> Any:
    """Return the one jaxpr that a call-like equation (jit, remat, scan, shard_map, custom rule) runs."""
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr", "call"):
        if key in eqn.params:
            return eqn.params[key]
    raise KeyError(f"{eqn.primitive.name} holds no jaxpr under a known name")


def scan_arity(eqn: core.JaxprEqn) -> tuple[int, int]:
    """Return (number of constants, number of carries) of a scan equation."""
    if "num_carry" in eqn.params:
        return eqn.params["num_consts"], eqn.params["num_carry"]
    consts, carry, _ = eqn.params["ft_in"].unpack()  # JAX 0.11 keeps the argument trees instead
    return len(consts), len(carry)


def shape_of(atom: Any) -> tuple[int, ...]:
    """Return the shape of a variable or literal."""
    return tuple(atom.aval.shape)


def dtype_of(atom: Any) -> Any:
    """Return the type of the entries of a variable or literal."""
    return atom.aval.dtype


def literal_value(atom: Any) -> Any:
    """Return the value of a literal."""
    return atom.val


def is_inexact(atom: Any) -> bool:
    """Tell whether a variable or literal holds floating-point or complex numbers."""
    dtype = getattr(atom.aval, "dtype", None)
    return dtype is not None and bool(jnp.issubdtype(dtype, jnp.inexact))


def is_var(atom: Any) -> bool:
    """Tell a variable from a literal."""
    return not isinstance(atom, core.Literal)


def source_scope(eqn: core.JaxprEqn) -> str:
    """Return the `jax.named_scope` path under which an equation was traced, "" if there is none."""
    return str(getattr(eqn.source_info, "name_stack", ""))


def source_lines(eqn: core.JaxprEqn) -> list[tuple[str, int]]:
    """Return the files and lines of the calls under which an equation was traced, the innermost first."""
    return [(file, line) for file, line, _ in source_frames(eqn)]


def source_frames(eqn: core.JaxprEqn) -> list[tuple[str, int, str]]:
    """Return file, line and function of the calls under which an equation was traced, the innermost first."""
    traceback = getattr(eqn.source_info, "traceback", None)
    return [(f.file_name, f.line_num, f.function_name) for f in getattr(traceback, "frames", ())]


def evaluate(jaxpr: core.Jaxpr, eqns: Sequence[core.JaxprEqn], outs: Sequence[Any], env: dict[Any, Any]) -> None:
    """Run consecutive equations of `jaxpr` as JAX would, reading their inputs from `env` and writing `outs` to it."""
    defined = {v for e in eqns for v in e.outvars}
    used: list[Any] = list(dict.fromkeys(v for e in eqns for v in e.invars if is_var(v) and v not in defined))
    info = jaxpr.debug_info._replace(arg_names=None, result_paths=None)
    piece = core.ClosedJaxpr(core.Jaxpr((), used, list(outs), list(eqns), debug_info=info), ())
    env.update(zip(outs, core.jaxpr_as_fun(piece)(*(env[v] for v in used)), strict=True))


def subjaxprs(eqn: core.JaxprEqn) -> list[core.Jaxpr]:
    """Return every jaxpr among an equation's parameters, opened."""
    found: list[core.Jaxpr] = []
    for value in eqn.params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, (core.Jaxpr, core.ClosedJaxpr)):
                found.append(opened(item)[0])
    return found


def any_equation(jaxpr: core.Jaxpr, predicate: Callable[[core.JaxprEqn], bool]) -> core.JaxprEqn | None:
    """Return the first equation, at any depth, for which `predicate` holds."""
    for eqn in jaxpr.eqns:
        if predicate(eqn):
            return eqn
        for inner in subjaxprs(eqn):
            if (hit := any_equation(inner, predicate)) is not None:
                return hit
    return None


def varying_axes(x: Any) -> frozenset[str]:
    """Return the manual mesh axes over which a value differs from device to device (empty outside `shard_map`)."""
    return frozenset(getattr(getattr(jax.typeof(x), "manual_axis_type", None), "varying", ()))


def as_varying(x: jax.Array, like: Any) -> jax.Array:
    """Let `x` differ from device to device as `like` does; the gradient of a sink is then summed over the devices."""
    return varying_over(x, varying_axes(like))


def varying_over(x: jax.Array, axes: frozenset[str]) -> jax.Array:
    """Let `x` differ from device to device over mesh axes, inside a `shard_map` that keeps account of that."""
    missing = axes - varying_axes(x)
    return jax.lax.pcast(x, tuple(sorted(missing)), to="varying") if missing else x


def empty_like(x: Any) -> jax.Array:
    """Return zeros of the type that an array or a shape has, on the devices over which that varies."""
    axes = frozenset(getattr(getattr(x, "manual_axis_type", None), "varying", None) or getattr(x, "vma", None) or ())
    return varying_over(jnp.zeros(x.shape, x.dtype), axes)
