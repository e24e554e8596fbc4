"""What happens to a process: SIGKILL at any moment, SIGTERM, Ctrl-C; and two processes as one run."""

from __future__ import annotations

import os
import signal
import socket
import time

import numpy as np
import pytest

from tests.training import problems

STEPS, PAUSE = 600, 0.04  # a dispatch is 5 steps and a pause; more dispatches than fit between all kills
EARLY, LATE = 3, 7  # kills from the start of the process on, and once all is compiled


def run(folder, name, pause=0.0):
    folder.mkdir(exist_ok=True)
    return problems.begin(problems.run, folder, name, STEPS, pause)


def finished(folder, name="whole"):
    process = run(folder, name)
    process.join(100)
    assert process.exitcode == 0
    return dict(np.load(folder / f"{name}.npz"))


def newest(folder):
    return max((int(p.name) for p in folder.glob("run/*") if p.name.isdigit()), default=0)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def uninterrupted(home):
    return finished(home / "uninterrupted")


@pytest.mark.slow
def test_ten_kills_change_nothing(home, uninterrupted):
    """Saves go on most of the time: one takes some 40 ms, and one begins every second dispatch."""
    random = np.random.default_rng(0)
    folder, reached = home / "killed", []
    for kill, early in enumerate(random.permutation([True] * EARLY + [False] * LATE)):
        process = run(folder, f"kill{kill}", PAUSE)
        if not early:
            problems.wait_for(folder / f"kill{kill}.compiled")
        time.sleep(random.uniform(0, 1.0 if early else 0.6))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, "it was done before it was killed"
        reached.append(newest(folder))
    print("newest checkpoint after each kill:", reached)
    assert reached == sorted(reached)
    assert len(set(reached)) > LATE // 2
    problems.same(finished(folder), uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 1)])
def test_signals_save_first(home, uninterrupted, number, code):
    folder = home / f"signal{number}"
    process = run(folder, "stopped", PAUSE)
    problems.wait_for(folder / "stopped.compiled")
    os.kill(process.pid, number)
    process.join(100)
    assert process.exitcode == code
    assert 10 <= newest(folder) < STEPS
    assert not (folder / "stopped.npz").exists()
    problems.same(finished(folder), uninterrupted)


def free_port():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


@pytest.mark.slow
def test_two_processes_are_one_device(home):
    """Also where they go on from a checkpoint; each has four devices, so that one example is a device's share."""
    folder, port = home / "together", free_port()
    folder.mkdir()
    started = [problems.begin(problems.run_together, folder, port, k, 2) for k in range(2)]
    for process in started:
        process.join(100)
    assert [process.exitcode for process in started] == [0, 0]
    first, second = (dict(np.load(folder / f"process{k}.npz")) for k in range(2))
    problems.same(first, second)
    alone = problems.leaves(problems.fit(folder / "alone", problems.batch, 40, None))
    assert alone.keys() == first.keys()
    for name, want in alone.items():
        np.testing.assert_allclose(first[name], want, rtol=1e-4, atol=1e-6, err_msg=name)
    assert sorted(p.name for p in (folder / "run").iterdir()) == sorted(p.name for p in (folder / "alone").iterdir())
    files = {str(p.relative_to(folder / "run")) for p in (folder / "run").rglob("ocdbt.process_*")}
    assert files <= {f"{step}/arrays/ocdbt.process_0" for step in (30, 40)}, "more than one process wrote"
