"""The instrument: a function transformation that reports the flow of gradients through any JAX model."""

from gradflow.instrument import native  # noqa: F401  (the folder may be taken out together with this line)
from gradflow.instrument.errors import FlowError
from gradflow.instrument.flow import Flow, LayerFlow
from gradflow.instrument.tap import tap
from gradflow.instrument.transform import value_grad_and_flow

__all__ = ["Flow", "FlowError", "LayerFlow", "tap", "value_grad_and_flow"]
