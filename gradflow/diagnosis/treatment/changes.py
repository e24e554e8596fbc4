"""Remedies as data: what each touches, why, what it should do, and how it is done."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from gradflow.diagnosis.finding import Finding
from gradflow.diagnosis.treatment.plan import ADAM_RATE, Plan
from gradflow.initializers.lsuv import lsuv

__all__ = ["ADAM", "CHANGES", "RATES", "STARTS", "Change", "Context", "at_random", "promising"]


class Context(NamedTuple):
    """What a change may look at.

    Attributes:
        arrays: the batch.
        key: of the weights that are drawn anew.
        norms: of the whole gradient, over untreated steps; empty if none is finite.
        budget: steps of a trial.
    """

    arrays: list[Any]
    key: Any
    norms: np.ndarray
    budget: int


@dataclasses.dataclass(frozen=True)
class Change:
    """A remedy.

    Attributes:
        name: in a few words.
        touches: what it changes.
        why: what it is good for.
        effect: what it should do to the flow.
        kinds: findings that it is promising for.
        code: how to do it by hand.
        apply: from a plan to the changed one; None where it does not apply.
    """

    name: str
    touches: Literal["initialization", "gradients", "updates", "loss", "optimizer", "model"]
    why: str
    effect: str
    kinds: tuple[str, ...]
    code: str
    apply: Callable[[Plan, Context], Plan | None]


def _rescaled(plan: Plan, context: Context, key: Any = None) -> Plan | None:
    tree = plan.objective.tree(plan.leaves)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # names layers that it leaves; a trial shows what that is worth
            new, _ = lsuv(plan.objective.of_tree, tree, context.arrays, key=key)
    except (ValueError, ArithmeticError):
        return None
    return dataclasses.replace(plan, leaves=plan.objective.leaves_of(new))


def _redrawn(plan: Plan, context: Context) -> Plan | None:
    return _rescaled(plan, context, context.key)


def _clipped(plan: Plan, context: Context) -> Plan | None:
    usual = float(np.median(context.norms)) if context.norms.size else 0.0
    return dataclasses.replace(plan, clip=usual) if usual > 0 else None


def _rate(factor: float) -> Callable[[Plan, Context], Plan | None]:
    return lambda plan, context: dataclasses.replace(plan, rate=plan.rate * factor)


def _warmed(plan: Plan, context: Context) -> Plan | None:
    return dataclasses.replace(plan, warm_up=max(2, context.budget // 4))


def _loss_scaled(plan: Plan, context: Context) -> Plan | None:
    return dataclasses.replace(plan, loss_scale=2.0**12)


def _by_leaf(plan: Plan, context: Context) -> Plan | None:
    return None if plan.adam else dataclasses.replace(plan, adam=True)


_PATH = ("vanishing", "exploding", "saturation", "shattered", "rank_collapse", "stalled_layer", "dead_units")
STARTS = (
    Change("rescale the weights", "initialization", "every layer keeps the size of its signal on your batch",
           "output rms 1 at every layer", _PATH, "params, _ = gf.lsuv(loss_fn, params, *args)", _rescaled),
    Change("draw the weights anew", "initialization", "orthogonal weights of the scale that your batch asks for",
           "output rms 1 at every layer, units that differ", ("poor_initialization", *_PATH),
           "params, _ = gf.lsuv(loss_fn, params, *args, key=key)", _redrawn),
)  # fmt: skip
ADAM = Change("Adam", "optimizer", "each weight's step is divided by its own gradient's size",
              "equal relative steps in all layers", ("vanishing", "exploding", "stalled_layer", "learning_rate",
                                                     "unstable_update", "poor_initialization"),
              f"optimizer = optax.adam({ADAM_RATE})", _by_leaf)  # fmt: skip
RATES = (
    Change("a tenth of the rate", "updates", "steps that stay where the gradient was formed", "no overshooting",
           ("learning_rate", "unstable_update", "exploding"), "optimizer = optax.chain(optimizer, optax.scale(0.1))",
           _rate(0.1)),
    Change("a hundredth of the rate", "updates", "steps that stay where the gradient was formed", "no overshooting",
           ("learning_rate", "unstable_update", "exploding"), "optimizer = optax.chain(optimizer, optax.scale(0.01))",
           _rate(0.01)),
    Change("ten times the rate", "updates", "steps that use what the gradient knows", "larger steps",
           ("learning_rate", "vanishing", "stalled_layer"), "optimizer = optax.chain(optimizer, optax.scale(10.0))",
           _rate(10.0)),
    Change("a hundred times the rate", "updates", "steps that use what the gradient knows", "larger steps",
           ("learning_rate", "vanishing"), "optimizer = optax.chain(optimizer, optax.scale(100.0))", _rate(100.0)),
)  # fmt: skip
CHANGES = (
    *STARTS, ADAM, *RATES,
    Change("clip", "gradients", "a rare large gradient takes no larger step than a usual one",
           "no step longer than the median gradient's", ("exploding", "unstable_update", "learning_rate"),
           "optimizer = optax.chain(optax.clip_by_global_norm(median_norm), optimizer)", _clipped),
    Change("warm the rate up", "updates", "the first steps are the most curved", "small first steps",
           ("unstable_update", "learning_rate", "exploding"),
           "optimizer = optax.chain(optimizer, optax.scale_by_schedule(optax.linear_schedule(0.0, 1.0, steps)))",
           _warmed),
    Change("scale the loss", "loss", "small cotangents come back into the range of their type", "no gradient flushed",
           ("underflow",),
           "grads = jax.tree.map(lambda g: g / 4096, jax.grad(lambda p: 4096 * loss_fn(p, *args))(params))",
           _loss_scaled),
)  # fmt: skip


def promising(findings: Sequence[Finding], among: Sequence[Change] = CHANGES) -> tuple[Change, ...]:
    """Return the changes that help against findings, those against the most severe first.

    Args:
        findings: of a diagnosis.
        among: changes to choose from.
    """
    ordered = [change for finding in findings for change in among if finding.kind in change.kinds]
    return tuple(dict.fromkeys(ordered))


def at_random(key: Any, among: Sequence[Change] = CHANGES) -> Change:
    """Return one of all changes by chance, whatever was found.

    Args:
        key: of JAX.
        among: changes to choose from.
    """
    return among[int(jax.random.randint(key, (), 0, len(among)))]
