"""What a diagnosis looks at: flow and ledger of a batch, the gradient beside a nearby one, some steps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from gradflow.diagnosis.book import Book, ledger
from gradflow.diagnosis.look import Look
from gradflow.diagnosis.nonfinite import Origin, find_nonfinite
from gradflow.diagnosis.objective import Objective
from gradflow.diagnosis.trial import Trial, take_steps
from gradflow.instrument import Flow

__all__ = ["Leaf", "Measurements", "is_adaptive", "measure"]

NEARBY = 1e-2  # relative size of the change of all weights after which the gradient is looked at again
RESOLVED = 0.9  # cosine of a gradient with itself, rounded anew, below which it is rounding: .44 of it differs
ROUNDED = 8.0  # epsilons of its type by which each weight is changed, so that forward and backward pass round anew
SMALL_STEPS = 3  # along the gradient, after which a factor of 0 has a gradient if the others of its product have moved
SCALES = (2.0**40, 2.0**24, 2.0**16, 2.0**8)  # of the loss; the largest that keeps all gradients finite is used
_LEAST_RANK = 2  # of a leaf that is a matrix or a kernel


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One differentiated leaf and its gradient.

    Attributes:
        path: its names, joined by "/".
        shape: of the leaf.
        norm, gradient_norm: Euclidean norms.
        same: axes along which all slices of the leaf are equal, and all slices of its gradient, while that is not 0:
            units that compute the same and stay the same.
        coherence: cosine between its gradient and that with all weights changed by `NEARBY`, at random, over the cosine
            that rounding alone leaves; NaN where a gradient is 0, or rounding for a large part.
        later_gradient_norm: of the gradient after `SMALL_STEPS` along the gradients, each `NEARBY` of the parameters'
            norm.
        lost: how much of its gradient was flushed to 0: norm of (gradient - gradient of a scaled loss over the scale)
            over that of the latter. Scaling by a power of 2 changes no other bit. NaN where that gradient is 0.
    """

    path: str
    shape: tuple[int, ...]
    norm: float
    gradient_norm: float
    same: tuple[int, ...]
    coherence: float
    later_gradient_norm: float
    lost: float

    @property
    def is_weight(self) -> bool:
        """Whether it is a matrix or a kernel of more than one unit each way."""
        return sum(n > 1 for n in self.shape) >= _LEAST_RANK

    @property
    def can_move(self) -> bool:
        """Whether it is a weight with a size and a gradient."""
        return self.is_weight and self.norm > 0 and self.gradient_norm > 0


@dataclasses.dataclass(frozen=True, eq=False)
class Measurements:
    """All that the rules of diagnosis read.

    Attributes:
        objective: the call that was measured.
        value: the loss.
        flow: of the batch.
        book: its ledger; where a layer that starts from 0 cuts the path, that after `SMALL_STEPS`.
        leaves: by path.
        trial: steps of the optimizer; None without one.
        later: the flow after these steps.
        floor_book: the ledger at `Floor.enlarged` where the loss stands still there; else None.
        origin: where NaN or Inf began; None where loss and gradients are finite.
        adaptive: whether the optimizer scales each entry's step by its own gradients, as Adam does.
    """

    objective: Objective
    value: float
    flow: Flow
    book: Book
    leaves: dict[str, Leaf]
    trial: Trial | None
    later: Flow | None
    floor_book: Book | None
    origin: Origin | None
    adaptive: bool

    @property
    def finite(self) -> bool:
        """Whether loss and gradients are."""
        return _finite(self.value, self.leaves)


