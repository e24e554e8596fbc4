"""Networks as Flax Linen modules with nothing gradflow-specific in their parameters."""

from gradflow.models.cells import Cell
from gradflow.models.layers import PReLU
from gradflow.models.mlp import MLP
from gradflow.models.recurrent import Recurrent
from gradflow.models.resnet import ResNet

__all__ = ["MLP", "Cell", "PReLU", "Recurrent", "ResNet"]
