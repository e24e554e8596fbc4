"""What theory says of one layer, beside what was measured."""

from __future__ import annotations

import dataclasses
import math

__all__ = ["LayerPrediction"]


@dataclasses.dataclass(frozen=True)
class LayerPrediction:
    """One layer (one step of it, inside a scan): what theory says beside what was measured.

    Attributes:
        name: as in the flow.
        step: of the scans around it, () for none.
        output_rms, output_grad_rms: predicted.
        measured_output_rms, measured_output_grad_rms: from the flow.
        output_band, output_grad_band: factor by which one network of this width may stray from the prediction.
        anchored: whether its gradient is the measured one, from which those below it are predicted.
        note: what theory assumes here or why it starts anew, "" if it simply holds.
        starts_anew: whether its output follows from its measured input, or is the measured one, since what comes before
            is outside the theory.
    """

    name: str
    step: tuple[int, ...]
    output_rms: float
    output_grad_rms: float
    measured_output_rms: float
    measured_output_grad_rms: float
    output_band: float
    output_grad_band: float
    anchored: bool
    note: str
    starts_anew: bool = False

    @property
    def deviations(self) -> tuple[str, ...]:
        """Which measured numbers are outside their bands: "output", "gradient", both or none."""
        pairs = (
            ("output", self.output_rms, self.measured_output_rms, self.output_band),
            ("gradient", self.output_grad_rms, self.measured_output_grad_rms, self.output_grad_band),
        )
        return tuple(which for which, said, seen, band in pairs if not _within(said, seen, band))


def _within(said: float, seen: float, band: float) -> bool:
    if math.isnan(said):
        return True  # nothing was predicted
    if said == 0 or seen == 0:
        return said == seen
    return 1 / band <= seen / said <= band