def measure(
    loss_fn: Callable[..., Any],
    params: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    has_aux: bool,
    optimizer: Any,
    batches: Sequence[tuple[Any, ...]] | None,
    steps: int,
    say: Callable[[str], None],
) -> Measurements:
    """Measure a network.

    Args:
        loss_fn: as for `diagnose`.
        params: its first argument.
        args: its other positional arguments.
        kwargs: of the call.
        has_aux: whether it returns (loss, aux).
        optimizer: None to take no step.
        batches: other arguments for these steps; None for `args`.
        steps: how many.
        say: is told what begins.
    """
    say("tracing")
    with jax.debug_nans(False):
        objective = Objective.of(loss_fn, params, args, kwargs, has_aux)
        look = Look.compiled(objective)
        say("measuring the flow")
        value, here, flow = look(objective.leaves, objective.arrays)
        say("comparing gradients")
        leaves, moved = _leaves(objective, look, here)
        say("following the signal")
        book = ledger(objective.of_tree, objective.tree(objective.leaves), objective.arrays)
        if _starts_from_zero(book, leaves):
            book = ledger(objective.of_tree, objective.tree(moved), objective.arrays)
        trial, later, floor_book, adaptive = None, None, None, False
        if optimizer is not None and steps > 0:
            say(f"taking {steps} steps")
            arrays = [objective.arrays] if batches is None else [objective.arrays_of(batch) for batch in batches]
            adaptive = is_adaptive(optimizer, objective.rebuild(objective.leaves))
            trial = take_steps(objective, look, optimizer, arrays, steps)
            later = look(trial.leaves, objective.arrays).flow
            if trial.stands_still and trial.floor is not None:
                floor_book = ledger(objective.of_tree, objective.tree(trial.floor.enlarged), objective.arrays)
        origin = None
        if not _finite(float(value), leaves):
            say("looking for where NaN or Inf began")
            origin = find_nonfinite(loss_fn, params, *args, has_aux=has_aux, **kwargs)
    return Measurements(objective, float(value), flow, book, leaves, trial, later, floor_book, origin, adaptive)


def is_adaptive(optimizer: Any, params: Any) -> bool:
    """Tell whether an Optax optimizer keeps second moments of the gradient, as Adam, RMSprop and Adagrad do.

    Args:
        optimizer: a gradient transformation.
        params: that it is for.
    """

    def keeps(state: Any) -> bool:
        return bool({"nu", "sum_of_squares"} & set(getattr(state, "_fields", ())))

    state = jax.eval_shape(optimizer.init, params)
    return any(map(keeps, jax.tree_util.tree_leaves(state, is_leaf=keeps)))


def _finite(value: float, leaves: dict[str, Leaf]) -> bool:
    return math.isfinite(value) and all(math.isfinite(leaf.gradient_norm) for leaf in leaves.values())


def _starts_from_zero(book: Book, leaves: dict[str, Leaf]) -> bool:
    """Tell whether the path is cut by weights that are 0 and do not stay there."""
    cut = any(entry.log10_gain == -math.inf for entry in book.entries)
    return cut and any(leaf.norm == 0 and leaf.gradient_norm > 0 for leaf in leaves.values() if leaf.is_weight)


def _leaves(objective: Objective, look: Look, here: Sequence[Any]) -> tuple[dict[str, Leaf], list[Any]]:
    """Return the leaves, and their values after some small steps along the gradient.

    Args:
        objective: the loss.
        look: at it.
        here: gradients of the leaves.
    """

    def gradients(leaves: Sequence[Any], scale: float = 1.0) -> list[Float[np.ndarray, "..."]]:
        return [np.asarray(_host(g) / scale) for g in look(leaves, objective.arrays, scale).gradients]

    here = later = [_host(g) for g in here]
    moved = objective.leaves
    there = gradients(_changed(objective.leaves, lambda dtype: NEARBY, seed=0))
    # A factor that is no power of 2 rounds the backward pass anew, also where weights cannot be changed by so little.
    rounded = [gradients(_changed(objective.leaves, _rounding, seed=k), 2.0 * k + 1) for k in (1, 2)]
    large = here
    for scale in SCALES:
        large = gradients(objective.leaves, scale)
        if all(np.all(np.isfinite(g)) for g in large):
            break
    for _ in range(SMALL_STEPS if any(_norm(_host(w)) == 0 for w in objective.leaves) else 0):
        moved = _downhill(moved, later)
        later = gradients(moved)
    out = {}
    found = zip(objective.paths, objective.leaves, here, there, *rounded, large, later, strict=True)
    for path, leaf, g, n, *r, s, after in found:
        w = _host(leaf)
        out[path] = Leaf(path, w.shape, _norm(w), _norm(g), _same(w, g), _coherence(g, n, r), _norm(after), _lost(g, s))
    return out, moved


