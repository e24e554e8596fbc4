"""Rules about the size of the optimizer's steps: too large, too small, or not the same for all layers."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from gradflow.diagnosis import path_rules, remedies, thresholds
from gradflow.diagnosis.finding import Evidence, Finding
from gradflow.diagnosis.measurements import Measurements
from gradflow.diagnosis.trial import MULTIPLES, QUARTER, Trial

__all__ = ["RULES", "too_large", "too_small", "uneven"]

_INF = math.inf


def too_large(m: Measurements) -> Iterator[Finding]:
    """Steps that make the loss worse where smaller ones make it better, or less good than a quarter of each does."""
    t = m.trial
    if t is None or not t.finite:
        return
    change, overshoot = float(np.mean(t.after - t.before)), _overshoot(t.probe, t.probe_start)
    smaller = t.learned(min((loss for multiple, loss in t.rates.items() if multiple < 1), default=_INF))
    if change > 0 and smaller >= thresholds.LEARNT:
        better = Evidence(f"part of the loss that the steps learn away; at a smaller rate {smaller:.2g}",
                          t.learned(t.rates[1.0]), thresholds.LEARNT, 1.0)  # fmt: skip
        yield _rate(m, (better,), "a rate that is too large", remedies.AGAINST_LARGE_STEPS)
    elif change <= 0 and _wasted(t) >= thresholds.WASTED:
        wasted = Evidence("fall of the loss with a quarter of every update over that with all of it", _wasted(t), 0.0,
                          thresholds.WASTED)  # fmt: skip
        yield _rate(m, (wasted,), "a rate that is too large for the curvature", remedies.AGAINST_LARGE_STEPS)
    elif change > 0 and overshoot <= thresholds.OVERSHOT:
        evidence = (
            Evidence("change of the loss on the same batches over the steps", change, -_INF, 0.0),
            Evidence("multiple of an update from which on the loss is no lower than before", overshoot,
                     MULTIPLES[MULTIPLES.index(thresholds.OVERSHOT) + 1], _INF),
        )  # fmt: skip
        yield _rate(m, evidence, "a rate that is too large for the curvature", remedies.AGAINST_LARGE_STEPS)


def too_small(m: Measurements) -> Iterator[Finding]:
    """Updates that are far smaller than what the loss bears, of a network that has not learnt yet."""
    t = m.trial
    if t is None or not t.finite or t.trained:
        return
    best, sizes = _best(t.probe, t.probe_start), _sizes(t.update_ratios)
    if not t.stands_still and best > thresholds.TIMID and len(sizes) > 1 and not np.all(np.diff(sizes) > 0):
        evidence = Evidence("multiple of an update at which the loss is lowest", best, 0.0, thresholds.TIMID)
        yield _rate(m, (evidence,), "a rate that is too small", remedies.AGAINST_SMALL_STEPS)
        return
    if not t.learns or t.growth > thresholds.GROWING:
        return
    multiple, learned = _half(t), t.learned(min(t.rates.values()))
    if multiple >= thresholds.HESITANT:
        half = (
            Evidence("multiple of all updates with which the loss falls half as far as with the best", multiple, 0.0,
                     thresholds.HESITANT / 4),
            Evidence(f"part of the loss that {len(t.losses) - 1} steps learn away; at the best multiple {learned:.2g}",
                     t.learned(t.rates[1.0]), thresholds.LEARNT, 1.0),
        )  # fmt: skip
        yield _rate(m, half, "a rate that is too small", remedies.AGAINST_SMALL_STEPS)


def uneven(m: Measurements) -> Iterator[Finding]:
    """Steps that go nowhere at any multiple, where Adam, which scales each entry's step by itself, learns.

    Nothing is said where the loss still falls at the end of the multiples that were tried: that may be the rate alone.
    """
    t = m.trial
    if t is None or not t.finite or not t.learned(t.adam) >= thresholds.LEARNT or t.growth > thresholds.GROWING:
        return
    best = min(t.rates, key=lambda multiple: t.rates[multiple])
    if best == max(t.rates) or (best == min(t.rates) and best < 1):
        return
    way, of_adam = t.way(min(t.rates.values())), t.way(t.adam)
    if way < of_adam / thresholds.LONGER:
        evidence = Evidence("fall of the loss at the best multiple of the updates over that with Adam",
                            max(way, 0.0) / of_adam, 1 / thresholds.LONGER, _INF)  # fmt: skip
        yield _rate(m, (evidence,), "no one rate suits all weights", remedies.AGAINST_STALLING)


RULES = (too_large, too_small, uneven)


def _rate(m: Measurements, evidence: tuple[Evidence, ...], cause: str, help_: tuple[remedies.Remedy, ...]) -> Finding:
    """Return the finding; a layer of another scale asks for another rate than the others."""
    large = path_rules.outlying(m.book, m.flow)
    help_ = (*(remedies.AGAINST_OUTLYING if large else ()), *help_)
    cause += path_rules.in_words(large)
    return Finding("learning_rate", "severe", tuple(large), evidence, cause, help_, "likely")


def _wasted(t: Trial) -> float:
    """Return the fall of the loss with a quarter of every update over that with all of it.

    0 where the quarter was not tried, as the steps learn half of the loss, and where it does not learn enough itself.
    """
    quarter = t.rates.get(QUARTER, _INF)
    if not t.learned(quarter) >= thresholds.LEARNT or t.learned(t.rates[1.0]) >= 1 - thresholds.TRAINED:
        return 0.0
    whole = t.way(t.rates[1.0])
    return t.way(quarter) / whole if whole > 0 else _INF


def _half(t: Trial) -> float:
    """Return the smallest multiple, of 1 and those above, with which the loss falls half as far as with the best.

    1 where it falls with none of them.
    """
    ways = {multiple: t.way(loss) for multiple, loss in t.rates.items() if multiple >= 1}
    return min((multiple for multiple, way in ways.items() if way >= max(ways.values()) / 2), default=1.0)


def _sizes(ratios: np.ndarray) -> np.ndarray:
    return np.max(np.where(np.isfinite(ratios), ratios, 0.0), axis=1)


def _overshoot(probe: np.ndarray, start: float) -> float:
    """Return the smallest multiple from which on the loss is not lower than at the start; inf if it stays lower."""
    worse = ~(probe < start)
    return float(MULTIPLES[int(np.argmax(worse))]) if worse.any() else _INF


def _best(probe: np.ndarray, start: float) -> float:
    low = np.where(np.isfinite(probe), probe, _INF)
    return 0.0 if low.min() >= start else float(MULTIPLES[int(np.argmin(low))])
