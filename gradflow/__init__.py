"""gradflow: the flow of gradients through neural networks, made visible. Public names, imported on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradflow import activations, data, initializers, models, plots, theory
    from gradflow.instrument import Flow, LayerFlow, tap, value_grad_and_flow

__version__ = "0.1.0"

_MODULES = ("activations", "data", "initializers", "models", "plots", "theory")
_INSTRUMENT = ("Flow", "LayerFlow", "tap", "value_grad_and_flow")

__all__ = [
    "Flow",
    "LayerFlow",
    "activations",
    "data",
    "initializers",
    "models",
    "plots",
    "tap",
    "theory",
    "value_grad_and_flow",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"gradflow.{name}")
    if name in _INSTRUMENT:
        return getattr(importlib.import_module("gradflow.instrument"), name)
    raise AttributeError(f"module 'gradflow' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
