"""What a few steps of the user's optimizer do: to the loss, to each leaf, and at other sizes than they have."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from gradflow.diagnosis import thresholds
from gradflow.diagnosis.look import Look
from gradflow.diagnosis.objective import Objective
from gradflow.diagnosis.walk import Walk

if TYPE_CHECKING:
    import optax

__all__ = ["ADAM_RATES", "MULTIPLES", "QUARTER", "Floor", "Trial", "loss_of_ignorance", "take_steps"]

MULTIPLES = tuple(4.0**k for k in range(-6, 7))  # of an update at which the loss is looked at
ADAM_RATES = (1e-3, 1e-2)  # its author's rate (Kingma & Ba 2015, algorithm 1), and ten times that for a short way
_FAR = 0.1  # Adam's rate that takes outputs as far as they go in a few steps
_ONWARDS = (0.0, 1.0, 4.0, 16.0)  # multiples of a course's way by which it is prolonged
_ENLARGED = 4.0  # what all parameters are multiplied by, to see whether an output is at a bound
_SMALL = 2.0**-20  # Adam's epsilon over the rms of the first gradient
QUARTER = 1 / 4
LARGER, SMALLER = (4.0, 16.0, 64.0, 256.0), (QUARTER, 1 / 16)  # multiples at which the steps are taken again


class Floor(NamedTuple):
    """Where Adam ends at the rate with which the loss falls furthest, or beyond, if it falls further that way.

    Attributes:
        loss: there.
        change: of that loss when all parameters are multiplied by 4, over the loss.
        enlarged: these parameters.
    """

    loss: float
    change: float
    enlarged: list[Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Trial:
    """Some steps of training.

    Attributes:
        losses: on the batch of each step, before it; one more, after the last, on the batch of the first step.
        before, after: losses on the same few batches at the start and in the end.
        blank: losses on them with all parameters 0: of a network that knows nothing of its input.
        update_ratios: per step and leaf, norm of the update over norm of the leaf; NaN for a leaf of zeros.
        movements: per leaf, norm of (end - start) over norm of the start; inf for a leaf that left zero.
        probe: loss on the first batch after `MULTIPLES` times the last finite update, taken from where it was. By the
            last one, the optimizer's state has settled and a weight that started from 0 has a size.
        probe_start: loss on the first batch from where the probe starts.
        rates: by multiple of the updates, 1 among them, mean of `after` when the same steps are taken from the start;
            inf where it is not finite. Only 1 where the steps learn half of the loss at that; 1 and 1/4 where they
            learn enough.
        growth: of updates at a constant gradient, see `thresholds.GROWING`; NaN where no other rate was tried.
        adam: the least such loss with Adam at `ADAM_RATES`; NaN where some multiple learns enough.
        floor: where Adam ends if it does not learn enough either, at these rates and at a far larger one; else None.
        leaves: the parameters in the end.
    """

    losses: Float[np.ndarray, " losses"]
    before: Float[np.ndarray, " batches"]
    after: Float[np.ndarray, " batches"]
    blank: Float[np.ndarray, " batches"]
    update_ratios: Float[np.ndarray, "steps leaves"]
    movements: Float[np.ndarray, " leaves"]
    probe: Float[np.ndarray, " multiples"]
    probe_start: float
    rates: Mapping[float, float]
    growth: float
    adam: float
    floor: Floor | None
    leaves: list[Any]

    @property
    def finite(self) -> bool:
        """Whether all losses are."""
        return bool(np.all(np.isfinite(self.losses)) and np.all(np.isfinite(self.after)))

    def learned(self, loss: float) -> float:
        """Return which part of the loss is gone.

        Of the loss at the start, or of that of a network that knows nothing if it is less: a fall from a large loss to
        the latter is no learning. NaN where a loss is not positive and has no parts.

        Args:
            loss: in the end.
        """
        return _learned(loss, _reference(self.before, self.blank))

    def way(self, loss: float) -> float:
        """Return the fall of the loss from the start.

        Args:
            loss: in the end.
        """
        return self.start_loss - loss

    @property
    def start_loss(self) -> float:
        """Mean loss at the start."""
        return float(np.mean(self.before))

    @property
    def blank_loss(self) -> float:
        """Mean loss with all parameters 0."""
        return float(np.mean(self.blank))

    @property
    def stands_still(self) -> bool:
        """Whether the loss stays where it is on its floor, though little is learned."""
        return self.floor is not None and self.floor.change < thresholds.FLAT

    @property
    def learns(self) -> bool:
        """Whether the steps learn enough at one rate or another for the network to be sound."""
        return self.learned(min(self.rates.values())) >= thresholds.LEARNT

    @property
    def trained(self) -> bool:
        """Whether the network knew something at the start: half of what it takes from knowing nothing."""
        return _trained(self.before, self.blank)


def take_steps(
    objective: Objective,
    look: Look,
    optimizer: optax.GradientTransformation,
    batches: Sequence[list[Any]],
    steps: int,
) -> Trial:
    """Train for some steps; where they learn little, from the start again at other rates.

    Args:
        objective: the loss.
        look: at it.
        optimizer: of the user.
        batches: arrays of each batch; taken in turn.
        steps: how many.
    """
    walk, start = Walk(objective, look, optimizer, batches, steps), objective.leaves
    before = walk.compared(start)
    blank = walk.compared([jnp.zeros_like(leaf) for leaf in start])
    course = walk.course()
    reference = _reference(before, blank)
    rates = {1.0: _mean(course.after)}
    growth = adam = math.nan
    floor = None
    begins = not _trained(before, blank)
    if begins and _learned(rates[1.0], reference) < 1 - thresholds.TRAINED:
        rates[QUARTER] = _mean(walk.course(QUARTER).after)
    if begins and _learned(rates[1.0], reference) < thresholds.LEARNT:
        _other_rates(walk, _mean(before), reference, rates)
        growth = walk.growth()
        if _learned(min(rates.values()), reference) < thresholds.LEARNT:
            adam, floor = _adam(objective, look, batches, steps, reference)
    leaves, direction = course.last
    return Trial(
        np.append(course.losses, course.after[0]),
        before,
        course.after,
        blank,
        course.update_ratios,
        np.asarray([_moved(s, e) for s, e in zip(start, course.leaves, strict=True)]),
        np.asarray([walk.loss(leaves, direction, multiple) for multiple in MULTIPLES]),
        walk.loss(leaves, direction, 0.0),
        rates,
        growth,
        adam,
        floor,
        course.leaves,
    )


def _trained(before: Float[np.ndarray, " batches"], blank: Float[np.ndarray, " batches"]) -> bool:
    return float(np.mean(before)) < thresholds.TRAINED * float(np.mean(blank))


def _reference(before: Float[np.ndarray, " batches"], blank: Float[np.ndarray, " batches"]) -> float:
    """Return the loss that counts as nothing learned; NaN where that is not a positive number."""
    start, nothing = float(np.mean(before)), float(np.mean(blank))
    least = loss_of_ignorance(start, nothing)
    return least if 0 < least < math.inf else math.nan


def loss_of_ignorance(start: float, blank: float) -> float:
    """Return the loss that counts as nothing learned: at the start, or with all parameters 0 if that is less.

    Args:
        start: loss at the start.
        blank: loss with all parameters 0; it may not be finite.
    """
    return min(start, blank) if math.isfinite(blank) else start


def _learned(loss: float, reference: float) -> float:
    return 1.0 - loss / reference


def _mean(losses: Float[np.ndarray, " batches"]) -> float:
    mean = float(np.mean(losses))
    return mean if math.isfinite(mean) else math.inf


def _other_rates(walk: Walk, start: float, reference: float, rates: dict[float, float]) -> None:
    """Take the steps at larger multiples until the loss rises, and at smaller ones where it rose at 1 already.

    The range test of Smith (2017, section 3.3), over courses instead of single steps. It ends where half of the loss is
    learnt.
    """
    rose = not rates[1.0] < start
    for multiple in SMALLER if rose else LARGER:
        if multiple not in rates:
            rates[multiple] = _mean(walk.course(multiple).after)
        if rates[multiple] < reference / 2 or (not rose and not rates[multiple] < start):
            return


def _adam(
    objective: Objective, look: Look, batches: Sequence[list[Any]], steps: int, reference: float
) -> tuple[float, Floor | None]:
    """Return the least loss with Adam, and the floor if it does not learn enough.

    Its epsilon is a part of the gradient, so that no scale matters.
    """
    import optax

    gradients = look(objective.leaves, batches[0]).gradients
    entries = np.concatenate([np.abs(np.asarray(g)).astype(np.float64).reshape(-1) for g in gradients])
    epsilon = _SMALL * float(np.sqrt(np.mean(np.square(entries))))
    walk = Walk(objective, look, _in_float32(optax.adam(ADAM_RATES[0], eps=epsilon)), batches, steps)
    courses = [walk.course(rate / ADAM_RATES[0]) for rate in ADAM_RATES]
    least = min(_mean(course.after) for course in courses)
    if not _learned(least, reference) < thresholds.LEARNT:
        return least, None
    lowest = min([*courses, walk.course(_FAR / ADAM_RATES[0])], key=lambda course: _mean(course.after))
    return least, _floor(walk, objective.leaves, lowest.leaves)


def _in_float32(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """Return an optimizer that works in single precision: in half precision squares of small gradients are 0."""
    import optax

    def wide(tree: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            return jax.tree.map(lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)), tree)

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, state = optimizer.update(wide(gradients), state, wide(params))
        return jax.tree.map(lambda u, g: u.astype(g.dtype), updates, gradients), state

    return optax.GradientTransformation(lambda params: optimizer.init(wide(params)), update)


def _floor(walk: Walk, start: Sequence[Any], end: Sequence[Any]) -> Floor:
    """Go on in the direction of a course as long as the loss falls: a few steps need not reach a bound."""
    way = [e - s for s, e in zip(start, end, strict=True)]
    places = [[(e + multiple * w).astype(e.dtype) for e, w in zip(end, way, strict=True)] for multiple in _ONWARDS]
    losses = [_mean(walk.compared(leaves)) for leaves in places]
    loss = min(losses)
    enlarged = [(_ENLARGED * leaf).astype(leaf.dtype) for leaf in places[losses.index(loss)]]
    change = abs(_mean(walk.compared(enlarged)) - loss)
    return Floor(loss, change / abs(loss) if loss else math.nan, enlarged)


def _moved(start: Any, end: Any) -> float:
    """Return norm of (end - start) over norm of the start; inf for what left zero, NaN for what stays there."""
    s, e = (np.asarray(x).astype(np.complex128 if np.iscomplexobj(x) else np.float64) for x in (start, end))
    size, way = float(np.linalg.norm(s.reshape(-1))), float(np.linalg.norm((e - s).reshape(-1)))
    return way / size if size > 0 else math.inf if way > 0 else math.nan
