"""A run in TensorBoard: few curves, and one histogram a record whose buckets are the layers."""

from __future__ import annotations

import io
import os
from typing import Any

import numpy as np

from gradflow.live.event_file import EventFile
from gradflow.live.postmortem import PostMortem
from gradflow.live.record import Snapshot
from gradflow.live.summary import layer_number, scalars, worst_layers
from gradflow.live.writer import Writer

__all__ = ["TensorBoard"]

_ROOM = 3.0  # decades below the smallest gradient of the first record that a histogram still shows


class TensorBoard(Writer):
    """Writes a run for TensorBoard, by tensorboardX: `pip install gradflow-jax[live]`.

    Under the tag `flow/gradient by layer` the histogram page shows the landscape over depth as it changes: bucket k is
    layer k in forward order, its height the log10 of dL/d(output), counted from 3 decades below the smallest one of the
    first record. The curves are those of `gradflow.live.summary.scalars`, 20 at most. Names of the worst layers and
    post-mortems are texts.

    Args:
        logdir: folder of the run.
        figure_every: records from one figure of the flow to the next; 0 for none. One takes about half a second.
    """

    def __init__(self, logdir: str | os.PathLike[str], *, figure_every: int = 10) -> None:
        self._logdir, self._figure_every = os.fspath(logdir), figure_every
        self._file: EventFile | None = None
        self._records, self._floor = 0, float("nan")

    def write_snapshot(self, snapshot: Snapshot) -> None:
        """Write a recorded step.

        Args:
            snapshot: of it.
        """
        file, step = self._open(snapshot.step), snapshot.step
        from tensorboardX import summary
        from tensorboardX.proto.summary_pb2 import Summary

        for name, value in scalars(snapshot).items():  # not `summary.scalar`, which warns of every NaN
            file.add(Summary(value=[Summary.Value(tag=_tag(name), simple_value=value)]), step)
        words = "  \n".join(f"{what}: {name}" for what, name in worst_layers(snapshot).items())
        if words:
            file.add(summary.text("flow/worst_layers", words), step)
        self._histogram(snapshot)
        if self._figure_every and self._records % self._figure_every == 0:
            from gradflow import plots

            pixels = _pixels(plots.flow(snapshot.flow, title=f"step {step}"))
            file.add(summary.image("flow/figure", pixels), step)
        self._records += 1
        file.flush()

    def write_postmortem(self, postmortem: PostMortem) -> None:
        """Write an event.

        Args:
            postmortem: of it.
        """
        file = self._open(postmortem.step)
        from tensorboardX import summary

        file.add(summary.text("flow/post-mortem", postmortem.sentence), postmortem.step)
        file.add(summary.image("flow/post-mortem_figure", _pixels(postmortem.figure())), postmortem.step)
        file.flush()

    def close(self) -> None:
        """Close the event file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self, step: int) -> EventFile:
        if self._file is None:
            self._file = EventFile(self._logdir, step)
        return self._file

    def _histogram(self, snapshot: Snapshot) -> None:
        from tensorboardX import summary

        flow = snapshot.flow
        numbers = [layer_number(flow[name], "output_grad_rms") for name in flow.layers]
        values = np.array([np.nan if x is None else x for x in numbers], np.float64)
        usable = np.isfinite(values) & (values > 0)
        if not usable.any():
            return
        logs = np.log10(np.where(usable, values, 1.0))
        if np.isnan(self._floor):
            self._floor = float(np.floor(logs[usable].min())) - _ROOM
        heights = np.where(usable, np.maximum(logs - self._floor, 0.0), 0.0)
        middles = np.arange(len(heights)) + 0.5
        found = summary.histogram_raw(
            "flow/gradient_by_layer",
            min=0.0,
            max=float(len(heights)),
            num=float(heights.sum()),
            sum=float(heights @ middles),
            sum_squares=float(heights @ np.square(middles)),
            bucket_limits=(np.arange(len(heights)) + 1.0).tolist(),
            bucket_counts=heights.tolist(),
        )
        self._open(snapshot.step).add(found, snapshot.step)


def _tag(name: str) -> str:
    return name.replace(" ", "_")


def _pixels(figure: Any) -> np.ndarray:
    """Return a figure as colours (3, height, width)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    canvas.print_rgba(buffer)
    width, height = canvas.get_width_height()
    pixels = np.frombuffer(buffer.getvalue(), np.uint8).reshape(height, width, 4)
    return np.moveaxis(pixels[..., :3], -1, 0)
