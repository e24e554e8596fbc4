"""What the writers of this package share: a flow alone is written as a recorded step that has nothing else."""

from __future__ import annotations

from gradflow.instrument import Flow
from gradflow.live.record import Snapshot

__all__ = ["Writer"]


class Writer:
    """Base of the writers here; your own need no base, only `write`."""

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
