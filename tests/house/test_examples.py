"""Every example in a docstring, and the Python blocks of README, run as they stand."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import gradflow as gf

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
NUMBER = r"(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)(%?)"


def assert_same_cell(got: str, want: str) -> None:
    """Hold words to the letter, numbers to 2 % or one unit of their last digit, bars to one character."""
    if re.fullmatch(BAR, want) and re.fullmatch(BAR, got):
        assert abs(len(got) - len(want)) <= 1, (got, want)
        return
    numbers = [re.fullmatch(NUMBER, cell) for cell in (got, want)]
    if not all(numbers):
        assert got == want
        return
    (a, unit), (b, other) = (number.groups() for number in numbers)
    digits = 0 if "e" in b or "." not in b else len(b.partition(".")[2])
    last = 0.0 if "e" in b else 10.0**-digits
    assert unit == other, (got, want)
    assert abs(float(a) - float(b)) <= max(1.001 * last, 0.02 * abs(float(b))), (got, want)


def test_readme_examples(capsys):
    """The model and the loss of the table come after their use in the text, so they run first."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    model = next(k for k, block in enumerate(blocks) if "def loss_fn" in block)
    scope = {"jax": jax, "jnp": jnp, "gf": gf}
    for block in (blocks.pop(model), *blocks):
        exec(block, scope)
    printed = capsys.readouterr().out.splitlines()
    tables = "".join(re.findall(r"```\n(layer .*?)```", text, re.DOTALL))
    for line, want in zip(printed, tables.splitlines(), strict=True):
        for cells in zip(line.split(), want.split(), strict=True):
            assert_same_cell(*cells)


@pytest.mark.parametrize("got, want", [("5.91e-01", "5.65e-01"), ("3%", "0%"), ("Dense_1", "Dense_2"), ("█▊", "████")])
def test_another_table_is_told_from_it(got, want):
    with pytest.raises(AssertionError):
        assert_same_cell(got, want)
