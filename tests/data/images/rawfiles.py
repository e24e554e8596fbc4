"""Small raw files like the published ones, with the catalogue entries that describe them."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from gradflow.data.images.catalogue import CATALOGUE, DataSetFacts, RawFile, SplitFacts
from gradflow.data.images.prepared import digest

SIZES = {"train": 40, "test": 20}
PREFIXES = {"train": "train", "test": "t10k"}


def write_idx(path: Path, array: np.ndarray, packed: bool) -> None:
    content = idx(array)
    if packed:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(content))
    else:
        path.write_bytes(content)


def idx(array: np.ndarray) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def draw(facts: DataSetFacts, split: str, seed: int = 0) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Images that all differ, labels that cover the range."""
    generator = np.random.default_rng([seed, len(split)])
    images = generator.integers(0, 256, (SIZES[split], *facts.shape)).astype(np.uint8)
    return images, {key: (np.arange(SIZES[split]) * 7 % n).astype(np.uint8) for key, n in facts.classes.items()}


def contents(facts: DataSetFacts, split: str, images: np.ndarray, labels: dict[str, np.ndarray]) -> dict[str, bytes]:
    """The raw files of one split, as the formats are published."""
    names = [file.name for file in facts.splits[split].files]
    if facts.format == "idx":
        return dict(zip(names, (idx(images[..., 0]), idx(labels["label"])), strict=True))
    lines = [
        bytes(int(values[i]) for values in labels.values())
        + b"".join(image[..., channel].tobytes() for channel in range(3))
        for i, image in enumerate(images)
    ]
    each = len(lines) // len(names)
    return {name: b"".join(lines[i * each : (i + 1) * each]) for i, name in enumerate(names)}


@dataclasses.dataclass
class Published:
    """A small data set: its facts, the folder of its raw files, and its arrays by split."""

    facts: DataSetFacts
    folder: Path
    arrays: dict[str, Any]


def publish(name: str, folder: Path, kind: str = "plain", seed: int = 0) -> Published:
    """Write a small set under the published names: "plain", "gz", "tar", or "nested" in the archive's folder."""
    facts = CATALOGUE[name]
    arrays = {split: draw(facts, split, seed) for split in SIZES}
    parts = {}
    files: dict[str, bytes] = {}
    for split, (images, labels) in arrays.items():
        written = contents(facts, split, images, labels)
        known = tuple(RawFile(file, hashlib.sha256(content).hexdigest()) for file, content in written.items())
        parts[split] = SplitFacts(SIZES[split], known, digest(images, labels))
        files |= written
    home = folder / facts.inside if kind in ("nested", "tar") else folder
    home.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        (home / file).write_bytes(content)
        if kind == "gz":
            (home / f"{file}.gz").write_bytes(gzip.compress((home / file).read_bytes()))
            (home / file).unlink()
    if kind == "tar":
        with tarfile.open(folder / str(facts.archive), "w:gz") as archive:
            archive.add(home, arcname=facts.inside)
        for file in files:
            (home / file).unlink()
        home.rmdir()
    return Published(dataclasses.replace(facts, splits=parts), folder, arrays)
