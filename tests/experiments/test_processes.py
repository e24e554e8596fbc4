"""Calls in processes of their own: what they return, what they fail with, and what is left of them."""

from __future__ import annotations

import functools
import os
import time

import jax
import jax.numpy as jnp
import pytest

from experiments.framework import processes, resume

SETTING = "jax_disable_most_optimizations"


def square(x):
    return {"of": float(jnp.square(jnp.float32(x))), "process": os.getpid(), "setting": jax.config.read(SETTING)}


def fail_at(number, file):
    if number == 0:
        file.write_text(str(os.getpid()))
        raise ArithmeticError("zero")
    time.sleep(120)


def is_alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("workers", [1, 2])
def test_calls_return_what_they_return_here(workers):
    calls = {f"call {k}": functools.partial(square, k) for k in range(4)}
    found = dict(processes.in_processes(calls, workers))
    assert {key: row["of"] for key, row in found.items()} == {f"call {k}": k**2 for k in range(4)}
    used = {row["process"] for row in found.values()}
    assert (os.getpid() in used) == (workers == 1)
    assert len(used) <= workers
    assert {row["setting"] for row in found.values()} == {jax.config.read(SETTING)} == {True}
    assert not any(map(is_alive, used - {os.getpid()}))


def test_a_call_that_fails_ends_the_others_at_once(tmp_path):
    calls = {f"call {k}": functools.partial(fail_at, k, tmp_path / "process") for k in range(3)}
    begun = time.monotonic()
    with pytest.raises(ArithmeticError, match="zero"):
        dict(processes.in_processes(calls, 2))
    assert time.monotonic() - begun < 100
    assert not is_alive(int((tmp_path / "process").read_text()))


def test_parts_are_kept_in_their_order_and_not_made_again(tmp_path, capsys):
    asked = []

    def make(k):
        asked.append(k)
        if k == len(asked) == 3:
            raise ArithmeticError
        return 10 * k

    def made():
        with resume.keep_checkpoints(tmp_path / "run", resume=True):
            return resume.Parts("parts").several(
                {f"part {k}": functools.partial(make, k) for k in (2, 1, 3)}, "part", 1
            )

    with pytest.raises(ArithmeticError):
        made()
    assert capsys.readouterr().out.splitlines()[1].startswith("part 2/3: part 1 (")
    assert list(made().items()) == [("part 2", 20), ("part 1", 10), ("part 3", 30)]
    assert asked == [2, 1, 3, 3]


def test_as_many_workers_as_cores_but_not_more_than_memory_bears(monkeypatch):
    assert 1 <= processes.cores() <= os.cpu_count()
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(64), raising=False)
    assert processes.cores() == processes.MOST
