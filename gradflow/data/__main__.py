"""Data sets on this machine: what there is, import of published raw files, checks.

python -m gradflow.data list                      the known data sets, and which of them are here
python -m gradflow.data info NAME                 what is known of one, and where to get its raw files
python -m gradflow.data import NAME --from DIR    make the TFDS data set of that name from raw files
python -m gradflow.data check NAME                compare a data set that is here with its checksums
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Column, Table

from gradflow import _lookup
from gradflow.data.images import datasets, prepared
from gradflow.data.images.catalogue import CATALOGUE, EMBEDDED, DataSetFacts

PROG = "python -m gradflow.data"
GOOD, BAD, BAD_USAGE = 0, 1, 2

Catalogue = Mapping[str, DataSetFacts]
Name = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
Folder = Annotated[Path | None, tyro.conf.arg(metavar="DIR")]


@dataclasses.dataclass(frozen=True)
class List:
    """The known data sets, and which of them are here."""

    data_dir: Folder = None
    """Where TFDS data sets are kept; by default $TFDS_DATA_DIR or ~/tensorflow_datasets."""


@dataclasses.dataclass(frozen=True)
class Info:
    """What is known of a data set, and where to get its raw files."""

    name: Name
    """Name of the data set."""
    data_dir: Folder = None
    """Where TFDS data sets are kept; by default $TFDS_DATA_DIR or ~/tensorflow_datasets."""


@dataclasses.dataclass(frozen=True)
class Import:
    """Make the TFDS data set of that name from published raw files: IDX (plain, gz), CIFAR batches (plain, tar.gz)."""

    name: Name
    """Name of the data set."""
    raw: Annotated[Path, tyro.conf.arg(name="from", metavar="DIR")]
    """Folder of the raw files."""
    data_dir: Folder = None
    """Where TFDS data sets are kept; by default $TFDS_DATA_DIR or ~/tensorflow_datasets."""


@dataclasses.dataclass(frozen=True)
class Check:
    """Compare a data set that is here with what is known of it: counts, shapes, labels, checksums."""

    name: Name
    """Name of the data set."""
    data_dir: Folder = None
    """Where TFDS data sets are kept; by default $TFDS_DATA_DIR or ~/tensorflow_datasets."""


Command = (
    Annotated[List, tyro.conf.subcommand("list")]
    | Annotated[Info, tyro.conf.subcommand("info")]
    | Annotated[Import, tyro.conf.subcommand("import")]
    | Annotated[Check, tyro.conf.subcommand("check")]
)


def main(arguments: Sequence[str] | None = None, catalogue: Catalogue = CATALOGUE) -> int:
    """Carry out `python -m gradflow.data`.

    Args:
        arguments: what follows the command; by default that of this process.
        catalogue: the known data sets.

    Returns:
        0 if all is well, 1 if a data set is missing or damaged or cannot be imported, 2 for bad usage.
    """
    head = (__doc__ or "").splitlines()[0]
    command: Any = tyro.cli(Command, prog=PROG, description=head, args=arguments)
    console = Console(highlight=False)
    try:
        if not isinstance(command, List):
            known = catalogue if isinstance(command, Import) else (EMBEDDED, *catalogue)
            _lookup.find("data set", command.name, dict.fromkeys(known))
    except ValueError as error:
        return _fail(error, BAD_USAGE)
    try:
        if isinstance(command, List):
            return show_list(command, catalogue, console)
        if isinstance(command, Info):
            return show_info(command, catalogue, console)
        if isinstance(command, Import):
            return import_(command, catalogue, console)
        return check(command, catalogue, console)
    except (ValueError, OSError, ImportError) as error:
        return _fail(error, BAD)


def show_list(command: List, catalogue: Catalogue, console: Console) -> int:
    """Print a table of the known data sets.

    Args:
        command: as typed.
        catalogue: the known data sets.
        console: where to.
    """
    table = Table(
        Column("name", no_wrap=True),
        "training",
        "test",
        "image",
        "classes",
        "here",
        "what",
        box=None,
        padding=(0, 2, 0, 0),
    )
    embedded = datasets.load()
    shape = "x".join(map(str, embedded.train.images.shape[1:]))
    table.add_row(EMBEDDED, "6,000", "1,000", shape, "10", "yes", "embedded")
    for facts in catalogue.values():
        counts = [f"{facts.splits[split].examples:,}" for split in ("train", "test")]
        shape = "x".join(map(str, facts.shape))
        here = "yes" if prepared.is_prepared(prepared.builder(facts.name, command.data_dir)) else "no"
        table.add_row(facts.name, *counts, shape, str(facts.classes["label"]), here, facts.title)
    console.print(table)
    console.print("Any other image classification set of TFDS works by its name there.")
    return GOOD


def show_info(command: Info, catalogue: Catalogue, console: Console) -> int:
    """Print what is known of one data set.

    Args:
        command: as typed.
        catalogue: the known data sets.
        console: where to.
    """
    table = Table.grid(padding=(0, 2))
    if command.name == EMBEDDED:
        table.add_row("source", datasets.load().source)
        table.add_row("place", "inside the package; each class's first 600 training and 100 test images")
        console.print(table)
        return GOOD
    facts = catalogue[command.name]
    built = prepared.builder(facts.name, command.data_dir)
    table.add_row("what", facts.title)
    table.add_row("images", f"uint8 {' x '.join(map(str, facts.shape))} (height x width x channels)")
    table.add_row("splits", ", ".join(f"{split} {part.examples:,}" for split, part in facts.splits.items()))
    for label, names in facts.names.items():
        table.add_row(label, ", ".join(names))
    table.add_row("source", facts.source)
    table.add_row("raw files", f"{facts.home}: {facts.archive or ', '.join(_files(facts))}")
    state = "here" if prepared.is_prepared(built) else "not here yet"
    table.add_row("place", f"{built.data_path} ({state})")
    console.print(table, soft_wrap=True)
    return GOOD


def import_(command: Import, catalogue: Catalogue, console: Console) -> int:
    """Import a data set from raw files.

    Args:
        command: as typed.
        catalogue: the known data sets.
        console: where to.
    """
    started = time.perf_counter()
    facts = catalogue[command.name]
    fresh = prepared.import_raw(facts, command.raw, command.data_dir, _progress(console))
    place = prepared.builder(facts.name, command.data_dir).data_path
    count = sum(part.examples for part in facts.splits.values())
    done = "imported and checked" if fresh else "was here already, and is intact; kept"
    console.print(
        f"{facts.name}: {count:,} images {done} ({time.perf_counter() - started:.1f} s), {place}", soft_wrap=True
    )
    return GOOD


def check(command: Check, catalogue: Catalogue, console: Console) -> int:
    """Check a data set that is here.

    Args:
        command: as typed.
        catalogue: the known data sets.
        console: where to.
    """
    if command.name == EMBEDDED:
        console.print(f"{EMBEDDED}: {sum(datasets.load().split_sizes.values()):,} images, all as published")
        return GOOD
    facts = catalogue[command.name]
    built = prepared.builder(facts.name, command.data_dir)
    if not prepared.is_prepared(built):
        raise FileNotFoundError(
            f"{facts.name} is not at {built.data_path}. Fix: `{PROG} import {facts.name} --from DIR` makes it from raw "
            f"files, and gf.data.load({facts.name!r}) fetches it from the internet"
        )
    wrong = prepared.problems(facts, built, _progress(console))
    for problem in wrong:
        console.print(f"{facts.name}: {problem}", soft_wrap=True)
    if wrong:
        return BAD
    count = sum(part.examples for part in facts.splits.values())
    sure = "counts, shapes, labels and checksums" if facts.splits["train"].digest else "counts, shapes and labels"
    console.print(f"{facts.name}: {count:,} images, {sure} as published, {built.data_path}", soft_wrap=True)
    return GOOD


def _files(facts: DataSetFacts) -> list[str]:
    return [file.name for part in facts.splits.values() for file in part.files]


def _progress(console: Console) -> prepared.Progress:
    """Show bars on a terminal, nothing elsewhere."""

    def bar(items: Iterable[Any], total: int, label: str) -> Iterator[Any]:
        return iter(track(items, label, total, console=console, transient=True))

    return bar if console.is_terminal else prepared.no_progress


def _fail(error: Exception, code: int) -> int:
    print(f"{PROG}: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
