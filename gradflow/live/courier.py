"""From the training loop to the writers: a thread fetches records from the device and hands them on."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import queue
import threading
import warnings
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from gradflow.instrument import FlowError
from gradflow.live.postmortem import PostMortem
from gradflow.live.record import Record, Snapshot, snapshots
from gradflow.live.spikes import Detector, Points, layer_gradients
from gradflow.live.writer import Writer

__all__ = ["Courier"]

_FLOWS = 2  # that may be on their way: what a kill loses at most
_STEPS = 50  # without a flow that are fetched together


class Courier:
    """Takes records from the loop and brings them to writers, in order.

    Args:
        writers: with `write(flow, step)`, or `write_snapshot(snapshot)` in its place; where they have them, with
            `write_postmortem(postmortem)` and `close()`.
        history: how many steps a post-mortem reaches back; 0: only recorded steps are looked at.
        every: steps from record to record.

    Attributes:
        postmortems: those written so far.
    """

    def __init__(self, writers: tuple[Any, ...], history: int, every: int) -> None:
        self._writers, self._history = writers, history
        self.postmortems: list[PostMortem] = []
        self._detector = Detector(history)
        self._together = max(1, min(_STEPS, history // 4))
        self._waiting: list[Record] = []
        self._queue: queue.SimpleQueue[tuple[list[Record], Any] | None] = queue.SimpleQueue()
        self._certain, self._uncertain = threading.Semaphore(_FLOWS), threading.Semaphore(_FLOWS * every)
        self._thread: threading.Thread | None = None
        self._closed = False
        self._failed: set[int] = set()
        self._messages: list[str] = []

    @property
    def is_open(self) -> bool:
        """Whether records may still come."""
        return not self._closed

    @property
    def has_writers(self) -> bool:
        """Whether anybody gets what is brought."""
        return bool(self._writers)

    def take(self, record: Record) -> None:
        """Put a record on its way.

        Args:
            record: with arrays of the device.
        """
        if self._closed:
            raise RuntimeError("watch.write: expected an open watch, got one that was closed. Fix: close it at the end")
        self._warn()
        if record.known is False and record.gradients is None:
            return
        if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(record)):
            raise FlowError(
                expected="a record with numbers",
                got="one that is being traced",
                cause="watch.write(record) inside jit or scan",
                fix="return the record from the step, and write it outside",
            )
        if jax.process_index():
            return
        self._waiting.append(record)
        if record.known is False and len(self._waiting) < self._together:
            return
        slots = None
        if record.known is not False:
            slots = self._certain if record.known else self._uncertain
            slots.acquire()
        self._send(slots)

    def close(self) -> None:
        """Bring all that is left, and close the writers."""
        if self._closed:
            return
        self._closed = True
        if self._waiting or self._thread is not None:
            self._send(None)
            self._queue.put(None)
            assert self._thread is not None
            self._thread.join()
        for writer in self._writers:
            if isinstance(writer, Writer) and writer.belongs_to_other(self):
                continue
            with self._forgiving(writer):
                getattr(writer, "close", lambda: None)()
        self._warn()

    def _send(self, slots: Any) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="gradflow-watch", daemon=True)
            self._thread.start()
            atexit.register(_close, weakref.ref(self))
        self._queue.put((self._waiting, slots))
        self._waiting = []

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            batch, slots = item
            try:
                with self._forgiving(self):
                    self._deliver(batch)
            finally:
                if slots is not None:
                    slots.release()
        with self._forgiving(self):
            self._report(self._detector.finish())

    def _deliver(self, batch: Sequence[Record]) -> None:
        for record in jax.device_get([_without_zeros(record) for record in batch]):
            found = snapshots(record)
            for snapshot in found:
                self._write(snapshot)
            if record.gradients is not None:
                self._report(self._detector.feed(_points(record)))
            elif not self._history:
                for snapshot in found:
                    self._report(self._detector.feed(layer_gradients(snapshot)))

    def _write(self, snapshot: Snapshot) -> None:
        self._detector.flow = snapshot.flow
        for writer in self._writers:
            with self._forgiving(writer):
                self._claim(writer)
                if hasattr(writer, "write_snapshot"):
                    writer.write_snapshot(snapshot)
                else:
                    writer.write(snapshot.flow, snapshot.step)

    def _report(self, found: Sequence[PostMortem]) -> None:
        for postmortem in found:
            self.postmortems.append(postmortem)
            for writer in self._writers:
                if hasattr(writer, "write_postmortem"):
                    with self._forgiving(writer):
                        self._claim(writer)
                        writer.write_postmortem(postmortem)

    def _claim(self, writer: Any) -> None:
        if isinstance(writer, Writer):
            writer.claim(self)

    @contextlib.contextmanager
    def _forgiving(self, who: Any) -> Iterator[None]:
        """Keep an error from the loop; the first of a writer is said."""
        try:
            yield
        except Exception as error:
            if id(who) not in self._failed:
                self._failed.add(id(who))
                name = "reading records" if who is self else f"the writer {type(who).__name__}"
                self._messages.append(
                    f"gradflow: {name} failed: {type(error).__name__}: {error}. Training goes on; this is said once"
                )

    def _warn(self) -> None:
        """Say in the loop's own thread what failed in the other."""
        while self._messages:
            warnings.warn(self._messages.pop(0), RuntimeWarning, stacklevel=4)


def _close(reference: Any) -> None:
    courier = reference()
    if courier is not None:
        courier.close()


def _without_zeros(record: Record) -> Record:
    """Leave out the flow where the branch was not taken, so that it need not be fetched."""
    if record.known is not None or np.asarray(record.taken).any():
        return record
    return dataclasses.replace(record, flow=None, updates=None)


def _points(record: Record) -> Points:
    rows = np.asarray(record.gradients, np.float64)
    rows = rows.reshape(-1, rows.shape[-1])
    steps, losses = (np.asarray(x).reshape(-1) for x in (record.step, record.loss))
    return Points(steps.astype(np.int64), losses.astype(np.float64), rows, record.layers)
