"""Results of `diagnosis`."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Shaped


@dataclasses.dataclass(frozen=True)
class Results:
    """What a run gives, one entry a network.

    Attributes:
        names: of the networks, within their families.
        families: that they were drawn from.
        held_out: whether they are of the zoo and nothing was tuned on their family.
        public: whether it is a public program or its repaired form; nothing was tuned on those either.
        gains: 1 - loss after training over that of a network that knows nothing, mean over the orders.
        twin_gains: the same of the twin.
        twins: what the twin is: "untreated", or the treatment that was best.
        relabelled: whether a label was made anew although it is committed.
        treated_gains: the same where `gradflow.treat` was asked; NaN elsewhere.
        random_gains: the same of a remedy drawn by chance; NaN where there was none.
        same: whether such a label came out the same, sick or healthy; false elsewhere.
        flagged: whether the verdict is not "healthy".
        kinds: of the findings, the most severe first, joined by a comma and a blank.
        causes: findings that would be right, joined likewise; "" where that is not known beforehand.
        layers: of the first finding, the worst three, joined likewise.
        places: names within which the fault lies; "" where that is not known.
        seconds: that the verdict took, compilation included.
        rules: names of the rules of other tools.
        rule_flags: whether each of them calls each network sick.
    """

    names: Shaped[np.ndarray, " networks"]
    families: Shaped[np.ndarray, " networks"]
    held_out: Bool[np.ndarray, " networks"]
    public: Bool[np.ndarray, " networks"]
    gains: Float[np.ndarray, " networks"]
    twin_gains: Float[np.ndarray, " networks"]
    twins: Shaped[np.ndarray, " networks"]
    treated_gains: Float[np.ndarray, " networks"]
    random_gains: Float[np.ndarray, " networks"]
    relabelled: Bool[np.ndarray, " networks"]
    same: Bool[np.ndarray, " networks"]
    flagged: Bool[np.ndarray, " networks"]
    kinds: Shaped[np.ndarray, " networks"]
    causes: Shaped[np.ndarray, " networks"]
    layers: Shaped[np.ndarray, " networks"]
    places: Shaped[np.ndarray, " networks"]
    seconds: Float[np.ndarray, " networks"]
    rules: Shaped[np.ndarray, " rules"]
    rule_flags: Bool[np.ndarray, "rules networks"]
