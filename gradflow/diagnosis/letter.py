"""A diagnosis in words: the finding first, then where and why, what helps, and the numbers last."""

from __future__ import annotations

import math
import shutil
import textwrap
from typing import TYPE_CHECKING

from gradflow.instrument.footnotes import names_and_more

if TYPE_CHECKING:
    from gradflow.diagnosis.finding import Evidence, Finding
    from gradflow.diagnosis.verdict import Diagnosis

__all__ = ["HEADLINES", "letter", "over", "said"]

HEADLINES = {
    "vanishing": "The gradient vanishes",
    "exploding": "The gradient explodes",
    "dead_units": "Units are dead",
    "saturation": "Activations are saturated",
    "poor_initialization": "The initialization cannot be trained",
    "rank_collapse": "All examples look alike to the last layer",
    "stalled_layer": "A layer stands still",
    "unstable_update": "The steps are unstable",
    "nonfinite": "NaN or Inf",
    "underflow": "Gradients are flushed to 0",
    "batch_norm": "A normalization takes the signal away",
    "shattered": "The gradient is shattered",
    "learning_rate": "The learning rate does not fit",
}
_WIDEST = 100
_MOST_NAMES = 4


def letter(diagnosis: Diagnosis, width: int | None = None) -> str:
    """Return the letter.

    Args:
        diagnosis: to be told.
        width: columns; by default those of the terminal, at most 100.
    """
    columns = min(_WIDEST, shutil.get_terminal_size().columns) if width is None else width
    if diagnosis.healthy:
        return _filled(f"Healthy. {diagnosis.scope} {diagnosis.book.summary}", columns, "")
    lines = []
    for number, finding in enumerate(diagnosis.findings, 1):
        lines += [*_paragraph(number, finding, columns), ""]
    lines.append(_filled(diagnosis.scope, columns, ""))
    return "\n".join(lines)


def said(evidence: Evidence) -> str:
    """Return a number with its band in words.

    Args:
        evidence: the number.
    """
    what, value, low, high = evidence
    bounds = f"{low:.3g} … {high:.3g}"
    if math.isinf(low) and math.isinf(high):
        bounds = "any finite number"
    elif math.isinf(high):
        bounds = f"at least {low:.3g}"
    elif math.isinf(low):
        bounds = f"at most {high:.3g}"
    return f"{what}: {value:.4g} (healthy: {bounds})"


def over(finding: Finding) -> str:
    """Return " over depth" or " over time" where that tells findings apart, else "".

    Args:
        finding: of a diagnosis.
    """
    return f" over {finding.over}" if finding.over and finding.kind in ("vanishing", "exploding") else ""


def _paragraph(number: int, finding: Finding, width: int) -> list[str]:
    where = f" at {names_and_more(list(finding.layers), _MOST_NAMES)}" if finding.layers else ""
    head = f"{HEADLINES[finding.kind]}{over(finding)}{where}"
    out = [_filled(f"{number}. {head} ({finding.severity}, {finding.confidence}).", width, "   ")]
    out.append(_filled(f"   Why: {finding.cause.rstrip('.')}.", width, "   "))
    for remedy in finding.remedies:
        out.append(_filled(f"   - {remedy.what}", width, "     "))
        if remedy.code:
            out.append(f"       {remedy.code}")
    out += [_filled(f"   {said(evidence)}", width, "     ") for evidence in finding.evidence]
    return out


def _filled(text: str, width: int, indent: str) -> str:
    lead = text[: len(text) - len(text.lstrip())]
    return textwrap.fill(text.strip(), width, initial_indent=lead, subsequent_indent=indent)
