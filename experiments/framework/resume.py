"""What a stopped run has done, so that `--resume` continues there: checkpoints of long training, and finished parts.

All of it goes to a folder beside the results, OUT/NAME/PRESET.unfinished-DIGEST, one for each choice of settings. It is
removed when the results are written; until then another run of the same settings is refused, unless it resumes.
"""

from __future__ import annotations

import contextlib
import contextvars
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gradflow as gf
from experiments.framework.commandline import UsageError
from experiments.framework.processes import in_processes
from experiments.framework.progress import track_made

__all__ = ["Parts", "checkpoints", "file", "keep_checkpoints", "place"]

MINUTES = 5.0  # from one checkpoint to the next; a signal saves at once

_current: contextvars.ContextVar[Path | None] = contextvars.ContextVar("checkpoints", default=None)
_given: contextvars.ContextVar[frozenset[str] | set[str]] = contextvars.ContextVar("files", default=frozenset())


def place(results: Path, config: dict[str, Any]) -> Path:
    """Say where a run keeps what it has not finished.

    Args:
        results: folder of its results.
        config: all its settings.
    """
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()
    return results.with_name(f"{results.name}.unfinished-{digest[:8]}")


@contextlib.contextmanager
def keep_checkpoints(folder: Path, *, resume: bool) -> Iterator[None]:
    """Let training inside the block keep checkpoints in a folder, which is removed if the block ends well.

    Args:
        folder: from `place`.
        resume: go on from what is there, if anything.

    Raises:
        UsageError: if something is there and it is not to go on.
    """
    if folder.exists() and not resume:
        raise UsageError(
            f"a run with these settings was stopped and left checkpoints in {folder}. Fix: --resume continues from "
            "them; without that folder the run begins anew"
        )
    token, files = _current.set(folder), _given.set(set())
    try:
        yield
    finally:
        _current.reset(token)
        _given.reset(files)
    shutil.rmtree(folder, ignore_errors=True)


def checkpoints(name: str) -> gf.training.Checkpoints | None:
    """Return what a training inside of `keep_checkpoints` gives to `gf.training.fit`; None elsewhere.

    Args:
        name: of the training, unlike those of all others of the experiment.
    """
    folder = _current.get()
    if folder is None:
        return None
    return gf.training.Checkpoints(folder / name, every_steps=None, every_minutes=MINUTES, keep=2, resume=True)


def file(name: str) -> Path | None:
    """Say where training of `stretches.in_stretches` is saved inside of `keep_checkpoints`; None elsewhere.

    Args:
        name: of the training, unlike those of all others of the experiment.

    Raises:
        ValueError: if another training of this run has the name.
    """
    folder, given = _current.get(), _given.get()
    if folder is None or not isinstance(given, set):
        return None
    found = re.sub(r"[^A-Za-z0-9.+-]+", "_", name)
    if found in given:
        raise ValueError(f"expected a name of its own for every training of a run, got {name!r} twice")
    given.add(found)
    return folder / f"{found}.npz"


class Parts:
    """Parts of an experiment that are not done twice: each is a line of JSON, written when it is finished."""

    def __init__(self, name: str) -> None:
        """Read what a stopped run has left; outside of `keep_checkpoints` nothing is kept.

        Args:
            name: of the parts, unlike those of all others of the experiment.
        """
        folder = _current.get()
        self._file = None if folder is None else folder / f"{name}.jsonl"
        lines = self._file.read_bytes().splitlines(keepends=True) if self._file and self._file.exists() else []
        whole = [line for line in lines if line.endswith(b"\n")]
        if self._file and len(whole) < len(lines):  # the run was killed while it wrote the last one
            self._file.write_bytes(b"".join(whole))
        self._done: dict[str, Any] = dict(json.loads(line) for line in whole)

    def part(self, key: str, make: Callable[[], Any]) -> Any:
        """Return a part, as it was made before or as it is made now.

        Args:
            key: of the part.
            make: returns it, made of what JSON holds.
        """
        if key not in self._done:
            self._keep(key, make())
        return self._done[key]

    def several(self, makes: Mapping[str, Callable[[], Any]], what: str, workers: int) -> dict[str, Any]:
        """Return parts that do not depend on each other; those that are missing are made in processes of their own.

        Args:
            makes: returns a part, by its key; see `processes.in_processes`.
            what: they are, for the display of progress.
            workers: processes; 1 for this one.
        """
        missing = {key: make for key, make in makes.items() if key not in self._done}
        for key, made in track_made(in_processes(missing, workers), len(missing), what):
            self._keep(key, made)
        return {key: self._done[key] for key in makes}

    def _keep(self, key: str, made: Any) -> None:
        self._done[key] = made
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("ab") as file:
                file.write(json.dumps([key, made]).encode() + b"\n")
