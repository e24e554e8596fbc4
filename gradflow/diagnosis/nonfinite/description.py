"""From the operation that the search ends at to an `Origin`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import jax
import numpy as np

from gradflow.diagnosis.nonfinite.entries import Index, broadcast, entry, host
from gradflow.diagnosis.nonfinite.frames import Born, End, Frame, Location
from gradflow.diagnosis.nonfinite.origin import Operand, Origin
from gradflow.diagnosis.nonfinite.remedies import REMEDIES, UNUSED_BRANCH
from gradflow.diagnosis.nonfinite.source import calls, is_derivative, line_of, rule_name, scope_of
from gradflow.diagnosis.nonfinite.statistic import is_maximum, nearest_input, statistic_of
from gradflow.diagnosis.nonfinite.wording import Words, backward_words, forward_words
from gradflow.instrument import jaxprs
from gradflow.primitives import ELEMENTWISE, IDENTITIES

__all__ = ["Call", "describe"]

Direction = Literal["forward", "backward"]


@dataclasses.dataclass(frozen=True)
class Call:
    """What the loss was called with.

    Attributes:
        paths: of the differentiated leaves.
        args: positional arguments.
        kwargs: named arguments.
        names: of the positional arguments, as far as the loss names them.
    """

    paths: tuple[str, ...]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    names: tuple[str, ...]

    def name_of(self, value: Any) -> str:
        """Return the path of an argument that is an array of the traced program, "" if none is.

        Args:
            value: a constant of the traced program.
        """
        flat = jax.tree_util.tree_flatten_with_path((dict(enumerate(self.args)), self.kwargs))[0]
        for same in (_is, _equal):
            for path, leaf in flat:
                if same(leaf, value):
                    first = getattr(path[1], "key", 0)
                    rest = jax.tree_util.keystr(path[2:], simple=True, separator="/")
                    name = self.names[first] if isinstance(first, int) and first < len(self.names) else f"{first}"
                    return f"{name}/{rest}" if rest else name
        return ""


def _is(leaf: Any, value: Any) -> bool:
    return leaf is value


def _equal(leaf: Any, value: Any) -> bool:
    if not isinstance(leaf, (jax.Array, np.ndarray, np.generic)) or np.shape(leaf) != np.shape(value):
        return False
    if leaf.dtype != value.dtype:
        return False
    return bool(np.array_equal(host(leaf), host(value), equal_nan=True))


def describe(found: Born | End, call: Call, direction: Direction) -> Origin:
    """Return what is said of an operation or an input.

    Args:
        found: by the search.
        call: what the loss was called with.
        direction: "forward" if the loss is not finite.
    """
    if isinstance(found, End):
        return _input(found, call, direction)
    rule = found.frame.outside.rule
    if rule is not None and (found.note == "" or _has_rule(rule[1])):
        return _derivative(found, rule, call)
    path = (*found.frame.outside.path, found.eqn)
    names = calls(path)
    at = _entries_at(found.eqn, found.operands, host(found.value).shape, found.at)
    value = entry(found.value, found.at)
    name = found.eqn.primitive.name
    dtype = str(host(found.value).dtype)
    words = _noted(found, value, dtype) or _of_own_derivative(found, path, value, dtype)
    words = words or forward_words(name, at, value, dtype, names, _statistic(found.frame, found.eqn))
    hidden = direction == "backward" and not found.note
    cause = words.cause + (" The loss does not use this value, and its gradient does." if hidden else "")
    remedy = REMEDIES[words.remedy]
    operands = tuple(_operand(x, a) for x, a in zip(found.operands, at, strict=True) if _is_float(x))
    return Origin(
        words.operation, name, direction, line_of(path), _layer(found.frame, found.eqn, path, call),
        found.frame.outside.steps, found.at, _plain(value), operands, _rule_around(path), "", hidden, cause,
        f"{UNUSED_BRANCH} {remedy}" if hidden else remedy,
    )  # fmt: skip


def _derivative(found: Born, rule: tuple[Frame, Any], call: Call) -> Origin:
    """Describe a derivative that is not finite, by the operation whose derivative it is."""
    frame, eqn = rule
    path = (*frame.outside.path, eqn)
    name = eqn.primitive.name
    operands = frame.operands(eqn)
    out = next((v for v in eqn.outvars if frame.cotangent(v) is not None), None)
    arriving = None if out is None else host(frame.cotangent(out))
    value, dtype = entry(found.value, found.at), str(host(found.value).dtype)
    index = _index_in(arriving, operands, found)
    at = _entries_at(eqn, operands, None if arriving is None else arriving.shape, index)
    here = None if arriving is None else _entries_at(eqn, [arriving], arriving.shape, index)[0]
    masked = arriving is not None and (not arriving.any() if here is None else here == 0)
    custom = rule_name(eqn) if name in jaxprs.CUSTOM_RULES else ""
    if custom:
        words = Words("custom derivative rule", f"{found.eqn.primitive.name} inside {custom} gives {value}.", "rule")
    else:
        statistic = _statistic(frame, eqn)
        words = backward_words(name, at, value, dtype, calls(path), statistic, here)
    remedy = REMEDIES[words.remedy]
    cause = words.cause
    if masked:
        cause += " Nothing but 0 arrives there from the loss, and 0 times infinity is NaN."
        remedy = f"{UNUSED_BRANCH} {remedy}"
    shown = tuple(_operand(x, a) for x, a in zip(operands, at, strict=True) if _is_float(x))
    return Origin(
        words.operation, name, "backward", line_of(path), _layer(frame, eqn, path, call), frame.outside.steps, index,
        _plain(value), shown, custom or _rule_around(path), "", bool(masked), cause, remedy,
    )  # fmt: skip


def _of_own_derivative(found: Born, path: Sequence[Any], value: Any, dtype: str) -> Words | None:
    """Describe an operation of a derivative that the loss itself takes, by the operation whose derivative it is."""
    if not is_derivative(found.eqn):
        return None
    frames = jaxprs.source_frames(found.eqn)
    same = [eqn for eqn in found.frame.jaxpr.eqns if eqn is not found.eqn and jaxprs.source_frames(eqn) == frames]
    for eqn in same:
        operands = found.frame.operands(eqn)
        at = _entries_at(eqn, operands, host(found.value).shape, found.at)
        statistic = _statistic(found.frame, eqn)
        words = backward_words(eqn.primitive.name, at, value, dtype, calls(path), statistic, None)
        if words.remedy not in ("other", "explosion"):
            return words._replace(cause=f"The loss takes a derivative itself. {words.cause}")
    return None


def _index_in(arriving: np.ndarray | None, operands: Sequence[Any], found: Born) -> Index:
    """Return the index of the entry, where an operation works entry by entry."""
    shapes = {np.shape(x) for x in operands} | (set() if arriving is None else {arriving.shape})
    return found.at if host(found.value).shape in shapes else ()


def _noted(found: Born, value: Any, dtype: str) -> Words | None:
    """Describe what is no operation's own doing."""
    name = str(found.eqn.params.get("name", found.eqn.primitive.name)).strip("_")
    if found.note.startswith("sum"):
        cause = f"The gradients of several uses, or steps, add up to {value} in {dtype}."
        return Words(f"overflow of a gradient ({found.note})", cause, "explosion")
    if found.note == "nothing but infinity":
        if not name.startswith(("reduce", "cum")):
            cause = f"{name} reads an infinity that stands in the program or in a mask, and nothing stops it."
            return Words(f"{name} with infinity", cause, "difference")
        cause = f"{name} reads nothing but infinite numbers that stand in the program or in a mask."
        return Words(f"{name} of nothing but infinity", cause, "reduction")
    if found.note == "a NaN in the program":
        return Words("a constant that is NaN", f"{name} reads a NaN that stands in the program.", "constant")
    if found.note:
        cause = f"{name} gives {value}; operation by operation its inside stays finite, so that the place is not known."
        return Words(f"inside {name}", cause, "other")
    return None


