"""Recurrent cells: how the states of one step follow from those before and from the products W x + b and U h."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer
from jaxtyping import Array

from gradflow import _lookup, initializers
from gradflow.models.custom_layers import module_class

__all__ = ["CELLS", "Cell", "States", "Tap", "Weight", "get"]

States = tuple[Array, ...]
Tap = Callable[[str, Array], Array]


class Weight(NamedTuple):
    """A parameter of a cell besides W, b and U.

    Attributes:
        path: where it lies among the layer's parameters, "module/name".
        axes: 1 for a vector of as many entries as there are units, 2 for a square matrix.
        initializer: `(key, shape, dtype) -> array`.
    """

    path: str
    axes: int
    initializer: Initializer


@dataclasses.dataclass(frozen=True)
class Cell:
    """A recurrent cell, for `Recurrent(cell=...)`.

    A layer of n units multiplies its input by W, of shape (features, gates * n), and its output of the step before by
    U, of shape (n, gates * n); all else is up to the cell. `step` is elementwise: it is computed a second time during
    the backward pass, which takes less time than to store what happens in it. Its arguments are stored.

    Attributes:
        step: `(states, pre, weights, tap) -> states`, where `states` are arrays (batch, n), `pre` is W x + b + U h, of
            shape (batch, gates * n), unless `enter` or `meet` say otherwise, `weights` maps paths to arrays, and
            `tap(name, value) -> value` shows a value to the instrument; use what it returns.
        gates: names of the blocks of n columns of W, b and U, in order; each block is initialized with its own fans.
            An LSTM-like cell, whose `forget_bias` and `chrono_steps` may be set, has blocks "i" and "f".
        states: names of the states; the last one is h, which U multiplies and which is the layer's output.
        weights: parameters besides W, b and U, as (path, axes, initializer).
        enter: `(W x + b, weights) -> anything`: what is made of the input before h plays a part, if anything.
        meet: `(entering, U h) -> pre`, arrays or tuples of them: where the two are not simply added.
        kernel: initializer of W.
        recurrent: initializer of U.
    """

    step: Callable[[States, Any, Mapping[str, Array], Tap], States]
    gates: tuple[str, ...]
    states: tuple[str, ...] = ("h",)
    weights: tuple[Weight | tuple[str, int, Initializer], ...] = ()
    enter: Callable[[Array, Mapping[str, Array]], Any] | None = None
    meet: Callable[[Any, Array], Any] = operator.add
    kernel: Initializer = initializers.glorot_uniform()  # noqa: RUF009
    recurrent: Initializer = initializers.orthogonal()  # noqa: RUF009


def _simple(phi: Callable[[Array], Array], _: States, pre: Array, weights: Mapping[str, Array], tap: Tap) -> States:
    """Elman 1990: h = phi(W x + b + U h)."""
    del weights
    return (tap("h", phi(pre)),)


def _lstm(states: States, pre: Array, weights: Mapping[str, Array], tap: Tap) -> States:
    """Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000; gates in the order i, f, g, o."""
    del weights
    c, _ = states
    i, f, g, o = jnp.split(pre, 4, axis=-1)
    i, f = tap("i", jax.nn.sigmoid(i)), tap("f", jax.nn.sigmoid(f))
    c = tap("c", f * c + i * tap("g", jnp.tanh(g)))
    return c, tap("h", tap("o", jax.nn.sigmoid(o)) * jnp.tanh(c))


def _lstm_peephole(states: States, pre: Array, weights: Mapping[str, Array], tap: Tap) -> States:
    """Gers & Schmidhuber 2000: input and forget gate see the memory before the step, the output gate the new one."""
    c, _ = states
    i, f, g, o = jnp.split(pre, 4, axis=-1)
    i = tap("i", jax.nn.sigmoid(i + weights["peephole/i"] * c))
    f = tap("f", jax.nn.sigmoid(f + weights["peephole/f"] * c))
    c = tap("c", f * c + i * tap("g", jnp.tanh(g)))
    o = tap("o", jax.nn.sigmoid(o + weights["peephole/o"] * c))
    return c, tap("h", o * jnp.tanh(c))


def _gru(states: States, pre: tuple[Array, Array, Array], weights: Mapping[str, Array], tap: Tap) -> States:
    """Cho et al. 2014 with the reset gate after the recurrent product, whose bias it then scales."""
    (h,) = states
    gates, n, n_h = pre
    r, z = jnp.split(jax.nn.sigmoid(gates), 2, axis=-1)
    r, z = tap("r", r), tap("z", z)
    n = tap("n", jnp.tanh(n + r * (n_h + weights["recurrent/bias"])))
    return (tap("h", (1 - z) * n + z * h),)


def _meet_but_candidate(entering: Array, product: Array) -> tuple[Array, Array, Array]:
    """Add up what r and z get, leave what n gets from the input and from h apart; gates in the order r, z, n."""
    units = product.shape[-1] // 3
    gates = entering[..., : 2 * units] + product[..., : 2 * units]
    return gates, entering[..., 2 * units :], product[..., 2 * units :]


def _latent(entering: Array, weights: Mapping[str, Array]) -> tuple[Array, Array]:
    """Latent z = tanh(W x + b), and its share V z + b_u of what the update gate gets."""
    z = jnp.tanh(entering)
    return z, z @ weights["latent/kernel"] + weights["latent/bias"]


def _minimal(states: States, pre: tuple[Array, Array], weights: Mapping[str, Array], tap: Tap) -> States:
    """Chen 2017: the update gate u chooses between what is remembered and a latent z that knows the input alone."""
    del weights
    (h,) = states
    z, gate = pre
    u = tap("u", jax.nn.sigmoid(gate))
    return (tap("h", u * h + (1 - u) * z),)


def _meet_gate(entering: tuple[Array, Array], product: Array) -> tuple[Array, Array]:
    z, share = entering
    return z, share + product


CELLS: dict[str, Cell] = {
    "rnn": Cell(partial(_simple, jnp.tanh), ("h",)),
    "irnn": Cell(
        partial(_simple, jax.nn.relu),
        ("h",),
        kernel=initializers.small_gaussian(0.001),
        recurrent=initializers.scaled_identity(),
    ),
    "lstm": Cell(_lstm, ("i", "f", "g", "o"), ("c", "h")),
    "lstm_peephole": Cell(
        _lstm_peephole,
        ("i", "f", "g", "o"),
        ("c", "h"),
        tuple(Weight(f"peephole/{gate}", 1, initializers.zeros()) for gate in "ifo"),
    ),
    "gru": Cell(
        _gru,
        ("r", "z", "n"),
        weights=(Weight("recurrent/bias", 1, initializers.zeros()),),
        meet=_meet_but_candidate,
    ),
    "minimal_rnn": Cell(
        _minimal,
        ("z",),
        weights=(
            Weight("latent/kernel", 2, initializers.orthogonal()),
            Weight("latent/bias", 1, initializers.zeros()),
        ),
        enter=_latent,
        meet=_meet_gate,
    ),
}


def get(cell: str | Cell | Callable[[Array], Array]) -> Cell:
    """Return a cell by its name; a `Cell` comes back as it is, an elementwise function as the simple RNN that uses it.

    Args:
        cell: a name in `CELLS`, a `Cell`, or phi in h = phi(W x + b + U h).

    Raises:
        ValueError: for an unknown name, with the nearest known one.
        TypeError: for anything else.

    Examples:
        >>> get("lstm").states
        ('c', 'h')
    """
    if isinstance(cell, str):
        return _lookup.find("cell", cell, CELLS)
    if isinstance(cell, Cell):
        return cell
    if not callable(cell) or isinstance(cell, type) or module_class(cell) is not None:
        raise TypeError(
            f"expected the name of a cell, a Cell, an elementwise function, or a Linen RNN cell, got {cell!r}. "
            f"Fix: one of {', '.join(CELLS)}"
        )
    return Cell(partial(_simple, cell), ("h",))
