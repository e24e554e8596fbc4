"""Draw a flow as a table of text, a small log-scale bar a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from gradflow.instrument.flow import Flow, LayerFlow

_WIDTH = 16
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_LEVELS = "▁▂▃▄▅▆▇█"
_MOST_ROWS = 60
_COLUMNS = (
    ("output", "output_rms", "{:.2e}"),
    ("dL/doutput", "output_grad_rms", "{:.2e}"),
    ("dL/dweight", "weight_grad_rms", "{:.2e}"),
    ("zero", "zero_grad_fraction", "{:.0%}"),
    ("dead", "dead_fraction", "{:.0%}"),
    ("alike", "similarity", "{:.2f}"),
)


def render(flow: Flow) -> str:
    """Return the table: forward and backward rms, the backward one also as a bar between the smallest and the largest.

    A layer inside a scan shows the rms over its steps, and its bar is a curve over the steps. Leading axes (seeds,
    training steps) are averaged the same way.
    """
    names = list(flow)
    columns = [c for c in _COLUMNS if c[1] in flow.statistics]
    signal = {n: np.asarray(flow[n].output_grad_rms, np.float64) for n in names}
    positive = np.concatenate([np.ravel(s[np.isfinite(s) & (s > 0)]) for s in signal.values()] or [np.ones(1)])
    low, high = (np.log10(positive.min()), np.log10(positive.max())) if positive.size else (0.0, 0.0)
    rows = [["layer", *(title for title, _, _ in columns)]]
    bars = [f"dL/doutput, 10^{int(np.floor(low))} … 10^{int(np.ceil(high))}" if signal else ""]
    for name in _abridged(names):
        if name is None:
            rows.append(["…", *("" for _ in columns)])
            bars.append("")
            continue
        layer = flow[name]
        label = name if layer.kind == "layer" else f"{name} ({layer.kind})"
        rows.append([label, *(_cell(layer, field, form) for _, field, form in columns)])
        bars.append(_bar(signal[name], len(layer._entry.lengths), np.floor(low), np.ceil(high)))
    return _aligned(rows, bars) + _footnote(flow)


def _abridged(names: list[str]) -> list[str | None]:
    if len(names) <= _MOST_ROWS:
        return list(names)
    half = _MOST_ROWS // 2
    return [*names[:half], None, *names[-half:]]


def _aligned(rows: list[list[str]], bars: list[str]) -> str:
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = []
    for row, bar in zip(rows, bars, strict=True):
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join([*cells, bar]).rstrip())
    return "\n".join(lines)


def _footnote(flow: Flow) -> str:
    if "nonfinite" not in flow.statistics:
        return ""
    bad = []
    for name in flow:
        forward, backward = (int(np.nansum(np.asarray(c))) for c in flow[name].nonfinite)
        if forward or backward:
            bad.append(f"{name} (forward {forward}, backward {backward})")
    if not bad:
        return ""
    more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
    return f"\nNaN or Inf in: {', '.join(bad[:3])}{more}"


def _cell(layer: LayerFlow, field: str, form: str) -> str:
    values = np.asarray(getattr(layer, field), np.float64)
    if np.isnan(values).all():
        return "—"
    # The largest comes out first, so that squares of tiny values do not vanish here, of all places.
    top = np.nanmax(np.abs(values))
    if field.endswith("_rms") and np.isfinite(top) and top > 0:
        return form.format(top * np.sqrt(np.nanmean(np.square(values / top))))
    return form.format(np.nanmean(values))


def _bar(values: Any, scans: int, low: float, high: float) -> str:
    def height(v: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):
            place = (np.log10(v) - low) / max(high - low, 1e-9)
        return np.clip(np.nan_to_num(place, nan=0.0, posinf=1.0, neginf=0.0), 0.0, 1.0)

    if scans:
        curve = values.reshape(-1, values.shape[-1]).mean(0) if values.ndim > 1 else values
        chunks = np.array_split(curve, min(_WIDTH, len(curve)))
        heights = height(np.array([c.mean() for c in chunks]))
        return "".join(_LEVELS[round(h * (len(_LEVELS) - 1))] for h in heights)
    eighths = round(float(height(np.atleast_1d(values.mean()))[0]) * _WIDTH * 8)
    full, rest = divmod(eighths, 8)
    return "█" * full + (_EIGHTHS[rest] if rest else "")
