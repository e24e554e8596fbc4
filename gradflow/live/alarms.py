"""What stands out in a recorded step, in words: by the limits of diagnosis, as far as one flow holds what they need."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jaxtyping import Float

from gradflow.diagnosis.thresholds import EXPLODED, STALLED, VANISHED, dead_limit
from gradflow.live.record import Snapshot

__all__ = ["alarms"]

_LEAST_RANK = 2  # of a leaf that is a matrix or a kernel


def alarms(snapshot: Snapshot) -> tuple[str, ...]:
    """Return a sentence for each thing that stands out in a recorded step; no factor of the loss changes them.

    A flow has no loss to try anything with, so this is less than `gradflow.diagnose` says: where NaN or Inf began; the
    norm of the cotangent at the first layer over that at the last; weights that the step moves far less than others;
    units without a gradient. Over depth the second is left out where the step moves all weights alike, as Adam does.

    Args:
        snapshot: of the step.
    """
    flow = snapshot.flow
    if "nonfinite" in flow.statistics and (place := flow.first_nonfinite) is not None:
        return (f"NaN or Inf {place}",)
    moved = _moved(snapshot)
    return (*_path(flow, moved), *_stalled(moved), *_dead(flow))


def _path(flow: Any, moved: dict[str, float]) -> tuple[str, ...]:
    """Say how the cotangent changes from the last step of the last layer to the first of the first."""
    if "output_grad_rms" not in flow.statistics:
        return ()
    rows = []
    for name in flow.layers:
        layer = flow[name]
        if layer.kind in ("layer", "embedding") and layer.computed_in == "value":
            size = math.prod(layer.shape)
            norms = np.asarray(layer.output_grad_rms, np.float64) * np.sqrt(size * np.asarray(layer.backward_calls))
            rows += [(layer.order(*index), name, index, norms[index]) for index in np.ndindex(norms.shape)]
    if len(rows) < _LEAST_RANK:
        return ()
    (_, first, start, low), (_, last, end, high) = min(rows), max(rows)
    if not (0 < low < math.inf and 0 < high < math.inf):
        return ()
    log = math.log10(low / high)
    over_time = bool(start) and flow[first].weight is not None and not flow[first].weight.scans
    if VANISHED <= log <= EXPLODED or (not over_time and _alike(moved)):
        return ()
    places = [name + "".join(f"[{i}]" for i in index) for name, index in ((first, start), (last, end))]
    word = "shrinks" if log < 0 else "grows"
    return (f"the gradient {word} by a factor of {10 ** abs(log):.1e} from {places[1]} to {places[0]}",)


def _moved(snapshot: Snapshot) -> dict[str, float]:
    """Return update over weight of the kernels that a gradient reaches; one of 0 is frozen, by somebody's intention."""
    leaves = snapshot.flow.parameters
    return {
        path: ratio
        for path, ratio in (snapshot.update_ratios or {}).items()
        if 0 < ratio < math.inf
        and path in leaves
        and sum(n > 1 for n in leaves[path].shape) >= _LEAST_RANK
        and leaves[path].has_gradient
        and float(leaves[path].gradient_norm) > 0
    }


def _alike(moved: dict[str, float]) -> bool:
    return bool(moved) and math.log10(min(moved.values()) / max(moved.values())) > STALLED


def _stalled(moved: dict[str, float]) -> tuple[str, ...]:
    if len(moved) < _LEAST_RANK:
        return ()
    middle = float(np.median(list(moved.values())))
    least = min(moved, key=moved.__getitem__)
    if not moved[least] < middle * 10**STALLED:
        return ()
    return (f"relative to its size, {least} moves {middle / moved[least]:.1e} times less than the median weight",)


def _dead(flow: Any) -> tuple[str, ...]:
    """Name the layer with the most units without a gradient, beyond what chance allows at the start.

    Nothing is known of what lies below a layer that is dead as a whole.
    """
    if "dead_fraction" not in flow.statistics or not flow.layers:
        return ()
    found: dict[str, tuple[float, float]] = {}
    for name in reversed(flow.layers):
        layer = flow[name]
        # The limit of chance is that of several examples a unit.
        several = math.prod(layer.shape) >= 2 * max(layer.units, 1)
        if layer.kind != "layer" or layer.cut or not np.any(layer.backward_calls) or not several:
            continue
        share = _largest(np.asarray(layer.dead_fraction, np.float64))
        if name != flow.layers[-1] and share > dead_limit(layer.units):
            found[name] = share, dead_limit(layer.units)
        if share == 1:
            break
    if not found:
        return ()
    worst = max(found, key=lambda name: found[name][0])
    share, limit = found[worst]
    return (f"{share:.0%} of the units of {worst} get no gradient from this batch (by chance at most {limit:.0%})",)


def _largest(shares: Float[np.ndarray, "..."]) -> float:
    known = shares[np.isfinite(shares)]
    return float(known.max()) if known.size else 0.0
