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

ROOT = Path(__file__).parent.parent
MODULES = [
    ".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for f in sorted((ROOT / "gradflow").rglob("*.py"))
]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


def test_readme_examples(capsys):
    """The model and the loss of the table come after their use in the text, so they run first."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    model = next(k for k, block in enumerate(blocks) if "def loss_fn" in block)
    scope = {"jax": jax, "jnp": jnp, "gf": gf}
    for block in (blocks.pop(model), *blocks):
        exec(block, scope)
    printed = capsys.readouterr().out.splitlines()
    tables = "".join(re.findall(r"```\n((?:layer|predicted:) .*?)```", text, re.DOTALL))
    for line, want in zip(printed, tables.splitlines(), strict=True):
        assert line.split()[0] == want.split()[0]  # names and layout; digits may differ by rounding elsewhere
        assert len(line.split()) == len(want.split())
