"""Recurrent theory against closed forms and cells drawn at random, with weights shared over time and drawn anew."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow import activations, theory
from tests.theory.networks import spread, within

GIVEN = {"weight_variance": 1.5, "input_variance": 0.3}


def test_linear_rnn_is_its_closed_form() -> None:
    """Variance q = sigma_w^2 q + R + sigma_b^2, covariance q c = sigma_w^2 q c + R rho + sigma_b^2."""
    point = theory.recurrent_fixed_point(
        "identity", weight_variance=0.8, input_variance=0.3, bias_variance=0.1, input_correlation=0.5
    )
    assert point.q_star == pytest.approx(0.4 / 0.2, rel=1e-9)
    assert point.c_star == pytest.approx((0.5 * 0.3 + 0.1) / 0.4, rel=1e-9)
    assert point.chi_1 == pytest.approx(0.8, rel=1e-9)
    assert point.xi_c == pytest.approx(-1 / math.log(0.8), rel=1e-9)


@pytest.mark.parametrize("correlation", [-0.8, 0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", ["tanh", "relu"])
def test_rnn_fixed_point_solves_its_equations(name: str, correlation: float) -> None:
    given = {"weight_variance": 1.2, "input_variance": 0.3}
    point = theory.recurrent_fixed_point(name, input_correlation=correlation, **given)
    q = point.q_star
    assert q == pytest.approx(float(theory.variance_map(name, q, 1.2, 0.3)), rel=1e-9)
    covariance = q * float(theory.correlation_map(name, q, point.c_star, 1.2, 0.3)) - 0.3
    assert q * point.c_star == pytest.approx(covariance + 0.3 * correlation, rel=1e-7)


@pytest.mark.parametrize("name", ["tanh", "erf"])
def test_rnn_is_a_wide_one(name: str) -> None:
    """Two sequences with shared weights, 1,000 units: variance, correlation, and the gradient's rate back in time."""
    phi, width, steps, correlation = activations.get(name), 1000, 40, 0.5
    keys = jax.random.split(jax.random.key(1), 3)
    weight = jax.random.normal(keys[0], (width, width)) * math.sqrt(1.5 / width)
    x = jax.random.normal(keys[1], (2, steps, width))
    x = math.sqrt(0.3) * jnp.stack([x[0], correlation * x[0] + math.sqrt(1 - correlation**2) * x[1]], axis=1)

    def run(shifts: jax.Array) -> tuple[jax.Array, jax.Array]:
        def step(h: jax.Array, inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            z = h @ weight.T + inputs[0] + inputs[1]
            return phi(z), z

        return jax.lax.scan(step, jnp.zeros((2, width)), (x, shifts))

    _, back, z = jax.jit(lambda shifts: jax.vjp(run, shifts, has_aux=True))(jnp.zeros((steps, 2, width)))
    gradient = back(jax.random.normal(keys[2], (2, width)))[0]
    point = theory.recurrent_fixed_point(name, input_correlation=correlation, **GIVEN)
    late = np.asarray(z[20:], np.float64)
    squares = (late**2).mean((1, 2))
    within(squares.mean(), point.q_star, point.q_star * math.sqrt(2 / width))  # of one step; successive ones are alike
    within(((late[:, 0] * late[:, 1]).mean(1) / squares).mean(), point.c_star, 1 / math.sqrt(width))
    logs = np.log(np.asarray((gradient**2).mean((1, 2)), np.float64))
    rate, error = spread(np.diff(logs[15:]))
    within(-rate, math.log(point.chi_1), error)


Cell = Any


def minimal(weights: jax.Array, x: jax.Array, h: jax.Array, c: jax.Array, bias: float) -> tuple[jax.Array, jax.Array]:
    u = jax.nn.sigmoid(weights[0] @ h + x[0] + bias)
    return u * h + (1 - u) * x[4], c


def gru(weights: jax.Array, x: jax.Array, h: jax.Array, c: jax.Array, bias: float) -> tuple[jax.Array, jax.Array]:
    z, r = jax.nn.sigmoid(weights[0] @ h + x[0] + bias), jax.nn.sigmoid(weights[1] @ h + x[1])
    return z * h + (1 - z) * jnp.tanh(weights[2] @ (r * h) + x[2]), c


def lstm(weights: jax.Array, x: jax.Array, h: jax.Array, c: jax.Array, bias: float) -> tuple[jax.Array, jax.Array]:
    f, i, g, o = (weight @ h + part for weight, part in zip(weights, x[:4], strict=True))
    c = jax.nn.sigmoid(f + bias) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


@functools.partial(jax.jit, static_argnames=("cell", "count", "shared", "width", "steps"))
def follow(cell: Cell, count: int, given: jax.Array, *, shared: bool, width: int, steps: int) -> Any:
    """Mean squares of h and c, and ln of the factor of a perturbation's mean square, step by step."""
    weight_variance, input_variance, bias = given

    def drawn(key: jax.Array) -> jax.Array:
        return jax.random.normal(key, (count, width, width)) * jnp.sqrt(weight_variance / width)

    def step(state: Any, key: jax.Array) -> tuple[Any, tuple[jax.Array, ...]]:
        for_weights, for_x = jax.random.split(key)
        weights = kept if shared else drawn(for_weights)
        # The last row is the minimal RNN's own input, of mean square 1.
        scales = jnp.sqrt(jnp.stack([input_variance] * 4 + [jnp.ones(())]))
        x = scales[:, None] * jax.random.normal(for_x, (5, width))
        (h, c), (dh, dc) = jax.jvp(lambda h, c: cell(weights, x, h, c, bias), state[:2], state[2:])
        size = jnp.sqrt(jnp.mean(dh**2 + dc**2))
        return (h, c, dh / size, dc / size), (jnp.mean(h**2), jnp.mean(c**2), 2 * jnp.log(size))

    start, first, rest = jax.random.split(jax.random.key(3), 3)
    kept, zeros = drawn(first), jnp.zeros(width)
    begin = (zeros, zeros, jax.random.normal(start, (width,)), zeros)
    return jax.lax.scan(step, begin, jax.random.split(rest, steps))[1]


CELLS: dict[str, tuple[Cell, int, Any, str]] = {
    "minimal": (minimal, 1, theory.minimal_rnn_fixed_point, "update_bias"),
    "gru": (gru, 3, theory.gru_fixed_point, "update_bias"),
    "lstm": (lstm, 4, theory.lstm_fixed_point, "forget_bias"),
}


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("given", [(1.0, 1.0, 0.0), (4.0, 0.5, 2.0)])
def test_gated_cells_with_weights_drawn_anew_are_what_theory_says(name: str, given: tuple[float, float, float]) -> None:
    cell, count, fixed_point, bias = CELLS[name]
    point = fixed_point(weight_variance=given[0], input_variance=given[1], **{bias: given[2]})
    seen = follow(cell, count, jnp.asarray(given), shared=False, width=200, steps=300)
    hidden, state, logs = (np.asarray(values, np.float64)[60:] for values in seen)
    # A state remembers its own chance for about 2 / (1 - E[f]^2) steps: so many fewer independent ones.
    fewer = math.sqrt(2 / (1 - point.retention**2))
    gaussian = 0.02 * point.state_variance if name == "lstm" else 0.0  # c_t is not quite
    pairs = [(hidden, point.hidden_variance), (state if name == "lstm" else hidden, point.state_variance)]
    for values, predicted in pairs:
        mean, error = spread(values)
        within(mean, predicted, fewer * error + gaussian / 4)
    rate, error = spread(logs)
    within(rate, math.log(point.chi), fewer * error + 2 / 200)


@pytest.mark.parametrize(("name", "chi"), [("minimal", 0.36), ("gru", 0.44), ("lstm", 0.42)])
def test_gated_cells_that_share_weights_remember_as_long_as_said(name: str, chi: float) -> None:
    """The numbers of the module's docstring."""
    cell, count, fixed_point, _ = CELLS[name]
    logs = follow(cell, count, jnp.asarray((1.0, 1.0, 0.0)), shared=True, width=500, steps=200)[2]
    assert math.exp(float(logs[50:].mean())) == pytest.approx(chi, abs=0.015)
    assert fixed_point(weight_variance=1.0, input_variance=1.0).chi < chi + 0.015


def test_gates_that_hear_nothing_of_the_state_are_their_closed_form() -> None:
    """Without noise u = sigmoid(b): Q = R (1 - u)^2 / (1 - u^2), chi = u^2; also where 1 - u is all but 0."""
    for bias in (-2.0, 0.0, 3.0, 40.0):
        point = theory.minimal_rnn_fixed_point(weight_variance=0.0, input_variance=0.0, update_bias=bias)
        u, rest = 1 / (1 + math.exp(-bias)), 1 / (1 + math.exp(bias))
        assert point.state_variance == pytest.approx(rest / (1 + u), rel=1e-9)
        assert point.chi == pytest.approx(u**2, rel=1e-12)
    longer = [theory.lstm_fixed_point(forget_bias=b, **GIVEN).memory for b in (0.0, 2.0, 4.0)]
    assert longer == sorted(longer)


def test_bad_input_is_named() -> None:
    with pytest.raises(ArithmeticError, match="the state explodes"):
        theory.recurrent_fixed_point("identity", weight_variance=1.1, input_variance=0.1, input_correlation=0.5)
    with pytest.raises(ValueError, match="input correlation"):
        theory.recurrent_fixed_point("tanh", weight_variance=1.1, input_variance=0.1, input_correlation=1.5)
    with pytest.raises(ValueError, match="candidate variance"):
        theory.minimal_rnn_fixed_point(candidate_variance=0.0, **GIVEN)
    for _, _, fixed_point, bias in CELLS.values():
        with pytest.raises(ValueError, match="bias of the gate"):
            fixed_point(**GIVEN, **{bias: math.inf})
        with pytest.raises(ValueError, match="weight variance"):
            fixed_point(weight_variance=-1.0, input_variance=1.0)
