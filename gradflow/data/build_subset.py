"""Build the embedded subset of Fashion-MNIST from the four published IDX files.

    python -m gradflow.data.build_subset --from DIR --to FILE

DIR holds train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte,
with or without .gz, as published at https://github.com/zalandoresearch/fashion-mnist.
"""

from __future__ import annotations

import argparse
import gzip
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int, Integer, UInt8

from gradflow.data.datasets import FASHION_MNIST_SUBSET_DIGEST, digest

TRAIN_PER_CLASS = 600
TEST_PER_CLASS = 100
NUM_CLASSES = 10


def read_idx(path: Path) -> UInt8[np.ndarray, "..."]:
    """Read one IDX file of unsigned bytes, as published with MNIST.

    Format: two zero bytes, the type code 0x08, the number of axes, a big-endian uint32 an axis, the bytes.

    Args:
        path: the file without .gz; the compressed file is taken where the plain one is missing.

    Returns:
        The array, its shape as in the header.

    Raises:
        FileNotFoundError: if neither file is there.
        ValueError: if it is no IDX file of unsigned bytes, or its length does not match its header.
    """
    packed = path.with_name(path.name + ".gz")
    if path.is_file():
        content = path.read_bytes()
    elif packed.is_file():
        content = gzip.decompress(packed.read_bytes())
    else:
        raise FileNotFoundError(f"neither {path} nor {packed.name} is there; --from names the folder of IDX files")
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise ValueError(f"{path} is no IDX file of unsigned bytes: it starts with {content[:4].hex(' ')}")
    axes = content[3]
    start = 4 + 4 * axes
    shape = struct.unpack(f">{axes}I", content[4:start])
    array = np.frombuffer(content, np.uint8, offset=start)
    if array.size != np.prod(shape):
        raise ValueError(f"{path} announces shape {shape} but holds {array.size} bytes; is the download complete?")
    return array.reshape(shape)


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
        raise ValueError(f"classes {scarce} have fewer than {count} examples")
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
        images = read_idx(folder / f"{prefix}-images-idx3-ubyte")
        labels = read_idx(folder / f"{prefix}-labels-idx1-ubyte")
        chosen = first_per_class(labels, count)
        arrays[f"{split}_images"] = images[chosen]
        arrays[f"{split}_labels"] = labels[chosen]
    return arrays


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the subset and write it; exit 1 if it differs from the one that the package expects."""
    parser = argparse.ArgumentParser(prog="python -m gradflow.data.build_subset", description=__doc__)
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
