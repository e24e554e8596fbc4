"""Claims: a measured number held against a band, and what that band rests on.

A band has one of four bases.

    paper    a number that a paper reports, with its table, figure or equation
    theory   a value and a width that follow from a theory; the derivation stands in the docstring that makes the band
    pilot    a threshold from pilot runs, whose seeds are named and are none of the reported ones
    goal     a target that the project sets itself, such as the cost of the instrument

The bands of an experiment stand in its `bands.py`.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

REPORTED_SEEDS = frozenset({0, 1, 2})  # docs/results shows these; no threshold may come from them
_ID = re.compile(r"[a-z0-9]+(?:[-.][a-z0-9]+)*")


class Basis(enum.StrEnum):
    """What a band rests on."""

    PAPER = "paper"
    THEORY = "theory"
    PILOT = "pilot"
    GOAL = "goal"


@dataclasses.dataclass(frozen=True)
class Band:
    """The numbers that a claim allows.

    Attributes:
        basis: what the band rests on.
        source: the paper with table, figure or equation; the theory; what the pilot showed.
        low: lower limit, included; -inf for none.
        high: upper limit, included; inf for none.
        expected: the number that the source gives; None where it gives limits only.
        seeds: of the pilot runs; empty for the other bases.
    """

    basis: Basis
    source: str
    low: float = -math.inf
    high: float = math.inf
    expected: float | None = None
    seeds: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Reject a band that allows nothing or everything, and a pilot whose seeds are missing or are reported."""
        if not self.low <= self.high or (self.low, self.high) == (-math.inf, math.inf):
            raise ValueError(f"expected low <= high and at least one of them finite, got {self.low} and {self.high}")
        if self.expected is not None and not self.low <= self.expected <= self.high:
            raise ValueError(f"expected {self.expected} lies outside its own band {self.low} to {self.high}")
        if (self.basis is Basis.PILOT) != bool(self.seeds):
            raise ValueError(f"a pilot names its seeds and no other basis does, got {self.basis} with {self.seeds}")
        if reported := REPORTED_SEEDS.intersection(self.seeds):
            raise ValueError(f"pilot seeds must not be reported ones, got {sorted(reported)}")

    def __contains__(self, measured: float) -> bool:
        """Whether a number lies in the band; never for NaN."""
        return bool(self.low <= measured <= self.high)

    def margin(self, measured: float) -> float:
        """Return how far inside the band a number lies: 0 at a limit, negative outside.

        Between two limits the unit is half the band, so that 1 is its middle. With one limit the unit is the size of
        that limit, or 1 where the limit is 0.

        Args:
            measured: the number.
        """
        inside = min(measured - self.low, self.high - measured)
        if math.isfinite(self.low) and math.isfinite(self.high):
            half = (self.high - self.low) / 2
            return inside / half if half else (0.0 if inside == 0 else -math.inf)
        limit = self.low if math.isfinite(self.low) else self.high
        return inside / (abs(limit) or 1.0)


def paper(source: str, expected: float | None = None, **limits: float) -> Band:
    """Make a band from a number that a paper reports.

    Args:
        source: the paper with table, figure or equation.
        expected: the number.
        **limits: `relative` or `absolute`, half the band around `expected`; else `low`, `high` or both.
    """
    return _band(Basis.PAPER, source, expected, limits)


def theory(source: str, expected: float | None = None, **limits: float) -> Band:
    """Make a band that follows from a theory.

    Args:
        source: the theory.
        expected: the number that it gives.
        **limits: as for `paper`.
    """
    return _band(Basis.THEORY, source, expected, limits)


def pilot(source: str, seeds: Sequence[int], expected: float | None = None, **limits: float) -> Band:
    """Make a band from pilot runs.

    Args:
        source: the phenomenon, and what the pilot runs gave.
        seeds: of the pilot runs.
        expected: a number that stands for them.
        **limits: as for `paper`.
    """
    return _band(Basis.PILOT, source, expected, limits, tuple(seeds))


def goal(source: str, expected: float | None = None, **limits: float) -> Band:
    """Make a band from a target of the project.

    Args:
        source: what the target is for.
        expected: the target.
        **limits: as for `paper`.
    """
    return _band(Basis.GOAL, source, expected, limits)


