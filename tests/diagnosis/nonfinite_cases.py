"""Planted operations that make NaN or Inf: `f` of a row of three numbers, `bad` the row, and what has to be said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

GOOD = (0.5, 0.25, 0.75)


class Planted(NamedTuple):
    """An operation, a row that breaks it, and words of the answer; `f` stands on one line, which has to be named."""

    f: Callable[[Any], Any]
    bad: tuple[float, float, float]
    operation: str
    remedy: str


# ruff: noqa: E501
# fmt: off
FORWARD = {
    "division": Planted(lambda x: 1 / x, (1, 0, 2), "division by 0", "divisor away from 0"),
    "zero_by_zero": Planted(lambda x: x / x, (1, 0, 2), "0 / 0", "divisor away from 0"),
    "reciprocal_square": Planted(lambda x: x**-2, (1, 0, 2), "division by 0", "divisor"),
    "mean_of_nothing": Planted(lambda x: jnp.sum(jnp.where(x > 0.1, x, 0.0)) / jnp.sum((x > 0.1).astype(x.dtype)), (0, 0, -1), "0 / 0", "divisor"),
    "log": Planted(lambda x: jnp.log(x), (1, 0, 2), "log of 0", "eps"),
    "log_negative": Planted(lambda x: jnp.log(x), (1, -1, 2), "log of a negative number", "positive"),
    "log1p": Planted(lambda x: jnp.log1p(x), (1, -1, 2), "log of 0", "positive"),
    "sqrt": Planted(lambda x: jnp.sqrt(x), (1, -1, 2), "sqrt of a negative number", "root"),
    "rsqrt": Planted(lambda x: lax.rsqrt(x), (1, 0, 2), "1 / sqrt of 0", "x + eps"),
    "exp": Planted(lambda x: jnp.exp(x), (1, 100, 2), "exp overflow", "maximum"),
    "sinh": Planted(lambda x: jnp.sinh(x), (1, 100, 2), "exp overflow", "maximum"),
    "softmax_by_hand": Planted(lambda x: jnp.exp(x) / jnp.sum(jnp.exp(x)), (1, 100, 2), "exp overflow", "softmax"),
    "power": Planted(lambda x: x**-1.5, (1, 0, 2), "power of 0", "base positive"),
    "power_negative": Planted(lambda x: x**1.5, (1, -1, 2), "power of a negative number", "base positive"),
    "arccos": Planted(lambda x: jnp.arccos(x), (1, 2, 0), "arccos beyond its limit", "Clip"),
    "arctanh": Planted(lambda x: jnp.arctanh(x), (0.5, 1, 0), "arctanh at its limit", "Clip"),
    "square": Planted(lambda x: x * x, (1, 1e30, 0), "overflow of a product", "wider type"),
    "sum": Planted(lambda x: jnp.sum(x) + x, (2e38, 2e38, 0), "overflow of a sum", "wider type"),
    "matmul": Planted(lambda x: (x[None] @ x[:, None])[0], (1e30, 1, 0), "overflow of a matrix product", "wider type"),
    "softmax": Planted(lambda x: jax.nn.softmax(jnp.where(x > 9, x, -jnp.inf)), (1, 0, 2), "softmax of a row of -inf", "finite number"),
    "log_softmax": Planted(lambda x: jax.nn.log_softmax(jnp.where(x > 9, x, -jnp.inf)), (1, 0, 2), "softmax of a row of -inf", "finite number"),
    "manual_softmax": Planted(lambda x: jnp.exp((z := jnp.where(x > 9, x, -jnp.inf)) - z.max()), (1, 0, 2), "softmax of a row of -inf", "finite number"),
    "norm": Planted(lambda x: x / jnp.linalg.norm(x), (0, 0, 0), "norm of 0", "safe_norm"),
    "variance": Planted(lambda x: (x - x.mean()) / x.std(), (2, 2, 2), "variance of 0", "eps to the variance"),
    "variance_by_hand": Planted(lambda x: (d := x - x.mean()) / jnp.sqrt(jnp.mean(d**2)), (2, 2, 2), "variance of 0", "eps to the variance"),
    "cast": Planted(lambda x: (x * 10.0).astype(jnp.float16).astype(jnp.float32), (1, 1e5, 0), "cast to float16 that overflows", "bfloat16"),
    "look_up": Planted(lambda x: jnp.take(x, jnp.array([0, 2, 7])), (1, 0, 2), "look-up out of range", "indices"),
    "inf_minus_inf": Planted(lambda x: (y := jnp.where(x > 1, jnp.inf, x)) - y[::-1], (1, 5, 2), "inf - inf", "finite number"),
    "nothing_left": Planted(lambda x: jnp.min(jnp.where(x > 9, x, jnp.inf)) + x, (1, 5, 2), "reduce_min of nothing but infinity", "finite"),
}
# These break on every row of GOOD numbers too.
ALWAYS = ("look_up", "softmax", "log_softmax", "manual_softmax", "nothing_left")

BACKWARD = {
    "sqrt": Planted(lambda x: jnp.sqrt(x), (1, 0, 2), "sqrt at 0", "x + eps"),
    "norm": Planted(lambda x: jnp.linalg.norm(x), (0, 0, 0), "norm at 0", "safe_norm"),
    "norm_by_hand": Planted(lambda x: jnp.sqrt(jnp.sum(x**2)), (0, 0, 0), "norm at 0", "safe_norm"),
    "std": Planted(lambda x: jnp.std(x), (2, 2, 2), "standard deviation at a variance of 0", "eps to the variance"),
    "power": Planted(lambda x: x**0.5, (1, 0, 2), "power of 0", "x + eps"),
    "arccos": Planted(lambda x: jnp.arccos(x), (0.5, 1, 0), "arccos at its limit", "Clip"),
    "arcsin": Planted(lambda x: jnp.arcsin(x), (0.5, 1, 0), "arcsin at its limit", "Clip"),
    "arctan2": Planted(lambda x: jnp.arctan2(x, x), (1, 0, 2), "atan2 at the origin", "Clip"),
    "where_log": Planted(lambda x: jnp.where(x > 0, jnp.log(x), 0.0), (1, 0, 2), "log of 0", "`where` twice"),
    "where_division": Planted(lambda x: jnp.where(x > 0, 1 / x, 0.0), (1, 0, 2), "division by 0", "`where` twice"),
    "where_quotient": Planted(lambda x: jnp.where(x > 0, jnp.sin(x) / x, 1.0), (1, 0, 2), "0 / 0", "`where` twice"),
    "where_sqrt": Planted(lambda x: jnp.where(x > 0, jnp.sqrt(x), 0.0), (1, 0, 2), "sqrt at 0", "`where` twice"),
    "where_exp": Planted(lambda x: jnp.where(x > 50, x, jnp.log1p(jnp.exp(x))), (1, 100, 2), "exp overflow", "`where` twice"),
    "where_product": Planted(lambda x: jnp.where(x > 50, x, x * jnp.exp(x)), (1, 100, 2), "exp overflow", "`where` twice"),
    "where_norm": Planted(lambda x: jnp.where(jnp.sum(x) > 0, jnp.linalg.norm(x), 0.0), (0, 0, 0), "norm at 0", "`where` twice"),
    "where_power": Planted(lambda x: jnp.where(x > 0, x**0.3, 0.0), (1, 0, 2), "power of 0", "`where` twice"),
    "masked_softmax": Planted(lambda x: jnp.where(x > 9, jax.nn.softmax(x + jnp.where(x > 9, 0.0, -jnp.inf)), 0.0), (1, 0, 2), "softmax of a row of -inf", "`where` twice"),
    "explosion": Planted(lambda x: jnp.sin(1e30 * jnp.sin(1e30 * x)), (0, 0, 0), "overflow of a gradient", "clipping comes too late"),
}
# fmt: on
ALWAYS_BACKWARD = ("masked_softmax", "explosion")


def rows(bad):
    """The bad row between two good ones."""
    return jnp.array([GOOD, bad, GOOD], jnp.float32)


def through_scan(f, reverse):
    def loss(w):
        _, out = lax.scan(lambda carry, row: (carry + 1.0, f(row)), 0.0, w, reverse=reverse)
        return jnp.sum(out)

    return loss


def in_carry(f):
    """The row enters by the carry, and the bad number travels through it to the end."""

    def loss(w):
        return jnp.sum(lax.scan(lambda carry, row: (0.5 * carry + jnp.sum(f(row)), None), 0.0, w)[0])

    return loss


def custom_jvp(f):
    g = jax.custom_jvp(f)
    g.defjvp(lambda primals, tangents: (f(primals[0]), jnp.ones_like(f(primals[0])) * jnp.sum(tangents[0])))
    return g


def custom_vjp(f):
    g = jax.custom_vjp(f)
    g.defvjp(lambda x: (f(x), x), lambda x, c: (jnp.ones_like(x) * jnp.sum(c),))
    return g


def in_branch(f):
    return lambda w: jnp.sum(lax.cond(w[0, 0] > 0, f, lambda x: jnp.log(0 * f(x)), w[1]))


def nested(f):
    return lambda w: jnp.sum(jax.vmap(through_scan(jax.checkpoint(f), reverse=True))(w[None]))


# From f to a loss of three rows, and the steps that have to be named.
TRANSFORMATIONS: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
    "plain": (lambda f: lambda w: jnp.sum(f(w[1])), ()),
    "jit": (lambda f: jax.jit(lambda w: jnp.sum(jax.jit(f)(w[1]))), ()),
    "scan": (lambda f: through_scan(f, reverse=False), (1,)),
    "reverse": (lambda f: through_scan(f, reverse=True), (1,)),
    "carry": (in_carry, (1,)),
    "remat": (lambda f: lambda w: jnp.sum(jax.checkpoint(lambda x: jnp.tanh(f(x)) + f(x))(w[1])), ()),
    "vmap": (lambda f: lambda w: jnp.sum(jax.vmap(f)(w)), ()),
    "cond": (in_branch, ()),
    "vmap_scan_remat": (nested, (1,)),
}
INSIDE_RULES = {"custom_jvp": custom_jvp, "custom_vjp": custom_vjp}
