"""Labels that were made once and are kept as data, because training eight networks for one label takes a minute.

A row holds for the network that it was made of. That is checked by the version of the zoo, by the network's name and by
the size of its parameters and data, none of which depends on the machine. Whether training still gives the same is
checked by `laptop`, which trains a random sample anew.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.diagnosis.labels import TREATMENTS, UNTREATED, Label
from experiments.diagnosis.specimen import Specimen

__all__ = ["COMMAND", "FILE", "VERSION", "Key", "append", "find", "read", "row", "size"]

FILE = Path(__file__).with_name("labels.csv")
COMMAND = "python -m experiments.diagnosis.make_labels"
VERSION = 1  # of the zoo: to be raised by whoever changes what a family draws, a task, a fault or a treatment
KEYS = ("family", "number", "seed", "budget", "orders")
GAINS = (UNTREATED, *(change.name for change in TREATMENTS))
COLUMNS = (*KEYS, "version", "name", "size", *GAINS)
EXACT = 1e-5  # relative; random numbers differ by rounding between machines


class Key(NamedTuple):
    """What a label was made of.

    Attributes:
        family: of the zoo.
        number: of the network in its family.
        seed: of the draw.
        budget: training steps.
        orders: of the batches.
    """

    family: str
    number: int
    seed: int
    budget: int
    orders: int


class Row(NamedTuple):
    """A label with what tells whether it still holds.

    Attributes:
        version: of the zoo.
        name: of the network.
        size: see `size`.
        label: of the network.
    """

    version: int
    name: str
    size: float
    label: Label


def size(specimen: Specimen) -> float:
    """Return the sum of the norms of all parameters and all data: another network has another one.

    Args:
        specimen: of the zoo.
    """
    leaves = jax.tree.leaves((specimen.params, specimen.batches))
    return math.fsum(float(np.linalg.norm(np.asarray(leaf, np.float64))) for leaf in leaves)


def read(file: Path = FILE) -> dict[Key, Row]:
    """Read labels; none if there is no such file.

    Args:
        file: with a row a network.

    Raises:
        ValueError: if they were made with other treatments.
    """
    if not file.exists():
        return {}
    with file.open(newline="") as lines:
        table = csv.DictReader(lines)
        if tuple(table.fieldnames or ()) != COLUMNS:
            raise ValueError(
                f"{file}: expected the columns {COLUMNS}, got {table.fieldnames}. Likely cause: the treatments have "
                f"changed since. Fix: remove the file, then {COMMAND}"
            )
        return dict(_parsed(row) for row in table)


def find(rows: Mapping[Key, Row], key: Key, specimen: Specimen) -> Label | None:
    """Return the label of a network, or None if it has none.

    Args:
        rows: from `read`.
        key: of the network.
        specimen: the network.

    Raises:
        ValueError: if the label was made of another network.
    """
    if (row := rows.get(key)) is None:
        return None
    now = (VERSION, specimen.name, size(specimen))
    if row[:2] != now[:2] or not math.isclose(row.size, now[2], rel_tol=EXACT):
        raise ValueError(
            f"label of {key}: expected version, name and size {row[:3]}, got {now}. Likely cause: the zoo draws "
            f"another network than it did. Fix: remove the row from {FILE}, then {COMMAND}"
        )
    return row.label


def row(specimen: Specimen, label: Label) -> Row:
    """Return what is to be kept of a label.

    Args:
        specimen: the network.
        label: of it.
    """
    return Row(VERSION, specimen.name, size(specimen), label)


def append(key: Key, made: Row, file: Path = FILE) -> None:
    """Write one label.

    Args:
        key: of the network.
        made: from `row`.
        file: to which a row is added.
    """
    new = not file.exists()
    values: dict[str, Any] = key._asdict() | {"version": made.version, "name": made.name}
    values |= {"size": f"{made.size:.9g}"} | {name: f"{gain:.6g}" for name, gain in made.label.gains.items()}
    with file.open("a", newline="") as lines:
        table = csv.DictWriter(lines, COLUMNS, restval="", lineterminator="\n")
        if new:
            table.writeheader()
        table.writerow(values)


def _parsed(row: dict[str, str]) -> tuple[Key, Row]:
    key = Key(row["family"], *(int(row[name]) for name in KEYS[1:]))
    gains = {name: float(row[name]) for name in GAINS if row[name]}
    return key, Row(int(row["version"]), row["name"], float(row["size"]), Label(gains))
