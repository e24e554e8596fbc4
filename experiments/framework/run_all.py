"""Run all experiments, each in a process of its own, except those that are done already."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from experiments.framework import catalogue, storage
from experiments.framework.catalogue import Head

PATIENCE = 30.0  # seconds that an interrupted experiment has for saving what it has


@dataclasses.dataclass(frozen=True)
class Order:
    """What is to be run.

    Attributes:
        preset: of every experiment.
        seed: of every experiment.
        out: folder of all results.
        jobs: experiments at once; those that measure the machine run by themselves whatever it says.
        again: run also what is done.
    """

    preset: str
    seed: int
    out: Path
    jobs: int
    again: bool


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How one experiment ended.

    Attributes:
        name: of the experiment.
        status: exit status of its process: 0 if every claim holds.
        finished: whether its results folder is of this run, or was of the same settings and code before it.
        seconds: that it took; 0 if it was done before.
    """

    name: str
    status: int
    finished: bool
    seconds: float

    def words(self, order: Order) -> str:
        """Say in one line how it ended.

        Args:
            order: what was asked for.
        """
        if not self.finished:
            return f"{self.name}: did not finish (exit status {self.status}); see {log_file(order, self.name)}"
        effort = f"{self.seconds:.0f} s" if self.seconds else "done before"
        return f"{self.name}: {storage.verdict(order.out / self.name, order.preset)}, {effort}"


def log_file(order: Order, name: str) -> Path:
    """Where the output of an experiment goes.

    Args:
        order: what was asked for.
        name: of the experiment.
    """
    return order.out / name / f"{order.preset}.log"


def run(heads: Sequence[Head], order: Order, say: Callable[[str], None] = print) -> list[Outcome]:
    """Run experiments: several at once, then one by one those that measure the machine; one that fails stops no other.

    Args:
        heads: the experiments.
        order: how to run them.
        say: called with a line for each that ends.

    Returns:
        How each ended, in the order of `heads`.

    Raises:
        KeyboardInterrupt: as received, once every process has been asked to stop and has stopped.
    """
    outcomes: dict[str, Outcome] = {}
    with _processes() as start:
        for alone in (False, True):
            names = [head.name for head in heads if head.alone == alone]
            pool = ThreadPoolExecutor(1 if alone else order.jobs)
            try:
                waiting = [pool.submit(_run, name, order, start) for name in names]
                for future in as_completed(waiting):
                    outcome = future.result()
                    outcomes[outcome.name] = outcome
                    say(f"[{len(outcomes)}/{len(heads)}] {outcome.words(order)}")
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
    return [outcomes[head.name] for head in heads]


def done_before(name: str, order: Order) -> int | None:
    """Whether the results folder holds this very run: same settings, same code.

    Args:
        name: of the experiment.
        order: what is asked for.

    Returns:
        Its exit status, or None if it has to be run.
    """
    folder = order.out / name / order.preset
    try:
        found = json.loads((folder / storage.CONFIG_FILE).read_text(encoding="utf-8"))
        claims = storage.read_claims(folder)
    except (OSError, ValueError):
        return None
    if claims is None:
        return None
    presets = catalogue.load(name).presets
    config = dataclasses.asdict(dataclasses.replace(presets[order.preset], seed=order.seed))
    wanted = {"config": json.loads(json.dumps(config, default=str)), "source": storage.source_digest()}
    if any(found.get(key) != value for key, value in wanted.items()):
        return None
    return 0 if all(claim["holds"] for claim in claims) else 1


def _run(name: str, order: Order, start: Callable[[list[str], Path], int]) -> Outcome:
    status = None if order.again else done_before(name, order)
    if status is not None:
        return Outcome(name, status, True, 0.0)
    options = ["--preset", order.preset, "--seed", str(order.seed), "--out", str(order.out), "--resume"]
    started, began = time.perf_counter(), time.time()
    status = start([sys.executable, "-m", f"experiments.{name}", *options], log_file(order, name))
    written = order.out / name / order.preset / storage.CONFIG_FILE
    finished = written.exists() and written.stat().st_mtime >= began
    return Outcome(name, status, finished, time.perf_counter() - started)


@contextlib.contextmanager
def _processes() -> Iterator[Callable[[list[str], Path], int]]:
    """Give a function that runs a command to its end; whatever ends the block early stops all that are running."""
    running: set[subprocess.Popen[bytes]] = set()
    lock, stopped = threading.Lock(), threading.Event()

    def start(command: list[str], log: Path) -> int:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as stream:
            with lock:
                if stopped.is_set():
                    return 1
                process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
                running.add(process)
            status = process.wait()
        with lock:
            running.discard(process)
        return status

    try:
        yield start
    finally:
        with lock:
            stopped.set()
            left = list(running)
        for process in left:
            process.terminate()
        for process in left:
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()


def default_jobs(preset: str) -> int:
    """How many experiments to run at once.

    One for each two cores, for each keeps about two busy; of smoke runs, which compile far longer than they compute,
    one for each core; on a GPU one.

    Args:
        preset: of every experiment.
    """
    import jax

    if jax.default_backend() != "cpu":
        return 1
    cores = os.cpu_count() or 1
    return cores if preset == "smoke" else max(1, cores // 2)
