"""One thing that is wrong: what, where, how it is known, what causes it, and what helps."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

__all__ = ["KINDS", "Confidence", "Evidence", "Finding", "Kind", "Remedy", "Severity"]

Kind: TypeAlias = Literal[
    "vanishing",
    "exploding",
    "dead_units",
    "saturation",
    "poor_initialization",
    "rank_collapse",
    "stalled_layer",
    "unstable_update",
    "nonfinite",
    "underflow",
    "batch_norm",
    "shattered",
    "learning_rate",
]
Severity: TypeAlias = Literal["fatal", "severe", "mild"]
Confidence: TypeAlias = Literal["certain", "likely", "possible"]

KINDS: tuple[str, ...] = get_args(Kind)


class Evidence(NamedTuple):
    """A number and the band that it left.

    Attributes:
        what: the number, in words.
        value: measured.
        low, high: the band; infinite where it has one side.
    """

    what: str
    value: float
    low: float
    high: float


class Remedy(NamedTuple):
    """What helps.

    Attributes:
        what: to do, in a sentence.
        code: that can be pasted, "" where there is none.
    """

    what: str
    code: str = ""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        kind: one of `KINDS`.
        severity: "fatal" (nothing below can learn), "severe" (it learns far slower than it should), "mild".
        layers: names of the layers or leaves it concerns, the worst first.
        evidence: numbers with the band that they left.
        cause: what brings it about, from the ledger where it is one of the signal's path.
        remedies: what helps, the most promising first.
        confidence: "certain" where it follows from exact numbers, "likely" where several measurements agree,
            "possible" where there is one.
        over: "depth" or "time" where that can be told, else "".
    """

    kind: Kind
    severity: Severity
    layers: tuple[str, ...]
    evidence: tuple[Evidence, ...]
    cause: str
    remedies: tuple[Remedy, ...]
    confidence: Confidence
    over: str = ""

    def to_record(self) -> dict[str, Any]:
        """Return plain Python values, ready for JSON; a number that is not finite is a string."""
        return {
            "kind": self.kind,
            "severity": self.severity,
            "confidence": self.confidence,
            "over": self.over,
            "layers": list(self.layers),
            "cause": self.cause,
            "evidence": [
                {"what": e.what, "value": _plain(e.value), "low": _plain(e.low), "high": _plain(e.high)}
                for e in self.evidence
            ],
            "remedies": [remedy._asdict() for remedy in self.remedies],
        }


def _plain(x: float) -> float | str:
    return x if x - x == 0 else "NaN" if x != x else "Infinity" if x > 0 else "-Infinity"
