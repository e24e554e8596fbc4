"""The flow of any training loop: traced values inside the step, all else on the host."""

from __future__ import annotations

import dataclasses
import signal
import threading
from collections.abc import Callable, Iterable, Sequence
from types import FrameType, TracebackType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow.instrument.arguments import argument_names
from gradflow.instrument.flow import validate_statistics
from gradflow.instrument.transform import value_grad_and_flow, value_grad_and_flow_if
from gradflow.live.courier import Courier
from gradflow.live.gradients import argument_numbers, value_and_grad
from gradflow.live.postmortem import PostMortem
from gradflow.live.programs import Programs, host_step, tracing
from gradflow.live.record import Record, layer_sizes, with_updates

__all__ = ["STATISTICS", "Plan", "Watch", "watch"]

# What dashboards show; without similarity, means and inputs it compiles in two thirds of the time.
STATISTICS = (
    "output_rms", "output_grad_rms", "weight_rms", "weight_grad_rms", "weight_grad_norm", "zero_grad_fraction",
    "dead_fraction", "underflow_fraction", "nonfinite",
)  # fmt: skip


class Plan(NamedTuple):
    """What of a watch goes into the programs of `training.fit`.

    Attributes:
        every: steps from one record to the next.
        statistics: fields of `LayerFlow`.
        select: names of layers.
        written: whether there are writers, which get whole flows.
    """

    every: int
    statistics: tuple[str, ...]
    select: Any
    written: bool


