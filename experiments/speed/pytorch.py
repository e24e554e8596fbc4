"""The networks of `speed` in PyTorch, as its own documentation and tutorials write them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from experiments.speed.cases import OUTPUTS, RATE, Sizes


class Recurrent(nn.Module):
    """PyTorch's own recurrent layer and a linear layer on the last output."""

    def __init__(self, cell: str, size: Sizes) -> None:
        super().__init__()
        kinds = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
        self.cell = kinds[cell](size.shape[-1], size.units, batch_first=True)
        self.head = nn.Linear(size.units, OUTPUTS)

    def forward(self, x: Any) -> Any:
        """Map sequences to outputs."""
        return self.head(self.cell(x)[0][:, -1])


class Block(nn.Module):
    """Two 3x3 convolutions with batch norm, and a shortcut of option A."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.stride, self.more = (1, 0) if before == after else (2, after - before)
        self.conv_0 = nn.Conv2d(before, after, 3, self.stride, 1, bias=False)
        self.norm_0 = nn.BatchNorm2d(after)
        self.conv_1 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norm_1 = nn.BatchNorm2d(after)

    def forward(self, x: Any) -> Any:
        """Map images to images."""
        y = self.norm_1(self.conv_1(torch.relu(self.norm_0(self.conv_0(x)))))
        if self.more:
            x = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.more))
        return torch.relu(x + y)


class Pooled(nn.Module):
    """Mean over positions."""

    def forward(self, x: Any) -> Any:
        """Map images to features."""
        return x.mean((2, 3))


def network(name: str, size: Sizes) -> Any:
    """Build the network of a case.

    Args:
        name: of the case.
        size: its sizes.
    """
    if name == "mlp":
        layers: list[Any] = []
        for _ in range(size.depth):
            layers += [nn.Linear(size.units, size.units), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(size.units, OUTPUTS))
    if name == "resnet-20":
        blocks = (size.depth - 2) // 6
        widths = [16, *(channels for channels in (16, 32, 64) for _ in range(blocks))]
        stem = [nn.Conv2d(size.shape[-1], 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
        body = [Block(before, after) for before, after in itertools.pairwise(widths)]
        return nn.Sequential(*stem, *body, Pooled(), nn.Linear(64, OUTPUTS))
    return Recurrent(name, size)


def step(name: str, size: Sizes) -> Callable[[], object]:
    """Return a training step: cross-entropy, gradients, plain gradient descent.

    Args:
        name: of the case.
        size: its sizes.
    """
    torch.manual_seed(0)
    model = network(name, size)
    shape = size.shape if len(size.shape) < 3 else (size.shape[2], *size.shape[:2])
    x, labels = torch.randn(size.batch, *shape), torch.randint(0, OUTPUTS, (size.batch,))
    optimizer = torch.optim.SGD(model.parameters(), RATE)

    def run() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()

    return run
