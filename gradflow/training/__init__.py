"""Training: a pure step, programs of many steps, grids of runs, and a host loop with checkpoints."""

from gradflow.training.checkpoints import Checkpoints
from gradflow.training.devices import data_mesh, join, window_sharding
from gradflow.training.errors import CheckpointError
from gradflow.training.grids import grid
from gradflow.training.history import Curve, FitResult
from gradflow.training.loop import fit
from gradflow.training.losses import classification, evaluate, regression
from gradflow.training.nonfinite import NonFiniteError
from gradflow.training.optimizers import decay_mask, stacked_layers, with_clipping_and_decay
from gradflow.training.step import (
    FlowStep,
    LossFn,
    Mean,
    Step,
    TrainState,
    init,
    make_flow_step,
    make_step,
    means,
    run,
    start,
)

__all__ = [
    "CheckpointError",
    "Checkpoints",
    "Curve",
    "FitResult",
    "FlowStep",
    "LossFn",
    "Mean",
    "NonFiniteError",
    "Step",
    "TrainState",
    "classification",
    "data_mesh",
    "decay_mask",
    "evaluate",
    "fit",
    "grid",
    "init",
    "join",
    "make_flow_step",
    "make_step",
    "means",
    "regression",
    "run",
    "stacked_layers",
    "start",
    "window_sharding",
    "with_clipping_and_decay",
]
