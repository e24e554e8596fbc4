"""Tests that take long: their list, `heavy_tests.txt`, and how it is made.

python -m pytest --measure-heavy    runs quick and heavy tests in one process and writes the list (about 40 minutes)

A test is heavy if it takes more than `HEAVY` CPU seconds, most of which are compilation. README's command leaves heavy
tests out, and `-m slow` runs them. The oracles of the instrument and README's own example are never heavy.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

FILE = Path(__file__).with_name("heavy_tests.txt")
HEAVY = 1.5  # CPU seconds
ESSENTIAL = ("tests/instrument/test_oracles.py::", "tests/house/test_examples.py::test_examples_of_a_page[README.md]")


def read() -> frozenset[str]:
    """Return the ids of the heavy tests."""
    return frozenset(FILE.read_text(encoding="utf-8").splitlines())


def refuse_parts(config: pytest.Config) -> None:
    """Refuse to write the list where only some of the tests run."""
    if config.args_source is not pytest.Config.ArgsSource.TESTPATHS or config.getoption("keyword"):
        raise pytest.UsageError("--measure-heavy: expected all tests, got some. Fix: name no files and no -k")


def heavy(seconds: dict[str, float]) -> list[str]:
    """Return, sorted, the ids of what takes too long, by the CPU seconds of each test."""
    return sorted(id_ for id_, spent in seconds.items() if spent > HEAVY and not id_.startswith(ESSENTIAL))


class Measurement:
    """A plugin that measures every test and writes the list at the end of the session."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Measure one test with what it sets up."""
        begin = time.process_time()
        result = yield
        self.seconds[item.nodeid] = time.process_time() - begin
        return result

    def pytest_sessionfinish(self) -> None:
        """Write the list."""
        FILE.write_text("\n".join([*heavy(self.seconds), ""]), encoding="utf-8")
