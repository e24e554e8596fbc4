"""What stands around an equation in its jaxpr: where an operand was made, and what becomes of a result."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from jax.extend import core

from gradflow.instrument import jaxprs
from gradflow.instrument.origins import Kind, Origin
from gradflow.instrument.sites import Pass, Path, Site
from gradflow.primitives import ELEMENTWISE, IDENTITIES

# Between a contraction and its activation: bias, scale and shift of a normalization, casts.
_AFFINE = frozenset({"add", "add_any", "sub", "mul", "div", "neg"}) | IDENTITIES
_MOST_STEPS = 32


@dataclasses.dataclass(frozen=True, eq=False)
class Frame:
    """A jaxpr while it is being walked, with the equation of another one that calls it.

    Attributes:
        jaxpr: the jaxpr.
        path: where it stands.
        above: the frame and the number of the equation that call it; None for the body of a scan, where a result has
            no single place outside.
    """

    jaxpr: core.Jaxpr
    path: Path = ()
    above: tuple[Frame, int] | None = None

    @functools.cached_property
    def definitions(self) -> dict[Any, int]:
        """The number of the equation that computes each variable."""
        return {v: k for k, eqn in enumerate(self.jaxpr.eqns) for v in eqn.outvars}

    @functools.cached_property
    def readers(self) -> dict[Any, list[int]]:
        """The numbers of the equations that read each variable."""
        found: dict[Any, list[int]] = {}
        for k, eqn in enumerate(self.jaxpr.eqns):
            for v in eqn.invars:
                if jaxprs.is_var(v):
                    found.setdefault(v, []).append(k)
        return found

    def has_single_reader(self, var: Any) -> bool:
        """Tell whether one equation alone reads a variable, and nothing outside of the jaxpr does."""
        return len(self.readers.get(var, ())) == 1 and not any(var is out for out in self.jaxpr.outvars)


def definition(frame: Frame, var: Any) -> tuple[Path, int, Any] | None:
    """Follow a variable through inlined calls to the equation that computes it.

    Returns:
        The path of the equation, which of its outputs it is, and the variable there; None for a passed-through input.
    """
    return _definition(frame.jaxpr, var, frame.path)


def _definition(jaxpr: core.Jaxpr, var: Any, path: Path) -> tuple[Path, int, Any] | None:
    for index, eqn in enumerate(jaxpr.eqns):
        if var not in eqn.outvars:
            continue
        out = list(eqn.outvars).index(var)
        if eqn.primitive.name in jaxprs.INLINED | jaxprs.REMAT:
            inner, _ = jaxprs.opened(jaxprs.inner_jaxpr(eqn))
            if jaxprs.is_var(inner.outvars[out]):
                deeper = _definition(inner, inner.outvars[out], (*path, index, 0))
                return deeper or ((*path, index), out, var)
        return (*path, index), out, var
    return None


def activation_behind(frame: Frame, var: Any) -> tuple[Frame, int, int] | None:
    """Find the first nonlinear elementwise function that a layer's output goes through, behind bias and normalization.

    Returns:
        Its frame, the number of its equation and which output it is; None where there is none.
    """
    shape = jaxprs.shape_of(var)
    for _ in range(_MOST_STEPS):
        following = _following(frame, var, shape)
        if following is None:
            if frame.above is None or var not in frame.jaxpr.outvars:
                return None
            outer, index = frame.above
            var = outer.jaxpr.eqns[index].outvars[list(frame.jaxpr.outvars).index(var)]
            frame = outer
            continue
        index, out = following
        if frame.jaxpr.eqns[index].primitive.name not in _AFFINE:
            return frame, index, out
        var = frame.jaxpr.eqns[index].outvars[out]
    return None


def _following(frame: Frame, var: Any, shape: tuple[int, ...]) -> tuple[int, int] | None:
    for index in frame.readers.get(var, ()):
        eqn = frame.jaxpr.eqns[index]
        if not is_elementwise(eqn):
            continue
        for out, result in enumerate(eqn.outvars):
            if jaxprs.shape_of(result) == shape and jaxprs.is_inexact(result):
                return index, out
    return None


def is_elementwise(eqn: core.JaxprEqn) -> bool:
    """Tell whether an equation, a call or custom rule among them, computes each entry from entries at its place."""
    name = eqn.primitive.name
    if name in ELEMENTWISE or name in IDENTITIES:
        return True
    if name not in jaxprs.INLINED and name not in jaxprs.CUSTOM_RULES:
        return False
    inner, _ = jaxprs.opened(jaxprs.inner_jaxpr(eqn))
    return all(is_elementwise(e) or e.primitive.name == "broadcast_in_dim" for e in inner.eqns)


def computed_in(eqn: core.JaxprEqn, index: int, weight: int, source: Origin, frame: Frame, bits: Any) -> Pass:
    """Tell which pass of a derivative inside the loss a contraction belongs to, from JAX's name stack.

    A backward pass says so in its scope. A forward derivative computes value and tangent in one scope, one directly
    behind the other from the same weight, and the tangent does not depend on the value.

    Args:
        eqn: the contraction, equation number `index` of the frame.
        index: see `eqn`.
        weight: which operand is the weight.
        source: origin of the other one.
        frame: where it stands.
        bits: function from the number of an equation of this frame to its bit in `Origin.layers`, 0 for none.
    """
    scope = jaxprs.source_scope(eqn)
    if "transpose(" in scope:
        return "cotangent"
    if "jvp(" not in scope:
        return "value"
    for before in range(index - 1, max(index - 3, -1), -1):
        other = frame.jaxpr.eqns[before]
        if other.primitive is eqn.primitive and other.invars[weight] is eqn.invars[weight]:
            bit = bits(before)
            return "value" if bit & source.layers or jaxprs.source_scope(other) != scope else "tangent"
    return "value"


def added_leaf(
    eqn: core.JaxprEqn, origins: Sequence[Origin], index: int, frame: Frame, found: Mapping[Any, Site]
) -> tuple[int, int, Origin] | None:
    """Find a leaf of rank >= 2 that is added to data and is no bias: a table of positions, one row an example.

    Returns:
        The number of the equation before which it can be tapped (the one that broadcasts it, if any), which operand it
        is there, and its origin; None if there is none.
    """
    for k, (origin, other) in enumerate(zip(origins, reversed(origins), strict=True)):
        if origin.kind != Kind.VIEW or other.kind != Kind.DATA or not origin.active:
            continue
        at, operand, axes = index, k, tuple(range(len(jaxprs.shape_of(eqn.invars[k]))))
        made = frame.definitions.get(eqn.invars[k]) if jaxprs.is_var(eqn.invars[k]) else None
        if made is not None and frame.jaxpr.eqns[made].primitive.name == "broadcast_in_dim":
            at, operand, axes = made, 0, tuple(map(int, frame.jaxpr.eqns[made].params["broadcast_dimensions"]))
        var = frame.jaxpr.eqns[at].invars[operand]
        if not jaxprs.is_var(var):
            continue
        long = {axis for axis, n in zip(axes, jaxprs.shape_of(var), strict=True) if n > 1}
        if len(long) >= 2 and not _is_bias(long, eqn.invars[1 - k], frame, found):
            return at, operand, origin
    return None


def _is_bias(axes: set[int], other: Any, frame: Frame, found: Mapping[Any, Site]) -> bool:
    """Tell whether a leaf lies along the units of the layer to whose output it is added (heads x features)."""
    reshaped = False
    while jaxprs.is_var(other):
        located = definition(frame, other)
        if located is None:
            return False
        site = found.get(located[0])
        if site is not None and site.kind == "layer":
            units = {a for a in site.unit_axes if site.shape[a] > 1}
            shape = jaxprs.shape_of(other)
            sizes = math.prod(shape[a] for a in axes) if max(axes) < len(shape) else 0
            return sizes == math.prod(site.shape[a] for a in units) if reshaped else axes <= units
        made = frame.definitions.get(other)
        if made is None:
            return False
        eqn = frame.jaxpr.eqns[made]
        if eqn.primitive.name not in IDENTITIES | {"reshape"}:
            return False
        reshaped |= eqn.primitive.name == "reshape"
        other = eqn.invars[0]
    return False
