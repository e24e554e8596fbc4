"""The label of a network: how far its loss falls, and how far that of its best treatment does."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.diagnosis.specimen import Specimen
from gradflow.diagnosis.objective import Objective
from gradflow.diagnosis.treatment import Plan
from gradflow.diagnosis.treatment.changes import ADAM, RATES, STARTS, Context
from gradflow.diagnosis.treatment.trials import Trials

__all__ = ["LEARNT", "SICK", "TREATMENTS", "UNTREATED", "Label", "is_sick", "label"]

SICK = 0.9  # part of the twin's gain below which a network is sick
LEARNT = 0.1  # gain of the twin below which nothing was learnt
TREATMENTS = (*STARTS, ADAM, *RATES)
UNTREATED = "untreated"


class Label(NamedTuple):
    """What training gave.

    Attributes:
        gains: of no treatment, "untreated", and of each treatment that applies, by its name. A gain is 1 - loss in the
            end over the loss of a network that knows nothing; mean over the orders of the batches. So a network that
            starts from a large loss gains nothing by losing that.
    """

    gains: dict[str, float]

    @property
    def gain(self) -> float:
        """Gain without a treatment."""
        return self.gains[UNTREATED]

    @property
    def twin(self) -> str:
        """Name of the best treatment, "untreated" for none."""
        return max(self.gains, key=lambda name: self.gains[name])

    @property
    def twin_gain(self) -> float:
        """Gain of the best treatment, or of none."""
        return self.gains[self.twin]


def is_sick(gain: Any, twin_gain: Any) -> Any:
    """Tell whether a network gains less than `SICK` of what its twin does, or not even its twin learns.

    Every task of the zoo is one that a sound network solves, so a network that no treatment helps is not sound.

    Args:
        gain: of the network; a number or an array.
        twin_gain: of its twin.
    """
    return (gain < SICK * twin_gain) | (twin_gain < LEARNT)


def label(specimen: Specimen, budget: int, orders: int, seed: int) -> Label:
    """Train a network and its treatments.

    A loss that leaves its type's range in one order has a gain of -inf.

    Args:
        specimen: to be trained.
        budget: steps.
        orders: of the batches.
        seed: of weights that are drawn anew.
    """
    objective, trials = _trials(specimen, budget, orders)
    plain = Plan(objective, objective.leaves)
    context = Context(objective.arrays, jax.random.key(seed), np.zeros(0), budget)
    gains = {UNTREATED: _gain(trials, plain, specimen.chance)}
    for change in TREATMENTS:
        plan = change.apply(plain, context)
        if plan is not None:
            gains[change.name] = _gain(trials, plan, specimen.chance)
    return Label(gains)


def trained(specimen: Specimen, budget: int, orders: int) -> float:
    """Return the gain of a network as it is.

    Args:
        specimen: to be trained.
        budget: steps.
        orders: of the batches.
    """
    objective, trials = _trials(specimen, budget, orders)
    return _gain(trials, Plan(objective, objective.leaves), specimen.chance)


def _trials(specimen: Specimen, budget: int, orders: int) -> tuple[Objective, Trials]:
    objective = Objective.of(specimen.loss, specimen.params, specimen.batches[0], {}, False)
    arrays = [objective.arrays_of(batch) for batch in specimen.batches]
    return objective, Trials(specimen.optimizer, arrays, budget, orders)


def _gain(trials: Trials, plan: Plan, chance: float) -> float:
    return 1.0 - float(np.mean(trials.run(plan).ends)) / chance
