"""Lines of JSON that belong together, and the file that a run writes them to."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import warnings
from pathlib import Path
from typing import Any

__all__ = ["Assembler", "LineFile", "append_whole", "complete_lines"]

_BEGIN = '{"line":"'  # of every line that is written
# What the lines of each kind have at least.
_KINDS: dict[str, dict[str, type]] = {
    "layer": {"name": str, "kind": str},
    "record": {"layers": int, "scalars": dict},
    "event": {},
    "diagnosis": {},
}


class Assembler:
    """Puts the lines of a file together: those of layers count when the line of their record is there.

    Attributes:
        foreign: how many lines were none that `Jsonl` writes.
    """

    def __init__(self) -> None:
        self._loose: list[tuple[str, dict[str, Any]]] = []
        self.foreign = 0

    @property
    def waiting(self) -> int:
        """How many lines of layers wait for that of their record."""
        return len(self._loose)

    def feed(self, text: str) -> list[tuple[str, dict[str, Any]]]:
        """Take a line, and return those that are complete with it, as text and parsed.

        Args:
            text: of the line; what `Jsonl` did not write is left out.
        """
        line = _parsed(text)
        if line is None:
            self.foreign += bool(text.strip())
            return []
        if line["line"] == "layer":
            self._loose = [*[x for x in self._loose if x[1]["step"] == line["step"]], (text, line)]
            return []
        if line["line"] != "record":
            return [(text, line)]
        whole, self._loose = self._loose, []
        return [*whole, (text, line)] if line["layers"] == len(whole) else []


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(line, dict) or type(line.get("step")) is not int or not isinstance(line.get("line"), str):
        return None
    needed = _KINDS.get(line["line"])
    known = needed is not None and all(isinstance(line.get(key), kind) for key, kind in needed.items())
    return line if known else None


def complete_lines(path: Path) -> tuple[list[tuple[str, dict[str, Any]]], bool]:
    """Return the lines, as text and parsed, that belong to records that were written to their end.

    Args:
        path: of the file.

    Returns:
        The lines, and whether there are others and none that `Jsonl` wrote, not even a part of its first record.
    """
    assembler = Assembler()
    texts = path.read_text(encoding="utf-8", errors="replace").split("\n")
    lines = [line for text in texts for line in assembler.feed(text)]
    begun = len(texts) == 1 and texts[0][: len(_BEGIN)] == _BEGIN[: len(texts[0])]
    return lines, bool(assembler.foreign) and not lines and not assembler.waiting and not begun


def append_whole(file: Any, data: bytes) -> None:
    """Append to an unbuffered file, or leave it as it was.

    Args:
        file: opened with `buffering=0`.
        data: to be written.

    Raises:
        OSError: if there is no room for all of it.
    """
    end = os.fstat(file.fileno()).st_size
    try:
        while data:
            data = data[file.write(data) :]
    except OSError:
        with contextlib.suppress(OSError):  # a device has no length, and its own error is the one to be told
            os.ftruncate(file.fileno(), end)
        raise


class LineFile:
    """A file of lines that one run writes at a time; it continues what an earlier run left.

    Where another run is writing the file, or wrote all of what is in it, nothing of that is lost: one of both gets a
    name of its own, `run.1.jsonl`.

    Args:
        path: of the file; its folder is made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: Any = None
        self._messages: list[str] = []

    @property
    def is_open(self) -> bool:
        """Whether something was written since it was made or closed."""
        return self._file is not None

    def append(self, lines: list[dict[str, Any]], first: int) -> None:
        """Write lines in one piece.

        Args:
            lines: plain Python values.
            first: the step from which a file that is not open yet is continued.
        """
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._open(first, again=False)
        text = "".join(json.dumps(line, allow_nan=False, separators=(",", ":")) + "\n" for line in lines)
        append_whole(self._file, text.encode())
        while self._messages:  # after the lines: where warnings are errors, these are not lost
            warnings.warn(self._messages.pop(0), RuntimeWarning, stacklevel=3)

    def go_back(self, step: int, *, same: bool) -> None:
        """Drop what is taken again, from a step on; what happened is kept.

        Args:
            step: that is written next.
            same: whether it is the last one once more.
        """
        self.close()
        self._open(step, again=True, same=same)

    def close(self) -> None:
        """Close the file, so that another run may write it."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self, step: int, *, again: bool, same: bool = False) -> None:
        file = self._locked()
        try:
            status = os.fstat(file.fileno())
            if stat.S_ISREG(status.st_mode) and status.st_size:
                file = self._make_room(file, step, again=again, same=same)
        except BaseException:
            file.close()
            raise
        self._file = file

    def _locked(self) -> Any:
        """Open the file for appending, or one beside it where another run writes it."""
        while True:
            file = open(self._path, "ab", buffering=0)  # noqa: SIM115
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return file
            if not _lock(file):
                file.close()
                taken, self._path = self._path, _free(self._path)
                self._messages.append(f"gradflow: another run is writing {taken}; this one goes to {self._path.name}")
            elif _is_at(file, self._path):
                return file
            else:  # it was renamed meanwhile
                file.close()

    def _make_room(self, file: Any, step: int, *, again: bool, same: bool) -> Any:
        """Drop what the run is about to write again; keep the whole file elsewhere if that is all of it."""
        lines, foreign = complete_lines(self._path)
        kept = [text for text, line in lines if line["step"] < step]
        if (lines or foreign) and not kept and not same:
            other = _free(self._path)
            os.rename(self._path, other)
            file.close()
            what = "something else" if foreign else "another run"
            self._messages.append(f"gradflow: {self._path} holds {what}, which is kept as {other.name}")
            return self._locked()
        if again:
            kept = [text for text, line in lines if line["step"] < step or _stays(line, step)]
        data = "".join(text + "\n" for text in kept).encode()
        if len(data) == os.fstat(file.fileno()).st_size:
            return file
        beside = self._path.with_name(self._path.name + ".part")
        beside.unlink(missing_ok=True)
        part = open(beside, "ab", buffering=0)  # noqa: SIM115
        try:
            _lock(part)
            append_whole(part, data)
            os.replace(beside, self._path)
        except BaseException:
            part.close()
            beside.unlink(missing_ok=True)
            raise
        file.close()
        return part


def _stays(line: dict[str, Any], step: int) -> bool:
    """Tell whether a line outlives that its run goes back: what happened did, and the step's own verdict holds."""
    return line["line"] == "event" or (line["line"] == "diagnosis" and line["step"] == step)


def _lock(file: Any) -> bool:
    """Keep a file from other runs as long as it is open; false if another has it."""
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _is_at(file: Any, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _free(path: Path) -> Path:
    names = (path.with_name(f"{path.stem}.{n}{path.suffix}") for n in range(1, 10**6))
    return next(name for name in names if not name.exists())
