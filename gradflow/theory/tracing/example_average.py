"""What an average over examples leaves of the chance of finite width.

The mean square of W x over n units strays by a relative variance of 2/n for one example. Of two examples the strays
have covariance 2 c^2/n, where c is the correlation of their inputs, so that the average over N examples keeps the share
1/N + (1 - 1/N) E[c^2]. Behind an activation the covariance of what the units sample is at most |c| of its variance.
E[c^2] is measured on the data, and bounded from there on: of f(u) = E f + g(u), |Cov[g(u), g(v)]| <= |c| Var[g].
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gradflow.theory.tracing.abstract_values import Data, Known, Signal, Value
from gradflow.theory.tracing.contractions import laid_out
from gradflow.theory.tracing.random_fields import Gaussian

__all__ = ["average_over_examples", "data_likeness"]

_ROWS = 256  # examples whose pairs are compared


def data_likeness(x: Any) -> float:
    """Return the root mean square correlation of two examples, relative to the mean square of all.

    Args:
        x: data, examples first and units last.
    """
    rows = np.asarray(x, np.float64).reshape(-1, np.shape(x)[-1])
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), _ROWS)).astype(int)] if len(rows) else rows
    square = float(np.mean(rows**2)) if rows.size else 0.0
    if len(rows) < 2 or not square > 0 or not math.isfinite(square):
        return 1.0
    products = rows @ rows.T / (rows.shape[1] * square)
    own, off = np.diag(products), ~np.eye(len(rows), dtype=bool)
    # Examples of unlike size count as fewer.
    uneven = max(float(np.mean(own**2)) - 1, 0.0) / len(rows)
    return min(math.sqrt(float(np.mean(products[off] ** 2)) + uneven), 1.0)


def average_over_examples(gaussian: Gaussian, entering: Value, product: Any, source: int, examples: int) -> None:
    """Make the band of a dense layer that of the average over its examples, and note how alike these are.

    Args:
        gaussian: output of the layer, whose band is that of one example.
        entering: what enters it.
        product: its contraction.
        source: which operand enters.
        examples: number of examples, positions included.
    """
    if product.primitive.name != "dot_general" or not gaussian.units or product.params["dimension_numbers"][1][0]:
        return
    chance, inherited, sampled, rest = 2 / gaussian.units, 0.0, 1.0, 0.0
    if isinstance(entering, Signal) and entering.components:
        contracted = product.params["dimension_numbers"][0][source]
        same = all(g.alike == 1 or g.examples == examples for g in entering.components)
        if not same or sorted(contracted) != [k for k, axis in enumerate(entering.axes) if axis == "u"]:
            return
        alike, sampled = entering.alike, max(g.alike for g in entering.components)
        inherited = entering.log_variance
        rest = max(gaussian.log_variance - inherited - chance, 0.0)
    elif isinstance(entering, (Data, Known)) and (x := laid_out(product, source, entering.value)) is not None:
        alike = data_likeness(x)
    else:
        return

    def kept(share: float) -> float:
        return (1 + (examples - 1) * share) / max(examples, 1)

    gaussian.log_variance = inherited + rest * kept(sampled) + chance * kept(alike**2)
    gaussian.examples = examples
    gaussian.alike = min(math.sqrt(alike**2 + 1 / gaussian.units), 1.0)
