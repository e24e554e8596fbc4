"""A flow in a few numbers and names, for dashboards that show curves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from gradflow.instrument.records import is_there
from gradflow.live.record import Snapshot

if TYPE_CHECKING:
    from gradflow.instrument.views import LayerView

__all__ = ["layer_number", "layer_update_ratio", "scalars", "worst_layers"]


def layer_number(layer: LayerView, field: str) -> float | None:
    """Return one number for a layer: of one inside a scan the root mean square, or the mean, over the steps that ran.

    Args:
        layer: of a flow.
        field: a statistic of it.

    Returns:
        None where there is no number; NaN or Inf where the network has that.
    """
    if field not in layer.statistics:
        return None
    values, there = np.broadcast_arrays(np.asarray(getattr(layer, field), np.float64), is_there(layer, field))
    values = values[there]
    if not values.size:
        return None
    if not field.endswith("_rms"):
        return float(values.mean())
    largest = float(np.max(np.abs(values)))
    if not math.isfinite(largest) or largest == 0:
        return largest
    return largest * math.sqrt(float(np.mean(np.square(values / largest))))


def _numbers(snapshot: Snapshot, field: str) -> dict[str, float]:
    found = {name: layer_number(snapshot.flow[name], field) for name in snapshot.flow.layers}
    return {name: value for name, value in found.items() if value is not None}


def layer_update_ratio(snapshot: Snapshot, name: str) -> float | None:
    """Return the largest update-to-weight ratio of a layer's kernels.

    None where there is none, such as where the parameter is 0; NaN where the parameter, or its gradient, is not finite.

    Args:
        snapshot: of a recorded step.
        name: of the layer.
    """
    flow, ratios = snapshot.flow, snapshot.update_ratios or {}
    own = {
        path: value
        for path, value in ratios.items()
        if path in (name, f"{name}/{path.rpartition('/')[2]}")
        and (path not in flow.parameters or len(flow.parameters[path].shape) > 1)
    }
    known = [value for value in own.values() if not math.isnan(value)]
    if any(math.isnan(value) and _is_broken(snapshot, path) for path, value in own.items()):
        return math.nan
    return max(known) if known else None


def _is_broken(snapshot: Snapshot, path: str) -> bool:
    """Tell whether a leaf, or its gradient, holds NaN or Inf, as far as that was measured."""
    flow = snapshot.flow
    leaf = flow.parameters.get(path)
    if leaf is None:
        return False
    sizes = [leaf.rms] if "weight_rms" in flow.statistics else []
    sizes += [leaf.gradient_norm] if leaf.has_gradient else []
    return not all(math.isfinite(size) for size in sizes)


def scalars(snapshot: Snapshot) -> dict[str, float]:
    """Return at most 20 numbers of a recorded step, by tag; a number that is not there has no tag.

    Args:
        snapshot: of the step.
    """
    found: dict[str, float] = {} if snapshot.loss is None else {"loss": snapshot.loss}
    gradient = _numbers(snapshot, "output_grad_rms")
    logs = [math.log10(g) for g in gradient.values() if math.isfinite(g) and g > 0]
    complete = len(logs) == len(gradient)
    if len(logs) > 1:
        if complete:
            found["flow/log10 gradient first over last layer"] = logs[0] - logs[-1]
            found["flow/log10 gradient largest change between layers"] = float(np.abs(np.diff(logs)).max())
        found["flow/log10 gradient smallest over largest"] = min(logs) - max(logs)
    found |= _norms(snapshot)
    found |= _shares(snapshot)
    for direction in ("forward", "backward") if "nonfinite" in snapshot.flow.statistics else ():
        counts = [np.sum(np.asarray(getattr(layer.nonfinite, direction))) for layer in snapshot.flow.values()]
        found[f"flow/nonfinite {direction}"] = float(np.nansum(np.asarray(counts, np.float64)))
    return found


def _norms(snapshot: Snapshot) -> dict[str, float]:
    found: dict[str, float] = {}
    norms = [float(leaf.gradient_norm) for leaf in snapshot.flow.parameters.values() if leaf.has_gradient]
    if norms:
        found["flow/gradient norm"] = math.hypot(*norms)
    if snapshot.update_norm is not None:
        found["flow/update norm"] = snapshot.update_norm
    ratios = [x for x in (snapshot.update_ratios or {}).values() if not math.isnan(x)]
    if ratios:
        found["flow/update to weight smallest"] = min(ratios)
        found["flow/update to weight largest"] = max(ratios)
    return found


def _shares(snapshot: Snapshot) -> dict[str, float]:
    found: dict[str, float] = {}
    names = {
        "dead_fraction": "dead units",
        "zero_grad_fraction": "zero gradient entries",
        "underflow_fraction": "underflow in float16",
    }
    for field, words in names.items():
        values = [v for v in _numbers(snapshot, field).values() if not math.isnan(v)]
        if values:
            found[f"flow/{words} mean of layers"] = float(np.mean(values))
            found[f"flow/{words} worst layer"] = max(values)
    return found


def worst_layers(snapshot: Snapshot) -> dict[str, str]:
    """Return the names of the layers that stand out, by what they stand out for.

    Args:
        snapshot: of a recorded step.
    """
    found: dict[str, str] = {}
    gradient = {n: g for n, g in _numbers(snapshot, "output_grad_rms").items() if math.isfinite(g)}
    if gradient:
        found["smallest gradient"] = _named(gradient, min)
        found["largest gradient"] = _named(gradient, max)
    dead = {n: v for n, v in _numbers(snapshot, "dead_fraction").items() if v > 0}
    if dead:
        found["most dead units"] = _named(dead, max)
    ratios = {n: v for n, v in (snapshot.update_ratios or {}).items() if not math.isnan(v)}
    if ratios:
        found["smallest update to weight"] = _named(ratios, min)
        found["largest update to weight"] = _named(ratios, max)
    if "nonfinite" in snapshot.flow.statistics and (place := snapshot.flow.first_nonfinite) is not None:
        found["not finite first"] = str(place)
    return found


def _named(values: Mapping[str, float], pick: Any) -> str:
    name = pick(values, key=values.__getitem__)
    return f"{name} ({values[name]:.3g})"
