"""The entry point of an experiment's command: it prints a line before the imports, which take seconds."""

from __future__ import annotations

from experiments.framework import catalogue, progress
from experiments.framework.exit_status import guarded


def run(name: str) -> int:
    """Carry out `python -m experiments.NAME` with the arguments of this process.

    Args:
        name: of the experiment.

    Returns:
        0 if every claim holds, 1 if one fails, 2 for bad usage, 3 after a crash, 130 when interrupted.
    """
    progress.stage(f"importing {name}")

    def imported() -> int:
        from experiments.framework.runner import main

        return main(catalogue.load(name))

    return guarded(f"python -m experiments.{name}", imported)
