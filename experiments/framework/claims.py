"""Claims: what a paper or a theory predicts, held against what a run measured."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

Number = int | float


@dataclasses.dataclass(frozen=True)
class Claim:
    """One checked statement.

    Attributes:
        claim: the statement in one line, as a reader would say it.
        source: paper with figure or table, or the theory that it follows from.
        expected: the number, the pair of limits, or the bound in words.
        measured: what the run gave.
        tolerance: the band around `expected`, in words.
        holds: whether `measured` lies in the band; never true for NaN.
    """

    claim: str
    source: str
    expected: Number | tuple[Number, Number] | str
    measured: Number
    tolerance: str
    holds: bool

    def record(self) -> dict[str, Any]:
        """Return the claim as plain Python, ready for strict JSON (NaN and infinities become their names)."""

        def plain(value: Any) -> Any:
            if isinstance(value, tuple):
                return [plain(part) for part in value]
            if isinstance(value, float) and not math.isfinite(value):
                return str(value)
            return value

        return {field: plain(value) for field, value in dataclasses.asdict(self).items()}


def close(
    claim: str,
    source: str,
    expected: float,
    measured: float,
    *,
    relative: float | None = None,
    absolute: float | None = None,
) -> Claim:
    """Claim that a measured number lies within a band around a predicted one.

    Args:
        claim: the statement.
        source: where it comes from.
        expected: the predicted number.
        measured: the measured number.
        relative: half the band as a fraction of |expected|; give this or `absolute`.
        absolute: half the band, in the unit of `expected`.

    Raises:
        ValueError: unless exactly one band is given.
    """
    if (relative is None) == (absolute is None):
        raise ValueError(f"expected relative or absolute, one of the two, got {relative} and {absolute}")
    expected, measured = float(expected), float(measured)
    if relative is not None:
        band, words = relative * abs(expected), f"± {100 * relative:.3g} %"
    else:
        assert absolute is not None
        band, words = absolute, f"± {absolute:.3g}"
    return Claim(claim, source, expected, measured, words, bool(abs(measured - expected) <= band))


def between(claim: str, source: str, low: float, high: float, measured: float) -> Claim:
    """Claim that a measured number lies in [low, high].

    Args:
        claim: the statement.
        source: where it comes from.
        low: lower limit, included.
        high: upper limit, included.
        measured: the measured number.
    """
    low, high, measured = float(low), float(high), float(measured)
    return Claim(claim, source, (low, high), measured, "limits included", low <= measured <= high)


def below(claim: str, source: str, bound: float, measured: float) -> Claim:
    """Claim that a measured number is at most `bound`.

    Args:
        claim: the statement.
        source: where it comes from.
        bound: upper limit, included.
        measured: the measured number.
    """
    bound, measured = float(bound), float(measured)
    return Claim(claim, source, f"<= {bound:.4g}", measured, "one-sided", measured <= bound)


def above(claim: str, source: str, bound: float, measured: float) -> Claim:
    """Claim that a measured number is at least `bound`.

    Args:
        claim: the statement.
        source: where it comes from.
        bound: lower limit, included.
        measured: the measured number.
    """
    bound, measured = float(bound), float(measured)
    return Claim(claim, source, f">= {bound:.4g}", measured, "one-sided", measured >= bound)
