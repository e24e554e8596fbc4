"""What the instrument should cost on an accelerator, by a roofline; arithmetic, nothing is measured.

python -m experiments.overhead.roofline
python -m experiments.overhead.roofline --flops 312e12 --bandwidth 2e12     another accelerator

A product takes the longer of the time of its operations and of its bytes (Williams, Waterman & Patterson 2009), and
training steps reach a part of the operations that the data sheet promises (about 46 % in Chowdhery et al. 2022). The
plain step is taken as its products alone, so the ratio is rather too large than too small. The instrument reads the
cotangent, the input and its cotangent, the weights and their gradients once, and the output twice, since similarity
needs the norm of each row first. "Beside" is the ratio if a reduction of what an elementwise operation makes, the
layer's input and the cotangent, runs in the same kernel and so reads nothing from memory.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

from experiments.framework import commandline
from experiments.framework.exit_status import HOLDS, guarded

__all__ = ["NETWORKS", "Network", "Product", "main", "ratios"]


@dataclasses.dataclass(frozen=True)
class Options:
    """An accelerator; by default NVIDIA's H100 SXM by its data sheet, bfloat16 without sparsity."""

    flops: float = 989e12
    """Operations a second of its matrix units on 2 bytes; on 4 bytes they make half of that."""
    utilization: float = 0.46
    """Part of these operations that a training step makes."""
    bandwidth: float = 3.35e12
    """Bytes a second of its memory."""


@dataclasses.dataclass(frozen=True)
class Product:
    """A layer's product y = x w, as often as the network has it.

    Attributes:
        count: of such products.
        operations: multiplications and additions of the forward product.
        inputs, weights, outputs: entries of x, w and y.
        measured: whether w is a weight, so that the instrument measures it.
    """

    count: int
    operations: float
    inputs: float
    weights: float
    outputs: float
    measured: bool = True


@dataclasses.dataclass(frozen=True)
class Network:
    """A network's products.

    Attributes:
        products: of the forward pass.
        itemsize: bytes of an entry.
    """

    products: tuple[Product, ...]
    itemsize: int


def ratios(network: Network, flops: float, bandwidth: float) -> tuple[float, float]:
    """Return instrumented over plain step time: each array read once more, and with elementwise producers beside.

    Args:
        network: its products.
        flops: operations a second on 2 bytes that a step makes.
        bandwidth: bytes a second.
    """
    flops *= 2 / network.itemsize
    plain = all_read = beside = 0.0
    for p in network.products:
        of_bytes = network.itemsize * (p.inputs + p.weights + p.outputs) / bandwidth
        plain += p.count * 3 * max(p.operations / flops, of_bytes)
        if p.measured:
            read = p.count * network.itemsize / bandwidth
            beside += read * (2 * p.outputs + p.inputs + 2 * p.weights)  # y, dL/dx, w, dL/dw
            all_read += read * (3 * p.outputs + 2 * p.inputs + 2 * p.weights)  # x and dL/dy, too
    return 1 + all_read / plain, 1 + beside / plain


def _dense(count: int, rows: int, inputs: int, outputs: int) -> Product:
    return Product(count, 2.0 * rows * inputs * outputs, rows * inputs, inputs * outputs, rows * outputs)


def _convolution(count: int, batch: int, side: int, window: int, inputs: int, outputs: int, stride: int = 1) -> Product:
    """Return a convolution to side x side positions."""
    positions, weights = batch * side * side, window * window * inputs * outputs
    return Product(count, 2.0 * positions * weights, positions * stride**2 * inputs, weights, positions * outputs)


def _transformer(depth: int, width: int, batch: int, tokens: int, heads: int) -> tuple[Product, ...]:
    rows, scores = batch * tokens, batch * heads * tokens * tokens
    attention = Product(2 * depth, 2.0 * scores * width / heads, rows * width, rows * width, scores, measured=False)
    shapes = ((width, 3 * width), (width, width), (width, 4 * width), (4 * width, width))
    return (*(_dense(depth, rows, *shape) for shape in shapes), attention)


def _resnet_50(batch: int) -> tuple[Product, ...]:
    """He et al. 2016, Table 1, 224 x 224 images, the stride on the 3 x 3 convolution."""
    products = [_convolution(1, batch, 112, 7, 3, 64, stride=2)]
    before = 64
    for side, width, blocks in ((56, 64, 3), (28, 128, 4), (14, 256, 6), (7, 512, 3)):
        stride, after = (1 if side == 56 else 2), 4 * width
        products += [
            _convolution(1, batch, side * stride, 1, before, width),
            _convolution(1, batch, side, 3, width, width, stride),
            _convolution(1, batch, side, 1, before, after, stride),
            _convolution(blocks - 1, batch, side, 1, after, width),
            _convolution(blocks - 1, batch, side, 3, width, width),
            _convolution(blocks, batch, side, 1, width, after),
        ]
        before = after
    return (*products, _dense(1, batch, before, 1000))


NETWORKS = {
    "MLP 20 x 512, batch 256, float32": Network((_dense(20, 256, 512, 512),), 4),
    "MLP 8 x 4096, batch 1024, bfloat16": Network((_dense(8, 1024, 4096, 4096),), 2),
    "transformer 12 x 768, 16 x 1024 tokens, bfloat16": Network(_transformer(12, 768, 16, 1024, 12), 2),
    "ResNet-50, batch 128, bfloat16": Network(_resnet_50(128), 2),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table.

    Args:
        arguments: what follows the command; by default that of this process.

    Returns:
        0, or 2 for bad usage.
    """
    typed = sys.argv[1:] if arguments is None else arguments
    command = "python -m experiments.overhead.roofline"
    return guarded(command, lambda: _print(commandline.read(command, __doc__ or "", Options(), typed)))


def _print(options: Options) -> int:
    print("| network | each array read once more | reductions beside what makes the value |\n|---|---|---|")
    for name, network in NETWORKS.items():
        all_read, beside = ratios(network, options.utilization * options.flops, options.bandwidth)
        print(f"| {name} | {all_read:.2f} | {beside:.2f} |")
    return HOLDS


if __name__ == "__main__":
    sys.exit(main())
