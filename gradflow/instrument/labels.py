"""Short labels for long names: what differs stays, and an ellipsis replaces the rest."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["shorten"]

_SHARES = (0.5, 0.35, 0.65, 0.2, 0.8, 0.0, 1.0)


def shorten(labels: Sequence[str], width: int) -> list[str]:
    """Return labels of at most `width` characters, as distinct as can be.

    Args:
        labels: distinct ones.
        width: characters at most.
    """
    if all(len(label) <= width for label in labels):
        return list(labels)
    start = _common_start(labels)
    bare = [f"…{label[start:]}" if start > 1 and len(label) > width else label for label in labels]
    if all(len(label) <= width for label in bare) and len(set(bare)) == len(bare):
        return bare
    candidates = [[_cut(label, width, share) for label in source] for source in (bare, labels) for share in _SHARES]
    return max(candidates, key=lambda shown: len(set(shown)))


def _common_start(labels: Sequence[str]) -> int:
    """Return where the part begins that differs among labels of more than one piece: behind the last common "/"."""
    long = [label for label in labels if "/" in label]
    if len(long) < 2:
        return 0
    low, high = min(long), max(long)
    common = next((k for k, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
    return low.rfind("/", 0, common) + 1


def _cut(label: str, width: int, share: float) -> str:
    """Take the middle out; `share` of what stays is the beginning."""
    if len(label) <= width:
        return label
    head = round((width - 1) * share)
    tail = width - 1 - head
    return f"{label[:head]}…{label[len(label) - tail :]}"
