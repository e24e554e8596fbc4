"""The exit status of every command: one number for each way to end."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType

from experiments.framework.commandline import UsageError

HOLDS, FAILS, BAD_USAGE, CRASHED, INTERRUPTED = 0, 1, 2, 3, 130


def guarded(prog: str, call: Callable[[], int], after_interrupt: Callable[[], str] = lambda: "") -> int:
    """Make a call and return its status; bad usage and an interrupt are said in one line, a crash with its traceback.

    Args:
        prog: the command as typed.
        call: returns `HOLDS` or `FAILS`.
        after_interrupt: returns what an interrupted user should know.
    """
    earlier = signal.signal(signal.SIGTERM, raise_interrupt)
    try:
        return call()
    except UsageError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return BAD_USAGE
    except KeyboardInterrupt:
        print("; ".join(filter(None, (f"{prog}: interrupted", after_interrupt()))), file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        traceback.print_exc()
        print(f"{prog}: crashed ({type(error).__name__})", file=sys.stderr)
        return CRASHED
    finally:
        signal.signal(signal.SIGTERM, earlier)


def raise_interrupt(number: int, frame: FrameType | None) -> None:
    """Handle SIGTERM as Ctrl-C: clean up, then stop.

    Args:
        number: of the signal.
        frame: where it came.

    Raises:
        KeyboardInterrupt: always.
    """
    raise KeyboardInterrupt
