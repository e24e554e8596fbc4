"""Paper-style figures that check themselves: `python -m experiments` lists them."""

from __future__ import annotations

import importlib.util
import sys


def _reject_unknown_name(command: list[str]) -> None:
    """End `python -m experiments.NAME` with one line and status 2 when there is no such NAME.

    Python itself would answer with "No module named", without a nearest match.
    """
    module = command[command.index("-m") + 1] if "-m" in command[:-1] else ""
    package, _, name = module.partition(".")
    if package != __name__ or not name or importlib.util.find_spec(f"{package}.{name.partition('.')[0]}") is not None:
        return
    from experiments.framework.catalogue import heads
    from experiments.framework.commandline import unknown

    names = [head.name for head in heads()]
    print(f"python -m experiments: {unknown('experiment', name, names)}", file=sys.stderr)
    raise SystemExit(2)


_reject_unknown_name(sys.orig_argv)
