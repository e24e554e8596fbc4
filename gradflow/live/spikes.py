"""When something happened in a run: robust z-scores of logarithms of gradient sizes, and values that are not finite."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from gradflow.live.postmortem import PostMortem
from gradflow.live.record import Snapshot

__all__ = ["Detector", "Points", "layer_gradients", "robust_scores"]

SPIKE = 7.0  # scores of the whole gradient that are an event
MOVED = 5.0  # of a layer or the loss that count as having left its usual size
CALM = 3.0  # below which an event is over
COLLAPSE = 1e-3  # part of its usual size to which a gradient has collapsed
FLOOR = 0.1  # least spread of a logarithm: noise of 10 % is no news, however still it was before
LEAST = 20  # points without which nothing is usual yet
AFTER = 10  # points to wait for, in case the loss moves later
AT_ONCE = 2  # the same where a run may end soon
_ZERO = -1e6  # stands for the logarithm of 0
RECORDS = 100  # points that are kept where only recorded steps are looked at


@dataclasses.dataclass(frozen=True, eq=False)
class Points:
    """Consecutive steps on the host.

    Attributes:
        steps: their numbers.
        losses: NaN where one is not known.
        gradients: size of the gradient of each layer.
        layers: their names.
    """

    steps: Int[np.ndarray, " steps"]
    losses: Float[np.ndarray, " steps"]
    gradients: Float[np.ndarray, "steps layers"]
    layers: tuple[str, ...]


def layer_gradients(snapshot: Snapshot) -> Points:
    """Return a recorded step as a point: gradient norms of the leaves, layer by layer.

    Args:
        snapshot: of the step.
    """
    squares: dict[str, float] = {}
    for path, leaf in snapshot.flow.parameters.items():
        if leaf.has_gradient:
            layer = path.rpartition("/")[0] or path
            squares[layer] = float(np.hypot(squares.get(layer, 0.0), np.float64(leaf.gradient_norm)))
    loss = np.nan if snapshot.loss is None else snapshot.loss
    values = np.array([list(squares.values())], np.float64)
    return Points(np.array([snapshot.step], np.int64), np.array([loss]), values, tuple(squares))


def robust_scores(values: Float[np.ndarray, "steps *rest"], usual: Float[np.ndarray, "before *rest"]) -> Any:
    r"""Return how far values lie from usual ones, (ln x - median ln) / max(1.4826 MAD, 0.1); Inf for what has no log.

    A factor of all values changes no score.

    Args:
        values: sizes, not negative.
        usual: the same at earlier steps.

    Returns:
        Scores of the shape of `values`: positive above the median; Inf for NaN and Inf, -Inf for 0; 0 where the median
        is 0, so that nothing is usual.
    """
    middle, spread = _usual(_log(usual))
    with np.errstate(all="ignore"):
        scores = (_log(values) - middle) / np.maximum(1.4826 * spread, FLOOR)
    return np.where(np.isfinite(values), np.where(np.isnan(scores), 0.0, scores), np.inf)


def _loss_scores(values: Float[np.ndarray, " steps"], usual: Float[np.ndarray, " before"]) -> Any:
    """Return scores of losses: of logarithms where all are positive, else of the losses themselves."""
    known = usual[np.isfinite(usual)]
    if not known.size:
        return np.where(np.isinf(values), np.inf, 0.0)
    if (known > 0).all():
        positive = np.where(values < 0, 0.0, values)
        return np.where(np.isnan(values), np.inf, robust_scores(positive, known))
    middle = np.median(known)
    spread = max(1.4826 * np.median(np.abs(known - middle)), FLOOR * abs(middle))
    with np.errstate(all="ignore"):
        scores = (values - middle) / spread
    return np.where(np.isfinite(values), np.nan_to_num(scores), np.inf)


def _log(x: Any) -> Any:
    with np.errstate(all="ignore"):
        return np.log(np.where(np.isfinite(x), x, np.nan))


def _usual(logs: Any) -> tuple[Any, Any]:
    """Return median and median distance from it along the first axis; NaN where the usual size is 0 or not known."""
    columns = logs.reshape(len(logs), -1).T
    found = [_median_and_spread(column[~np.isnan(column)]) for column in columns]
    middle, spread = np.array(found, np.float64).reshape(*logs.shape[1:], 2).T if logs.ndim > 1 else found[0]
    return middle, spread


def _median_and_spread(logs: Float[np.ndarray, " before"]) -> tuple[float, float]:
    if not logs.size or np.isneginf(middle := np.median(np.maximum(logs, _ZERO))) or middle == _ZERO:
        return np.nan, 0.0
    return float(middle), float(np.median(np.abs(np.maximum(logs, _ZERO) - middle)))


class Detector:
    """Looks at the steps of a run one by one.

    Args:
        history: steps that are kept; 0 for the last 100 recorded ones.

    Attributes:
        flow: of the last recorded step, which tells the order of the layers.
    """

    def __init__(self, history: int) -> None:
        self._kept = max(history, LEAST) if history else RECORDS
        self._steps: Any = np.zeros(0, np.int64)
        self._losses: Any = np.zeros(0)
        self._rows: Any = np.zeros((0, 0))
        self._layers: tuple[str, ...] = ()
        self._kind, self._at, self._active, self._broken = "", 0, False, False
        self.flow: Any = None

    def feed(self, points: Points) -> list[PostMortem]:
        """Look at further steps, and return what was found, once what follows it is known.

        Args:
            points: in order.
        """
        found = []
        if points.layers != self._layers:  # the first ones, or another network
            found += self.finish()
            self._steps, self._losses = np.zeros(0, np.int64), np.zeros(0)
            self._layers, self._rows = points.layers, np.zeros((0, len(points.layers)))
            self._active, self._broken = False, False
        for step, loss, row in zip(points.steps, points.losses, points.gradients, strict=True):
            found += self._add(int(step), float(loss), row)
        return found

    def finish(self) -> list[PostMortem]:
        """Return what was found and still waits for what follows it."""
        return [self._postmortem()] if self._kind else []

    def _add(self, step: int, loss: float, row: Float[np.ndarray, " layers"]) -> list[PostMortem]:
        found = []
        if len(self._steps) and step <= self._steps[-1]:  # a run that went back to a checkpoint
            found += self.finish()
            before = self._steps < step
            self._steps, self._losses, self._rows = self._steps[before], self._losses[before], self._rows[before]
            self._active = self._broken = False
        kind, over = self._judge(loss, row)
        self._steps, self._losses = np.append(self._steps, step), np.append(self._losses, loss)
        self._rows = np.concatenate([self._rows, row[None]])
        new = kind == "nonfinite" if self._active else bool(kind)
        if new and not self._broken:
            if self._kind:
                found.append(self._postmortem())
            self._kind, self._at, self._active = kind, int(step), True
        self._active, self._broken = self._active and not over, kind == "nonfinite"
        if self._kind and int(np.sum(self._steps > self._at)) >= (AT_ONCE if self._kind == "nonfinite" else AFTER):
            found.append(self._postmortem())
        keep = self._kept + (AFTER if self._kind else 0)
        self._steps, self._losses, self._rows = self._steps[-keep:], self._losses[-keep:], self._rows[-keep:]
        return found

    def _judge(self, loss: float, row: Float[np.ndarray, " layers"]) -> tuple[str, bool]:
        """Tell what a step is, and whether it is calm."""
        # A loss that is not known is NaN in all points.
        known = not len(self._losses) or not np.isnan(self._losses[-self._kept :]).all()
        if not np.isfinite(row).all() or np.isinf(loss) or (np.isnan(loss) and known and len(self._losses)):
            return "nonfinite", False
        if len(self._rows) < LEAST or not len(row):
            return "", True
        whole = _whole(self._rows)
        score = float(robust_scores(_whole(row[None]), whole)[0])
        middle = _middle(whole)
        if score > SPIKE:
            return "spike", False
        if score < -SPIKE and _whole(row[None])[0] < COLLAPSE * middle:
            return "collapse", False
        return "", abs(score) < CALM

    def _postmortem(self) -> PostMortem:
        kind, at = self._kind, self._at
        self._kind = ""
        index = int(np.searchsorted(self._steps, at))
        first = max(0, index - self._kept)
        enough = index - first >= LEAST
        usual = slice(first, index)
        scores = robust_scores(self._rows, self._rows[usual]) if enough else _only_nonfinite(self._rows)
        loss_scores = _loss_scores(self._losses, self._losses[usual]) if enough else _only_nonfinite(self._losses)
        moved = [_onset(np.abs(scores[:, k]) > MOVED, index) for k in range(len(self._layers))]
        known = [m for m in moved if m is not None]
        earliest = min(known, default=None)
        leaders = [k for k, m in enumerate(moved) if m is not None and m == earliest]
        leaders.sort(key=lambda k: -abs(scores[index, k]))
        at_loss = _onset(np.abs(loss_scores) > MOVED, index)
        if at_loss is None:
            later = np.flatnonzero(np.abs(loss_scores[index + 1 :]) > MOVED)
            at_loss = index + 1 + int(later[0]) if later.size else None
        whole = _whole(self._rows)
        middle = _middle(whole[usual]) if enough else np.nan
        with np.errstate(all="ignore"):
            factor = float(whole[index] / middle)
        order = self._order()
        return PostMortem(
            kind=kind,  # type: ignore[arg-type]
            step=at,
            factor=factor,
            first_layers=tuple(self._layers[k] for k in leaders),
            first_step=None if earliest is None else int(self._steps[earliest]),
            moved=len(known),
            loss_step=None if at_loss is None else int(self._steps[at_loss]),
            known_before=enough,
            steps=self._steps.copy(),
            losses=self._losses.copy(),
            gradients=self._rows[:, order],
            layers=tuple(self._layers[k] for k in order),
        )

    def _order(self) -> list[int]:
        """Return the layers' numbers in the order in which the flow has them."""
        names = () if self.flow is None else self.flow.layers

        def place(k: int) -> int:
            own = self._layers[k]
            return next((n for n, name in enumerate(names) if name == own or name.startswith(own + "/")), len(names))

        return sorted(range(len(self._layers)), key=place)


def _whole(rows: Float[np.ndarray, "steps layers"]) -> Float[np.ndarray, " steps"]:
    """Return the size of the gradient of all layers."""
    with np.errstate(all="ignore"):
        largest = rows.max(1, initial=0.0)
        unit = np.where((largest > 0) & np.isfinite(largest), largest, 1.0)
        return unit * np.sqrt(np.sum(np.square(rows / unit[:, None]), 1))


def _middle(sizes: Float[np.ndarray, " steps"]) -> float:
    finite = sizes[np.isfinite(sizes)]
    return float(np.median(finite)) if finite.size else float("nan")


def _only_nonfinite(x: Any) -> Any:
    return np.where(np.isfinite(x), 0.0, np.inf)


def _onset(away: Bool[np.ndarray, " steps"], index: int) -> int | None:
    """Return where the run of steps away from the usual began that holds at `index`; one calm step does not end it."""
    if not away[index]:
        return None
    start = index
    while start and (away[start - 1] or (start > 1 and away[start - 2])):
        start -= 1 if away[start - 1] else 2
    return start
