"""List the experiments, or run them all.

python -m experiments                       name, paper, figure, minutes and last verdict of each
python -m experiments all [options]         one after the other, with the options given to each
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments import catalogue, storage
from experiments.commandline import DEFAULT_OUT, unknown
from experiments.runner import BAD_USAGE


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out `python -m experiments`.

    Args:
        arguments: what follows the command; by default that of this process.

    Returns:
        0 after a list; else the worst exit status of the experiments run; 2 for bad usage.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments and arguments[0] == "all":
        return run_all(arguments[1:])
    parser = argparse.ArgumentParser(
        prog="python -m experiments",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="folder of all results")
    options, rest = parser.parse_known_args(arguments)
    if rest:
        print(f"python -m experiments: {_explain(rest[0])}", file=sys.stderr)
        return BAD_USAGE
    show(options.out)
    return 0


def _explain(word: str) -> str:
    names = [head.name for head in catalogue.heads()]
    if word in names:
        return f"run one experiment with: python -m experiments.{word}"
    return unknown("option" if word.startswith("-") else "command", word, ["all", "--out", "--help", *names])


def run_all(options: Sequence[str]) -> int:
    """Run every experiment in a process of its own.

    Args:
        options: given to each.

    Returns:
        The worst exit status.
    """
    return max(
        subprocess.run([sys.executable, "-m", f"experiments.{head.name}", *options], check=False).returncode
        for head in catalogue.heads()
    )


def show(out: Path) -> None:
    """Print the table of experiments.

    Args:
        out: folder of all results, for the verdicts.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for column in ("name", "paper", "figure", "minutes", "last verdict"):
        table.add_column(column, overflow="fold")
    for head in catalogue.heads():
        table.add_row(head.name, head.paper, head.figure, head.minutes, storage.verdict(out / head.name))
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    console.print("run one: python -m experiments.NAME [--preset smoke|laptop|paper]", markup=False)


if __name__ == "__main__":
    sys.exit(main())
