"""A treatment in words: what to do, what it is worth, and what else was tried."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradflow.diagnosis.treatment.therapy import Arm, Treatment

__all__ = ["letter"]

_WIDTH = 100


def letter(treatment: Treatment) -> str:
    """Return the letter.

    Args:
        treatment: to be told.
    """
    chosen, untreated = treatment.chosen, treatment.untreated
    if not treatment.improved:
        head = (
            "Nothing that was tried is better than no treatment for certain, and by more than a tenth of what there "
            f"is to learn. The loss of a network that knows nothing is {_number(untreated.outcome.ignorance)}, at the "
            f"start it is {_number(untreated.outcome.start)}. After {treatment.budget} steps it is:"
        )
    else:
        low, high = chosen.better_by(untreated)
        head = (
            f"Treat by: {chosen.name}. Loss after {treatment.budget} steps {_number(chosen.loss)}, untreated "
            f"{_number(untreated.loss)}, at the start {_number(untreated.outcome.start)}. {_limits(low, high)}"
        )
    lines = [textwrap.fill(head, _WIDTH)]
    for change in chosen.changes:
        lines.append(textwrap.fill(f"- {change.name}: {change.why}; {change.effect}.", _WIDTH, subsequent_indent="  "))
        lines.append(f"    {change.code}")
    lines += ["", *_table(treatment)]
    return "\n".join(lines)


def _limits(low: float, high: float) -> str:
    if math.isinf(low):
        return "The untreated loss left its type's range."
    if low == high:
        return "One batch has one order, so there is no interval."
    return f"Better by {low:.3g} to {high:.3g} (95 %, over seeds)."


def _table(treatment: Treatment) -> list[str]:
    rows = [(arm.name + (" (drawn by chance)" if arm.random else ""), _ends(arm)) for arm in treatment.trials]
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}  {ends}" for name, ends in rows]


def _ends(arm: Arm) -> str:
    return "  ".join(_number(end) for end in arm.outcome.ends)


def _number(x: float) -> str:
    return f"{x:.3g}" if math.isfinite(x) else "not finite"
