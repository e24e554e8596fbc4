"""The random walk of ln |J u|^2 against networks drawn many times, and Hanin's closed forms."""

from __future__ import annotations

import functools
import math
from typing import Any, Literal

import jax
import numpy as np
import pytest

from gradflow import theory
from tests.theory.networks import growth, spread, within
from tests.user_errors import without_type_checker

DRAWS = 400


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize(
    ("name", "weight_variance", "bias_variance"),
    [("relu", 2.0, 0.0), ("identity", 1.0, 0.0), ("tanh", 3.0, 0.05), ("sigmoid", 4.0, 0.1)],
)
@pytest.mark.parametrize("ensemble", ["gaussian", "orthogonal"])
def test_law_is_that_of_random_networks(
    name: str, weight_variance: float, bias_variance: float, ensemble: Literal["gaussian", "orthogonal"]
) -> None:
    given: Any = {"weight_variance": weight_variance, "bias_variance": bias_variance, "q0": 0.8}
    options: Any = {"activation": name, "depth": 5, "width": 60, "orthogonal": ensemble == "orthogonal"}
    draw = jax.jit(lambda keys: jax.lax.map(functools.partial(growth, **options, **given), keys))
    signal, jacobian = (np.asarray(x, np.float64) for x in draw(jax.random.split(jax.random.key(0), DRAWS)))
    law = theory.width_profile(name, [60] * 5, ensemble=ensemble, **given)
    if (name, ensemble) == ("identity", "orthogonal"):
        assert law.jacobian_variance[-1] == pytest.approx(0, abs=1e-12) == law.signal_variance[-1]
        assert max(signal.std(), jacobian.std()) < 1e-5
        return
    # A variance over n draws is known to sqrt(2 / n); the next order of 1/width adds to it.
    tolerance = 4 * math.sqrt(2 / DRAWS)
    assert signal.var() == pytest.approx(law.signal_variance[-1], rel=tolerance)
    assert jacobian.var() == pytest.approx(law.jacobian_variance[-1], rel=tolerance)
    mean, error = spread(jacobian)
    within(mean, float(law.jacobian_mean[-1]), error)


@pytest.mark.parametrize("depth", [10, 20, 40])
def test_relu_and_linear_have_their_closed_forms(depth: int) -> None:
    """5 sum(1/n) for ReLU (Hanin 2018), 2 sum(1/n) for linear, whatever the widths."""
    widths = [50 + 10 * k for k in range(depth)]
    for name, weight_variance, factor in (("relu", 2.0, 5), ("identity", 1.0, 2)):
        law = theory.width_profile(name, widths, 1.0, weight_variance=weight_variance, bias_variance=0.0)
        total = factor * sum(1 / n for n in widths)
        assert law.jacobian_variance[-1] == pytest.approx(total, rel=1e-9)
        growth_of_width = math.log(widths[-1] / widths[0])
        assert law.jacobian_mean[-1] == pytest.approx(growth_of_width - total / 2, abs=1e-9)


def test_orthogonal_weights_leave_what_the_activation_adds() -> None:
    """ReLU: 3 L / n instead of 5 L / n; near criticality of tanh, falling with q*^2."""
    law = theory.width_profile("relu", [100] * 10, 1.0, weight_variance=2.0, bias_variance=0.0, ensemble="orthogonal")
    assert law.jacobian_variance[-1] == pytest.approx(0.3, rel=1e-9)
    spreads = []
    for depth in (100, 1000):
        at = theory.best_variances("tanh", depth)
        options: Any = {"weight_variance": at.weight_variance, "bias_variance": at.bias_variance}
        law = theory.width_profile("tanh", [16] * 2000, at.q_star, ensemble="orthogonal", **options)
        spreads.append(law.jacobian_variance[-1] / at.q_star**2)
    assert spreads[0] == pytest.approx(spreads[1], rel=0.3)


@without_type_checker()
def test_bad_input_is_named() -> None:
    given: Any = {"weight_variance": 2.0, "bias_variance": 0.0, "ensemble": "orthogonal"}
    with pytest.raises(ValueError, match="expected equal widths for orthogonal weights"):
        theory.width_profile("relu", [10, 20], 1.0, **given)
    with pytest.raises(ValueError, match="unknown ensemble 'haar'"):
        theory.width_profile("relu", [10, 10], 1.0, **(given | {"ensemble": "haar"}))
    with pytest.raises(ValueError, match="widths"):
        theory.width_profile("relu", [], 1.0, weight_variance=2.0, bias_variance=0.0)
    with pytest.raises(ArithmeticError, match="dies"):
        theory.width_profile("relu", [10] * 200, 1.0, weight_variance=1.0, bias_variance=0.0)
