"""gradflow: the flow of gradients through neural networks, made visible. Public names, imported on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradflow._distribution import warn_of_other_distribution
from gradflow._lazy import attach

if TYPE_CHECKING:  # the same names for type checkers; a test holds both lists equal
    from gradflow import activations as activations
    from gradflow import data as data
    from gradflow import diagnosis as diagnosis
    from gradflow import initializers as initializers
    from gradflow import live as live
    from gradflow import models as models
    from gradflow import plots as plots
    from gradflow import theory as theory
    from gradflow import training as training
    from gradflow.diagnosis import diagnose as diagnose
    from gradflow.diagnosis import find_nonfinite as find_nonfinite
    from gradflow.diagnosis import ledger as ledger
    from gradflow.diagnosis.treatment import treat as treat
    from gradflow.initializers.lsuv import lsuv as lsuv
    from gradflow.instrument import Flow as Flow
    from gradflow.instrument import LayerFlow as LayerFlow
    from gradflow.instrument import tap as tap
    from gradflow.instrument import value_grad_and_flow as value_grad_and_flow
    from gradflow.live.reporting.page import report as report
    from gradflow.live.watch import watch as watch
    from gradflow.primitives import register_rule as register_rule

__version__ = "0.1.0"

warn_of_other_distribution()

# Every public name and the submodule that defines it; "" for a submodule itself.
_HOMES = {
    "Flow": "gradflow.instrument",
    "LayerFlow": "gradflow.instrument",
    "activations": "",
    "data": "",
    "diagnose": "gradflow.diagnosis",
    "diagnosis": "",
    "find_nonfinite": "gradflow.diagnosis",
    "initializers": "",
    "ledger": "gradflow.diagnosis",
    "live": "",
    "lsuv": "gradflow.initializers.lsuv",
    "models": "",
    "plots": "",
    "register_rule": "gradflow.primitives",
    "report": "gradflow.live.reporting.page",
    "tap": "gradflow.instrument",
    "theory": "",
    "training": "",
    "treat": "gradflow.diagnosis.treatment",
    "value_grad_and_flow": "gradflow.instrument",
    "watch": "gradflow.live.watch",
}

__all__ = list(_HOMES)
__getattr__, __dir__ = attach(__name__, _HOMES)
