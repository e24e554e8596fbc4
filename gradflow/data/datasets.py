"""Data sets as small records of NumPy arrays, the embedded one read from inside the package."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import zipfile
from importlib import resources

import numpy as np
from jaxtyping import Float, Int, Num, UInt8

from gradflow.data.normalization import Normalization, grey_level_statistics, normalization

FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


@dataclasses.dataclass(frozen=True)
class Split:
    """Images with their labels, in a fixed order.

    Attributes:
        images: grey levels 0 ... 255, shape (examples, height, width, channels).
        labels: index into the data set's `class_names`, shape (examples,).
    """

    images: UInt8[np.ndarray, "examples height width channels"]
    labels: Int[np.ndarray, " examples"]

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
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    mean: float
    std: float
    source: str

    @property
    def split_sizes(self) -> dict[str, int]:
        """Number of examples by split."""
        return {"train": len(self.train), "test": len(self.test)}

    def normalize(
        self, images: Num[np.ndarray, "*batch height width channels"]
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
                f"normalize expects uint8 grey levels 0 ... 255, got {images.dtype}; "
                "were these images normalized before? Pass them as loaded"
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
        return normalization(self.train.images, kind)


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
    file = resources.files("gradflow.data") / FASHION_MNIST_SUBSET_FILE
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
        name="fashion_mnist_subset",
        train=Split(arrays["train_images"][..., None], arrays["train_labels"].astype(np.int32)),
        test=Split(arrays["test_images"][..., None], arrays["test_labels"].astype(np.int32)),
        class_names=FASHION_MNIST_CLASSES,
        mean=mean,
        std=std,
        source="Fashion-MNIST (Xiao, Rasul & Vollgraf 2017), Copyright 2017 Zalando SE, MIT licence",
    )


def _damaged(file: str, found: str) -> str:
    return (
        f"{file} should hold data with digest {FASHION_MNIST_SUBSET_DIGEST}, but {found}; the file was "
        "changed or cut short (a broken download or checkout?): install gradflow-jax again, or rebuild the "
        "file with `python -m gradflow.data.build_subset`"
    )


_LOADERS = {"fashion_mnist_subset": _load_fashion_mnist_subset}

DATASETS = tuple(_LOADERS)


def load(name: str = "fashion_mnist_subset") -> ImageDataset:
    """Load a data set by name.

    `fashion_mnist_subset`: a tenth of Fashion-MNIST (Xiao et al. 2017, arXiv:1708.07747), which ships inside
    the package: of each of the 10 classes the first 600 training and the first 100 test images in the order
    of the published files, 28 x 28 grey levels. Nothing is downloaded.

    Args:
        name: one of `gradflow.data.DATASETS`.

    Returns:
        The data set; in each split uint8 images (examples, 28, 28, 1) and int32 labels (examples,).

    Raises:
        ValueError: for an unknown name, or if the embedded file is damaged.

    >>> data = load("fashion_mnist_subset")
    >>> data.train.images.shape, data.test.labels.shape
    ((6000, 28, 28, 1), (1000,))
    """
    if name not in _LOADERS:
        near = difflib.get_close_matches(name, _LOADERS, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"no data set is called {name!r}.{hint} There are: {', '.join(_LOADERS)}")
    return _LOADERS[name]()
