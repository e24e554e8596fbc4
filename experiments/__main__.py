"""List the experiments, or run them all.

python -m experiments          name, paper, figure, minutes and last verdict
python -m experiments --all    run what is not done yet; write results/index.html
python -m experiments.NAME     run one
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from experiments.framework import catalogue, commandline, html_report, progress, run_all, storage
from experiments.framework.exit_status import CRASHED, FAILS, HOLDS, guarded

PROG = "python -m experiments"
TABLE_WIDTH = 120  # columns of a terminal that five columns of words need


@dataclasses.dataclass(frozen=True)
class Options:
    """What to do with the experiments."""

    all: bool = False
    """Run all of them and write the page of results."""
    preset: Literal["smoke", "laptop", "paper"] = "laptop"
    """Size of each: seconds, minutes, or the published set-up."""
    seed: int = 0
    """Of each."""
    out: Path = commandline.DEFAULT_OUT
    """Folder of all results."""
    jobs: int = 0
    """Experiments at once; 0 for one for each two cores."""
    again: bool = False
    """Run also those whose results of the same settings and code are there."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out `python -m experiments`.

    Args:
        arguments: what follows the command; by default that of this process.

    Returns:
        0 after a list, or if every claim holds; 1 if one fails; 2 for bad usage; 3 after a crash, or if an experiment
        does not finish; 130 when interrupted.
    """
    typed = list(sys.argv[1:] if arguments is None else arguments)

    def carry_out() -> int:
        _explain(typed)
        options = commandline.read(PROG, __doc__ or "", Options(), typed)
        if options.all:
            return run_experiments(options)
        show(options.out)
        return HOLDS

    return guarded(PROG, carry_out, lambda: "the same command goes on with what is not done")


def _explain(arguments: Sequence[str]) -> None:
    """Reject words, which this command does not take, with what was probably meant."""
    names = [head.name for head in catalogue.heads()]
    values = {"--preset", "--seed", "--out", "--jobs"}
    for before, word in zip(["", *arguments], arguments, strict=False):
        if word.startswith("-") or before in values:
            continue
        if word in names:
            raise commandline.UsageError(f"run one experiment with: {PROG}.{word}")
        raise commandline.UsageError(commandline.unknown("command", word, ["--all", "--help", *names]))


def run_experiments(options: Options) -> int:
    """Run every experiment and write the page.

    Args:
        options: how.

    Returns:
        0 if all finish with every claim held; 1 if a claim fails; 3 if an experiment does not finish.
    """
    heads = catalogue.heads()
    progress.stage(f"running {len(heads)} experiments, each with a log file in {options.out}/NAME/{options.preset}.log")
    jobs = options.jobs or run_all.default_jobs(options.preset)
    order = run_all.Order(options.preset, options.seed, options.out, jobs, options.again)
    outcomes = run_all.run(heads, order, say=lambda line: print(line, flush=True))
    failures = {outcome.name: outcome.words(order) for outcome in outcomes if not outcome.finished}
    written = html_report.write(options.out, options.preset, heads, failures)
    print(f"all figures and claims: {written}")
    if failures:
        return CRASHED
    return FAILS if any(outcome.status for outcome in outcomes) else HOLDS


def show(out: Path) -> None:
    """Print the table of experiments; where it would not fit, a paragraph each.

    Args:
        out: folder of all results, for the verdicts.
    """
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else TABLE_WIDTH, highlight=False)
    table = Table("name", "paper", "figure", "minutes", "last verdict")
    for head in catalogue.heads():
        verdict = storage.verdict(out / head.name)
        if console.width >= TABLE_WIDTH:
            table.add_row(head.name, head.paper, head.figure, head.minutes, verdict)
            continue
        console.print(Text.assemble((head.name, "bold"), f": {head.minutes} min, {verdict}"))
        console.print(Padding(Text(f"{head.paper}\n{head.figure}"), (0, 0, 0, 4)))
    if table.row_count:
        console.print(table)
    console.print(f"run one: {PROG}.NAME [--preset smoke|laptop|paper]; all: {PROG} --all", markup=False)


if __name__ == "__main__":
    sys.exit(main())
