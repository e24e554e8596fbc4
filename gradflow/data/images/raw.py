"""Published raw files of image data sets: found, checked and turned into arrays.

There are two formats. An IDX file (MNIST) holds two zero bytes, the type code 0x08, the number of axes, one big-endian
uint32 for each axis, and the bytes. A binary batch of CIFAR holds rows: a byte for each label, then 3 x 32 x 32 bytes,
channel first.
"""

from __future__ import annotations

import gzip
import hashlib
import struct
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Integer, UInt8

from gradflow.data.images.catalogue import CATALOGUE, DataSetFacts, RawFile, SplitFacts

__all__ = ["Images", "Labels", "RawDataError", "content_of", "read_cifar", "read_idx", "read_split"]

Images = UInt8[np.ndarray, "examples height width channels"]
Labels = Mapping[str, Integer[np.ndarray, " examples"]]

_BROKEN = (EOFError, OSError, zlib.error, tarfile.TarError)


class RawDataError(ValueError):
    """A raw file is missing, truncated, corrupt or another one than expected; the message says which and what to do."""


def read_idx(content: bytes, name: str) -> UInt8[np.ndarray, "..."]:
    """Parse one IDX file of unsigned bytes.

    Args:
        content: the file, uncompressed.
        name: how errors call it.

    Returns:
        The array, its shape as in the header.

    Raises:
        RawDataError: if it is no IDX file of unsigned bytes, or its length does not match its header.
    """
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise RawDataError(
            f"{name}: expected an IDX file of unsigned bytes, which starts with 00 00 08 (magic number), got "
            f"{content[:4].hex(' ') or 'an empty file'}. Likely cause: another file, or a web page saved in its place. "
            "Fix: fetch it again"
        )
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise RawDataError(
            f"{name}: the header is cut short at {len(content)} bytes. Likely cause: a download that was interrupted. "
            "Fix: fetch the file again"
        )
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    array = np.frombuffer(content, np.uint8, offset=start)
    if array.size != int(np.prod(shape)):
        raise RawDataError(
            f"{name}: announces shape {shape} but holds {array.size} bytes. "
            "Likely cause: a download that was interrupted. Fix: fetch it again"
        )
    return array.reshape(shape)


def read_cifar(content: bytes, name: str, facts: DataSetFacts) -> tuple[Images, Labels]:
    """Parse one binary batch of CIFAR-10 or CIFAR-100.

    Args:
        content: the file.
        name: how errors call it.
        facts: the data set, for its labels and shape.

    Returns:
        Images (examples, 32, 32, 3) and, by label, one number an image.

    Raises:
        RawDataError: if the length is no whole number of rows.
    """
    height, width, channels = facts.shape
    labels = len(facts.classes)
    row = labels + height * width * channels
    if not content or len(content) % row:
        raise RawDataError(
            f"{name}: expected rows of {row} bytes, got {len(content)} bytes, which is no whole number of rows. "
            "Likely cause: a file that is cut short, or not the binary version. Fix: fetch it again"
        )
    rows = np.frombuffer(content, np.uint8).reshape(-1, row)
    images = rows[:, labels:].reshape(-1, channels, height, width).transpose(0, 2, 3, 1)
    return images, {key: rows[:, column] for column, key in enumerate(facts.classes)}


def read_split(facts: DataSetFacts, split: str, folder: Path) -> tuple[Images, Labels]:
    """Read one split from its raw files, and check everything that is known of it.

    Args:
        facts: the data set.
        split: "train" or "test".
        folder: holds the raw files, plain, `.gz` or in the published `.tar.gz`, itself or in a folder of that name.

    Returns:
        Images uint8 (examples, height, width, channels) and, by label, uint8 (examples,).

    Raises:
        RawDataError: naming the file that is missing, truncated, corrupt or another one, and what to do.
    """
    part = facts.splits[split]
    contents = [content_of(facts, file, folder) for file in part.files]
    if facts.format == "idx":
        images, labels = (read_idx(content, where) for content, where in contents)
        if images.shape[1:] != facts.shape[:2] or images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
            raise RawDataError(
                f"{contents[0][1]} and {contents[1][1]}: expected images {facts.shape[:2]} and one label an image, got "
                f"shapes {images.shape} and {labels.shape}. Likely cause: files were exchanged. Fix: give each its name"
            )
        _check_labels(facts, {"label": labels}, contents[1][1])
        return _checked(facts, part, images[..., None], {"label": labels}, contents)
    batches = [read_cifar(content, where, facts) for content, where in contents]
    for (_, classes), (_, where) in zip(batches, contents, strict=True):
        _check_labels(facts, classes, where)
    joined = {key: np.concatenate([labels[key] for _, labels in batches]) for key in facts.classes}
    return _checked(facts, part, np.concatenate([images for images, _ in batches]), joined, contents)


