"""Networks as Flax Linen modules with nothing gradflow-specific in their parameters."""

from gradflow.models.layers import PReLU
from gradflow.models.mlp import MLP

__all__ = ["MLP", "PReLU"]
