"""Data sets as TFDS keeps them: written from raw files, found, read, checked. The only module that imports TFDS.

What is written is the standard TFDS data set of that name (its own features, version and splits, as array_record), so
anyone's `tfds.data_source(name)` finds it. Neither writing nor reading needs TensorFlow. `tfds.load`, which makes a
`tf.data` pipeline and needs TensorFlow, finds it too, but TFDS cannot read array_record there and names `data_source`.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import io
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from gradflow.data.images.catalogue import CATALOGUE, EMBEDDED, DataSetFacts
from gradflow.data.images.raw import Images, Labels, read_split

__all__ = [
    "CHUNK",
    "STALE",
    "Progress",
    "builder",
    "class_names",
    "digest",
    "image_and_labels",
    "import_raw",
    "is_prepared",
    "no_progress",
    "problems",
    "read",
    "records",
    "tfds",
    "without_decoder_advice",
    "write",
]

Progress = Callable[[Iterable[Any], int, str], Iterable[Any]]
CHUNK = 2048  # records read at once
STALE = 3600.0  # seconds after which the folder of a killed import may be removed


def no_progress(items: Iterable[Any], total: int, label: str) -> Iterable[Any]:
    """Report no progress.

    Args:
        items: what is worked through.
        total: how many.
        label: what is done.
    """
    return items


def tfds() -> Any:
    """Import TensorFlow Datasets, which takes about half a second.

    Raises:
        ImportError: if it is not installed, with the command that installs it.
    """
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise ImportError(
            f"data sets beyond the embedded one need TFDS, which cannot be imported ({error}). "
            "Fix: pip install 'gradflow-jax[data]'"
        ) from error
    return tensorflow_datasets


def builder(name: str, folder: Path | None = None) -> Any:
    """Return the TFDS builder of a data set.

    Args:
        name: in TFDS, "mnist" or "emnist/letters".
        folder: where data sets are kept; None: TFDS's own, $TFDS_DATA_DIR or ~/tensorflow_datasets.

    Raises:
        ValueError: for a name that TFDS does not know, with the nearest, or a damaged description of the data.
    """
    library = tfds()
    from google.protobuf import json_format  # what TFDS reads its files with

    kind = name.split("/")[0]
    if kind not in CATALOGUE:
        # Asked beforehand, because for a name that it does not know TFDS looks on the net, and with TensorFlow.
        known = library.list_builders(with_community_datasets=False)
        if kind not in known:
            near = difflib.get_close_matches(kind.lower(), dict.fromkeys((EMBEDDED, *CATALOGUE, *known)), n=2)
            meant = f"; did you mean {' or '.join(map(repr, near))}?" if near else ";"
            raise ValueError(
                f"unknown data set {kind!r}{meant} Known: {', '.join((EMBEDDED, *CATALOGUE))}, and what else TFDS has"
            )
    try:
        return library.builder(name, data_dir=None if folder is None else os.fspath(folder))
    except json_format.ParseError as error:
        raise ValueError(
            f"the dataset_info.json of {name} cannot be read ({error}). Likely cause: it was cut short "
            f"or edited. Fix: remove its folder {name} from {folder or '$TFDS_DATA_DIR or ~/tensorflow_datasets'}, "
            "and import or load it again"
        ) from error


def is_prepared(built: Any) -> bool:
    """Tell whether a builder's data set is there.

    Args:
        built: from `builder`.
    """
    return (Path(built.data_path) / "dataset_info.json").is_file()


def records(built: Any, split: str) -> Any:
    """Open one split for random access, without TensorFlow: a sequence of dictionaries.

    Args:
        built: from `builder`, prepared.
        split: in TFDS's notation, such as "train" or "test[:100]".

    Raises:
        ValueError: for an unknown split, or data prepared in a format that only TensorFlow reads.
    """
    name = split.split("[")[0]
    if name not in built.info.splits:
        raise ValueError(
            f"{built.name} has no split {name!r}; it has {', '.join(built.info.splits)}. Fix: one of these"
        )
    try:
        return built.as_data_source(split=split)
    except NotImplementedError as error:
        raise ValueError(
            f"{built.data_path} is in format {built.info.file_format.value}, which needs TensorFlow to be read, and is "
            "kept as it is. Fix: another folder for the same data as array_record (--data-dir, $TFDS_DATA_DIR)"
        ) from error


def read(built: Any, split: str, progress: Progress = no_progress) -> tuple[Images, Labels]:
    """Read one split into memory, in the order in which TFDS stores it (shuffled once, the same on every machine).

    Args:
        built: from `builder`, prepared.
        split: in TFDS's notation.
        progress: wraps what is worked through.

    Returns:
        Images uint8 (examples, height, width, channels) and, by label, integers (examples,).

    Raises:
        ValueError: if it is no set of labelled images of one size, or a file is damaged.
    """
    source = records(built, split)
    starts = range(0, len(source), CHUNK)
    watched = progress(starts, len(starts), f"reading {built.name}, {split}")
    try:
        with without_decoder_advice():
            return _gather(source, watched, *image_and_labels(built))
    except (RuntimeError, OSError, IndexError) as error:
        raise ValueError(
            f"{built.data_path}, {split}: cannot be read ({error}). {_advice_to_import_again(built.name)}"
        ) from error


def _gather(source: Any, starts: Iterable[int], image_key: str, label_keys: tuple[str, ...]) -> tuple[Images, Labels]:
    """Read all records of a source, chunk by chunk, into two arrays."""
    first = source[0][image_key]
    if first.dtype != np.uint8:
        raise ValueError(f"expected uint8 images, got {first.dtype}. Fix: stream them with gf.data.stream")
    images = np.empty((len(source), *first.shape), np.uint8)
    labels = {key: np.empty(len(source), np.int32) for key in label_keys}
    for start in starts:
        places = list(range(start, min(start + CHUNK, len(source))))
        for place, example in zip(places, source.__getitems__(places), strict=True):
            image = example[image_key]
            if image.shape != images.shape[1:]:
                raise ValueError(
                    f"expected images of one size, got {images.shape[1:]} and {image.shape}. Fix: stream them with "
                    "gf.data.stream and a transform that brings them to one size"
                )
            images[place] = image
            for key, values in labels.items():
                values[place] = example[key]
    return images, labels


@contextlib.contextmanager
def without_decoder_advice() -> Iterator[None]:
    """Keep TFDS from recommending OpenCV while images are decoded."""
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def image_and_labels(built: Any) -> tuple[str, tuple[str, ...]]:
    """Find the image and the class labels among the features of a data set.

    Args:
        built: from `builder`.

    Raises:
        ValueError: if it has not exactly one image and a class label called "label".
    """
    features = tfds().features
    images = [key for key, feature in built.info.features.items() if isinstance(feature, features.Image)]
    labels = [key for key, feature in built.info.features.items() if isinstance(feature, features.ClassLabel)]
    if len(images) != 1 or "label" not in labels:
        raise ValueError(
            f"expected a data set of images with a class 'label', got {built.name} with features "
            f"{', '.join(built.info.features)}. Fix: read it with TFDS, and pass arrays to gf.data.on_device"
        )
    chosen = CATALOGUE[built.name].classes if built.name in CATALOGUE else labels
    return images[0], tuple(chosen)


def class_names(built: Any) -> tuple[str, ...]:
    """Names of the classes of "label", in order.

    Args:
        built: from `builder`.
    """
    if built.name in CATALOGUE:
        return CATALOGUE[built.name].names["label"]
    feature = built.info.features["label"]
    return tuple(feature.int2str(label) for label in range(feature.num_classes))


def digest(images: UInt8[np.ndarray, "examples ..."], labels: Labels) -> str:
    """Compute a checksum of a split that does not depend on the order of its examples.

    SHA-256 over the sorted SHA-256 of the examples: their labels, one byte each, then their image.

    Args:
        images: uint8.
        labels: by name, in the order of the catalogue.

    Returns:
        64 hexadecimal digits.
    """
    columns = np.stack([np.asarray(values, np.uint8) for values in labels.values()], axis=1)
    each = sorted(
        hashlib.sha256(column.tobytes() + image.tobytes()).digest()
        for column, image in zip(columns, images, strict=True)
    )
    return hashlib.sha256(b"".join(each)).hexdigest()


def problems(facts: DataSetFacts, built: Any, progress: Progress = no_progress) -> list[str]:
    """Compare a prepared data set with what is known of it: counts, shapes, labels, checksums.

    Args:
        facts: what is known.
        built: from `builder`, prepared.
        progress: wraps what is worked through.

    Returns:
        What is wrong, one line each; nothing if all is well.
    """
    found = []
    for split, part in facts.splits.items():
        try:
            images, labels = read(built, split, progress)
        except ValueError as error:
            found.append(str(error))
            continue
        if images.shape != (part.examples, *facts.shape):
            found.append(f"{split}: expected images {(part.examples, *facts.shape)}, got {images.shape}")
        for key, values in labels.items():
            if values.min() < 0 or values.max() >= facts.classes[key]:
                found.append(
                    f"{split}: expected {key} 0 ... {facts.classes[key] - 1}, got {values.min()} ... {values.max()}"
                )
        if part.digest and digest(images, labels) != part.digest:
            found.append(f"{split}: expected checksum {part.digest}, got {digest(images, labels)}")
    return found


def import_raw(facts: DataSetFacts, raw: Path, folder: Path | None = None, progress: Progress = no_progress) -> bool:
    """Turn published raw files into the TFDS data set of that name.

    Everything is read and checked before anything is written; it is written into a folder of its own, read back and
    checked again, and moved into its place in one step. A good copy that is already there is kept.

    Args:
        facts: the data set.
        raw: folder of the raw files.
        folder: where data sets are kept; None: TFDS's own.
        progress: wraps what is worked through.

    Returns:
        True if it was imported, False if a good copy was there before.

    Raises:
        RawDataError: if a raw file is missing, truncated, corrupt or another one.
        OSError: if the folder cannot be written.
    """
    built = builder(facts.name, folder)
    if is_prepared(built):
        records(built, "train")  # refuses to replace another format, which others may read
        if not problems(facts, built, progress):
            return False
    parts = {split: read_split(facts, split, raw) for split in facts.splits}
    target = Path(built.data_path)
    with _beside(target) as room:
        written = write(facts, parts, room, progress)
        wrong = problems(facts, written, progress)
        if wrong:
            raise OSError(
                f"what was written to {room} reads differently: {'; '.join(wrong)}. "
                "Likely cause: a disk that fails. Fix: another folder (--data-dir)"
            )
        if target.exists():
            os.replace(target, room / "replaced")
        os.replace(written.data_path, target)
    return True


def write(
    facts: DataSetFacts, parts: Mapping[str, tuple[Images, Labels]], folder: Path, progress: Progress = no_progress
) -> Any:
    """Write arrays as the TFDS data set of that name.

    Args:
        facts: the data set.
        parts: images and labels by split, in the published order.
        folder: where data sets are kept.
        progress: wraps what is worked through.

    Returns:
        The builder of what was written.
    """
    from PIL import Image

    standard = tfds().builder_cls(facts.name)

    class FromArrays(standard, skip_registration=True):  # type: ignore[misc, valid-type, call-arg]
        """The standard builder, with arrays in place of downloads."""

        name = facts.name
        __module__ = standard.__module__

        def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
            for key, names in facts.names.items():
                if self.info.features[key].num_classes == len(names) and facts.format == "cifar":
                    self.info.features[key].names = names
            return {split: self._generate_examples(split) for split in parts}

        def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
            images, labels = parts[split]
            for index, image in enumerate(progress(images, len(images), f"writing {facts.name}, {split}")):
                # TFDS encodes PIL images without TensorFlow, arrays only with it.
                example: dict[str, Any] = {
                    "image": Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
                }
                example |= {key: int(values[index]) for key, values in labels.items()}
                if "id" in self.info.features:
                    example["id"] = f"{split}_{index:05d}"
                yield index, example

    built = FromArrays(data_dir=os.fspath(folder))
    library = tfds()
    library.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces a download, of which there is none
        built.download_and_prepare(file_format="array_record")
    return built


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """Make a folder on the target's disk, and remove it in the end; remove folders of killed imports, too."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for left in target.parent.glob(".import-*"):
            if time.time() - left.stat().st_mtime > STALE:
                shutil.rmtree(left, ignore_errors=True)
        room = Path(tempfile.mkdtemp(prefix=".import-", dir=target.parent))
    except OSError as error:
        raise OSError(f"cannot write to {target.parent} ({error}). Fix: choose another place by --data-dir") from error
    try:
        yield room
    finally:
        shutil.rmtree(room, ignore_errors=True)


def _advice_to_import_again(name: str) -> str:
    if name in CATALOGUE:
        return f"Likely cause: a damaged file. Fix: import it again, `python -m gradflow.data import {name} --from DIR`"
    return "Likely cause: a damaged file. Fix: remove that folder and prepare it again"
