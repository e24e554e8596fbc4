"""Run an experiment from its command line: settings in, a folder of figures, data and checked claims out.

An experiment is one package beside this one. Its head docstring says paper, figure, command, cost and expected
numbers. In it are:

    settings.Config      frozen dataclass of every setting, `seed` among them; PRESETS has one for each preset
    experiment.run       config -> results, a frozen dataclass of arrays with everything that claims and figures need
    experiment.claims    results -> list of `Claim`
    figures.draw         results -> name to matplotlib figure

and, where text files belong to the result as well, `experiment.files`, results -> file name to text.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import jax

from experiments.framework import commandline, progress, resume, storage
from experiments.framework.claims import Claim, band_words, checked, headline, margin_words
from experiments.framework.exit_status import FAILS, HOLDS, guarded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Config = TypeVar("Config")
Results = TypeVar("Results")


@dataclasses.dataclass(frozen=True)
class Experiment(Generic[Config, Results]):
    """The parts of one experiment.

    Attributes:
        name: the file's name without .py.
        head: the file's docstring.
        presets: settings for "smoke", "laptop" and "paper".
        run: settings to results.
        claims: results to checked claims.
        figures: results to figures by name.
        files: results to further text files by file name, e.g. a table in Markdown.
        smoke_computes: whether its smoke run, too, computes longer than it compiles, and wants XLA's optimizations.
    """

    name: str
    head: str
    presets: Mapping[str, Config]
    run: Callable[[Config], Results]
    claims: Callable[[Results], list[Claim]]
    figures: Callable[[Results], Mapping[str, Figure]]
    files: Callable[[Results], Mapping[str, str]] | None = None
    smoke_computes: bool = False

    def __post_init__(self) -> None:
        """Check the presets."""
        if tuple(self.presets) != commandline.PRESET_NAMES:
            raise ValueError(f"presets must be {commandline.PRESET_NAMES}, got {tuple(self.presets)}")


def main(experiment: Experiment[Any, Any], arguments: Sequence[str] | None = None) -> int:
    """Carry out the command line of an experiment.

    Args:
        experiment: what to run.
        arguments: what follows the command; by default that of this process.

    Returns:
        0 if every claim holds, 1 if one fails, 2 for bad usage, 3 after a crash, 130 when interrupted.
    """
    prog = f"python -m experiments.{experiment.name}"
    saved: list[Path] = []  # where checkpoints of this run are, once its command line is read

    def run() -> int:
        _require_packages()
        typed = sys.argv[1:] if arguments is None else arguments
        command = commandline.parse(prog, experiment.head, experiment.presets, typed)
        saved.append(_checkpoint_folder(experiment, command))
        try:
            claims, folder = execute(experiment, command)
        except SystemExit:  # after SIGTERM in training that saves first
            raise KeyboardInterrupt from None
        report(experiment, claims, folder)
        return HOLDS if all(claim.holds for claim in claims) else FAILS

    def after_interrupt() -> str:
        there = any(folder.exists() for folder in saved)
        return "--resume goes on from what it saved" if there else "nothing was written"

    return guarded(prog, run, after_interrupt)


def execute(experiment: Experiment[Any, Any], command: commandline.Command[Any]) -> tuple[list[Claim], Path]:
    """Run an experiment and write its results folder.

    Args:
        experiment: what to run.
        command: with which settings, and where to.

    Returns:
        The checked claims, and the folder that holds the results.

    Raises:
        UsageError: if a stopped run of the same settings left checkpoints, and this one is not to go on from them.
    """
    with resume.keep_checkpoints(_checkpoint_folder(experiment, command), resume=command.resume):
        return _executed(experiment, command)


def _checkpoint_folder(experiment: Experiment[Any, Any], command: commandline.Command[Any]) -> Path:
    return resume.place(command.out / experiment.name / command.preset, dataclasses.asdict(command.config))


def _executed(experiment: Experiment[Any, Any], command: commandline.Command[Any]) -> tuple[list[Claim], Path]:
    started = time.perf_counter()
    with progress.compilation_shown(), _optimizations(command.preset != "smoke" or experiment.smoke_computes):
        results = experiment.run(command.config)
    claims = checked(experiment.claims(results))
    figures = experiment.figures(results)
    files = experiment.files(results) if experiment.files else {}
    settings = {
        "experiment": experiment.name,
        "preset": command.preset,
        "config": dataclasses.asdict(command.config),
        "seconds": round(time.perf_counter() - started, 1),
        "figures": list(figures),
    }
    folder = command.out / experiment.name / command.preset
    with storage.replacing(folder) as partial:
        storage.write_data(partial / "data.npz", results)
        storage.write_figures(partial, figures)
        storage.write_config(partial / storage.CONFIG_FILE, settings)
        storage.write_claims(partial / storage.CLAIMS_FILE, claims)
        for name, text in files.items():
            (partial / name).write_text(text, encoding="utf-8")
    return claims, folder


@contextlib.contextmanager
def _optimizations(wanted: bool) -> Iterator[None]:
    """Compile with most of XLA's optimizations or without: most smoke runs compile far longer than they compute."""
    earlier: Any = jax.config.read("jax_disable_most_optimizations")
    chosen = earlier or not wanted
    with contextlib.ExitStack() as undo:
        if chosen != earlier:
            # JAX does not tell by this setting which compiled program to take from its caches: one from before would
            # give other last bits, so that they depended on what the process did earlier.
            undo.callback(jax.clear_caches)
            undo.callback(jax.config.update, "jax_disable_most_optimizations", earlier)
            jax.clear_caches()
            jax.config.update("jax_disable_most_optimizations", chosen)
        yield


def report(experiment: Experiment[Any, Any], claims: Sequence[Claim], folder: Path) -> None:
    """Print the claims as a table, and where the results are.

    Args:
        experiment: what was run.
        claims: its claims.
        folder: its results.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"{experiment.name}: claims", title_justify="left")
    for column in ("claim", "source"):
        table.add_column(column, overflow="fold", ratio=3 if column == "claim" else 2)
    table.add_column("basis")
    for column in ("band", "measured", "margin", "holds"):
        table.add_column(column, justify="right")
    records = [claim.record() for claim in claims]
    for claim, record in zip(claims, records, strict=True):
        table.add_row(
            escape(claim.claim),
            escape(claim.band.source),
            claim.band.basis,
            band_words(record),
            f"{claim.measured:.4g}",
            margin_words(record),
            "[green]yes[/]" if claim.holds else "[bold red]NO[/]",
        )
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(table)
    console.print(f"{headline(records)}. Figures and data in {folder}", highlight=False)


def _require_packages() -> None:
    missing = [name for name in ("matplotlib", "rich", "tyro") if importlib.util.find_spec(name) is None]
    if missing:
        raise commandline.UsageError(
            f"{', '.join(missing)} cannot be imported, which experiments need. "
            "Fix: pip install 'gradflow-jax[experiments]'"
        )
