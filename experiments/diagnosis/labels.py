"""The label of a network: how far its loss falls, and how far that of its best treatment does."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

from experiments.diagnosis.specimen import Specimen
from gradflow.diagnosis.objective import Objective
from gradflow.diagnosis.treatment import Plan
from gradflow.diagnosis.treatment.changes import ADAM, RATES, STARTS, Context
from gradflow.diagnosis.treatment.trials import Trials

__all__ = ["SICK", "TREATMENTS", "Label", "label"]

SICK = 0.9  # part of the twin's gain below which a network is sick
TREATMENTS = (*STARTS, ADAM, *RATES)


class Label(NamedTuple):
    """What training gave.

    Attributes:
        gain: 1 - loss in the end over the loss of a network that knows nothing; mean over the orders of the batches. So
            a network that starts from a large loss gains nothing by losing that.
        twin_gain: the same of the best treatment, or of none.
        twin: name of that treatment, "untreated" for none.
    """

    gain: float
    twin_gain: float
    twin: str


def label(specimen: Specimen, budget: int, orders: int, seed: int) -> Label:
    """Train a network and its treatments.

    A loss that leaves its type's range in one order has a gain of -inf.

    Args:
        specimen: to be trained.
        budget: steps.
        orders: of the batches.
        seed: of weights that are drawn anew.
    """
    objective = Objective.of(specimen.loss, specimen.params, specimen.batches[0], {}, False)
    arrays = [objective.arrays_of(batch) for batch in specimen.batches]
    trials = Trials(specimen.optimizer, arrays, budget, orders)
    plain = Plan(objective, objective.leaves)
    context = Context(objective.arrays, jax.random.key(seed), np.zeros(0), budget)
    gains = {"untreated": _gain(trials, plain, specimen.chance)}
    for change in TREATMENTS:
        plan = change.apply(plain, context)
        if plan is not None:
            gains[change.name] = _gain(trials, plan, specimen.chance)
    twin = max(gains, key=lambda name: gains[name])
    return Label(gains["untreated"], gains[twin], twin)


def _gain(trials: Trials, plan: Plan, chance: float) -> float:
    return 1.0 - float(np.mean(trials.run(plan).ends)) / chance