def _input(found: End, call: Call, direction: Direction) -> Origin:
    value = entry(found.value, found.at)
    said = "NaN" if np.isnan(value) else "Inf"
    if found.place == "input":
        leaf, what, remedy = call.paths[found.number], "parameter", "parameter"
    else:
        leaf = call.name_of(found.value)
        what, remedy = ("batch", "data") if leaf else ("constant", "constant")
    where = f"the {what} {leaf}" if leaf else "an array that the loss closes over"
    bad = int((~np.isfinite(host(found.value))).sum())
    cause = f"{where} held {said} before any operation ({bad} of {host(found.value).size} entries)."
    return Origin(
        f"{said} in the {what}", "", direction, "", "", (), found.at, _plain(value), (_operand(found.value, value),),
        "", leaf, False, cause[0].upper() + cause[1:], REMEDIES[remedy],
    )  # fmt: skip


def _layer(frame: Frame, eqn: Any, path: Sequence[Any], call: Call) -> str:
    scope = scope_of(path)
    if scope:
        return scope
    for v in eqn.invars:
        number = nearest_input(Location(frame, "value", v, ())) if jaxprs.is_var(v) else None
        if number is not None:
            return call.paths[number].rpartition("/")[0] or call.paths[number]
    return ""


def _rule_around(path: Sequence[Any]) -> str:
    """Return the function with a custom rule that an operation stands in, on the way forward."""
    own = [rule_name(eqn).rpartition(" of ")[2].partition(" (")[0] for eqn in path if _has_rule(eqn)]
    return f"inside {own[-1]}, which has a custom derivative rule" if own else ""


