"""A diagnosis as a file of JSON lines has it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

__all__ = ["Judged", "judged"]

_MOST_LAYERS = 4


@dataclasses.dataclass(frozen=True, eq=False)
class Judged:
    """The verdict on one step, and its ledger.

    Attributes:
        step: of which it is.
        words: the verdict, a sentence for each finding.
        gains: for each entry of the ledger, from the input to the loss, by its name: log10 of what it makes of the
            cotangent; None where there is no number.
        causes: the same, summed for each cause, the loss aside.
    """

    step: int
    words: tuple[str, ...]
    gains: Mapping[str, float | None]
    causes: Mapping[str, float]


def judged(line: Mapping[str, Any]) -> Judged:
    """Read a line `"line": "diagnosis"`.

    Args:
        line: as `Jsonl.write_diagnosis` wrote it.
    """
    words = tuple(_words(finding) for finding in line["findings"])
    gains: dict[str, float | None] = {}
    causes: dict[str, float] = {}
    for entry in reversed(line["ledger"]["entries"]):
        gain = None if entry["log10_gain"] is None else float(entry["log10_gain"])
        name = f"{entry['where']}: {entry['operation']}"
        repeats = sum(known == name or known.startswith(f"{name} (") for known in gains)
        gains[f"{name} ({repeats + 1})" if repeats else name] = gain
        if entry["cause"] != "loss" and gain is not None and not math.isnan(gain):
            causes[entry["cause"]] = causes.get(entry["cause"], 0.0) + gain
    return Judged(int(line["step"]), words or ("healthy",), gains, causes)


def _words(finding: Mapping[str, Any]) -> str:
    layers = [str(layer) for layer in finding["layers"]]
    more = f" and {len(layers) - _MOST_LAYERS} more" if len(layers) > _MOST_LAYERS else ""
    at = f" at {', '.join(layers[:_MOST_LAYERS])}{more}" if layers else ""
    cause = str(finding["cause"])
    why = f"{cause[:1].upper()}{cause[1:]}{'' if cause.endswith('.') else '.'}"
    return f"{finding['kind'].replace('_', ' ')}{at} ({finding['severity']}, {finding['confidence']}). {why}"
