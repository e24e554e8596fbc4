"""Training: a pure step, many of them as one program, grids of runs, and a host loop that loses nothing."""

from gradflow.training.losses import classification, evaluate, regression
from gradflow.training.optimizers import decay_mask, remedied
from gradflow.training.step import Mean, TrainState, averages, init, make_flow_step, make_step, run, start

__all__ = [
    "Mean",
    "TrainState",
    "averages",
    "classification",
    "decay_mask",
    "evaluate",
    "init",
    "make_flow_step",
    "make_step",
    "regression",
    "remedied",
    "run",
    "start",
]
