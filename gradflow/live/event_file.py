"""A file of events for TensorBoard, written by the thread that has them; a full disk neither stops nor spoils it."""

from __future__ import annotations

import os
import socket
import struct
import time
from typing import Any

from gradflow.live.line_file import append_whole

__all__ = ["EventFile"]


class EventFile:
    """Events of one run.

    tensorboardX's own writer hands events to a thread. Where that fails, on a full disk, it ends without a word, and
    whoever adds events waits for it for ever. So its parts are used here, and its writer is not.

    Args:
        logdir: folder of the run; where it is an address (`s3://`, `gs://`), tensorboardX opens the file.
        step: the first that is written; what an earlier run wrote from there on is no longer shown.

    Raises:
        ImportError: without tensorboardX.
        OSError: if the file cannot be made.
    """

    def __init__(self, logdir: str, step: int) -> None:
        try:
            from tensorboardX import record_writer
            from tensorboardX.proto.event_pb2 import Event, SessionLog
        except ImportError as error:
            raise ImportError(
                "gf.live.TensorBoard: expected tensorboardX, got none. Fix: pip install 'gradflow-jax[live]'"
            ) from error
        self._event, self._checksum = Event, record_writer.masked_crc32c
        # A second may see several runs, and TensorBoard reads files in the order of their names.
        now = time.time_ns()
        name = f"events.out.tfevents.{now // 10**9:010d}.{socket.gethostname()}.{now}.{os.getpid()}"
        path = os.path.join(logdir, name)
        self._remote = "://" in logdir
        if self._remote:
            self._file: Any = record_writer.open_file(path)
        else:
            os.makedirs(logdir, exist_ok=True)
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115
        self._begin = [
            Event(wall_time=time.time(), file_version="brain.Event:2"),
            Event(wall_time=time.time(), step=step, session_log=SessionLog(status=SessionLog.START)),
        ]
        self._waiting: list[Any] = []

    def add(self, summary: Any, step: int) -> None:
        """Take a summary, to be written with the next `flush`.

        Args:
            summary: of one tag.
            step: its number.
        """
        self._waiting.append(self._event(wall_time=time.time(), step=step, summary=summary))

    def flush(self) -> None:
        """Write what was added, in one piece.

        Raises:
            OSError: if there is no room for it; then it is left out.
        """
        events, self._waiting = [*self._begin, *self._waiting], []
        data = b"".join(self._framed(event.SerializeToString()) for event in events)
        if self._remote:
            self._file.write(data)
            self._file.flush()
        else:
            append_whole(self._file, data)
        self._begin = []

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _framed(self, data: bytes) -> bytes:
        length = struct.pack("<Q", len(data))
        parts = (length, struct.pack("<I", self._checksum(length)), data, struct.pack("<I", self._checksum(data)))
        return b"".join(parts)
