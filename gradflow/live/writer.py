"""What the writers of this package share: a flow alone is written as a recorded step that has nothing else."""

from __future__ import annotations

import weakref
from typing import Any

from gradflow.instrument import Flow
from gradflow.live.record import Snapshot

__all__ = ["Writer"]


class Writer:
    """Base of the writers here; your own need no base, only `write`."""

    _owner: Any = None

    def claim(self, who: Any) -> None:
        """Belong to who writes, until that is closed: two runs in one place could not be told apart.

        Args:
            who: has `is_open`.

        Raises:
            ValueError: if it belongs to another who is open.
        """
        if self.belongs_to_other(who):
            raise ValueError(
                "expected a writer of one watch, got one that another open watch writes to. Fix: a writer of its own "
                "for each watch, or close the other one before"
            )
        self._owner = weakref.ref(who)

    def belongs_to_other(self, who: Any) -> bool:
        """Return whether somebody else writes, who is open.

        Args:
            who: would write, too.
        """
        owner = None if self._owner is None else self._owner()
        return owner is not None and owner is not who and bool(owner.is_open)

    def write(self, flow: Flow, step: int) -> None:
        """Write a flow.

        Args:
            flow: of the step.
            step: its number.
        """
        self.write_snapshot(Snapshot(step, flow))

    def write_snapshot(self, snapshot: Snapshot) -> None:
        """Write a recorded step.

        Args:
            snapshot: of it.
        """
        raise NotImplementedError
