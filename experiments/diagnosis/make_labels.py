"""Make the labels that are not made yet, and write each to `labels.csv` as soon as it is made.

python -m experiments.diagnosis.make_labels --seeds 10 11                   the families that may be tuned on
python -m experiments.diagnosis.make_labels --seeds 0 1 2 --half held-out   the others

189 labels took 19 minutes in two processes, beside other work. Interruption loses nothing but the labels that are
being made.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from experiments.diagnosis import committed
from experiments.diagnosis.labels import label
from experiments.diagnosis.settings import PRESETS
from experiments.diagnosis.zoo import FAMILIES, HELD_OUT, draw
from experiments.framework import commandline
from experiments.framework.exit_status import HOLDS, guarded
from experiments.framework.processes import cores, in_processes
from experiments.framework.progress import track_made


@dataclasses.dataclass(frozen=True)
class Options:
    """Which labels to make."""

    seeds: tuple[int, ...] = (0,)
    """Of the draw."""
    half: Literal["tuned", "held-out"] = "tuned"
    """Of the families."""
    numbers: tuple[int, ...] = (0,)
    """Of the networks in their family."""
    workers: int = 0
    """Processes; 0 for one a core, at most eight."""
    out: Path = committed.FILE
    """File to which rows are added."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out the command.

    Args:
        arguments: what follows it; by default that of this process.

    Returns:
        0, 2 for bad usage, 3 after a crash, or 130 when interrupted.
    """
    typed = sys.argv[1:] if arguments is None else arguments
    command = committed.COMMAND
    return guarded(command, lambda: _make(commandline.read(command, __doc__ or "", Options(), typed)))


def _make(options: Options) -> int:
    config, made = PRESETS["laptop"], committed.read(options.out)
    families = [family for family in FAMILIES if (family in HELD_OUT) == (options.half == "held-out")]
    keys = [
        committed.Key(family, number, seed, config.budget, config.orders)
        for seed in options.seeds
        for number in options.numbers
        for family in families
    ]
    calls = {_name(key): functools.partial(_made, key) for key in keys if key not in made}
    of_name = {_name(key): key for key in keys}
    found = in_processes(calls, options.workers or cores())
    for name, row in track_made(found, len(calls), "labels"):
        committed.append(of_name[name], row, options.out)
    return HOLDS


def _name(key: committed.Key) -> str:
    return f"{key.family} {key.number}, seed {key.seed}"


def _made(key: committed.Key) -> committed.Row:
    specimen = draw(key.family, key.number, key.seed)
    return committed.row(specimen, label(specimen, key.budget, key.orders, key.seed))


if __name__ == "__main__":
    sys.exit(main())
