"""Build the embedded subset of Fashion-MNIST from the four published IDX files.

    python -m gradflow.data.images.build_subset --from DIR --to FILE

DIR holds train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte,
with or without .gz, as published at https://github.com/zalandoresearch/fashion-mnist.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int, Integer

from gradflow.data.images.catalogue import FASHION_MNIST, RawFile
from gradflow.data.images.datasets import FASHION_MNIST_SUBSET_DIGEST, digest
from gradflow.data.images.raw import content_of, read_idx

__all__ = ["NUM_CLASSES", "TEST_PER_CLASS", "TRAIN_PER_CLASS", "build", "first_per_class", "main"]

TRAIN_PER_CLASS = 600
TEST_PER_CLASS = 100
NUM_CLASSES = 10


def first_per_class(labels: Integer[np.ndarray, " examples"], count: int) -> Int[np.ndarray, " chosen"]:
    """Find the first `count` examples of each class, in file order.

    Args:
        labels: class of each example, 0 ... 9.
        count: how many of each class.

    Returns:
        Ascending indices, `count` x 10 of them.

    Raises:
        ValueError: if a class has fewer examples.
    """
    chosen = [np.flatnonzero(labels == label)[:count] for label in range(NUM_CLASSES)]
    scarce = [label for label, found in enumerate(chosen) if len(found) < count]
    if scarce:
        raise ValueError(
            f"expected at least {count} examples of each class, but classes {scarce} have fewer than {count} examples. "
            "Likely cause: another file, or one that is cut short. Fix: fetch the published files again"
        )
    return np.sort(np.concatenate(chosen))


def build(
    folder: Path, train_per_class: int = TRAIN_PER_CLASS, test_per_class: int = TEST_PER_CLASS
) -> dict[str, np.ndarray]:
    """Take the balanced subset from the published files.

    Args:
        folder: where the four IDX files are.
        train_per_class: training images of each class.
        test_per_class: test images of each class.

    Returns:
        uint8: `train_images`, `test_images` (examples, 28, 28), `train_labels`, `test_labels` (examples,).
    """
    arrays = {}
    for split, prefix, count in (("train", "train", train_per_class), ("test", "t10k", test_per_class)):
        images, labels = (
            read_idx(*content_of(FASHION_MNIST, RawFile(f"{prefix}-{kind}-ubyte"), folder))
            for kind in ("images-idx3", "labels-idx1")
        )
        chosen = first_per_class(labels, count)
        arrays[f"{split}_images"] = images[chosen]
        arrays[f"{split}_labels"] = labels[chosen]
    return arrays


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the subset and write it; exit 1 if it differs from the one that the package expects."""
    parser = argparse.ArgumentParser(prog="python -m gradflow.data.images.build_subset", description=__doc__)
    parser.add_argument("--from", dest="folder", type=Path, required=True, help="folder of the IDX files")
    parser.add_argument("--to", dest="file", type=Path, required=True, help="npz file to write")
    options = parser.parse_args(arguments)
    arrays = build(options.folder)
    with options.file.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **arrays)
    found = digest(arrays)
    print(f"{options.file}: {options.file.stat().st_size:,} bytes, digest {found}")
    if found != FASHION_MNIST_SUBSET_DIGEST:
        print(f"the package expects digest {FASHION_MNIST_SUBSET_DIGEST}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