def _band(
    basis: Basis, source: str, expected: float | None, limits: Mapping[str, float], seeds: tuple[int, ...] = ()
) -> Band:
    given = set(limits)
    around = given <= {"relative", "absolute"} and len(given) == 1
    if not (around and expected is not None) and not (given and given <= {"low", "high"}):
        raise ValueError(
            f"give relative or absolute with an expected number, or low, high or both; got {sorted(given)}"
        )
    numbers = {name: float(value) for name, value in limits.items()}
    expected = None if expected is None else float(expected)
    if around:
        assert expected is not None
        half = numbers["absolute"] if "absolute" in numbers else numbers["relative"] * abs(expected)
        numbers = {"low": expected - half, "high": expected + half}
    return Band(basis, source, expected=expected, seeds=seeds, **numbers)


@dataclasses.dataclass(frozen=True)
class Claim:
    """One checked statement.

    Attributes:
        id: stable name of the claim within its experiment, such as "sick-rate": lower-case words joined by - or .
        claim: the statement in one line, as a reader would say it.
        band: what it allows, and why.
        measured: what the run gave.
    """

    id: str
    claim: str
    band: Band
    measured: float

    def __post_init__(self) -> None:
        """Check the id; make the number a plain one."""
        if not _ID.fullmatch(self.id):
            raise ValueError(f"a claim's id is lower-case words joined by - or ., got {self.id!r}")
        object.__setattr__(self, "measured", float(self.measured))

    @property
    def holds(self) -> bool:
        """Whether the measured number lies in the band; never true for NaN."""
        return self.measured in self.band

    def record(self) -> dict[str, Any]:
        """Return the claim as plain Python, ready for strict JSON (NaN and infinities become their names)."""
        return {
            "id": self.id,
            "claim": self.claim,
            "source": self.band.source,
            "basis": str(self.band.basis),
            "seeds": list(self.band.seeds),
            "expected": _plain(self.band.expected),
            "low": _plain(self.band.low),
            "high": _plain(self.band.high),
            "measured": _plain(self.measured),
            "margin": _plain(self.band.margin(self.measured)),
            "holds": self.holds,
        }


def _plain(value: float | None) -> float | str | None:
    return value if value is None or math.isfinite(value) else str(value)


def checked(claims: Sequence[Claim]) -> list[Claim]:
    """Return claims whose ids differ.

    Args:
        claims: of one experiment.

    Raises:
        ValueError: if two have the same id.
    """
    twice = [name for name, count in collections.Counter(claim.id for claim in claims).items() if count > 1]
    if twice:
        raise ValueError(f"every claim of an experiment has an id of its own; used twice: {', '.join(twice)}")
    return list(claims)


def headline(records: Sequence[Mapping[str, Any]]) -> str:
    """Count claims by verdict and basis: "21 hold: 6 paper, 11 theory, 4 pilot; 1 fails: 1 pilot".

    Args:
        records: of claims, with `basis` and `holds`.
    """
    held = [record["basis"] for record in records if record["holds"]]
    failed = [record["basis"] for record in records if not record["holds"]]
    words = [_counted(held, "holds", "hold")] if held or not failed else []
    if failed:
        words.append(_counted(failed, "fails", "fail"))
    return "; ".join(words)


def _counted(bases: Sequence[str], singular: str, plural: str) -> str:
    counts = collections.Counter(bases)
    parts = ", ".join(f"{counts[basis]} {basis}" for basis in Basis if counts[basis])
    return f"{len(bases)} {singular if len(bases) == 1 else plural}" + (f": {parts}" if parts else "")


def band_words(record: Mapping[str, Any]) -> str:
    """Write the band of a claim's record: "0.9 … 1.1", "<= 0.2" or ">= 0.5".

    Args:
        record: of a claim.
    """
    low, high = float(record["low"]), float(record["high"])
    if math.isinf(low):
        return f"<= {high:.4g}"
    return f">= {low:.4g}" if math.isinf(high) else f"{low:.4g} … {high:.4g}"


def margin_words(record: Mapping[str, Any]) -> str:
    """Write where in its band a measurement lies, in percent: 100 % is the middle, 0 % a limit, below 0 outside.

    Args:
        record: of a claim.
    """
    margin = float(record["margin"])
    if not math.isfinite(margin):
        return str(margin)
    return f"{100 * margin:.0f} %" if abs(margin) < 100 else f"{margin:.0e}x"
