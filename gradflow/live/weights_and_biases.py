"""A run in Weights & Biases."""

from __future__ import annotations

from typing import Any

import numpy as np

from gradflow.live.postmortem import PostMortem
from gradflow.live.record import Snapshot
from gradflow.live.summary import layer_number, scalars, worst_layers
from gradflow.live.writer import Writer

__all__ = ["Wandb"]


class Wandb(Writer):
    """Logs a run to Weights & Biases, or to what has its `log` and `define_metric`.

    Curves are those of `gradflow.live.summary.scalars`, against `flow/step`, so that records that come after later
    steps of your own keep their place. `flow/gradient by layer` is a histogram whose bucket k is layer k, its height
    the log10 of dL/d(output) above the smallest one.

    Args:
        run: what `wandb.init(...)` returned.
    """

    def __init__(self, run: Any) -> None:
        if not callable(getattr(run, "log", None)):
            raise TypeError(f"Wandb: expected a run, got {type(run).__name__}. Fix: gf.live.Wandb(wandb.init(...))")
        self._run, self._defined = run, False

    def write_snapshot(self, snapshot: Snapshot) -> None:
        """Log a recorded step.

        Args:
            snapshot: of it.
        """
        row: dict[str, Any] = {name if "/" in name else f"flow/{name}": x for name, x in scalars(snapshot).items()}
        row |= {f"flow/worst/{what}": name for what, name in worst_layers(snapshot).items()}
        histogram = self._histogram(snapshot)
        if histogram is not None:
            row["flow/gradient by layer"] = histogram
        self._log(row, snapshot.step)

    def write_postmortem(self, postmortem: PostMortem) -> None:
        """Log an event, and raise an alert where the run can.

        Args:
            postmortem: of it.
        """
        self._log({"flow/post-mortem": postmortem.sentence}, postmortem.step)
        if hasattr(self._run, "alert"):
            self._run.alert(title=f"gradient {postmortem.kind} at step {postmortem.step}", text=postmortem.sentence)

    def _log(self, row: dict[str, Any], step: int) -> None:
        if not self._defined and hasattr(self._run, "define_metric"):
            self._run.define_metric("flow/step")
            self._run.define_metric("flow/*", step_metric="flow/step")
        self._defined = True
        self._run.log({**row, "flow/step": step})

    def _histogram(self, snapshot: Snapshot) -> Any:
        numbers = [layer_number(snapshot.flow[name], "output_grad_rms") for name in snapshot.flow.layers]
        values = np.array([np.nan if x is None else x for x in numbers], np.float64)
        usable = np.isfinite(values) & (values > 0)
        if not usable.any():
            return None
        import wandb

        logs = np.log10(np.where(usable, values, 1.0))
        heights = np.where(usable, logs - logs[usable].min() + 1, 0.0)
        return wandb.Histogram(np_histogram=(heights, np.arange(len(heights) + 1.0)))
