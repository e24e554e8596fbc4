"""Recurrent networks: simple RNN, IRNN, LSTM and GRU as a scan over time, with the input projection outside of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.nn.initializers import Initializer
from jaxtyping import Array, Float, Int

from gradflow import initializers, lookup
from gradflow.models.layers import as_floating, check_size

CellName = Literal["lstm", "gru", "rnn", "irnn"]
Carry = tuple[Array, ...]


def _lstm(carry: Carry, projected: Array, recurrent: Callable[[Array], Array]) -> Carry:
    """Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000; gates in the order i, f, g, o."""
    c, h = carry
    i, f, g, o = jnp.split(projected + recurrent(h), 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return c, jax.nn.sigmoid(o) * jnp.tanh(c)


def _gru(carry: Carry, projected: Array, recurrent: Callable[[Array], Array]) -> Carry:
    """Cho et al. 2014, with the reset gate after the recurrent product; gates in the order r, z, n."""
    (h,) = carry
    r_in, z_in, n_in = jnp.split(projected, 3, axis=-1)
    r_h, z_h, n_h = jnp.split(recurrent(h), 3, axis=-1)
    z = jax.nn.sigmoid(z_in + z_h)
    n = jnp.tanh(n_in + jax.nn.sigmoid(r_in + r_h) * n_h)
    return ((1 - z) * n + z * h,)


def _rnn(carry: Carry, projected: Array, recurrent: Callable[[Array], Array]) -> Carry:
    """Elman 1990 with tanh."""
    return (jnp.tanh(projected + recurrent(carry[0])),)


def _irnn(carry: Carry, projected: Array, recurrent: Callable[[Array], Array]) -> Carry:
    """Le et al. 2015: ReLU, and the identity as recurrent matrix at first."""
    return (jax.nn.relu(projected + recurrent(carry[0])),)


class _Cell(NamedTuple):
    """A step function with what has to be known of it."""

    step: Callable[..., Carry]
    gates: int
    states: int
    kernel: Initializer
    recurrent: Initializer


CELLS: dict[str, _Cell] = {
    "lstm": _Cell(_lstm, 4, 2, initializers.glorot_uniform(), initializers.orthogonal()),
    "gru": _Cell(_gru, 3, 1, initializers.glorot_uniform(), initializers.orthogonal()),
    "rnn": _Cell(_rnn, 1, 1, initializers.glorot_uniform(), initializers.orthogonal()),
    "irnn": _Cell(_irnn, 1, 1, initializers.small_gaussian(0.001), initializers.scaled_identity()),
}


class Recurrent(nn.Module):
    """Recurrent network: sequences (batch, time, features) to outputs (batch, outputs), read off the last hidden state.

    Equations, with x_t the input and W x_t + b computed for all t in one product before the scan (unless `hoist` is
    False):

    - "lstm": (i, f, g, o) = W x_t + b + U h; c = sigmoid(f) c + sigmoid(i) tanh(g); h = sigmoid(o) tanh(c).
    - "gru": (r, z, n) = W x_t + b and (r', z', n') = U h + b'; h = (1 - s) tanh(n + sigmoid(r + r') n') + s h with s =
      sigmoid(z + z').
    - "rnn": h = tanh(W x_t + b + U h). "irnn": relu instead of tanh, U = I at first.

    The carry is (c, h) for the LSTM, (h,) for the others, zero at the start of a sequence. Parameters are
    `Layer_i/input` (`kernel`, `bias`), `Layer_i/recurrent` (`kernel`; for the GRU `bias`), `Dense_head`; gates lie side
    by side on the last axis in the order above. Each gate's block of a kernel is initialized on its own, with its own
    fans.

    Attributes:
        cell: "lstm", "gru", "rnn" or "irnn".
        hidden: units of a layer.
        outputs: units of the output layer.
        layers: number of layers, one upon the other.
        return_sequence: read outputs off every hidden state: (batch, time, outputs).
        forget_bias: of the LSTM: bias of the forget gate at first (Gers et al. 2000; Jozefowicz et al. 2015: 1).
        chrono_steps: of the LSTM: longest dependency T in steps; the bias of the forget gate is then log U(1, T - 1) at
            first and that of the input gate its negative, in place of `forget_bias` and 0 (Tallec & Ollivier 2018).
        initializer: of input kernels; None: Glorot uniform, for "irnn" N(0, 0.001^2).
        recurrent_initializer: of recurrent kernels; None: orthogonal, for "irnn" the identity.
        hoist: multiply all inputs by W in one product before the scan, rather than each in its step. One product keeps
            an accelerator busy; on CPU, storing batch x time x gates numbers costs more than it saves: a gradient with
            batch 64, 100 steps, 32 features and 128 units took 62 ms with True and 45 ms with False (LSTM), 47 and 23
            ms (GRU), on two cores.
        unroll: steps of the scan done in one turn of the loop.
        dtype: of computation.
        param_dtype: of parameters.
    """

    cell: CellName = "lstm"
    hidden: int = 128
    outputs: int = 1
    layers: int = 1
    return_sequence: bool = False
    forget_bias: float = 1.0
    chrono_steps: int | None = None
    initializer: str | Initializer | None = None
    recurrent_initializer: str | Initializer | None = None
    hoist: bool = True
    unroll: int = 1
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        lookup.find("cell", self.cell, CELLS)
        for name in ("hidden", "outputs", "layers", "unroll"):
            check_size("Recurrent", name, getattr(self, name))
        if self.chrono_steps is not None and (self.cell != "lstm" or self.chrono_steps < 3):
            raise ValueError(
                f"Recurrent(chrono_steps=...): expected at least 3 steps and cell 'lstm', got {self.chrono_steps} and "
                f"{self.cell!r}"
            )
        for scheme in (self.initializer, self.recurrent_initializer):
            if scheme is not None:
                initializers.get(scheme)
        super().__post_init__()

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch time features"], lengths: Int[Array, " batch"] | None = None
    ) -> Float[Array, "batch outputs"] | Float[Array, "batch time outputs"]:
        """Map sequences to outputs.

        Args:
            x: sequences, floating-point.
            lengths: steps of each sequence that count, at least 1; states stay as they are after the last of them, so
                that outputs are read there. None: all.

        Raises:
            TypeError: for inputs that are not floating-point.
            ValueError: for inputs that do not have three axes or have no steps, or lengths that do not fit.
        """
        x = as_floating(x, 3, "(batch, time, features)", self.dtype)
        if x.shape[1] == 0:
            raise ValueError(f"expected sequences of at least one step, got shape {x.shape}")
        _check_lengths(lengths, x.shape)
        sequence = jnp.swapaxes(x, 0, 1)
        for index in range(self.layers):
            sequence = _Layer(self._options(), name=f"Layer_{index}")(sequence, lengths)
        head = nn.Dense(
            self.outputs,
            kernel_init=initializers.glorot_uniform(),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="Dense_head",
        )
        return jnp.swapaxes(head(sequence), 0, 1) if self.return_sequence else head(sequence[-1])

    def _options(self) -> _Options:
        cell = CELLS[self.cell]
        return _Options(
            cell=self.cell,
            hidden=self.hidden,
            bias=self._bias_initializer(),
            kernel=_by_gate(
                cell.kernel if self.initializer is None else initializers.get(self.initializer), cell.gates
            ),
            recurrent=_by_gate(
                cell.recurrent if self.recurrent_initializer is None else initializers.get(self.recurrent_initializer),
                cell.gates,
            ),
            hoist=self.hoist,
            unroll=self.unroll,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )

    def _bias_initializer(self) -> Initializer:
        if self.cell != "lstm":
            return initializers.zeros()
        forget, steps, units = self.forget_bias, self.chrono_steps, self.hidden

        def init(key: Array, shape: Sequence[int], dtype: Any = jnp.float32, out_sharding: Any = None) -> Array:
            nothing = jnp.zeros((units,), dtype)
            if steps is None:
                return jnp.concatenate([nothing, jnp.full((units,), forget, dtype), nothing, nothing])
            times = jnp.log(jax.random.uniform(key, (units,), dtype, 1.0, steps - 1.0))
            return jnp.concatenate([-times, times, nothing, nothing])

        return init


class _Options(NamedTuple):
    """What the layers have in common."""

    cell: str
    hidden: int
    bias: Initializer
    kernel: Initializer
    recurrent: Initializer
    hoist: bool
    unroll: int
    dtype: Any
    param_dtype: Any


class _Layer(nn.Module):
    """One recurrent layer, time first: projection of all inputs, then the scan."""

    options: _Options

    @nn.compact
    def __call__(self, sequence: Array, lengths: Array | None) -> Array:
        options, cell = self.options, CELLS[self.options.cell]
        weights = _InputWeights(options, name="input")(sequence.shape[-1])
        steps, batch = sequence.shape[:2]
        counts = None if lengths is None else jnp.arange(steps)[:, None] < lengths
        scan = nn.scan(
            _Step,
            variable_broadcast="params",
            split_rngs={"params": False},
            in_axes=(0, nn.broadcast),
            unroll=options.unroll,
        )
        carry = (jnp.zeros((batch, options.hidden), options.dtype),) * cell.states
        entering = _project(sequence, *weights) if options.hoist else sequence
        inside = None if options.hoist else weights
        _, states = scan(options, name="recurrent")(carry, (entering, counts), inside)
        return states


class _InputWeights(nn.Module):
    """W and b of a layer, for use before the scan or within it."""

    options: _Options

    @nn.compact
    def __call__(self, features: int) -> tuple[Array, Array]:
        options = self.options
        width = CELLS[options.cell].gates * options.hidden
        kernel = self.param("kernel", options.kernel, (features, width), options.param_dtype)
        bias = self.param("bias", options.bias, (width,), options.param_dtype)
        return kernel.astype(options.dtype), bias.astype(options.dtype)


def _project(x: Array, kernel: Array, bias: Array) -> Array:
    return x @ kernel + bias


class _Step(nn.Module):
    """Body of the scan over time. The last state of a carry is h."""

    options: _Options

    @nn.compact
    def __call__(
        self, carry: Carry, inputs: tuple[Array, Array | None], weights: tuple[Array, Array] | None
    ) -> tuple[Carry, Array]:
        options, cell = self.options, CELLS[self.options.cell]
        entering, counts = inputs
        projected = entering if weights is None else _project(entering, *weights)
        width = cell.gates * options.hidden
        kernel = self.param("kernel", options.recurrent, (options.hidden, width), options.param_dtype)
        # Elsewhere a bias on this side would only repeat that of the input.
        biased = options.cell == "gru"
        bias = self.param("bias", nn.initializers.zeros, (width,), options.param_dtype) if biased else None

        def recurrent(h: Array) -> Array:
            product = h @ kernel.astype(h.dtype)
            return product if bias is None else product + bias.astype(h.dtype)

        after = cell.step(carry, projected, recurrent)
        if counts is not None:
            after = tuple(jnp.where(counts[:, None], new, old) for new, old in zip(after, carry, strict=True))
        return after, after[-1]


def _by_gate(init: Initializer, gates: int) -> Initializer:
    """Initialize the block of each gate on its own."""

    def blocks(key: Array, shape: Sequence[int], dtype: Any = jnp.float32, out_sharding: Any = None) -> Array:
        block = (*shape[:-1], shape[-1] // gates)
        return jnp.concatenate([init(k, block, dtype) for k in jax.random.split(key, gates)], axis=-1)

    return init if gates == 1 else blocks


def _check_lengths(lengths: Any, shape: tuple[int, ...]) -> None:
    """Reject lengths that do not fit the sequences; their values only where they are known before compilation."""
    if lengths is None:
        return
    if lengths.shape != shape[:1] or not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise ValueError(f"expected lengths of shape {shape[:1]}, integer, got {lengths.shape}, {lengths.dtype}")
    if isinstance(lengths, jax.core.Tracer):
        return
    low, high = int(np.min(lengths)), int(np.max(lengths))
    if low < 1 or high > shape[1]:
        raise ValueError(f"expected lengths from 1 to the {shape[1]} steps of the sequences, got {low} to {high}")