def _has_rule(eqn: Any) -> bool:
    return eqn.primitive.name in jaxprs.CUSTOM_RULES


def _statistic(frame: Frame, eqn: Any) -> str:
    name = eqn.primitive.name
    if name == "sub":
        return "maximum" if is_maximum(Location(frame, "value", eqn.invars[1], ())) else ""
    if name not in ("sqrt", "rsqrt", "div", "integer_pow"):
        return ""
    atom = eqn.invars[1] if name == "div" else eqn.invars[0]
    return statistic_of(Location(frame, "value", atom, ()))


def _entries_at(eqn: Any, operands: Sequence[Any], shape: tuple[int, ...] | None, index: Index) -> list[Any]:
    """Return the entries that an elementwise operation reads for one of its output; else only scalars have one."""
    pointwise = eqn.primitive.name in ELEMENTWISE or eqn.primitive.name in IDENTITIES
    known = pointwise and shape is not None and len(shape) == len(index)
    return [_entry_at(x, index if known else ()) if _is_float(x) else None for x in operands]


def _entry_at(x: Any, index: Index) -> Any:
    if np.ndim(x) not in (0, len(index)):
        return None
    value = _plain(entry(x, broadcast(index, x)))
    return (0.0 if value == 0 else None) if isinstance(value, complex) else value


def _operand(x: Any, at: Any) -> Operand:
    numbers = host(x)
    wide = np.abs(numbers) if numbers.dtype.kind == "c" else numbers.astype(np.float64)
    finite = wide[np.isfinite(wide)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (float("nan"), float("nan"))
    return Operand(np.shape(x), str(numbers.dtype), low, high, int(wide.size - finite.size), at)


def _is_float(x: Any) -> bool:
    try:
        return host(x).dtype.kind not in "biuOSUM"
    except TypeError:
        return False  # random keys


def _plain(value: Any) -> Any:
    """Return a Python number."""
    return complex(value) if np.iscomplexobj(value) else float(value)
