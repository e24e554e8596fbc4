"""Data sets by name, as records of arrays: the embedded one from inside the package, all others through TFDS."""

from __future__ import annotations

import dataclasses
import hashlib
import zipfile
from importlib import resources
from pathlib import Path
from typing import overload

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num, UInt8

from gradflow import _lookup
from gradflow.data.images.catalogue import CATALOGUE, EMBEDDED, FASHION_MNIST
from gradflow.data.normalization import Normalization, grey_level_statistics, normalization

__all__ = [
    "DATASETS",
    "FASHION_MNIST_SUBSET_DIGEST",
    "FASHION_MNIST_SUBSET_FILE",
    "ImageDataset",
    "Split",
    "digest",
    "hold_out",
    "load",
]


@dataclasses.dataclass(frozen=True)
class Split:
    """Images with their labels, in a fixed order; NumPy arrays, or JAX arrays on the device.

    Attributes:
        images: grey levels 0 ... 255, shape (examples, height, width, channels).
        labels: index into the data set's `class_names`, int32, shape (examples,).
    """

    images: UInt8[np.ndarray | Array, "examples height width channels"]
    labels: Int[np.ndarray | Array, " examples"]

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.labels)


@dataclasses.dataclass(frozen=True)
class ImageDataset:
    """A labelled image data set: two splits, the names of the classes, and how to normalize.

    Attributes:
        name: the name that `load` knows it by.
        train: training split.
        test: test split.
        class_names: one name a label.
        mean: mean over every pixel of the training images, scaled to [0, 1].
        std: standard deviation over the same pixels.
        source: where the images come from, with their licence.
        validation: part of the training images that `load` held out, if asked to.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    mean: float
    std: float
    source: str
    validation: Split | None = None

    @property
    def split_sizes(self) -> dict[str, int]:
        """Number of examples by split."""
        held_out = {} if self.validation is None else {"validation": len(self.validation)}
        return {"train": len(self.train), **held_out, "test": len(self.test)}

    def normalize(
        self, images: Num[np.ndarray | Array, "*batch height width channels"]
    ) -> Float[np.ndarray, "*batch height width channels"]:
        """Scale grey levels to mean 0 and variance 1 over the training split: (images / 255 - mean) / std.

        One mean and one standard deviation for all pixels, taken from the training images alone, so that
        nothing of the test split enters, and a constant background stays constant.

        Args:
            images: grey levels 0 ... 255 (uint8), any number of leading axes.

        Returns:
            float32 array of the same shape, without unit.

        Raises:
            TypeError: if the images are not uint8 (already normalized, most likely).
        """
        images = np.asarray(images)
        if images.dtype != np.uint8:
            raise TypeError(
                f"normalize expects uint8 grey levels 0 ... 255, got {images.dtype}. "
                "Likely cause: images that were normalized before. Fix: pass them as loaded"
            )
        scaled = images.astype(np.float32) / np.float32(255)
        return (scaled - np.float32(self.mean)) / np.float32(self.std)

    def normalization(self, kind: str = "global") -> Normalization:
        """Measure a normalization on the training split, as a function for the inside of a jitted step.

        Args:
            kind: "global" (that of `normalize`), "channel", "pixel_mean" (He et al. 2016) or "unit".

        Raises:
            ValueError: for an unknown kind, with the nearest known one.
        """
        return normalization(np.asarray(self.train.images), kind)


def digest(arrays: dict[str, np.ndarray]) -> str:
    """Compute the SHA-256 over names, dtypes, shapes and bytes of arrays, in the order of their names.

    It does not depend on how a file is compressed, which changes between versions of zlib.

    Args:
        arrays: name to array.

    Returns:
        64 hexadecimal digits.
    """
    sha = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        sha.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()


FASHION_MNIST_SUBSET_FILE = "fashion_mnist_subset.npz"
FASHION_MNIST_SUBSET_DIGEST = "62fc85aed1b09dfdba8c31c4c5a9dbd6ffeb570418dd38f4ce3f5d8ae40aa66e"


def _load_fashion_mnist_subset() -> ImageDataset:
    """Read the embedded tenth of Fashion-MNIST and check it against its digest."""
    file = resources.files("gradflow.data.images") / FASHION_MNIST_SUBSET_FILE
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        found = digest(arrays)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, KeyError) as error:
        raise ValueError(_damaged(str(file), str(error))) from error
    if found != FASHION_MNIST_SUBSET_DIGEST:
        raise ValueError(_damaged(str(file), f"its digest is {found}"))
    mean, std = grey_level_statistics(arrays["train_images"])
    return ImageDataset(
        name=EMBEDDED,
        train=Split(arrays["train_images"][..., None], arrays["train_labels"].astype(np.int32)),
        test=Split(arrays["test_images"][..., None], arrays["test_labels"].astype(np.int32)),
        class_names=FASHION_MNIST.names["label"],
        mean=mean,
        std=std,
        source=FASHION_MNIST.source,
    )


def _damaged(file: str, found: str) -> str:
    return (
        f"{file} should hold data with digest {FASHION_MNIST_SUBSET_DIGEST}, but {found}; the file was "
        "changed or cut short (a broken download or checkout?): install gradflow-jax again, or rebuild the "
        "file with `python -m gradflow.data.images.build_subset`"
    )


DATASETS = (EMBEDDED, *CATALOGUE)


@overload
def load(
    name: str = ..., split: None = ..., *, validation: int = ..., seed: int = ..., folder: str | Path | None = ...
) -> ImageDataset: ...


@overload
def load(
    name: str, split: str, *, validation: int = ..., seed: int = ..., folder: str | Path | None = ...
) -> Split: ...


def load(
    name: str = EMBEDDED,
    split: str | None = None,
    *,
    validation: int = 0,
    seed: int = 0,
    folder: str | Path | None = None,
) -> ImageDataset | Split:
    """Load a data set by name, as uint8 images (examples, height, width, channels) and int32 labels (examples,).

    `fashion_mnist_subset`: a tenth of Fashion-MNIST (Xiao et al. 2017, arXiv:1708.07747), which ships inside
    the package: of each of the 10 classes the first 600 training and the first 100 test images in the order
    of the published files, 28 x 28 grey levels. Nothing is downloaded.

    `mnist`, `fashion_mnist`, `cifar10`, `cifar100`, and any other set of TFDS with images of one size and a class
    label: read from where TFDS keeps its data sets, without TensorFlow, in the order in which TFDS stores them. What
    is not there yet is downloaded and prepared; without internet, `python -m gradflow.data import` makes it from raw
    files.

    Args:
        name: one of `gradflow.data.DATASETS`, or a name in TFDS.
        split: "train", "validation" or "test": that split alone, its arrays on the default device; None: the
            data set with all its splits, in host memory.
        validation: how many training images are held out, chosen at random by `seed`; the training split then lacks
            them. He et al. 2016 hold out 5,000 of CIFAR-10's 50,000.
        seed: of that choice.
        folder: where TFDS data sets are kept; None: $TFDS_DATA_DIR or ~/tensorflow_datasets.

    Raises:
        ValueError: for an unknown name or split, with the nearest known one, a validation split larger than the
            training split, or damaged data.
        FileNotFoundError: if the data set is not there and cannot be downloaded; the message says what to do.
        ImportError: if TFDS is needed and not installed.

    >>> data = load("fashion_mnist_subset")
    >>> data.train.images.shape, data.test.labels.shape
    ((6000, 28, 28, 1), (1000,))
    >>> len(load("fashion_mnist_subset", "train", validation=1000))
    5000
    """
    if name != EMBEDDED and split is not None and not (validation and split in ("train", "validation")):
        return _on_device(_read(name, split, folder))
    data = _load_fashion_mnist_subset() if name == EMBEDDED else _load_prepared(name, folder)
    if validation:
        train, held_out = hold_out(data.train, validation, seed)
        mean, std = grey_level_statistics(np.asarray(train.images))
        data = dataclasses.replace(data, train=train, validation=held_out, mean=mean, std=std)
    if split is None:
        return data
    splits = {"train": data.train, "test": data.test}
    if data.validation is not None:
        splits["validation"] = data.validation
    elif split == "validation":
        raise ValueError(
            f"{name} has no validation split of its own. Fix: give the number of images to hold out, validation=5000"
        )
    return _on_device(_lookup.find("split", split, splits))


def hold_out(split: Split, count: int, seed: int) -> tuple[Split, Split]:
    """Split a split in two at random; both parts keep their order.

    Args:
        split: usually the training split.
        count: examples of the second part, 1 ... examples - 1.
        seed: which.

    Returns:
        What is left, and what is held out.

    Raises:
        ValueError: if nothing would be left.
    """
    if not 0 < count < len(split):
        raise ValueError(
            f"expected 1 ... {len(split) - 1} validation images of {len(split)}, got {count}. "
            "Fix: fewer, so that images are left for training"
        )
    order = np.asarray(jax.random.permutation(jax.random.key(seed), len(split)))
    training, validation = np.sort(order[count:]), np.sort(order[:count])
    return Split(split.images[training], split.labels[training]), Split(
        split.images[validation], split.labels[validation]
    )


def _on_device(split: Split) -> Split:
    return Split(jnp.asarray(split.images), jnp.asarray(split.labels))


def _read(name: str, split: str, folder: str | Path | None) -> Split:
    """Read one split of a TFDS data set, after having prepared it where needed."""
    from gradflow.data.images import download, prepared

    images, labels = prepared.read(download.prepared_builder(name, None if folder is None else Path(folder)), split)
    return Split(images, labels["label"])


def _load_prepared(name: str, folder: str | Path | None) -> ImageDataset:
    """Read both splits of a TFDS data set, and what is known of it."""
    from gradflow.data.images import download, prepared

    built = download.prepared_builder(name, None if folder is None else Path(folder))
    train, test = _read(name, "train", folder), _read(name, "test", folder)
    mean, std = grey_level_statistics(np.asarray(train.images))
    return ImageDataset(
        name=name,
        train=train,
        test=test,
        class_names=prepared.class_names(built),
        mean=mean,
        std=std,
        source=CATALOGUE[name].source if name in CATALOGUE else built.info.homepage,
    )
