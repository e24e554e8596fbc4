"""A layer's statistics as plain Python values, ready for JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gradflow.instrument.entries import BACKWARD_FIELDS, FORWARD_FIELDS

if TYPE_CHECKING:
    from gradflow.instrument.views import LayerView

__all__ = ["is_there", "layer_record"]


def layer_record(layer: LayerView) -> dict[str, Any]:
    """Return what `LayerFlow.to_record` promises."""
    fields = layer.statistics
    record: dict[str, Any] = {"name": layer.name, "kind": layer.kind, "shape": list(layer.shape), "dtype": layer.dtype}
    record |= {key: value for key, value in (("role", layer.role), ("computed_in", layer.computed_in)) if value}
    record["calls"], record["backward_calls"] = _plain(layer.calls), _plain(layer.backward_calls)
    for field in fields:
        value = getattr(layer, field)
        if field == "nonfinite":
            record["nonfinite_forward"] = _plain(value.forward)
            record["nonfinite_backward"] = _plain(value.backward, layer.kind != "input")
        else:
            record[field] = _plain(value, is_there(layer, field))
    if layer.experts:
        record["expert_rows"] = _plain(layer.expert_rows)
        record["expert_zero_fraction"] = _plain(layer.expert_zero_fraction, np.asarray(layer.expert_rows) > 0)
    remarks = {field: layer.remark(field) for field in fields}
    record["remarks"] = {field: words for field, words in remarks.items() if words}
    return record


def is_there(layer: LayerView, field: str) -> Any:
    """Tell row by row whether a number is there at all."""
    words = layer.remark(field)
    if words and not words.startswith("zero or"):
        return False
    if field in BACKWARD_FIELDS:
        there = np.asarray(layer.backward_calls) > 0
        return there[..., None] if field == "exponent_histogram" else there
    if field == "similarity":
        return layer.compares_examples
    return np.asarray(layer.calls) > 0 if field in FORWARD_FIELDS else True


def _plain(x: Any, there: Any = True) -> Any:
    """Turn an array into nested lists of floats; None where there is no number, a word for NaN and Inf."""
    values, there = np.broadcast_arrays(np.asarray(x, np.float64), there)
    if values.ndim:
        return [_plain(v, t) for v, t in zip(values, there, strict=True)]
    if not there:
        return None
    number = float(values)
    if np.isfinite(number):
        return number
    return "NaN" if np.isnan(number) else "Infinity" if number > 0 else "-Infinity"