class Watch:
    """The flow of a training loop, every so many steps; see `gradflow.watch`.

    Attributes:
        every: steps from one record to the next; step 0 is the first.
        statistics: fields of `LayerFlow` that are recorded.
        select: names of layers, as in `value_grad_and_flow`; None for all.
        history: how many steps back a post-mortem reaches; 0 for the recorded steps alone.
    """

    def __init__(
        self,
        loss_fn: Callable[..., Any] | None,
        every: int,
        writers: Iterable[Any],
        argnums: Any,
        has_aux: bool,
        statistics: Iterable[str] | str | None,
        select: Any,
        history: int,
    ) -> None:
        """See `gradflow.watch`."""
        chosen = STATISTICS if statistics is None else statistics
        wanted = validate_statistics(chosen)
        self.every, self.select, self.history = every, select, history
        self.statistics = tuple(s for s in ((chosen,) if isinstance(chosen, str) else chosen) if s in wanted)
        self._loss_fn, self._argnums, self._has_aux = loss_fn, argnums, has_aux
        self._courier = Courier(tuple(writers), history, every)
        self._handler: Any = None
        self._numbers: tuple[int, ...] = ()  # of the differentiated arguments, since the watch was called

    @property
    def postmortems(self) -> tuple[PostMortem, ...]:
        """Of spikes, collapses and values that were not finite, as far as they have been seen."""
        return tuple(self._courier.postmortems)

    def plan(self, loss_fn: Callable[..., Any] | None) -> Plan:
        """Return what `training.fit` and Keras need, which take the steps themselves.

        Args:
            loss_fn: the loss of the run; None for that of Keras.

        Raises:
            ValueError: for a watch of another loss, or with `history`.
        """
        if self._loss_fn is not None and self._loss_fn is not loss_fn:
            raise ValueError(
                "watch: expected one without a loss, or of the loss that fit trains, got one of another. "
                "Fix: gf.watch(every=..., writers=[...])"
            )
        if self.history:
            raise ValueError(
                f"watch: expected history=0 for fit, got history={self.history}. There only recorded steps are "
                "looked at for spikes. Fix: leave history out, and choose a smaller every"
            )
        return Plan(self.every, self.statistics, self.select, self._courier.has_writers)

    def __call__(self, step: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any, Record]:
        """Return value, gradients and a record of the flow, as `jax.value_and_grad(loss_fn)` returns the first two.

        Args:
            step: number of the step, an integer or a traced one.
            *args: of the loss.
            **kwargs: likewise.

        Raises:
            TypeError: for a step that is no integer, or a watch without a loss.
        """
        fun = self._loss()
        self._numbers = argument_numbers(self._argnums, len(args))
        current = tracing(self)
        if current is not None:
            current.used = True
            recording: Any = current.recording
        else:
            recording = self._is_due(step)
        options: dict[str, Any] = {"select": self.select, "statistics": self.statistics}
        flow = None
        if recording is True:
            measure = value_grad_and_flow(fun, self._argnums, self._has_aux, data_gradients=False, **options)
            value, grads, flow = measure(*args, **kwargs)
        elif recording is False:
            value, grads = value_and_grad(fun, self._argnums, self._has_aux)(*args, **kwargs)
        else:
            conditional = value_grad_and_flow_if(fun, self._argnums, self._has_aux, **options)
            value, grads, flow = conditional(recording, *args, **kwargs)
        return value, grads, self._record(recording, step, value, grads, flow)

    def _record(self, recording: Any, step: Any, value: Any, grads: Any, flow: Any) -> Record:
        if recording is False and not self.history:
            return Record(False)
        known = recording if isinstance(recording, bool) else None
        loss = value[0] if self._has_aux else value
        taken = recording if known is None else None
        record = Record(known, jnp.asarray(step, jnp.int32), loss, flow, taken=taken)
        if not self.history:
            return record
        single = not hasattr(self._argnums, "__iter__")
        layers, sizes = layer_sizes(grads, argument_names(self._loss(), self._numbers), single=single)
        return dataclasses.replace(record, gradients=sizes, layers=layers)

    def updates(self, record: Record, updates: Any, params: Any) -> Record:
        """Return the record with the sizes of the updates and of the parameters that they change; pure.

        Args:
            record: of the same step.
            updates: what the optimizer adds to the parameters: after clipping, with the learning rate in it.
            params: before that, of the same structure. For several `argnums` both are tuples, in their order.

        Raises:
            ValueError: for updates of another structure.
        """
        several = hasattr(self._argnums, "__iter__") and isinstance(params, (tuple, list))
        if not several or len(params) != len(self._numbers):
            return with_updates(record, updates, params)
        return with_updates(record, updates, params, argument_names(self._loss(), self._numbers))

    def jit(self, fun: Callable[..., Any], *, jit: Callable[..., Any] = jax.jit, **options: Any) -> Programs:
        """Compile a step function twice, without and with the flow; the host chooses before every call.

        The program without is the one that `jit` makes of the function with `jax.value_and_grad` in place of the watch.

        Args:
            fun: a training step, which calls the watch once, not inside a `scan`, and returns its record. Where it has
                an argument `step` that is an integer, that decides; else calls are counted from the first.
            jit: `jax.jit`, `nnx.jit`, `equinox.filter_jit` or the like.
            **options: of that, such as `donate_argnums`.

        Raises:
            FlowError: at the first call, if the function does not do so.
        """
        return Programs(self, fun, jit, options)

    def write(self, record: Record) -> None:
        """Hand a record over to the writers, on the host; returns at once.

        A thread fetches the arrays when they are there. Where two flows wait for slow writers, this waits for the first
        of them, so that no more can be lost. In a run of several processes the first one writes.

        Args:
            record: of a step, or of many that a `scan` stacked.

        Raises:
            TypeError: for anything else.
            FlowError: inside `jit`, where there are no numbers yet.
        """
        if not isinstance(record, Record):
            raise TypeError(
                f"watch.write: expected a record, the third of what the watch returns, got {type(record).__name__}. "
                "Fix: value, grads, record = watch(step, params, *args)"
            )
        self._courier.take(record)

    def close(self) -> None:
        """Wait until all records are written, and close the writers."""
        self._courier.close()

    def __enter__(self) -> Watch:
        """Close at the end of the block, also after an exception, Ctrl-C or SIGTERM."""
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            self._handler = signal.signal(signal.SIGTERM, _leave)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        finally:
            if self._handler is not None:
                signal.signal(signal.SIGTERM, self._handler)
                self._handler = None

    def __repr__(self) -> str:
        name = getattr(self._loss_fn, "__name__", type(self._loss_fn).__name__)
        return f"watch({name}, every={self.every}, history={self.history})"

    def _loss(self) -> Callable[..., Any]:
        if self._loss_fn is None:
            raise TypeError(
                "watch(step, ...): expected a watch of a loss function, got one without. Likely cause: one made for "
                "training.fit or Keras, which bring the loss. Fix: gf.watch(loss_fn, every=...)"
            )
        return self._loss_fn

    def _is_due(self, step: Any) -> Any:
        """Tell whether a step is recorded, now where the number of the step is known, else as a traced boolean."""
        if isinstance(step, (jax.Array, np.ndarray, np.generic)):
            whole = bool(jnp.issubdtype(step.dtype, jnp.integer)) and step.ndim == 0
            what = f"an array of type {step.dtype} and shape {step.shape}"
        else:
            whole, what = isinstance(step, int) and not isinstance(step, bool), type(step).__name__
        if not whole:
            raise TypeError(
                f"watch(step, ...): expected the number of the step, an integer, got {what}. "
                "Likely cause: the step was left out. Fix: value, grads, record = watch(step, params, *args)"
            )
        if isinstance(step, jax.core.Tracer):
            return self.every == 1 or step % self.every == 0
        return host_step(step) % self.every == 0


