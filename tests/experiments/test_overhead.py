"""The claims of `overhead` can fail, and its table is whole."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from experiments.overhead import experiment as overhead
from experiments.overhead.results import Deep, Results
from tests.experiments.spoiled import claims_that_stand

NAMES = list(overhead.bands.TIME_TARGETS)


@pytest.fixture(scope="module")
def good() -> Results:
    """Results in which every claim holds."""
    count = len(NAMES)
    deep = Deep(np.array([10, 10_000]), np.array([0.5, 0.6]), np.ones(2), np.ones((2, 2), int), np.ones(10_000))
    return Results(
        shrink=1,
        cases=np.array(NAMES),
        native=True,
        seconds=np.full((count, 4, 5), 0.1),
        time_ratio=np.full((count, 5), 1.02),
        time_ratio_alone=np.full((count, 5), 1.01),
        time_ratio_reference=np.full((count, 5), 1.2),
        compile_seconds=np.full((count, 4), 1.0),
        memory_bytes=np.full((count, 4), 1000),
        floors={NAMES[0]: 1.05},
        statistics=np.array(["output_rms"]),
        by_statistic={NAMES[0]: np.array([[1.01, 1.1, 1.0]])},
        like={NAMES[0]: np.full(5, 1.03)},
        flax={NAMES[0]: np.full(5, 1.1)},
        flax_memory={NAMES[0]: 1.5},
        torch={},
        deep=deep,
    )


def test_every_claim_holds_where_it_should_and_can_fail(good):
    claims = overhead.claims(good)
    assert [claim.id for claim in claims if not claim.holds] == []
    assert len(claims) == len(NAMES) + 3
    assert claims_that_stand(overhead.claims, good) == []


def test_the_largest_ratio_is_named(good):
    slow = good.compile_seconds * np.where(np.arange(len(NAMES)) == 2, 3, 1)[:, None] ** np.array([0, 1, 0, 0])
    found = {claim.id: claim for claim in overhead.claims(dataclasses.replace(good, compile_seconds=slow))}
    assert NAMES[2] in found["compilation"].claim
    assert found["compilation"].measured == 3


def test_at_other_sizes_only_the_deep_network_is_claimed(good):
    assert [claim.id for claim in overhead.claims(dataclasses.replace(good, shrink=4))] == ["deep-compilation"]


def test_the_table_has_a_row_a_network(good):
    table = overhead.files(good)["table.md"]
    assert all(f"| {name} | 1.020 (1.020-1.020) |" in table for name in NAMES)
    assert "| `output_rms` | 1.010, 1.10, 1.000 |" in table
    assert "| gradflow, 4 numbers | 1.03 |" in table
    assert "PyTorch" not in table  # it was not installed
