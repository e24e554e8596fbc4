"""Recurrent networks: a cell as a scan over time, stacked, in one or both directions, for any lengths."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.nn.initializers import Initializer
from jaxtyping import Array, Bool, Float, Int

from gradflow import initializers
from gradflow.instrument.tap import tap
from gradflow.models import cells
from gradflow.models.cells import Cell, States
from gradflow.models.layers import as_floating, check_dtypes, check_size, varying_as
from gradflow.models.linen_cells import LinenLayer, check_cell, is_linen

__all__ = ["Recurrent"]


class Recurrent(nn.Module):
    """Recurrent network: sequences (batch, time, features) to outputs (batch, outputs), read off the last hidden state.

    Equations, with x_t the input, h and c the states of the step before, s the logistic function:

    - "lstm": (i, f, g, o) = (s, s, tanh, s)(W x_t + b + U h); c = f c + i g; h = o tanh(c). Hochreiter & Schmidhuber
      1997, Gers et al. 2000.
    - "lstm_peephole": i and f also see p_i c and p_f c, o sees p_o times the new c; p = 0 at first. Gers & Schmidhuber
      2000.
    - "gru": (r, z) = s(W x_t + b + U h); n = tanh(W_n x_t + b_n + r (U_n h + b'_n)); h = (1 - z) n + z h. Cho et al.
      2014.
    - "minimal_rnn": z = tanh(W x_t + b); u = s(U h + V z + b_u); h = u h + (1 - u) z. Chen 2017, arXiv:1711.06788;
      Chen, Pennington & Schoenholz 2018.
    - "rnn": h = tanh(W x_t + b + U h). Elman 1990. "irnn": relu instead of tanh, U = I and W near 0 at first. Le et al.
      2015. A function phi instead of a name: phi instead of tanh.

    States are 0 at the start of a sequence unless given. Parameters are `Layer_i/input` (`kernel`, `bias`),
    `Layer_i/recurrent` (`kernel`; for the GRU `bias`, which is b'_n), `Layer_i/peephole` (`i`, `f`, `o`),
    `Layer_i/latent` (`kernel`, `bias`), `Dense_head`; those of the other direction lie in `Layer_i_reverse`. Gates lie
    side by side on the last axis in the order above. Each gate's block of a kernel is initialized on its own, with its
    own fans.

    Gates and states carry names for `value_grad_and_flow`: `flow["Layer_0/f"].output_rms` has one number a step.

    Speed: gates are computed again in the backward pass instead of being stored (their inputs are). A training step of
    64 sequences of 100 steps, 32 features and 128 units then takes .93 of PyTorch's time with an LSTM, .66 with a GRU,
    .57 with a simple RNN (best of 15, two CPU cores); an LSTM's takes 20 MiB of temporary memory, with `hoist=True` 57.
    Above 32 MiB glibc returns memory to the system after every step, and touching its pages anew took a quarter of the
    time.

    Attributes:
        cell: "lstm", "lstm_peephole", "gru", "minimal_rnn", "rnn" or "irnn"; a `Cell` of your own; an elementwise
            function; or a Linen cell, as a class, `functools.partial` of one, or module: `nn.GRUCell`. Its parameters
            lie in `Layer_i/{class name}`, its states are its carries, and its gates have no names.
        hidden: units of a layer (of each direction).
        outputs: units of the output layer.
        layers: number of stacked layers.
        bidirectional: read sequences in both directions, each with its own parameters; layers and the head get both
            states side by side, forward first. Of a sequence shorter than the others only its own part is reversed.
        return_sequence: read outputs off the hidden states of every step: (batch, time, outputs).
        return_state: return (outputs, states), in the form that `state` takes.
        forget_bias: bias of the forget gate at first; None: 1 where there is such a gate (Gers et al. 2000; Jozefowicz
            et al. 2015).
        chrono_steps: longest dependency T in steps; the bias of the forget gate is then log U(1, T - 1) at first and
            that of the input gate its negative (Tallec & Ollivier 2018).
        initializer: of input kernels; None: the cell's own (Glorot uniform, for "irnn" N(0, 0.001^2)).
        recurrent_initializer: of recurrent kernels; None: the cell's own (orthogonal, for "irnn" the identity).
        hoist: multiply all inputs by W in one product before the scan, rather than each in its step. One product keeps
            an accelerator busy; on a CPU it has to be written out, with its gradient, and costs more than it saves: 41
            to 21 ms (LSTM), 41 to 20 ms (GRU), 6.1 to 5.9 ms (simple RNN) with the sizes above. The instrument then
            sees one layer `Layer_i/input` rather than one for each step.
        unroll: steps of the scan done in one turn of the loop.
        taps: whether gates and states are named for the instrument; costs nothing without it.
        dtype: of computation.
        param_dtype: of parameters.
    """

    cell: str | Cell | Callable[[Array], Array] = "lstm"
    hidden: int = 128
    outputs: int = 1
    layers: int = 1
    bidirectional: bool = False
    return_sequence: bool = False
    return_state: bool = False
    forget_bias: float | None = None
    chrono_steps: int | None = None
    initializer: str | Initializer | None = None
    recurrent_initializer: str | Initializer | None = None
    hoist: bool = False
    unroll: int = 2
    taps: bool = True
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        for name in ("hidden", "outputs", "layers", "unroll"):
            check_size("Recurrent", name, getattr(self, name))
        check_dtypes(self)
        if is_linen(self.cell):
            refused = {name: getattr(self, name) for name in ("forget_bias", "chrono_steps", "hoist")}
            check_cell(self.cell, self.hidden, refused)
        else:
            _check_forget_gate(self.cell, cells.get(self.cell), self.forget_bias, self.chrono_steps)
        for scheme in (self.initializer, self.recurrent_initializer):
            if scheme is not None:
                initializers.get(scheme)
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        x: Float[Array | np.ndarray, "batch time features"],
        lengths: Int[Array | np.ndarray, " batch"] | Bool[Array | np.ndarray, "batch time"] | None = None,
        state: tuple[Any, ...] | None = None,
    ) -> Any:
        """Map sequences to outputs.

        Args:
            x: sequences, floating-point.
            lengths: steps of each sequence that count, at least 1, or a mask that is True for these, wherever they lie;
                states stay as they are at other steps, so that the last state is that of the last step that counts.
                Outputs of other steps mean nothing. Values are checked where they are known before compilation: not
                as arguments of a jitted function, where a length beyond the sequence counts all of it. None: all.
            state: states before the first step: for each layer, and in it for each direction, a tuple of arrays
                (batch, hidden), (c, h) for an LSTM, (h,) for the others, the carry of a Linen cell. None: zero.

        Returns:
            Outputs, (batch, outputs) or (batch, time, outputs); with `return_state` a pair of them and the states after
            the last step.

        Raises:
            TypeError: for inputs that are not floating-point.
            ValueError: for inputs that do not have three axes or have no steps, lengths or states that do not fit.
        """
        x = as_floating(x, 3, "(batch, time, features)", self.dtype)
        batch, steps, _ = x.shape
        if steps == 0:
            raise ValueError(f"expected sequences of at least one step, got shape {x.shape}. Fix: leave empty ones out")
        counts = None if lengths is None else _counts(lengths, x.shape)
        directions = (False, True) if self.bidirectional else (False,)
        before = iter(varying_as(self._initial(state, batch, self.layers * len(directions)), x))
        after: list[Any] = []
        # What steps give is kept only if someone reads it.
        sequence = jnp.swapaxes(x, 0, 1)
        for index in range(self.layers):
            collect = self.return_sequence or index < self.layers - 1
            done = [self._layer(index, reverse)(sequence, counts, next(before), collect) for reverse in directions]
            after += [states for states, _ in done]
            sequence = jnp.concatenate([outputs for _, outputs in done], axis=-1)
        head = nn.Dense(
            self.outputs,
            kernel_init=initializers.glorot_uniform(),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="Dense_head",
        )
        outputs = jnp.swapaxes(head(sequence), 0, 1) if self.return_sequence else head(sequence)
        return (outputs, tuple(after)) if self.return_state else outputs

    def _layer(self, index: int, reverse: bool) -> nn.Module:
        name = f"Layer_{index}_reverse" if reverse else f"Layer_{index}"
        shared: dict[str, Any] = {"hidden": self.hidden, "reverse": reverse, "unroll": self.unroll}
        shared |= {"dtype": self.dtype, "param_dtype": self.param_dtype, "name": name}
        if is_linen(self.cell):
            inits = [i if i is None else initializers.get(i) for i in (self.initializer, self.recurrent_initializer)]
            return LinenLayer(cell=self.cell, kernel=inits[0], recurrent=inits[1], **shared)
        cell = cells.get(self.cell)
        kernel = cell.kernel if self.initializer is None else initializers.get(self.initializer)
        chosen = self.recurrent_initializer
        recurrent = cell.recurrent if chosen is None else initializers.get(chosen)
        return _Layer(
            cell=cell,
            bias=_bias_initializer(cell, self.forget_bias, self.chrono_steps),
            kernel=_by_gate(kernel, len(cell.gates)),
            recurrent=_by_gate(recurrent, len(cell.gates)),
            hoist=self.hoist,
            taps=self.taps,
            **shared,
        )

    def _initial(self, state: Any, batch: int, scans: int) -> tuple[Any, ...]:
        if is_linen(self.cell):
            if state is not None and len(state) != scans:
                raise ValueError(
                    f"expected state to be a tuple of {scans} carries, got {len(state)}. "
                    "Fix: take the one that return_state=True returns"
                )
            return (None,) * scans if state is None else tuple(state)
        names = cells.get(self.cell).states
        shape = (batch, self.hidden)
        if state is None:
            return ((jnp.zeros(shape, self.dtype),) * len(names),) * scans
        expected = ((shape,) * len(names),) * scans
        if jax.tree.map(jnp.shape, state) != expected:
            raise ValueError(
                f"expected state to be a tuple of {scans} tuples ({', '.join(names)}) of arrays {shape}, got "
                f"{jax.tree.map(jnp.shape, state)}. Likely cause: the state of another model or batch. Fix: take the "
                "one that return_state=True returns"
            )
        return jax.tree.map(lambda s: jnp.asarray(s).astype(self.dtype), state)


class _Layer(nn.Module):
    """One recurrent layer in one direction, time first."""

    cell: Cell
    hidden: int
    bias: Initializer
    kernel: Initializer
    recurrent: Initializer
    reverse: bool
    hoist: bool
    unroll: int
    taps: bool
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, sequence: Array, counts: Array | None, states: States, collect: bool) -> tuple[States, Array]:
        """Return the states after the last step, and h, (batch, units), or of every step, (time, batch, units)."""
        cell, stored = self.cell, self._weights(sequence.shape[-1])
        see = partial(_see, self.path if self.taps else None)
        # Gates are cheap to compute and costly to store.
        step = jax.checkpoint(partial(_checked_step, cell, tap=see), prevent_cse=False)

        def weights() -> dict[str, Array]:
            # Cast where they are used: so gradients add up over time in the precision of the parameters.
            return {path: weight.astype(self.dtype) for path, weight in stored.items()}

        def enter(x: Array) -> Any:
            w = weights()
            projected = x @ w["input/kernel"] + w["input/bias"]
            return projected if cell.enter is None else cell.enter(projected, w)

        def body(states: States, inputs: tuple[Any, Array | None]) -> tuple[States, Array | None]:
            entering, counted = inputs
            if not self.hoist:
                entering = enter(entering)
            w = weights()
            own = {path: w[path] for path, _, _ in cell.weights}
            after = step(states, cell.meet(entering, states[-1] @ w["recurrent/kernel"]), own)
            if counted is not None:
                after = tuple(jnp.where(counted, new, old) for new, old in zip(after, states, strict=True))
            return after, after[-1] if collect else None

        entering = enter(sequence) if self.hoist else sequence
        last, outputs = jax.lax.scan(body, states, (entering, counts), reverse=self.reverse, unroll=self.unroll)
        return last, last[-1] if outputs is None else outputs

    def _weights(self, features: int) -> dict[str, Array]:
        units, width = self.hidden, len(self.cell.gates) * self.hidden
        shapes = {
            "input/kernel": ((features, width), self.kernel),
            "input/bias": ((width,), self.bias),
            "recurrent/kernel": ((units, width), self.recurrent),
            **{path: ((units,) * axes, initializer) for path, axes, initializer in self.cell.weights},
        }
        found: dict[str, Array] = {}
        for owner in dict.fromkeys(path.split("/")[0] for path in shapes):
            own = {path.split("/")[1]: shape for path, shape in shapes.items() if path.split("/")[0] == owner}
            made = _Weights(tuple(own.items()), self.param_dtype, name=owner)()
            found |= {f"{owner}/{name}": value for name, value in made.items()}
        return found


class _Weights(nn.Module):
    """Parameters under one name, as arrays: what a scan's body can close over."""

    shapes: tuple[tuple[str, tuple[tuple[int, ...], Initializer]], ...]
    param_dtype: Any

    @nn.compact
    def __call__(self) -> dict[str, Array]:
        return {name: self.param(name, init, shape, self.param_dtype) for name, (shape, init) in self.shapes}


def _see(path: tuple[str, ...] | None, name: str, value: Array) -> Array:
    """Name a value of a layer for the instrument."""
    return value if path is None else tap("/".join((*path, name)), value)


def _checked_step(cell: Cell, states: States, pre: Any, weights: Mapping[str, Array], tap: cells.Tap) -> States:
    """Do a step of a cell and see that it returns what a scan can go on with."""
    after = tuple(cell.step(states, pre, weights, tap))
    got, expected = ([(s.shape, s.dtype) for s in some] for some in (after, states))
    if got != expected:
        names = ", ".join(f"{name} {shape} {dtype}" for name, (shape, dtype) in zip(cell.states, expected, strict=True))
        raise ValueError(
            f"expected a cell's step to return its states ({names}), got {got}. Likely cause: another order or number "
            "than in Cell(states=...), a function that is not elementwise, or one that changes the dtype. "
            "Fix: return the states in this order, each with the shape and dtype that it came with"
        )
    return after


def _bias_initializer(cell: Cell, forget_bias: float | None, steps: int | None) -> Initializer:
    """Return the initializer of b: 0 but for what the gates "f" and "i" get."""
    blocks = {name: k for k, name in enumerate(cell.gates)}
    if "f" not in blocks:
        return initializers.zeros()

    def init(key: Array, shape: Sequence[int], dtype: Any = jnp.float32, out_sharding: Any = None) -> Array:
        rows = jnp.zeros((len(blocks), shape[0] // len(blocks)), dtype)
        if steps is None:
            rows = rows.at[blocks["f"]].set(1.0 if forget_bias is None else forget_bias)
        else:
            times = jnp.log(jax.random.uniform(key, rows.shape[1:], jnp.float32, 1.0, steps - 1.0)).astype(dtype)
            rows = rows.at[blocks["f"]].set(times).at[blocks["i"]].set(-times)
        return rows.reshape(-1)

    return init


def _by_gate(init: Initializer, gates: int) -> Initializer:
    """Initialize the block of each gate on its own."""

    def blocks(key: Array, shape: Sequence[int], dtype: Any = jnp.float32, out_sharding: Any = None) -> Array:
        block = (*shape[:-1], shape[-1] // gates)
        return jnp.concatenate([init(k, block, dtype) for k in jax.random.split(key, gates)], axis=-1)

    return init if gates == 1 else blocks


def _check_forget_gate(name: Any, cell: Cell, forget_bias: float | None, steps: int | None) -> None:
    """Reject options for a gate that the cell does not have, and impossible or contradictory ones."""
    given = {k: v for k, v in (("forget_bias", forget_bias), ("chrono_steps", steps)) if v is not None}
    if given and not {"i", "f"} <= set(cell.gates):
        raise ValueError(
            f"Recurrent({next(iter(given))}=...): expected cell 'lstm' or another with gates i and f, got "
            f"{name!r} with {', '.join(cell.gates)}"
        )
    if len(given) == 2:
        raise ValueError(
            "Recurrent: expected forget_bias or chrono_steps, got both. Each sets the bias of the forget gate. "
            "Fix: leave one out"
        )
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 3):
        raise ValueError(f"Recurrent(chrono_steps=...): expected a whole number of at least 3 steps, got {steps!r}")


def _counts(lengths: Array | np.ndarray, shape: tuple[int, ...]) -> Array:
    """Return whether a step counts, (time, batch, 1); values are checked only where they are known while tracing."""
    known = not isinstance(lengths, jax.core.Tracer)
    if jnp.shape(lengths) == shape[:2] and jnp.issubdtype(jnp.result_type(lengths), jnp.bool_):
        if known and not np.asarray(lengths).any(axis=1).all():
            raise ValueError(
                "expected a mask with at least one step of every sequence, got a row that is False throughout. Likely "
                "cause: an empty sequence, which has no last state. Fix: leave it out"
            )
        return jnp.swapaxes(jnp.asarray(lengths), 0, 1)[..., None]
    if jnp.shape(lengths) != shape[:1] or not jnp.issubdtype(jnp.result_type(lengths), jnp.integer):
        raise ValueError(
            f"expected lengths of shape {shape[:1]}, integer, or a mask of shape {shape[:2]}, bool, got "
            f"{jnp.shape(lengths)}, {jnp.result_type(lengths)}. Likely cause: a mask of numbers, or with time first. "
            "Fix: mask.astype(bool)"
        )
    if known:
        values = np.asarray(lengths)
        if values.min() < 1 or values.max() > shape[1]:
            raise ValueError(
                f"expected lengths from 1 to the {shape[1]} steps of the sequences, got {values.min()} to "
                f"{values.max()}. Likely cause: sequences cut or padded after they were measured, or empty ones, which "
                "have no last state. Fix: measure them anew, and leave empty ones out"
            )
    return jnp.arange(shape[1], dtype=jnp.int32)[:, None, None] < jnp.asarray(lengths, jnp.int32)[:, None]