def _leave(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


def watch(
    loss_fn: Callable[..., Any] | None = None,
    every: int = 100,
    writers: Sequence[Any] = (),
    argnums: Any = 0,
    has_aux: bool = False,
    statistics: Iterable[str] | str | None = None,
    select: Any = None,
    history: int = 0,
) -> Watch:
    """Watch the flow of a training loop: a drop-in for `jax.value_and_grad` that records the flow every so many steps.

    `value, grads, record = watch(step, params, *args)` inside the step, `watch.write(record)` on the host. Use
    `watch.jit(train_step)` to compile the step: the steps between records then run the program that you would have
    without. Inside a `scan` or a plain `jax.jit` the flow is a branch of the program, which runs the loss once more
    where it is taken; value and gradients do not depend on it.

    Args:
        loss_fn: as for `jax.value_and_grad`. None: for `training.fit` and Keras, which bring the loss.
        every: steps from one record to the next, which begin with step 0.
        writers: `gf.live.TensorBoard`, `Wandb`, `Jsonl`, `Progress`, or any object with `write(flow, step)`.
        argnums: as for `value_grad_and_flow`.
        has_aux: as for `value_grad_and_flow`.
        statistics: fields of `LayerFlow`; by default `gradflow.live.watch.STATISTICS`.
        select: names of layers, as in `value_grad_and_flow`.
        history: how many steps back a post-mortem reaches: with it every step also returns the size of each layer's
            gradient. 0: the recorded steps alone are looked at.

    Returns:
        The watch.

    Raises:
        ValueError: for an unknown statistic, a negative `history`, `every` below 1.
        TypeError: for a writer without `write`.

    Examples:
        >>> import jax, jax.numpy as jnp, gradflow as gf
        >>> class Printer:
        ...     def write(self, flow, step):
        ...         print(step, flow.layers, float(flow["w"].output_rms))
        >>> watch = gf.watch(lambda params, x: jnp.mean((x @ params["w"]) ** 2), every=2, writers=[Printer()])
        >>> def train_step(params, step, x):
        ...     value, grads, record = watch(step, params, x)
        ...     return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), record
        >>> params, train_step = {"w": jnp.ones((3, 2))}, watch.jit(train_step)
        >>> with watch:
        ...     for step in range(3):
        ...         params, record = train_step(params, step, jnp.ones((4, 3)))
        ...         watch.write(record)
        0 ('w',) 3.0
        2 ('w',) 1.4700000286102295
    """
    if loss_fn is not None and not callable(loss_fn):
        raise TypeError(f"watch: expected a loss function, got {type(loss_fn).__name__}. Fix: gf.watch(loss_fn, ...)")
    if not isinstance(every, (int, np.integer)) or every < 1:
        raise ValueError(f"watch(every=...): expected at least 1 step, got {every!r}")
    if not isinstance(history, (int, np.integer)) or history < 0:
        raise ValueError(f"watch(history=...): expected a number of steps, got {history!r}")
    if not isinstance(writers, Iterable):
        raise TypeError(
            f"watch(writers=...): expected a list of writers, got {type(writers).__name__}. "
            'Fix: writers=[gf.live.Jsonl("run.jsonl")]'
        )
    chosen = tuple(writers)
    for writer in chosen:
        if not callable(getattr(writer, "write", None)):
            raise TypeError(
                f"watch(writers=...): expected objects with write(flow, step), got {type(writer).__name__}. "
                'Fix: gf.live.Jsonl("run.jsonl")'
            )
    return Watch(loss_fn, int(every), chosen, argnums, has_aux, statistics, select, int(history))
