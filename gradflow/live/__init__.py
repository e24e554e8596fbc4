"""Live: the flow of a training run, in the tools that people already watch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradflow._lazy import attach

if TYPE_CHECKING:  # the same names for type checkers; a test holds both lists equal
    from gradflow.live.flow_history import FlowHistory as FlowHistory
    from gradflow.live.flow_history import history as history
    from gradflow.live.flow_history import profile as profile
    from gradflow.live.flow_history import rows as rows
    from gradflow.live.jsonl import Jsonl as Jsonl
    from gradflow.live.jsonl import RunLog as RunLog
    from gradflow.live.jsonl import read_jsonl as read_jsonl
    from gradflow.live.keras_callback import KerasCallback as KerasCallback
    from gradflow.live.panel import Progress as Progress
    from gradflow.live.postmortem import PostMortem as PostMortem
    from gradflow.live.record import Record as Record
    from gradflow.live.record import Snapshot as Snapshot
    from gradflow.live.reporting.page import report as report
    from gradflow.live.tensorboard import TensorBoard as TensorBoard
    from gradflow.live.watch import Watch as Watch
    from gradflow.live.weights_and_biases import Wandb as Wandb
    from gradflow.live.writer import Writer as Writer

_HOMES = {
    "FlowHistory": "gradflow.live.flow_history",
    "Jsonl": "gradflow.live.jsonl",
    "KerasCallback": "gradflow.live.keras_callback",
    "PostMortem": "gradflow.live.postmortem",
    "Progress": "gradflow.live.panel",
    "Record": "gradflow.live.record",
    "RunLog": "gradflow.live.jsonl",
    "Snapshot": "gradflow.live.record",
    "TensorBoard": "gradflow.live.tensorboard",
    "Wandb": "gradflow.live.weights_and_biases",
    "Watch": "gradflow.live.watch",
    "Writer": "gradflow.live.writer",
    "history": "gradflow.live.flow_history",
    "profile": "gradflow.live.flow_history",
    "read_jsonl": "gradflow.live.jsonl",
    "report": "gradflow.live.reporting.page",
    "rows": "gradflow.live.flow_history",
}

__all__ = list(_HOMES)
__getattr__, __dir__ = attach(__name__, _HOMES)
