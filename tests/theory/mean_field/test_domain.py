"""Outside its domain a function of the theory says so in words; it returns no NaN, whatever it is given."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow import activations, theory

EXTREME = (0.0, 1e-300, 1e-12, 1.0, 1e10, 1e300, math.inf, -1.0, math.nan)
FEW = (0.0, 1e-12, 1.0, 1e300, math.nan)
ACTIVATIONS: tuple[Any, ...] = ("tanh", "relu", jnp.exp, jnp.sign, jnp.zeros_like)
DEPTHS = (0, 1, 30)


def numbers(value: Any) -> list[float]:
    """All numbers in a result."""
    if isinstance(value, activations.Activation):
        return [float(x) for x in value.moments()]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        found = [numbers(getattr(value, field.name)) for field in dataclasses.fields(value)]
        properties = [name for name, member in vars(type(value)).items() if isinstance(member, property)]
        return list(itertools.chain(*found, *(numbers(getattr(value, name)) for name in properties)))
    if isinstance(value, tuple):
        return list(itertools.chain(*(numbers(v) for v in value)))
    if isinstance(value, str):
        return []
    return [float(x) for x in np.ravel(np.asarray(value, np.float64))]


def keyword(weight: float, bias: float) -> dict[str, float]:
    return {"weight_variance": weight, "bias_variance": bias}


# Every function with what it is called with; each list is crossed with the activations where it takes one.
CASES: dict[str, list[Callable[..., Any]]] = {
    "fixed_point": [
        lambda phi, w=w, b=b: theory.fixed_point(phi, **keyword(w, b)) for w in EXTREME for b in (0.0, 1.0, math.nan)
    ],
    "critical_weight_variance": [
        lambda phi, b=b: theory.critical_weight_variance(phi, bias_variance=b) for b in (0.0, 1e-12, 1e6, math.nan)
    ],
    "variance_map": [lambda phi, q=q, w=w: theory.variance_map(phi, q, w, 0.0) for q in EXTREME for w in FEW],
    "correlation_map": [
        lambda phi, q=q, c=c: theory.correlation_map(phi, q, c, 1.0, 0.0)
        for q in EXTREME
        for c in (-1.0, 0.0, 1.0, 2.0, math.nan)
    ],
    "variance_profile": [
        lambda phi, q=q, w=w: theory.variance_profile(phi, 30, q, **keyword(w, 0.0)) for q in FEW for w in FEW
    ],
    "backward_rates": [
        lambda phi, q=q, w=w: theory.backward_rates(phi, q, weight_variance=w) for q in EXTREME for w in FEW
    ],
    "network_profile": [
        lambda phi, q=q, w=w, k=k: theory.network_profile(phi, 5, q, **keyword(w, 0.0), keep=k)
        for q in FEW
        for w in FEW
        for k in (0.0, 0.5, math.nan)
    ],
    "dropout_fixed_point": [
        lambda phi, w=w, k=k: theory.dropout_fixed_point(phi, **keyword(w, 0.1), keep=k)
        for w in FEW
        for k in (0.0, 1e-12, 0.5, math.nan)
    ],
    "trainable_depth": [lambda phi, w=w: theory.trainable_depth(phi, **keyword(w, 0.05)) for w in EXTREME],
    "best_variances": [lambda phi, d=d: theory.best_variances(phi, d) for d in DEPTHS],
    "residual_profile": [
        lambda phi, q=q, w=w, s=s: theory.residual_profile(phi, 5, q, **keyword(w, 0.0), branch_scale=s)
        for q in FEW
        for w in FEW
        for s in (0.0, 1.0, math.nan)
    ],
    "batchnorm_rate": [lambda phi, b=b: theory.batchnorm_rate(phi, b) for b in (None, 0, 4, 10**6)],
    "layernorm_rate": [lambda phi, w=w: theory.layernorm_rate(phi, weight_variance=w) for w in EXTREME],
    "recurrent_fixed_point": [
        lambda phi, w=w, r=r, c=c: theory.recurrent_fixed_point(
            phi, weight_variance=w, input_variance=r, input_correlation=c
        )
        for w in FEW
        for r in FEW
        for c in (-1.0, 0.0, math.nan)
    ],
    "gradient_correlation": [
        lambda phi, c=c, q=q: theory.gradient_correlation(phi, [c, c], q)
        for c in (-1.0, 0.0, 1.0, math.nan)
        for q in EXTREME
    ],
    "width_profile": [
        lambda phi, n=n, q=q, w=w, e=e: theory.width_profile(phi, [n] * 5, q, **keyword(w, 0.0), ensemble=e)
        for e in ("gaussian", "orthogonal")
        for n in (0, 1, 100)
        for q in FEW
        for w in FEW
    ],
    "spectrum_moments": [
        lambda phi, q=q, w=w, e=e: theory.spectrum_moments(phi, [q] * 5, weight_variance=w, ensemble=e)
        for q in EXTREME
        for w in FEW
        for e in ("gaussian", "orthogonal")
    ],
    "spectrum_density": [
        lambda phi, d=d, q=q: theory.spectrum_density(phi, d, [0.0, 1e-9, 1.0, 1e9], q=q, weight_variance=1.0)
        for d in (0, 2)
        for q in FEW
    ],
    "largest_singular_value": [
        lambda phi, d=d, q=q, e=e: theory.largest_singular_value(phi, d, q=q, weight_variance=1.0, ensemble=e)
        for d in DEPTHS
        for q in FEW
        for e in ("gaussian", "orthogonal")
    ],
    "zero_fraction": [lambda phi, q=q: theory.zero_fraction(phi, q=q) for q in EXTREME],
    "kernel_shaped": [
        lambda phi, s=s: theory.kernel_shaped(phi, 5, network_slope=s) for s in (1.0, 1.5, 1e5, math.nan)
    ],
    "tailored": [lambda phi, s=s: theory.tailored(phi, 5, network_curvature=s) for s in (0.0, 0.3, 1e5, math.nan)],
}
CELLS: list[Callable[[], Any]] = [
    functools.partial(fn, weight_variance=w, input_variance=r, **{bias: b})
    for fn, bias in (
        (theory.minimal_rnn_fixed_point, "update_bias"),
        (theory.gru_fixed_point, "update_bias"),
        (theory.lstm_fixed_point, "forget_bias"),
    )
    for w in EXTREME
    for r in FEW
    for b in (-300.0, 0.0, 40.0, math.nan)
]


def hold(call: Callable[..., Any], *args: Any) -> None:
    """Either numbers, or a sentence of what is wrong."""
    failure: Exception | None = None
    found: list[float] = []
    try:
        found = numbers(call(*args))
    except (ValueError, ArithmeticError) as error:
        failure = error
    given = (getattr(call, "__defaults__", call), args)
    assert not any(math.isnan(x) for x in found), given
    if failure is not None:
        assert type(failure) in (ValueError, ArithmeticError), given
        assert len(str(failure)) > 30, (str(failure), given)


@pytest.mark.quick_cases(30)
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda phi: phi if isinstance(phi, str) else phi.__name__)
@pytest.mark.parametrize("name", CASES)
def test_numbers_or_words(name: str, activation: Any) -> None:
    with jax.debug_nans(False):
        for call in CASES[name]:
            hold(call, activation)


def test_cells_give_numbers_or_words() -> None:
    for call in CELLS:
        hold(call)


def test_every_function_is_held() -> None:
    """What measures, and what Gaussian quadrature there is below, have tests of their own."""
    measured = {"extreme_singular_values", "predict", "register_rule", "singular_value_moments", "singular_values"}
    below = {"expectation", "moments", "pair_expectation"}
    cells = {"gru_fixed_point", "lstm_fixed_point", "minimal_rnn_fixed_point"}
    functions = {name for name in theory.__all__ if not isinstance(getattr(theory, name), type)}
    assert functions == set(CASES) | measured | below | cells
