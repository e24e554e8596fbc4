"""The rules of diagnosis: from measurements to findings. None reads a number that the scale of the loss moves."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator

import numpy as np

from gradflow.diagnosis import floor_rules, path_rules, rate_rules, remedies, thresholds
from gradflow.diagnosis.finding import Evidence, Finding, Remedy, Severity
from gradflow.diagnosis.measurements import Measurements
from gradflow.instrument import Flow
from gradflow.instrument.layer_flow import LayerFlow

__all__ = [
    "OF_ALL", "OF_THE_START", "dead_units", "died", "findings", "nonfinite", "rank_collapse", "saturation", "shattered",
    "stalled", "steps", "symmetry", "underflow", "zeros",
]  # fmt: skip

_INF = math.inf


def nonfinite(m: Measurements) -> Iterator[Finding]:
    """NaN or Inf in the loss or a gradient."""
    if m.finite:
        return
    evidence = Evidence("the loss", m.value, -_INF, _INF)
    if m.origin is None:
        place = m.flow.first_nonfinite
        where = () if place is None else (place.label,)
        yield Finding("nonfinite", "fatal", where, (evidence,), "a gradient is not finite", (), "likely")
        return
    o = m.origin
    where = (o.layer,) if o.layer else (o.leaf,) if o.leaf else ()
    at = f" at {o.line}" if o.line else ""
    cause = f"{o.direction}: {o.operation}{at}. {o.cause}"
    yield Finding("nonfinite", "fatal", where, (evidence,), cause, (Remedy(o.remedy),), "certain")


def zeros(m: Measurements) -> Iterator[Finding]:
    """Weights of zeros whose gradient is zero as well: no step leaves this point."""
    stuck = [p for p in m.leaves.values() if p.is_weight and p.norm == 0 and p.later_gradient_norm == 0]
    stuck = [p for p in stuck if m.flow.parameters[p.path].reached] if stuck else stuck
    if stuck:
        evidence = Evidence("norm of weight and gradient", 0.0, thresholds.SMALLEST, _INF)
        cause = "factors of a product that are both 0 give each other no gradient"
        yield Finding("poor_initialization", "fatal", tuple(p.path for p in stuck), (evidence,), cause,
                      remedies.AGAINST_ZEROS, "certain", "depth")  # fmt: skip


def symmetry(m: Measurements) -> Iterator[Finding]:
    """Units that all compute the same, and get the same gradient."""
    alike = [p for p in m.leaves.values() if p.same and p.is_weight]
    if alike:
        count = max(max(p.shape[axis] for axis in p.same) for p in alike)
        evidence = Evidence("units of a layer that differ", 1.0, float(count), float(count))
        cause = "a constant initialization: equal units get equal gradients for ever, and count as one"
        yield Finding("poor_initialization", "fatal", tuple(p.path for p in alike), (evidence,), cause,
                      remedies.AGAINST_SYMMETRY, "certain", "depth")  # fmt: skip


def shattered(m: Measurements) -> Iterator[Finding]:
    """A gradient that a change of 1 % turns to another direction, though its size is fine."""
    seen = [p for p in m.leaves.values() if p.is_weight and not math.isnan(p.coherence)]
    bad = sorted((p for p in seen if p.coherence < thresholds.INCOHERENT), key=lambda p: p.coherence)
    if bad and not m.book.total > thresholds.EXPLODED:
        evidence = Evidence("cosine of the gradient with that after a change of all weights by 1 %",
                            bad[0].coherence, thresholds.INCOHERENT, 1.0)  # fmt: skip
        cause = "a signal that many layers bend: what is near at the input is far apart at the output"
        yield Finding("shattered", "severe", tuple(p.path for p in bad), (evidence,), cause,
                      remedies.AGAINST_SHATTERING, "possible", "depth")  # fmt: skip


def rank_collapse(m: Measurements) -> Iterator[Finding]:
    """Examples that all look alike behind the last hidden layer, though they differ in front of the first."""
    hidden, fall, first = _collapse(m.flow)
    if fall < thresholds.COLLAPSED:
        last = first * 10**fall
        evidence = (
            Evidence("log10 of the squared distance between examples, last hidden layer over first", fall,
                     thresholds.COLLAPSED, _INF),
            Evidence("similarity of two examples there", 1 - last, -1.0, 1 - first * 10**thresholds.COLLAPSED),
        )  # fmt: skip
        cause = "every layer makes examples more alike, so that the loss cannot tell them apart"
        severity: Severity = "fatal" if fall < 2 * thresholds.COLLAPSED else "severe"
        yield Finding("rank_collapse", severity, (hidden[-1].name,), evidence, cause,
                      remedies.AGAINST_COLLAPSE, "likely", "depth")  # fmt: skip


def _collapse(flow: Flow) -> tuple[list[LayerFlow], float, float]:
    """Return the hidden layers that compare examples, log10 of the last one's distance over the first's, and this."""
    hidden = [layer for name in flow.layers[:-1] if _compares(layer := flow[name])]
    if len(hidden) < _TWO:
        return hidden, 0.0, 0.0
    first, last = _distance(hidden[0]), _distance(hidden[-1])
    if not first > 0 or math.isnan(last):
        return hidden, 0.0, first
    return hidden, math.log10(max(last, _FINEST) / first), first


_TWO = 2
_FINEST = 2.0**-21  # what a similarity in float32 can tell from 1: its sums leave some units of the last place


def _compares(layer: LayerFlow) -> bool:
    return layer.kind == "layer" and not layer.lengths and bool(np.all(layer.compares_examples))


def _distance(layer: LayerFlow) -> float:
    return max(0.0, 1.0 - float(layer.similarity))


def dead_units(m: Measurements) -> Iterator[Finding]:
    """More units without a gradient than chance allows.

    A layer without any gradient is a matter of the path, or lies in a branch that starts from 0.
    """
    partly = {name: found for name, found in _dead(m.flow).items() if found[0] < 1}
    if partly:
        yield _of_dead(partly, "")


def died(m: Measurements) -> Iterator[Finding]:
    """Units that lost their gradient in the steps, more than chance allows, while the loss did not fall enough.

    Where it did, others do the work: the units of an expert that no example of the batch chose are none that died.
    """
    t = m.trial
    if m.later is not None and t is not None and not t.learned(t.rates[1.0]) >= thresholds.LEARNT:
        began = _dead(m.flow)
        lost = {name: found for name, found in _dead(m.later).items() if name not in began}
        if lost:
            yield _of_dead(lost, " after the steps")


def _dead(flow: Flow) -> dict[str, tuple[float, float]]:
    """Return share and limit of the layers with too many dead units.

    A layer that is dead as a whole lets nothing through, so nothing is known of those below it.
    """
    out: dict[str, tuple[float, float]] = {}
    for name in reversed(flow.layers[:-1]):
        layer = flow[name]
        # By chance a unit is alive in one of many examples; a layer that compares none has one.
        if (
            layer.kind != "layer"
            or layer.cut
            or not np.any(layer.backward_calls)
            or not np.all(layer.compares_examples)
        ):
            continue
        share, limit = float(np.nanmax(np.asarray(layer.dead_fraction))), thresholds.dead_limit(layer.units)
        if share > limit:
            out[name] = (share, limit)
        if share == 1:
            break
    return out


def _of_dead(bad: dict[str, tuple[float, float]], when: str) -> Finding:
    layers = tuple(sorted(bad, key=lambda name: -bad[name][0]))
    share, limit = bad[layers[0]]
    evidence = Evidence(f"share of units of {layers[0]} without a gradient{when}", share, 0.0, limit)
    cause = "pre-activations that are negative for all examples, which takes a bias or a mean that is not 0"
    return Finding("dead_units", "fatal" if share == 1 else "severe", layers, (evidence,), cause,
                   remedies.AGAINST_DEATH, "likely")  # fmt: skip


def saturation(m: Measurements) -> Iterator[Finding]:
    """A saturating activation that works where it is flat."""
    bad = []
    for entry in m.book.entries:
        slope = thresholds.LARGEST_SLOPES.get(entry.operation)
        if entry.cause != "activation" or slope is None or not math.isfinite(entry.log10_gain):
            continue
        steps = 1 if entry.steps is None else max(len(entry.steps), 1)
        relative = entry.log10_gain / steps - math.log10(slope)
        if relative < thresholds.SATURATED:
            bad.append((relative, entry.where))
    if bad:
        relative, _ = min(bad)
        evidence = Evidence("log10 of the rms slope over the largest slope", relative, thresholds.SATURATED, 0.0)
        cause = "pre-activations that are far too large: unscaled data, or weights that are too large"
        yield Finding("saturation", "severe", tuple(where for _, where in sorted(bad)), (evidence,), cause,
                      remedies.AGAINST_SATURATION, "likely")  # fmt: skip


def underflow(m: Measurements) -> Iterator[Finding]:
    """A gradient that is another one, and larger, when the loss is scaled by a power of 2."""
    bad = sorted((p for p in m.leaves.values() if p.lost > thresholds.FLUSHED), key=lambda p: -p.lost)
    if bad:
        evidence = Evidence("share of the gradient that was flushed to 0", bad[0].lost, 0.0, thresholds.FLUSHED)
        cause = "cotangents below the smallest number of their type"
        yield Finding("underflow", "fatal" if bad[0].lost == 1 else "severe", tuple(p.path for p in bad), (evidence,),
                      cause, remedies.AGAINST_FLUSHING, "certain")  # fmt: skip


def steps(m: Measurements) -> Iterator[Finding]:
    """Steps of the optimizer that carry the loss away."""
    t = m.trial
    if t is not None and not t.finite:
        at = int(np.argmin(np.isfinite(t.losses)))
        evidence = Evidence(f"loss after {at} steps", float(t.losses[at]), -_INF, _INF)
        large = path_rules.outlying(m.book, m.flow)
        cause = "steps that carry the loss out of its type's range" + path_rules.in_words(large)
        help_ = (*(remedies.AGAINST_OUTLYING if large else ()), *remedies.AGAINST_LARGE_STEPS)
        yield Finding("unstable_update", "fatal", tuple(large), (evidence,), cause, help_, "certain")


def stalled(m: Measurements) -> Iterator[Finding]:
    """Weights that the steps moved far less than the others, though a gradient arrives.

    Less beside their own size, and less as such: a layer of large weights turns slowly, but its gradient is not small.
    """
    t = m.trial
    if t is None or not t.finite:
        return
    pairs = zip(m.leaves.values(), t.movements, strict=True)
    ways = [(p, float(x)) for p, x in pairs if p.can_move and math.isfinite(x)]
    if len(ways) < _TWO:
        return
    moved = {p.path: x for p, x in ways}
    lengths = {p.path: x * p.norm / math.sqrt(math.prod(p.shape)) for p, x in ways}
    middle, length = (float(np.median(list(found.values()))) for found in (moved, lengths))
    part = 10**thresholds.STALLED
    bad = sorted((x, path) for path, x in moved.items() if x < middle * part and lengths[path] < length * part)
    if bad:
        least, path = bad[0]
        log = math.log10(least / middle) if least > 0 else -_INF
        evidence = Evidence(f"log10 of the movement of {path} over that of the median weight", log,
                            thresholds.STALLED, _INF)  # fmt: skip
        yield Finding("stalled_layer", "severe", tuple(path for _, path in bad), (evidence,),
                      "its gradient is too small beside those of the other layers", remedies.AGAINST_STALLING,
                      "likely")  # fmt: skip


Rules = tuple[Callable[[Measurements], Iterator[Finding]], ...]
# Complaints about how signals pass the network as it starts, which are withdrawn where the steps learn.
OF_THE_START: Rules = (path_rules.path, rank_collapse, dead_units, saturation, shattered)
OF_ALL: Rules = (zeros, symmetry, path_rules.severed, underflow, died, steps, *rate_rules.RULES, stalled,
                 *floor_rules.RULES)  # fmt: skip
# What equal or zero weights bring with them, and what says nothing of the network once they are drawn.
_CONSEQUENCES = ("vanishing", "exploding", "rank_collapse", "shattered", "stalled_layer", "dead_units", "learning_rate")
_ORDER = {"fatal": 0, "severe": 1, "mild": 2}


def findings(m: Measurements) -> tuple[Finding, ...]:
    """Return all findings, the most severe first; of numbers that are not finite nothing else can be said.

    Args:
        m: what was measured.
    """
    first = tuple(nonfinite(m))
    if first:
        return first
    learns = m.trial is not None and m.trial.learns
    rules = OF_ALL if learns else (*OF_THE_START, *OF_ALL)
    found = _joined([finding for rule in rules for finding in rule(m)])
    if any(finding.kind == "poor_initialization" and finding.confidence == "certain" for finding in found):
        found = [finding for finding in found if finding.kind not in _CONSEQUENCES]
    if m.adaptive:  # no use to advise what is there
        found = [dataclasses.replace(f, remedies=tuple(r for r in f.remedies if r != remedies.BY_LEAF)) for f in found]
    return tuple(sorted(found, key=lambda finding: _ORDER[finding.severity]))


def _joined(found: list[Finding]) -> list[Finding]:
    """Make one of findings of the same kind and remedies, which two rules have seen."""
    out: dict[tuple[str, tuple[Remedy, ...]], Finding] = {}
    for finding in found:
        key = (finding.kind, finding.remedies)
        if key in out:
            first = out[key]
            worst = min(first.severity, finding.severity, key=_ORDER.__getitem__)
            layers = tuple(dict.fromkeys((*first.layers, *finding.layers)))
            out[key] = dataclasses.replace(
                first, severity=worst, layers=layers, evidence=(*first.evidence, *finding.evidence)
            )
        else:
            out[key] = finding
    return list(out.values())
