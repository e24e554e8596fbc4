"""Cells of a flow's table: one statistic of one layer, over its steps, as a number or as words."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from gradflow.instrument.entries import BACKWARD_FIELDS, FORWARD_FIELDS
from gradflow.instrument.records import is_there

if TYPE_CHECKING:
    from gradflow.instrument.views import FlowView, LayerView

__all__ = ["ABSENT", "COLUMNS", "NOT_KNOWN", "Cell", "Column", "columns_of", "combine", "curve", "present", "summary"]

ABSENT = "—"
NOT_KNOWN = "not known"
_RMS, _MEAN, _PERCENT, _COSINE = "{:.2e}", "{:+.1e}", "{:.0%}", "{:.2f}"


class Column(NamedTuple):
    """One column of the table.

    Attributes:
        title, short: its heading, and that for a narrow terminal.
        field: of `LayerFlow`.
        form: how a number is written.
        rank: the columns with the highest ranks are left out first where the terminal is narrow.
    """

    title: str
    short: str
    field: str
    form: str
    rank: int

    @property
    def compact(self) -> Column:
        """The column for a narrow terminal: a short heading, one digit less."""
        return self._replace(title=self.short, form=self.form.replace(".2e", ".1e"))


COLUMNS = (
    Column("output", "output", "output_rms", _RMS, 1),
    Column("mean", "mean", "output_mean", _MEAN, 6),
    Column("dL/doutput", "dL/dout", "output_grad_rms", _RMS, 0),
    Column("dL/dweight", "dL/dw", "weight_grad_rms", _RMS, 4),
    Column("zero", "zero", "zero_grad_fraction", _PERCENT, 3),
    Column("dead", "dead", "dead_fraction", _PERCENT, 2),
    Column("underflow", "underfl.", "underflow_fraction", _PERCENT, 5),
    Column("alike", "alike", "similarity", _COSINE, 7),
)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One statistic of one layer.

    Attributes:
        number: over all steps that hold one: rms combined as rms, the others as means. NaN where there is none; NaN or
            Inf where a step holds NaN or Inf.
        count: how many steps (records of stacked flows among them) hold a number.
        nan, inf: how many of these are NaN, and Inf.
        words: what stands in place of a number, "" where there is one.
    """

    number: float
    count: int = 0
    nan: int = 0
    inf: int = 0
    words: str = ""

    @property
    def is_nonfinite(self) -> bool:
        """Whether NaN or Inf is in it."""
        return self.nan + self.inf > 0

    def text(self, form: str) -> str:
        """Write it: a number, "NaN 19/20", or words."""
        if self.words:
            return self.words
        for name, bad in (("NaN", self.nan), ("Inf", self.inf)):
            if bad:
                return name if self.count == 1 else f"{name} {bad}/{self.count}"
        if form == _PERCENT:
            return _percent(self.number)
        if self.number == 0 and form.endswith("e}"):
            return "0"
        written = form.format(self.number)
        return written.lstrip("-") if float(written) == 0 else written


def summary(layer: LayerView, field: str) -> Cell:
    """Combine a statistic over the steps, and over stacked flows, in which it is there.

    Args:
        layer: of which.
        field: a statistic other than `nonfinite`.
    """
    values, weights = present(layer, field)
    there = weights > 0
    if not there.any():
        return Cell(np.nan, words=_words(layer.remark(field)))
    values, weights = values[there], weights[there]
    nan, inf = int(np.isnan(values).sum()), int(np.isinf(values).sum())
    number = combine(values, weights, is_rms=field.endswith("_rms"))
    return Cell(number, values.size, nan, inf)


def present(layer: LayerView, field: str) -> tuple[Float[np.ndarray, "*steps"], Float[np.ndarray, "*steps"]]:
    """Return a statistic's values, and how often the layer ran for each: 0 where there is no number.

    Args:
        layer: of which.
        field: a statistic other than `nonfinite`.
    """
    values = np.asarray(getattr(layer, field), np.float64)
    weights: Any = np.broadcast_to(is_there(layer, field), values.shape).astype(np.float64)
    if field in BACKWARD_FIELDS:
        weights = weights * np.asarray(layer.backward_calls, np.float64)
    elif field in FORWARD_FIELDS:
        weights = weights * np.asarray(layer.calls, np.float64)
    return values, np.asarray(weights)


def combine(values: Float[np.ndarray, " steps"], weights: Float[np.ndarray, " steps"], *, is_rms: bool) -> float:
    """Return the mean of values, or the rms of their union, with the weight of each."""
    shares = weights / weights.sum()
    top = np.abs(values).max()
    if not is_rms or not np.isfinite(top) or top == 0:
        with np.errstate(invalid="ignore"):
            return float((values * shares).sum())
    # The largest comes out first, so that squares of tiny values do not vanish here.
    return float(top * np.sqrt((np.square(values / top) * shares).sum()))


def curve(layer: LayerView, field: str, points: int) -> list[float | None]:
    """Return a statistic over the steps of the innermost scan, in the order of their index.

    Args:
        layer: of which; outside of scans the curve is empty.
        field: a statistic that is an rms.
        points: how many at most; neighbouring steps are combined.

    Returns:
        Numbers, None where no step of a point holds one.
    """
    if not layer.lengths or not points:
        return []
    values, weights = present(layer, field)
    length = values.shape[-1]
    values, weights = values.reshape(-1, length).T, weights.reshape(-1, length).T
    out: list[float | None] = []
    for steps in np.array_split(np.arange(length), min(points, length)):
        there = weights[steps] > 0
        some = there.any()
        out.append(combine(values[steps][there], weights[steps][there], is_rms=True) if some else None)
    return out


def columns_of(flow: FlowView) -> list[Column]:
    """Return the columns of the statistics that were asked for."""
    return [c for c in COLUMNS if c.field in flow.statistics]


def _words(remark: str) -> str:
    if remark.startswith("not reached"):
        return "not reached"
    return {"did not run": "not run", "not known in float16": NOT_KNOWN}.get(remark, ABSENT)


def _percent(number: float) -> str:
    if 0 < number < 0.005:
        return "<1%"
    return ">99%" if 0.995 <= number < 1 else _PERCENT.format(number)
