"""Progress of an experiment: what is printed while its parts run."""

from __future__ import annotations

import functools
import sys
import threading

import pytest

from experiments.framework import progress


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_yields_every_item(capsys, monkeypatch, terminal):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    assert list(progress.track([3, 4], "training", label=lambda item: f"arm {item}")) == [3, 4]
    printed = capsys.readouterr().out
    if not terminal:
        assert printed.splitlines()[1].startswith("training 2/2: arm 4 (")


def test_calls_side_by_side_overlap_and_keep_their_order(capsys):
    """Either of the two first calls waits for the other, so that one after the other they would not end."""
    both = threading.Barrier(2)

    def call(number):
        if number < 2:
            both.wait(timeout=60)
        return 10 * number

    calls = {f"call {number}": functools.partial(call, number) for number in range(4)}
    found = progress.side_by_side(calls, "part")
    assert list(found.items()) == [("call 0", 0), ("call 1", 10), ("call 2", 20), ("call 3", 30)]
    assert capsys.readouterr().out.splitlines()[3].startswith("part 4/4: call 3 (")
    with pytest.raises(ZeroDivisionError):
        progress.side_by_side({"fails": lambda: 1 / 0}, "part")
