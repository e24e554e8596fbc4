"""Commands of gradflow.

python -m gradflow                              this list
python -m gradflow diagnose MODULE:FUNCTION     what is wrong with a network; for continuous integration
python -m gradflow report RUN ...               a page of recorded runs; --out report.html
python -m gradflow watch RUN                    a recorded run in the terminal, as it grows; --once
python -m gradflow data ...                     data sets on this machine, as `python -m gradflow.data`
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from gradflow import _lookup

GOOD, BAD_USAGE = 0, 2
COMMANDS = {
    "diagnose": "gradflow.diagnosis.command",
    "report": "gradflow.live.reporting.command",
    "watch": "gradflow.live.terminal",
    "data": "gradflow.data.__main__",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out `python -m gradflow`.

    Args:
        arguments: what follows the command; by default that of this process.

    Returns:
        Exit status of the command: 0 if all is well, 1 if not, 2 for bad usage.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        print((__doc__ or "").strip())
        return GOOD
    try:
        home = _lookup.find("command", given[0], COMMANDS)
        command = importlib.import_module(home)
    except (ValueError, ModuleNotFoundError) as error:
        advice = "" if isinstance(error, ValueError) else ". Fix: pip install 'gradflow-jax[experiments]'"
        print(f"python -m gradflow: {error}{advice}", file=sys.stderr)
        return BAD_USAGE
    status: int = command.main(given[1:])
    return status


if __name__ == "__main__":
    sys.exit(main())
