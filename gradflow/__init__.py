"""gradflow: the flow of gradients through neural networks, made visible. Public names, imported on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gradflow._distribution import warn_of_other_distribution

if TYPE_CHECKING:
    from gradflow import activations, data, initializers, models, monitor, plots, theory, training
    from gradflow.instrument import Flow, LayerFlow, tap, value_grad_and_flow
    from gradflow.unit_variance import lsuv

__version__ = "0.1.0"

warn_of_other_distribution()

_MODULES = ("activations", "data", "initializers", "models", "monitor", "plots", "theory", "training")
_HOMES = {
    "Flow": "instrument",
    "LayerFlow": "instrument",
    "lsuv": "unit_variance",
    "tap": "instrument",
    "value_grad_and_flow": "instrument",
}

__all__ = [
    "Flow",
    "LayerFlow",
    "activations",
    "data",
    "initializers",
    "lsuv",
    "models",
    "monitor",
    "plots",
    "tap",
    "theory",
    "training",
    "value_grad_and_flow",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"gradflow.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(f"gradflow.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'gradflow' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
