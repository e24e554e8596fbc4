"""From a non-finite result back to the operation that began it, entry by entry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gradflow.diagnosis.nonfinite.entries import Index, causes, entry, is_bad, is_nan, opaque_causes
from gradflow.diagnosis.nonfinite.frames import Born, End, Frame, Location, Next, Outside, Target, call_frame
from gradflow.diagnosis.nonfinite.loops import Scan, While
from gradflow.diagnosis.nonfinite.programs import is_step_of_call, read, run_equation
from gradflow.instrument import jaxprs

__all__ = ["origin_of"]

_EXTREMES = ("reduce_max", "reduce_min", "cummax", "cummin")
_UNREPEATED = "run by itself it stays finite"


def origin_of(start: Location) -> Born | End:
    """Return the first operation on the way to a non-finite entry, or the input that already was non-finite.

    An infinity that stands in the program, or in a mask that enters it, is taken for meant. The origin is then the
    operation that makes NaN of it, or where there is none the one that lets it through.

    Args:
        start: the entry.
    """
    pending: list[Target] = [start]
    seen: set[Any] = set()
    born: Born | None = None
    through: Born | None = None
    end: End | None = None
    last = start
    while pending:
        target = pending.pop()
        if isinstance(target, Born):
            return target
        if isinstance(target, End):
            if _is_origin(target):
                return target
            end = end or target
            continue
        key = (target.frame.key, target.kind, id(target.atom), target.at)
        if key in seen:
            continue
        seen.add(key)
        if not _has_bad(target):  # compiled it is not finite, operation by operation it is
            continue
        last = target
        step = _next(target)
        if step.born is not None and not step.targets:
            return step.born
        born = born or step.born
        through = _passing(target, through)
        pending += step.targets[::-1]
    return born or through or end or _unrepeated(last)


def _is_origin(end: End) -> bool:
    """Tell an input that is at fault from a mask: NaN, a parameter, or data with an infinity among many numbers."""
    if end.place == "input" or np.isnan(entry(end.value, end.at)):
        return True
    numbers = np.asarray(end.value)
    finite = numbers[np.isfinite(numbers)]
    return bool(finite.size and np.unique(finite).size > 1)


def _passing(target: Location, before: Born | None) -> Born | None:
    """Keep the maximum or minimum that let an infinity through, else the operation that reads it."""
    number = target.frame.makers.get(target.atom) if jaxprs.is_var(target.atom) else None
    if number is None or target.kind == "cotangent":
        return before
    step = target.frame.steps[number]
    if is_step_of_call(step):
        return before
    chosen = step.primitive.name in _EXTREMES
    if before is not None and before.eqn.primitive.name in _EXTREMES and not chosen:
        return before
    return _born(target, step, target.frame.at(target), "nothing but infinity")


def _unrepeated(at: Location) -> Born:
    """Return the innermost operation whose compiled form is known to give a non-finite number."""
    frame = at.frame
    step: Any = None
    if jaxprs.is_var(at.atom) and at.kind == "value" and at.atom in frame.makers:
        step = frame.steps[frame.makers[at.atom]]
    while hasattr(step, "jaxpr") and not hasattr(step, "primitive"):
        step = step.jaxpr.eqns[-1]
    step = step or (frame.outside.path or (frame.jaxpr.eqns[-1],))[-1]
    value = frame.at(at)
    return Born(frame, step, [value], value, at.at, _UNREPEATED)


def _next(at: Location) -> Next:
    frame, atom = at.frame, at.atom
    if at.kind == "cotangent":
        return _of_cotangent(at)
    if not jaxprs.is_var(atom):
        # A mask of infinities is meant; a derivative that is infinite is not.
        rule = frame.outside.rule
        fault = is_nan(jaxprs.literal_value(atom), ()) or (rule and rule[1].primitive.name in jaxprs.CUSTOM_RULES)
        return Next([_literal(at)] if fault else [])
    if atom in frame.inputs:
        return Next([frame.outside.enter(frame.inputs[atom], at.at)])
    if atom in frame.constants:
        number = frame.constants[atom]
        return Next([End("constant", number, frame.consts[number], at.at)])
    return _of_value(at, frame.makers[atom])


def _literal(at: Location) -> Target:
    """Return the operation that reads a NaN written in the program, or of a program without operations the NaN."""
    frame = at.frame
    value = jaxprs.literal_value(at.atom)
    readers = [step for step in frame.steps if hasattr(step, "primitive") and any(v is at.atom for v in step.invars)]
    # Without a reader the literal is an output of the program, and the equation around it stands for it.
    around = readers[:1] or [*frame.outside.path[-1:]] or [*frame.jaxpr.eqns[-1:]]
    if not around:
        return End("constant", -1, value, at.at)
    step = around[0]
    return Born(frame, step, [value], value, at.at, "a NaN in the program")


def _of_value(at: Location, number: int) -> Next:
    frame, step = at.frame, at.frame.steps[number]
    out = next(k for k, v in enumerate(step.outvars) if v is at.atom)
    value = frame.values[at.atom]
    inside = _inside(frame, number, out, at.at)
    if isinstance(inside, Location):
        if is_bad(inside.frame.at(inside), inside.at):
            return Next([inside])
        cause = opaque_causes(frame.operands(step), value, at.at)
        note = _UNREPEATED
    else:
        operands = frame.operands(step)

        def run(changed: Any) -> list[Any]:
            env = {v: x for v, x in zip(step.invars, changed, strict=True) if jaxprs.is_var(v)}
            run_equation(frame.jaxpr, step, env)
            return [env.get(v) for v in step.outvars]

        cause = causes(step, operands, out, value, at.at, run)
        note = ""
    targets: list[Target] = [Location(frame, "value", step.invars[e.operand], e.at) for e in cause.entries]
    return Next(targets, _born(at, step, value, note) if cause.born else None)


def _inside(frame: Frame, number: int, out: int, index: Index) -> Target | None:
    """Return where inside a step its output is computed, None for an operation without an inside."""
    step = frame.steps[number]
    name = "" if is_step_of_call(step) else step.primitive.name
    if is_step_of_call(step):
        inner = call_frame(frame, number)
    elif name in jaxprs.CUSTOM_RULES:
        inner = _plain(frame, number, jaxprs.inner_jaxpr(step))
    elif name == "cond":
        inner = _branch(frame, number, ())
    elif name == "scan":
        return Scan(frame, number).value_of(out, index)
    elif name == "while":
        return While(frame, number).value_of(out, index)
    else:
        return None
    return Location(inner, "value", inner.jaxpr.outvars[out], index)


def _plain(frame: Frame, number: int, closed: Any) -> Frame:
    """Return the run of a program that has the operands of its equation, on the way forward."""
    step = frame.steps[number]
    return Frame(frame.programs, closed, frame.operands(step), frame.outside_of(step), key=(*frame.key, number))


def _branch(frame: Frame, number: int, cotangents: Sequence[Any]) -> Frame:
    """Return the run of the branch that a `cond` or `switch` takes."""
    step = frame.steps[number]
    which, *operands = frame.operands(step)
    branches = step.params["branches"]
    chosen = min(max(int(which), 0), len(branches) - 1)
    outside = frame.outside_of(step)
    outside = outside._replace(enter=lambda position, index: frame.outside_of(step).enter(position + 1, index))
    active = [jaxprs.is_var(v) and v in frame.active for v in step.invars[1:]]
    key = (*frame.key, number, chosen, bool(cotangents))
    return Frame(frame.programs, branches[chosen], operands, outside, cotangents, active, key)


def _of_cotangent(at: Location) -> Next:
    frame = at.frame
    parts = [(source, array) for source, array in frame.contributions.get(at.atom, [])]
    total = frame.cotangent(at.atom)
    bad = [source for source, array in parts if is_bad(array, at.at)]
    nan = [source for source, array in parts if is_nan(array, at.at)]
    if not bad:
        return Next([], _sum_of_cotangents(at, parts, total, "sum of cotangents"))
    targets = [t for source in (nan or bad) for t in _contribution(frame, source, at)]
    mixed = is_nan(total, at.at) and not nan
    return Next(targets, _sum_of_cotangents(at, parts, total, "sum of cotangents") if mixed else None)


def _sum_of_cotangents(at: Location, parts: Any, total: Any, note: str) -> Born:
    """Return the operation whose output goes to several readers."""
    frame = at.frame
    number = frame.makers.get(at.atom)
    if number is None or not hasattr(frame.steps[number], "primitive"):
        readers = [source[0] for source, _ in parts if source[0] != "out"]
        number = readers[0] if readers else 0
    step = frame.steps[number]
    while not hasattr(step, "primitive"):
        step = step.jaxpr.eqns[-1]
    return Born(frame, step, [array for _, array in parts], total, at.at, note)


def _contribution(frame: Frame, source: Any, at: Location) -> list[Target]:
    number, position = source
    if number == "out":
        return [frame.outside.leave(position, at.at)]
    step = frame.steps[number]
    places = [k for k, v in enumerate(step.invars) if v is at.atom]
    name = "" if is_step_of_call(step) else step.primitive.name
    found: list[Target] = []
    if is_step_of_call(step) or name == "cond":
        seeds = [frame.cotangent(v) for v in step.outvars]
        inner = _branch(frame, number, seeds) if name == "cond" else call_frame(frame, number, seeds)
        shift = 1 if name == "cond" else 0
        found = [Location(inner, "cotangent", inner.jaxpr.invars[k - shift], at.at) for k in places if k >= shift]
    elif name == "scan":
        scan = Scan(frame, number)
        for k in places:
            try:
                found.append(scan.cotangent_of(k, at.at))
            except LookupError:
                continue
    else:
        return [_rule(frame, number, position, at.at)]
    there = [t for t in found if not isinstance(t, Location) or _has_bad(t)]
    return there or [_rule(frame, number, position, at.at)]


def _has_bad(location: Location) -> bool:
    array = location.frame.at(location)
    return array is not None and is_bad(array, location.at)


def _rule(frame: Frame, number: int, position: int, index: Index) -> Location:
    """Return where the derivative of a step computes the cotangent of an operand."""
    step = frame.steps[number]
    cotangents = [frame.cotangent(v) for v in step.outvars]
    live = tuple(q for q, c in enumerate(cotangents) if c is not None)
    wanted = tuple(k for k, v in enumerate(step.invars) if jaxprs.is_var(v) and v in frame.active)
    derivative = frame.programs.derivative(frame.jaxpr, step, live, wanted)
    variables = list(dict.fromkeys(v for v in step.invars if jaxprs.is_var(v)))

    def enter(place: int, index: Index) -> Target:
        if place < len(variables):
            return Location(frame, "value", variables[place], index)
        return Location(frame, "cotangent", step.outvars[live[place - len(variables)]], index)

    around = frame.outside
    outside = Outside(enter, around.leave, around.path, around.steps, (frame, step))
    args = [*frame.rule_operands(step), *(cotangents[q] for q in live)]
    inner = Frame(frame.programs, derivative.closed, args, outside, key=(*frame.key, number, "derivative"))
    out = inner.jaxpr.outvars[derivative.wanted.index(position)]
    return Location(inner, "value", out, index)


def _born(at: Location, step: Any, value: Any, note: str = "") -> Born:
    frame = at.frame
    return Born(frame, step, [read(v, frame.values) for v in step.invars], value, at.at, note)
