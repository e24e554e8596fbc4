"""Networks as Flax Linen modules with nothing gradflow-specific in their parameters."""

from gradflow.models.cells import Cell
from gradflow.models.cnn import CNN
from gradflow.models.convolution import conv
from gradflow.models.layers import PReLU
from gradflow.models.mlp import MLP
from gradflow.models.normalization import BatchNorm
from gradflow.models.recurrent import Recurrent
from gradflow.models.resnet import ResNet

__all__ = ["CNN", "MLP", "BatchNorm", "Cell", "PReLU", "Recurrent", "ResNet", "conv"]
