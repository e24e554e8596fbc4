"""Claims: bands, limits, NaN, and what goes into claims.json."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from experiments.framework.claims import above, below, between, close


@pytest.mark.parametrize(
    "claim, holds",
    [
        (close("c", "s", 2.0, 2.0799, relative=0.04), True),
        (close("c", "s", 2.0, 2.0801, relative=0.04), False),
        (close("c", "s", -2.0, -2.05, relative=0.04), True),
        (close("c", "s", 0.0, -0.1, absolute=0.1), True),
        (close("c", "s", 0.0, 0.11, absolute=0.1), False),
        (between("c", "s", 0.1, 10, 10), True),
        (between("c", "s", 0.1, 10, 0.0999), False),
        (below("c", "s", 0.2, 0.2), True),
        (below("c", "s", 0.2, 0.21), False),
        (above("c", "s", 0.2, 0.2), True),
        (above("c", "s", 0.2, 0.19), False),
    ],
)
def test_a_claim_holds_inside_its_band_only(claim, holds):
    assert claim.holds is holds


@pytest.mark.parametrize(
    "make",
    [
        lambda x: close("c", "s", 1.0, x, relative=9.0),
        lambda x: between("c", "s", -math.inf, math.inf, x),
        lambda x: below("c", "s", math.inf, x),
        lambda x: above("c", "s", -math.inf, x),
    ],
)
def test_nan_never_holds_and_the_record_is_strict_json(make):
    claim = make(math.nan)
    assert claim.holds is False
    record = json.loads(json.dumps(claim.record(), allow_nan=False))
    assert set(record) == {"claim", "source", "expected", "measured", "tolerance", "holds"}
    assert record["measured"] == "nan"


def test_exactly_one_band_is_asked_for():
    with pytest.raises(ValueError, match="one of the two"):
        close("c", "s", 1.0, 1.0)
    with pytest.raises(ValueError, match="one of the two"):
        close("c", "s", 1.0, 1.0, relative=0.1, absolute=0.1)


def test_verdicts_are_plain_booleans_whatever_the_band_is():
    """A NumPy band once made NumPy verdicts, which JSON wrote as strings."""
    record = close("c", "s", 1.0, np.float32(1.0), absolute=np.float64(0.1)).record()
    assert json.loads(json.dumps(record))["holds"] is True
