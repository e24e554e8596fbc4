"""A flow of many layers, made from a small one without another compilation."""

from __future__ import annotations

import dataclasses

import numpy as np

from gradflow.instrument.flow import Flow, Meta


def many(flow, count, *, names="block_{}/query", factors=None, nan=(), dead=None):
    """The input and `count` copies of the layer "model/encoder", their gradients times `factors`."""
    first = flow._entries["model/encoder"]
    ahead, back = (np.asarray(part[first.pack], np.float64) for part in flow._arrays[:2])
    forward_at, backward_at = dict(first.ahead)["value"], dict(first.back)["value"]
    factors = dict(enumerate(factors)) if isinstance(factors, np.ndarray) else factors or {}
    entries, fronts, backs = [flow._entries["input"]], [ahead], [back]
    forward, backward = first.layout.forward, first.layout.backward
    for k in range(count):
        front = ahead[forward_at : forward_at + len(forward)].copy()
        behind = back[backward_at : backward_at + len(backward)].copy()
        scaled = [c.startswith("cotangent_") and c != "cotangent_max" for c in backward]
        behind[scaled] *= factors.get(k, 1.0) ** 2
        if k in nan:
            front[[c.startswith("output_") for c in forward]] = np.nan
            behind[scaled] = np.nan
            front[forward.index("nonfinite_forward")] = 1
        if k == dead:
            behind[backward.index("dead")] = first.units / 2
        at = len(ahead) + k * len(forward), len(back) + k * len(backward)
        places = {"ahead": (("value", at[0]),), "back": (("value", at[1]),), "silence": None, "order": (k,)}
        entries.append(dataclasses.replace(first, name=names.format(k), **places))
        fronts.append(front)
        backs.append(behind)
    meta = Meta(tuple(entries), flow._meta.leaves, flow._meta.unseen, flow._meta.wanted)
    arrays = [list(part) for part in flow._arrays[:2]]
    arrays[0][first.pack], arrays[1][first.pack] = (np.concatenate(p).astype(np.float32) for p in (fronts, backs))
    return Flow(meta, *arrays, *flow._arrays[2:])
