"""The tables of `diagnosis`: every network with its verdict, rates with their intervals, findings by family."""

from __future__ import annotations

from collections import Counter

import numpy as np
from jaxtyping import Shaped

from experiments.diagnosis import scores
from experiments.diagnosis.results import Results

__all__ = ["files"]

HEALTHY = "healthy"


def files(results: Results) -> dict[str, str]:
    """Return the tables.

    Args:
        results: from `experiments.diagnosis.experiment.run`.

    Returns:
        File name to text.
    """
    return {"networks.md": _networks(results), "rates.md": _rates(results), "confusion.md": _confusion(results)}


def _networks(results: Results) -> str:
    sick = scores.sick(results)
    lines = [
        "| family | network | gain | twin's | twin | treated | by chance | sick | verdict |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for k, name in enumerate(results.names):
        verdict = results.kinds[k] or HEALTHY
        mark = "" if bool(sick[k]) == bool(results.flagged[k]) else " (wrong)"
        gains = (results.treated_gains[k], results.random_gains[k])
        treated = " | ".join("" if np.isnan(gain) else f"{gain:.2f}" for gain in gains)
        lines.append(
            f"| {results.families[k]} | {name} | {results.gains[k]:.2f} | {results.twin_gains[k]:.2f} | "
            f"{results.twins[k]} | {treated} | {'sick' if sick[k] else HEALTHY} | {verdict}{mark} |"
        )
    return "\n".join([*lines, ""])


def _rates(results: Results) -> str:
    """Rates with Wilson's intervals, of the verdict and of the rules of other tools."""
    sick, tuned = scores.sick(results), ~results.held_out & ~results.public
    lines = ["| networks | rule | sick ones found | healthy ones called sick |", "|---|---|---|---|"]
    flags = {"gradflow": results.flagged, **dict(zip(results.rules.tolist(), results.rule_flags, strict=True))}
    for half, chosen in (("held out", results.held_out), ("tuned", tuned), ("public programs", results.public)):
        for rule, flagged in flags.items():
            found, alarms = scores.rate(flagged[chosen & sick]), scores.rate(flagged[chosen & ~sick])
            lines.append(f"| {half} | {rule} | {found} | {alarms} |")
    lines += ["", "| of the faults that were found in held-out families | share |", "|---|---|"]
    found_there = results.held_out & sick & results.flagged
    for words, known, hits in (
        ("kind among the first two findings", results.causes, scores.cause_found(results)),
        ("place is the first layer", results.places, scores.place_found(results, among=1)),
        ("place is among three layers", results.places, scores.place_found(results)),
    ):
        lines.append(f"| {words} | {scores.rate(hits[found_there & (known != '')])} |")
    return "\n".join([*lines, ""])


def _confusion(results: Results) -> str:
    """Most severe finding by family, of sick and of healthy networks."""
    sick, first = scores.sick(results), np.array([kinds.split(", ")[0] or HEALTHY for kinds in results.kinds.tolist()])
    lines = ["| family | sick networks: most severe finding | healthy networks: most severe finding |", "|---|---|---|"]
    for family in dict.fromkeys(results.families.tolist()):
        of_family = results.families == family
        lines.append(f"| {family} | {_counted(first[of_family & sick])} | {_counted(first[of_family & ~sick])} |")
    return "\n".join([*lines, ""])


def _counted(kinds: Shaped[np.ndarray, " networks"]) -> str:
    return ", ".join(f"{kind} {count}" for kind, count in Counter(kinds.tolist()).most_common())
