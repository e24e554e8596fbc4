"""Every example in a docstring, and the Python blocks of README and docs, run as they stand."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest

from tests.house import documents

ROOT = Path(__file__).parents[2]
MODULES = [
    ".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for f in sorted((ROOT / "gradflow").rglob("*.py"))
]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


BAR = "[▏▎▍▌▋▊▉█]+"
NUMBER = r"([+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?)(%?)"


def assert_same_cell(got: str, want: str) -> None:
    """Hold words to the letter, numbers to 2 % or one unit of their last digit, bars to one character."""
    got, want = (cell.strip("()[]',:") for cell in (got, want))
    if re.fullmatch(BAR, want) and re.fullmatch(BAR, got):
        assert abs(len(got) - len(want)) <= 1, (got, want)
        return
    numbers = [re.fullmatch(NUMBER, cell) for cell in (got, want)]
    if not all(numbers):
        assert got == want
        return
    (a, unit), (b, other) = (number.groups() for number in numbers)
    mantissa, _, exponent = b.partition("e")
    last = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    assert unit == other, (got, want)
    assert abs(float(a) - float(b)) <= max(1.001 * last, 0.02 * abs(float(b))), (got, want)


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("page", documents.PAGES, ids=documents.name_of)
def test_examples_of_a_page(page, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    for block, printed in documents.run(page.read_text(encoding="utf-8")):
        for line, want in zip(printed.splitlines(), block[2].splitlines(), strict=True):
            for cells in zip(line.split(), want.split(), strict=True):
                assert_same_cell(*cells)


@pytest.mark.parametrize("name, most", [("README.md", 150), ("BUILD_NOTES.md", 200)])
def test_what_has_to_stay_short(name, most):
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= most


@pytest.mark.parametrize("got, want", [("5.91e-01", "5.65e-01"), ("3%", "0%"), ("Dense_1", "Dense_2"), ("█▊", "████")])
def test_another_table_is_told_from_it(got, want):
    with pytest.raises(AssertionError):
        assert_same_cell(got, want)