def _downhill(leaves: Sequence[Any], gradients: Sequence[Float[np.ndarray, "..."]]) -> list[Any]:
    """Take a step along the gradient, of `NEARBY` of the norm of all parameters."""
    size = math.hypot(*(_norm(g) for g in gradients))
    if not 0 < size < math.inf:
        return list(leaves)
    rate = NEARBY * math.hypot(*(_norm(_host(w)) for w in leaves)) / size
    return [jnp.asarray((_host(w) - rate * g).astype(w.dtype)) for w, g in zip(leaves, gradients, strict=True)]


def _changed(leaves: Sequence[Any], part: Callable[[Any], float], seed: int) -> list[Any]:
    """Return the leaves with every entry changed at random.

    Args:
        leaves: that are changed.
        part: from a leaf's type to the size of the change, as a part of the leaf's rms.
        seed: of the change.
    """
    rng = np.random.default_rng(seed)
    out = []
    for leaf in leaves:
        w = np.asarray(leaf)
        change = part(w.dtype) * _norm(_host(leaf)) / math.sqrt(max(w.size, 1)) * rng.standard_normal(w.shape)
        out.append(jnp.asarray((_host(leaf) + change).astype(w.dtype)))
    return out


def _rounding(dtype: Any) -> float:
    """Return the relative size of a change by rounding; 0 for a type that is so coarse that it comes near `NEARBY`."""
    size = ROUNDED * float(jnp.finfo(dtype).eps)
    return size if size < NEARBY / 10 else 0.0


def _host(x: Any) -> Float[np.ndarray, "..."]:
    array = np.asarray(x)
    return array.astype(np.complex128 if np.iscomplexobj(array) else np.float64)


def _norm(x: Any) -> float:
    return float(np.linalg.norm(np.reshape(x, -1)))


def _cosine(a: Float[np.ndarray, "..."], b: Float[np.ndarray, "..."]) -> float:
    size = _norm(a) * _norm(b)
    return float(np.real(np.vdot(a, b))) / size if size > 0 and math.isfinite(size) else math.nan


def _coherence(
    here: Float[np.ndarray, "..."], nearby: Float[np.ndarray, "..."], rounded: Sequence[Float[np.ndarray, "..."]]
) -> float:
    """Return the cosine of two gradients without what rounding takes from it.

    A gradient that is 0 in exact arithmetic, as that of the bias of attention's keys, is rounding, and turns by itself.
    Of few entries it may be like the first by chance, so that it is looked at twice.
    """
    turned, own = _cosine(here, nearby), [_cosine(here, other) for other in rounded]
    if math.isnan(turned) or any(map(math.isnan, own)):  # a multiple of the loss may be out of range
        return turned
    return min(1.0, turned / min(own)) if min(own) >= RESOLVED else math.nan


def _lost(small: Float[np.ndarray, "..."], whole: Float[np.ndarray, "..."]) -> float:
    size = _norm(whole)
    return _norm(whole - small) / size if size > 0 and math.isfinite(size) else math.nan


def _same(weight: Float[np.ndarray, "..."], gradient: Float[np.ndarray, "..."]) -> tuple[int, ...]:
    largest = float(np.max(np.abs(gradient), initial=0.0))
    if not largest > 0 or not math.isfinite(largest):
        return ()
    rounding = 1e-5 * largest  # sums of equal terms in another order
    axes = []
    for axis in range(max(weight.ndim - _LEAST_RANK, 0), weight.ndim):
        first = np.take(weight, [0], axis)
        differs = np.max(np.abs(gradient - np.take(gradient, [0], axis)))
        if weight.shape[axis] > 1 and np.all(weight == first) and differs <= rounding:
            axes.append(axis)
    return tuple(axes)
