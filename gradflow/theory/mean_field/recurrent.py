"""Mean-field theory of recurrent cells: how far back in time signal and gradient reach.

Inputs are taken as independent from step to step, and weights as drawn anew at every step (Chen, Pennington &
Schoenholz 2018, "Dynamical Isometry and a Mean Field Theory of RNNs"; Gilboa et al. 2019, "Dynamical Isometry and a
Mean Field Theory of LSTMs and GRUs"). For the mean squares of a simple RNN this changes nothing at large width. A gated
cell keeps part of its state, so that with weights shared over time what enters it is correlated from step to step: it
then remembers longer than said here, the more so the larger sigma_w^2. At sigma_w^2 = R = 1 and bias 0, chi of 500
units that share their weights is .36, .44, .42 (minimal RNN, GRU, LSTM), and by theory .36, .36, .33.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from gradflow.theory.mean_field.layer_profile import lower_correlation
from gradflow.theory.mean_field.maps import FixedPoint, fixed_point
from gradflow.theory.mean_field.moments import LARGEST, SMALLEST, Phi, activation_moments, in_range
from gradflow.theory.mean_field.nodes import off_centre_nodes

__all__ = ["GatedFixedPoint", "gru_fixed_point", "lstm_fixed_point", "minimal_rnn_fixed_point", "recurrent_fixed_point"]

_ROUNDS = 10_000
_MOST_BIAS = 300.0  # of a gate: beyond, 1 - u is 0 in double precision's range


def recurrent_fixed_point(
    activation: Phi,
    *,
    weight_variance: float,
    input_variance: float,
    bias_variance: float = 0.0,
    input_correlation: float = 1.0,
) -> FixedPoint:
    """Where a simple RNN h_t = phi(W h_(t-1) + V x_t + b) settles.

        q* = sigma_w^2 E[phi(z)^2] + R + sigma_b^2,  z ~ N(0, q*), R the variance of V x_t
        q* c* = sigma_w^2 E[phi(z) phi(z')] + R rho + sigma_b^2, for two sequences whose inputs have correlation rho

    chi_1 is the factor of the mean square of dL/dh_t a step back in time, and xi_c the number of steps over which the
    state remembers what distinguished two sequences. Chen et al. 2018.

    Args:
        activation: name, record or function.
        weight_variance: sigma_w^2 of the recurrent weights, W ~ N(0, sigma_w^2 / n).
        input_variance: R, sigma_v^2 times the mean square of the inputs.
        bias_variance: sigma_b^2.
        input_correlation: rho.

    Raises:
        ValueError: for values out of range.
        ArithmeticError: where the state dies or explodes, and the inputs differ.

    Examples:
        >>> point = recurrent_fixed_point("tanh", weight_variance=1.0, input_variance=0.05)
        >>> round(point.chi_1, 3)  # an input that both share acts as a bias
        0.759
    """
    in_range("an input variance", input_variance, 0.0, LARGEST)
    in_range("an input correlation", input_correlation, -1.0, 1.0)
    given = input_variance + bias_variance
    point = fixed_point(activation, weight_variance=weight_variance, bias_variance=given)
    if input_correlation == 1 or input_variance == 0:
        return point
    q = point.q_star
    if not SMALLEST < q < LARGEST:
        raise ArithmeticError(f"the state {'dies' if q < 1 else 'explodes'}. Fix: a smaller recurrent weight variance")
    shared = input_variance * input_correlation + bias_variance
    c, slope = lower_correlation(activation_moments(activation), q, weight_variance, shared)
    xi_c = -1 / math.log(slope) if 0 < slope < 1 else 0.0 if slope <= 0 else math.inf
    return dataclasses.replace(point, c_star=c, slope_at_c_star=slope, xi_c=xi_c)


@dataclasses.dataclass(frozen=True)
class GatedFixedPoint:
    """Where a gated cell settles, and what it retains.

    Attributes:
        state_variance: mean square of the state that is carried along: c_t of an LSTM, h_t of the others.
        hidden_variance: mean square of h_t.
        retention: E[f], mean of the gate that carries the state on: the mean signal falls by it a step.
        retention_square: E[f^2], by which its mean square falls along the direct path.
        chi: factor of the mean square gradient a step back in time, over all paths.
    """

    state_variance: float
    hidden_variance: float
    retention: float
    retention_square: float
    chi: float

    @property
    def memory(self) -> float:
        """Steps over which the mean square gradient changes by e: 1 / |ln chi|, inf at chi = 1."""
        return math.inf if self.chi == 1 else 0.0 if self.chi <= 0 else 1 / abs(math.log(self.chi))


def minimal_rnn_fixed_point(
    *, weight_variance: float, input_variance: float, update_bias: float = 0.0, candidate_variance: float = 1.0
) -> GatedFixedPoint:
    """h_t = u_t h_(t-1) + (1 - u_t) e_t, u_t = sigmoid(W h_(t-1) + V e_t + b), of Chen et al. 2018.

        Q (1 - E[u^2]) = R E[(1 - u)^2],  u = sigmoid(N(b, sigma_w^2 Q + sigma_v^2 R))
        chi = E[u^2] + sigma_w^2 E[u'^2] (Q + R)

    Args:
        weight_variance: sigma_w^2.
        input_variance: sigma_v^2 R, variance of V e_t.
        update_bias: b; large ones keep the state.
        candidate_variance: R, mean square of e_t, of mean 0.

    Raises:
        ValueError: for values out of range.
        ArithmeticError: if no fixed point is reached.

    Examples:
        >>> point = minimal_rnn_fixed_point(weight_variance=1.0, input_variance=1.0, update_bias=4.0)
        >>> round(point.retention, 3), point.chi < 1
        (0.971, True)
    """
    for name, value in (
        ("a weight variance", weight_variance),
        ("an input variance", input_variance),
        ("a candidate variance above 0", candidate_variance - 1e-12),
    ):
        in_range(name, value, 0.0, LARGEST)
    in_range("a bias of the gate", update_bias, -_MOST_BIAS, _MOST_BIAS)

    def gate(state: float) -> _Gate:
        return _Gate(update_bias, weight_variance * state + input_variance)

    def next_state(state: float) -> float:
        u = gate(state)
        return candidate_variance * u.rest_square / u.lost

    state = _iterate_to_rest(next_state, candidate_variance)
    u = gate(state)
    chi = u.square + weight_variance * u.slope_square * (state + candidate_variance)
    return GatedFixedPoint(state, state, u.mean, u.square, chi)


def gru_fixed_point(*, weight_variance: float, input_variance: float, update_bias: float = 0.0) -> GatedFixedPoint:
    """h_t = z h_(t-1) + (1 - z) n, n = tanh(W_n (r h) + V_n x), z and r sigmoid gates, equal variances for all three.

        Q (1 - E[z^2]) = E[(1 - z)^2] E[n^2]
        chi = E[z^2] + s E[z'^2] (Q + E[n^2]) + s E[(1 - z)^2] E[n'^2] (E[r^2] + s Q E[r'^2]),  s = sigma_w^2

    After Gilboa et al. 2019; cross terms of paths through different weights vanish.

    Args:
        weight_variance: sigma_w^2 of every recurrent matrix.
        input_variance: variance of V x_t in every gate.
        update_bias: of z; large ones keep the state.

    Raises:
        ValueError: for values out of range.
        ArithmeticError: if no fixed point is reached.

    Examples:
        >>> round(gru_fixed_point(weight_variance=1.0, input_variance=1.0).retention, 6)
        0.5
    """
    in_range("a weight variance", weight_variance, 0.0, LARGEST)
    in_range("an input variance", input_variance, 0.0, LARGEST)
    in_range("a bias of the gate", update_bias, -_MOST_BIAS, _MOST_BIAS)

    def parts(state: float) -> tuple[_Gate, _Gate, _Gate]:
        variance = weight_variance * state + input_variance
        update, reset = _Gate(update_bias, variance), _Gate(0.0, variance)
        return update, reset, _Gate(0.0, weight_variance * reset.square * state + input_variance, tanh=True)

    def next_state(state: float) -> float:
        update, _, new = parts(state)
        return update.rest_square * new.square / update.lost

    state = _iterate_to_rest(next_state, 1.0)
    update, reset, new = parts(state)
    chi = update.square + weight_variance * update.slope_square * (state + new.square)
    through = reset.square + weight_variance * state * reset.slope_square
    chi += weight_variance * update.rest_square * new.slope_square * through
    return GatedFixedPoint(state, state, update.mean, update.square, chi)


def lstm_fixed_point(*, weight_variance: float, input_variance: float, forget_bias: float = 0.0) -> GatedFixedPoint:
    """c_t = f c_(t-1) + i g, h_t = o tanh(c_t), equal variances for all four gates, c_t taken as Gaussian.

        C (1 - E[f^2]) = E[i^2] E[g^2],  Q = E[o^2] E[tanh(c)^2],  gates of variance sigma_w^2 Q + R

    Mean squares of (dc, dh) go from step to step by [[F, A], [P F, P A + O]], F = E[f^2],
    A = sigma_w^2 (C E[f'^2] + E[g^2] E[i'^2] + E[i^2] E[g'^2]), P = E[o^2] E[tanh'(c)^2],
    O = sigma_w^2 E[o'^2] E[tanh(c)^2]; chi is the largest eigenvalue. After Gilboa et al. 2019.

    Args:
        weight_variance: sigma_w^2 of every recurrent matrix.
        input_variance: R, variance of V x_t in every gate.
        forget_bias: of f.

    Raises:
        ValueError: for values out of range.
        ArithmeticError: if no fixed point is reached.

    Examples:
        >>> short, long = (lstm_fixed_point(weight_variance=1.0, input_variance=1.0, forget_bias=b) for b in (0.0, 4.0))
        >>> short.memory < long.memory
        True
    """
    in_range("a weight variance", weight_variance, 0.0, LARGEST)
    in_range("an input variance", input_variance, 0.0, LARGEST)
    in_range("a bias of the gate", forget_bias, -_MOST_BIAS, _MOST_BIAS)

    def parts(hidden: float) -> tuple[_Gate, _Gate, _Gate, float, _Gate]:
        variance = weight_variance * hidden + input_variance
        forget, gate = _Gate(forget_bias, variance), _Gate(0.0, variance)
        new = _Gate(0.0, variance, tanh=True)
        cell = gate.square * new.square / forget.lost
        return forget, gate, new, cell, _Gate(0.0, cell, tanh=True)

    def next_state(hidden: float) -> float:
        _, gate, _, _, out = parts(hidden)
        return gate.square * out.square

    hidden = _iterate_to_rest(next_state, 0.1)
    forget, gate, new, cell, out = parts(hidden)
    a = cell * forget.slope_square + new.square * gate.slope_square + gate.square * new.slope_square
    a, p = weight_variance * a, gate.square * out.slope_square
    transfer = np.array(
        [[forget.square, a], [p * forget.square, p * a + weight_variance * gate.slope_square * out.square]]
    )
    chi = float(np.abs(np.linalg.eigvals(transfer)).max())
    return GatedFixedPoint(cell, hidden, forget.mean, forget.square, chi)


class _Gate:
    """ActivationMoments of sigmoid(z) or tanh(z), z ~ N(bias, variance)."""

    def __init__(self, bias: float, variance: float, *, tanh: bool = False) -> None:
        z, weights = off_centre_nodes(bias, variance)
        up, down = np.exp(-np.maximum(-z, 0)) / (1 + np.exp(-abs(z))), np.exp(-np.maximum(z, 0)) / (1 + np.exp(-abs(z)))
        value, slope = (np.tanh(z), 1 / np.cosh(np.minimum(abs(z), 300.0)) ** 2) if tanh else (up, up * down)
        self.mean, self.square = float(weights @ value), float(weights @ value**2)
        self.slope_square = float(weights @ slope**2)
        self.rest_square = float(weights @ down**2)
        self.lost = float(weights @ (down * (1 + up)))
        """1 - E[u^2], also where u is nearly 1."""


def _iterate_to_rest(fn: Callable[[float], float], start: float) -> float:
    """The fixed point that repeated, averaged application of fn leads to."""
    here = start
    for _ in range(_ROUNDS):
        there = fn(here)
        if not math.isfinite(there) or there > LARGEST:
            break
        if abs(there - here) <= 1e-12 * max(abs(here), 1e-12):
            return there
        here = (here + there) / 2
    raise ArithmeticError(
        f"the mean square of the state does not settle (it is {here:g}). Likely cause: a gate that is always open, or "
        "a weight variance far above 1. Fix: a smaller bias of the gate, or a smaller weight variance"
    )
