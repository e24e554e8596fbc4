"""What stands before an operation: whether a root is a norm or a deviation, and the nearest parameter."""

from __future__ import annotations

from typing import Any

from gradflow.diagnosis.nonfinite.frames import End, Frame, Location, call_frame
from gradflow.diagnosis.nonfinite.programs import is_step_of_call
from gradflow.instrument import jaxprs

__all__ = ["is_maximum", "nearest_input", "statistic_of"]

_PASSED = frozenset(
    {
        "abs", "add", "add_any", "broadcast_in_dim", "clamp", "convert_element_type", "copy", "div", "expand_dims",
        "max", "mul", "reshape", "rsqrt", "select_n", "sqrt", "squeeze", "stop_gradient", "transpose",
    }
)  # fmt: skip
_VARIANCES = ("_var", "_std", "var", "std")
_NORMS = ("norm", "_norm", "safe_norm")
_ENOUGH = 400


def _maker(at: Location) -> tuple[Frame, Any] | None:
    """Return the equation that computes a value, inside calls too, and the frame that it stands in."""
    frame, atom = at.frame, at.atom
    while jaxprs.is_var(atom):
        if atom in frame.inputs:
            above = frame.outside.enter(frame.inputs[atom], at.at)
            if not isinstance(above, Location) or above.kind != "value":
                return None
            frame, atom = above.frame, above.atom
        elif atom in frame.makers:
            return frame, frame.steps[frame.makers[atom]]
        else:
            return None
    return None


def statistic_of(at: Location, depth: int = 8) -> str:
    """Tell whether a value is a "norm" or a "variance" (or the root of one), "" for neither.

    Args:
        at: the value.
        depth: equations to look back.
    """
    found = _maker(at)
    if found is None or depth == 0:
        return ""
    frame, step = found
    if is_step_of_call(step) or step.primitive.name == "custom_jvp_call":
        name = "" if not hasattr(step, "params") else str(step.params.get("name", ""))
        if name in _VARIANCES or name in _NORMS:
            return "variance" if name in _VARIANCES else "norm"
        inner = _last_of_call(frame, step, _atom_of(frame, at))
        return "" if inner is None else statistic_of(inner, depth - 1)
    name = step.primitive.name
    operands = [Location(frame, "value", v, ()) for v in step.invars if jaxprs.is_inexact(v)]
    if name in ("square", "integer_pow") or (name == "mul" and step.invars[0] is step.invars[1]):
        before = _maker(operands[0])
        return "variance" if before is not None and _name(before[1]) == "sub" else "norm"
    if name == "sub":
        return "variance" if all(statistic_of(o, depth - 1) for o in operands[:2]) else ""
    if name == "reduce_sum" or name in _PASSED:
        return next((s for o in operands if jaxprs.is_var(o.atom) and (s := statistic_of(o, depth - 1))), "")
    return ""


def is_maximum(at: Location) -> bool:
    """Tell whether a value is the maximum of a row, as softmax subtracts it.

    Args:
        at: the value.
    """
    for _ in range(8):
        found = _maker(at)
        if found is None or not hasattr(found[1], "primitive"):
            return False
        frame, step = found
        if step.primitive.name == "reduce_max":
            return True
        if step.primitive.name not in _PASSED or not jaxprs.is_inexact(step.outvars[0]):
            return False
        variables = [v for v in step.invars if jaxprs.is_var(v) and jaxprs.is_inexact(v)]
        if not variables:
            return False
        at = Location(frame, "value", variables[-1], ())
    return False


def _name(step: Any) -> str:
    return "" if not hasattr(step, "primitive") else step.primitive.name


def _atom_of(frame: Frame, at: Location) -> Any:
    """Return the variable of a frame that a location leads to."""
    atom, here = at.atom, at.frame
    while here is not frame:
        above = here.outside.enter(here.inputs[atom], ())
        assert isinstance(above, Location)
        atom, here = above.atom, above.frame
    return atom


def _last_of_call(frame: Frame, step: Any, atom: Any) -> Location | None:
    number = frame.makers[atom]
    if not is_step_of_call(step):
        return None
    inner = call_frame(frame, number)
    return Location(inner, "value", inner.jaxpr.outvars[step.outvars.index(atom)], ())


def nearest_input(start: Location) -> int | None:
    """Return the number of the differentiated leaf with the fewest operations to a value, None if none leads there.

    Args:
        start: the value.
    """
    queue: list[Any] = [start]
    seen: set[Any] = set()
    while queue and len(seen) < _ENOUGH:
        at = queue.pop(0)
        if isinstance(at, End):
            if at.place == "input":
                return at.number
            continue
        key = (at.frame.key, id(at.atom))
        if key in seen or not jaxprs.is_var(at.atom) or at.kind != "value":
            continue
        seen.add(key)
        frame = at.frame
        if at.atom in frame.inputs:
            queue.append(_without_index(frame, at.atom))
        elif at.atom in frame.makers:
            step = frame.steps[frame.makers[at.atom]]
            queue += [Location(frame, "value", v, ()) for v in step.invars]
    return None


def _without_index(frame: Frame, atom: Any) -> Any:
    """Return what an input is outside; a row that is read does not matter."""
    shape = jaxprs.shape_of(atom)
    return frame.outside.enter(frame.inputs[atom], (0,) * len(shape))
