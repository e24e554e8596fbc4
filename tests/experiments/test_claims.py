"""Claims: bands, what they rest on, margins, NaN, and what goes into claims.json."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from experiments.framework.claims import (
    Band,
    Basis,
    Claim,
    band_words,
    checked,
    goal,
    headline,
    margin_words,
    paper,
    pilot,
    theory,
)


@pytest.mark.parametrize(
    "band, inside, outside",
    [
        (theory("s", 2.0, relative=0.04), 2.0799, 2.0801),
        (paper("s", -2.0, relative=0.04), -2.05, -2.1),
        (theory("s", 0.0, absolute=0.1), -0.1, 0.11),
        (pilot("s", (10,), low=0.1, high=10), 10, 0.0999),
        (goal("s", high=0.2), 0.2, 0.21),
        (paper("s", low=0.2), 0.2, 0.19),
        (theory("s", 1.0, low=0.5), 1e9, 0.49),
    ],
)
def test_a_claim_holds_inside_its_band_only(band, inside, outside):
    assert Claim("c", "c", band, inside).holds is True
    assert Claim("c", "c", band, outside).holds is False
    assert band.margin(inside) >= 0 > band.margin(outside)


@pytest.mark.parametrize("band", [theory("s", 1.0, relative=9.0), goal("s", high=math.inf, low=0), paper("s", low=-9)])
def test_nan_never_holds_and_the_record_is_strict_json(band):
    claim = Claim("c", "c", band, math.nan)
    assert claim.holds is False
    record = json.loads(json.dumps(claim.record(), allow_nan=False))
    words = ["id", "claim", "source", "basis", "seeds", "expected", "low", "high", "measured", "margin", "holds"]
    assert list(record) == words
    assert record["measured"] == record["margin"] == "nan"
    assert margin_words(record) == "nan"


@pytest.mark.parametrize(
    "band, measured, margin",
    [
        (theory("s", 2.0, absolute=0.5), 2.0, 1.0),
        (theory("s", 2.0, absolute=0.5), 1.75, 0.5),
        (theory("s", 2.0, absolute=0.5), 3.0, -1.0),
        (goal("s", high=0.2), 0.1, 0.5),
        (goal("s", low=0.5), 1.0, 1.0),
        (goal("s", low=-2.0), -3.0, -0.5),
        (goal("s", high=0.0), 3.0, -3.0),
        (theory("s", 1.0, low=1.0, high=1.0), 1.0, 0.0),
        (theory("s", 1.0, low=1.0, high=1.0), 1.1, -math.inf),
    ],
)
def test_the_margin_says_where_in_the_band_a_number_lies(band, measured, margin):
    assert band.margin(measured) == pytest.approx(margin)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: theory("s", 1.0), "give relative or absolute"),
        (lambda: theory("s", 1.0, relative=0.1, absolute=0.1), "give relative or absolute"),
        (lambda: theory("s", relative=0.1), "give relative or absolute"),
        (lambda: theory("s", 1.0, relative=0.1, low=0.0), "give relative or absolute"),
        (lambda: theory("s", 3.0, low=0.0, high=1.0), "outside its own band"),
        (lambda: theory("s", low=1.0, high=0.0), "low <= high"),
        (lambda: theory("s", low=math.nan, high=0.0), "low <= high"),
        (lambda: theory("s", low=-math.inf), "at least one of them finite"),
        (lambda: pilot("s", (), low=0.0), "names its seeds"),
        (lambda: Band(Basis.PAPER, "s", 0.0, 1.0, seeds=(7,)), "names its seeds"),
        (lambda: pilot("s", (1, 10), low=0.0), "must not be reported ones"),
        (lambda: Claim("Not an id", "c", goal("s", low=0.0), 1.0), "lower-case words"),
        (lambda: checked([Claim("c", "c", goal("s", low=0.0), 1.0)] * 2), "used twice: c"),
    ],
)
def test_a_band_that_says_nothing_is_rejected(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_verdicts_are_plain_booleans_whatever_the_numbers_are():
    """A NumPy band once made NumPy verdicts, which JSON wrote as strings."""
    record = Claim("c", "c", theory("s", np.float32(1.0), absolute=np.float64(0.1)), np.float32(1.0)).record()
    assert json.loads(json.dumps(record))["holds"] is True


def test_the_headline_counts_by_verdict_and_basis():
    def record(basis, holds):
        return {"basis": basis, "holds": holds}

    many = [record("paper", True)] * 6 + [record("theory", True)] * 11 + [record("pilot", False)]
    assert headline(many) == "17 hold: 6 paper, 11 theory; 1 fails: 1 pilot"
    assert headline([record("goal", True)]) == "1 holds: 1 goal"
    assert headline([record("goal", False)] * 2) == "2 fail: 2 goal"
    assert headline([]) == "0 hold"


def test_a_band_and_a_margin_read_as_a_reader_would_say_them():
    def record(band, measured):
        return Claim("c", "c", band, measured).record()

    assert band_words(record(theory("s", 2.0, absolute=0.5), 2)) == "1.5 … 2.5"
    assert band_words(record(goal("s", high=0.2), 2)) == "<= 0.2"
    assert band_words(record(goal("s", low=0.2), 2)) == ">= 0.2"
    assert margin_words(record(theory("s", 2.0, absolute=0.5), 1.75)) == "50 %"
    assert margin_words(record(goal("s", low=1e-3), 5.0)) == "5e+03x"