def content_of(facts: DataSetFacts, file: RawFile, folder: Path) -> tuple[bytes, str]:
    """Find a raw file and read it, uncompressed.

    Args:
        facts: the data set.
        file: one of its files.
        folder: where to look.

    Returns:
        The bytes, and where they were found, for errors.

    Raises:
        RawDataError: if it is nowhere, or cannot be unpacked.
    """
    homes = [folder / home for home in ("", facts.name, facts.inside)]
    for home in homes:
        plain, packed, archive = home / file.name, home / f"{file.name}.gz", home / (facts.archive or "-")
        try:
            if plain.is_file():
                return plain.read_bytes(), str(plain)
            if packed.is_file():
                return gzip.decompress(packed.read_bytes()), str(packed)
            if archive.is_file():
                with tarfile.open(archive, "r:gz") as members:
                    member = members.extractfile(f"{facts.inside}/{file.name}")
                    assert member is not None
                    return member.read(), f"{archive}, {file.name}"
        except KeyError:
            continue
        except _BROKEN as error:
            found = next(path for path in (plain, packed, archive) if path.is_file())
            raise RawDataError(
                f"{found}: cannot be read ({error}). Likely cause: truncated or corrupt, by an interrupted "
                "download. Fix: fetch it again"
            ) from error
    if not folder.is_dir():
        raise RawDataError(
            f"{folder} is no folder. Fix: --from names the folder of the files published at {facts.home}"
        )
    ways = f"{file.name}, {file.name}.gz" + (f" or {facts.archive}" if facts.archive else "")
    raise RawDataError(
        f"{file.name} of {facts.name} is missing: looked for {ways} in {', '.join(map(str, dict.fromkeys(homes)))}. "
        f"Fix: --from names the folder of the files published at {facts.home}"
    )


def _checked(
    facts: DataSetFacts, part: SplitFacts, images: Images, labels: Labels, contents: list[tuple[bytes, str]]
) -> tuple[Images, Labels]:
    """Check number of examples, and what is published under each file's name."""
    where = ", ".join(Path(where).name for _, where in contents)
    if len(images) != part.examples:
        raise RawDataError(
            f"{where}: expected {part.examples} images of {facts.name}, got {len(images)}. "
            "Likely cause: another data set, or a file that is cut short. Fix: fetch it again"
        )
    for file, (content, found) in zip(part.files, contents, strict=True):
        digest = hashlib.sha256(content).hexdigest()
        if file.sha256 and digest != file.sha256:
            raise RawDataError(
                f"{found}: expected the published content, SHA-256 {file.sha256}, got {digest}. "
                + _advice(digest, facts)
            )
    return images, labels


def _check_labels(facts: DataSetFacts, labels: Labels, where: str) -> None:
    for key, values in labels.items():
        if values.size and values.max() >= facts.classes[key]:
            raise RawDataError(
                f"{where}: expected {key} 0 ... {facts.classes[key] - 1}, got {values.max()} at place "
                f"{int(values.argmax())} of this file. Likely cause: a damaged file, or another data set. "
                "Fix: fetch it again"
            )


def _advice(digest: str, wanted: DataSetFacts) -> str:
    """Say what to do about a file with this digest, which may be another file of a known data set."""
    for facts in CATALOGUE.values():
        for file in (file for part in facts.splits.values() for file in part.files):
            if file.sha256 == digest:
                other = "give that file its own name" if facts == wanted else f"give the folder of {wanted.name}"
                return f"Likely cause: this is {file.name} of {facts.name}. Fix: {other}, and fetch this one again"
    return "Likely cause: a damaged file. Fix: fetch it again"
