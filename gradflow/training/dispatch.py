"""Dispatches: programs of many steps. The host queues one, and reads the one before."""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool

from gradflow.data.pytree_dataclass import pytree
from gradflow.live import FlowHistory, profile, rows
from gradflow.live.record import Record as WatchRecord
from gradflow.live.record import with_updates
from gradflow.live.watch import Plan, Watch
from gradflow.training.checkup import Checkup
from gradflow.training.devices import SplitWindow, replicated
from gradflow.training.history import FitResult, History
from gradflow.training.losses import evaluate
from gradflow.training.nonfinite import NonFiniteError, locate, origin_in_step
from gradflow.training.progress import Report
from gradflow.training.step import FlowStep, LossFn, Metrics, TrainState, make_flow_step, make_step, run

if TYPE_CHECKING:
    import optax

__all__ = ["Dispatches", "Programs", "Record", "programs"]


@pytree("layers")
@dataclasses.dataclass(frozen=True, eq=False)
class Record:
    """What the host reads of a dispatch.

    Attributes:
        metrics: over all its steps.
        flow: statistic -> array layer x recorded step; None without.
        stopped: whether a step of it was not taken, since it was not finite.
        watched: the recorded steps as the writers of the watch get them; None without.
        layers: names of the rows of the flow.
    """

    metrics: Metrics
    flow: dict[str, Array] | None
    stopped: Bool[Array, ""]
    watched: WatchRecord | None = None
    layers: tuple[str, ...] = ()


class Programs(NamedTuple):
    """The compiled programs of a run.

    Attributes:
        plain: (state, window) -> (state, record); the state's buffers are reused.
        flowing: the same with flow.
        evaluate: (state, inputs, targets) -> metrics.
    """

    plain: Callable[[TrainState, Any], tuple[TrainState, Record]]
    flowing: Callable[[TrainState, Any], tuple[TrainState, Record]]
    evaluate: Callable[[TrainState, Any, Any], Metrics]


def programs(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    every: int,
    plan: Plan | None,
    mesh: Mesh | None,
) -> Programs:
    """Return the programs of a run, the very ones of an earlier run where all of this is the same.

    Args:
        loss_fn: as for `make_step`.
        optimizer: as for `make_step`.
        every: steps of a dispatch.
        plan: flow to record.
        mesh: devices that share the batch.
    """
    settings = (loss_fn, optimizer, every, plan, mesh)
    return _cached_programs(*settings) if _is_hashable(settings) else _make_programs(*settings)


def _is_hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _make_programs(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    every: int,
    plan: Plan | None,
    mesh: Mesh | None,
) -> Programs:
    step = make_step(loss_fn, optimizer)

    def on_mesh(window: Any) -> Any:
        return window if mesh is None else SplitWindow(window, mesh)

    def plain(state: TrainState, window: Any) -> tuple[TrainState, Record]:
        state, metrics = run(step, state, on_mesh(window), every, every=every)
        return state, Record(_sum_over_steps(metrics), None, ~state.finite)

    def flowing(state: TrainState, window: Any) -> tuple[TrainState, Record]:
        assert plan is not None
        flow_step = make_flow_step(loss_fn, optimizer, statistics=plan.statistics, select=plan.select)
        flow_step = _recording(flow_step) if plan.written else flow_step
        interval = min(plan.every, every)
        state, metrics, found = run(step, state, on_mesh(window), every, every=interval, flow_step=flow_step)
        flow = found.flow if plan.written else found
        lines = {name: line.T for name, line in profile(flow, stacked=1).items()}
        watched = found if plan.written else None
        return state, Record(_sum_over_steps(metrics), lines, ~state.finite, watched, rows(flow, stacked=1))

    def evaluate_validation(state: TrainState, inputs: Any, targets: Any) -> Metrics:
        return evaluate(loss_fn, state, inputs, targets)  # type: ignore[arg-type]

    placement: dict[str, Any] = {} if mesh is None else {"out_shardings": NamedSharding(mesh, PartitionSpec())}
    return Programs(
        jax.jit(plain, donate_argnums=0, **placement),
        jax.jit(flowing, donate_argnums=0, **placement),
        jax.jit(evaluate_validation, **placement),
    )


def _recording(flow_step: FlowStep) -> FlowStep:
    """Return the step with all that writers get in place of the flow."""

    def step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics, WatchRecord]:
        done, metrics, flow = flow_step(state, batch)
        loss = metrics["loss"].value if "loss" in metrics else None
        updates = jax.tree.map(jnp.subtract, done.params, state.params)
        return done, metrics, with_updates(WatchRecord(True, state.step, loss, flow), updates, state.params)

    return step


_cached_programs: Callable[..., Programs] = functools.lru_cache(maxsize=8)(_make_programs)


def _sum_over_steps(metrics: Metrics) -> Metrics:
    return jax.tree.map(lambda x: x.sum(0), metrics)


class _Pending(NamedTuple):
    """A dispatch whose record has not been read yet.

    Attributes:
        first: its first step.
        record: on the device.
        validation: of the state after it, on the device, or None.
        began: time of queueing; NaN if that included compilation.
    """

    first: int
    record: Record
    validation: Metrics | None
    began: float


class Dispatches:
    """The dispatches of a run, and what has come back of them.

    Attributes:
        state: after the last dispatch that was queued.
        history: of all that were read.
        report: told of every record that is read.
        saved: where the last good checkpoint is, in words.
    """

    def __init__(
        self,
        loss_fn: LossFn,
        optimizer: optax.GradientTransformation,
        state: TrainState,
        source: Any,
        every: int,
        watch: Watch | None,
        validation: tuple[Any, Any] | None,
        mesh: Mesh | None,
        checkup: Checkup | None = None,
    ) -> None:
        """See `fit`."""
        # Axes that the compiler propagates, whatever kind those of the given mesh are.
        mesh = None if mesh is None else Mesh(mesh.devices, mesh.axis_names)
        self._loss_fn, self._optimizer, self._source, self._every = loss_fn, optimizer, source, every
        self._watch, self._mesh, self._checkup = watch, mesh, checkup
        self._programs = programs(loss_fn, optimizer, every, None if watch is None else watch.plan(loss_fn), mesh)
        self._validation = None if validation is None else self._on_all_devices(tuple(map(jnp.asarray, validation)))
        self.start_from(state)
        self.history, self.saved = History(), "no checkpoints were asked for"
        self.report: Report = lambda step, metrics, gradients: None
        self._pending: list[_Pending] = []
        self._window: tuple[Any, Any] = (None, None)
        self._known: set[bool] = set()
        self._seconds: dict[bool, list[float]] = {False: [], True: []}
        self._ready = 0.0

    def start_from(self, state: TrainState) -> None:
        """Go on from a copy of a state, since the programs reuse the buffers that they are given.

        Args:
            state: of any placement.
        """

        def copied(leaf: Any) -> Array:
            if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                data = jnp.array(jax.random.key_data(leaf), copy=True)
                return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
            # With its own type said aloud a weak type becomes a firm one, as it is after the first dispatch.
            return jnp.array(leaf, jnp.result_type(leaf), copy=True)

        self.state = self._on_all_devices(jax.tree.map(copied, state))

    def queue(self, first: int, *, validate: bool) -> None:
        """Dispatch the steps `first ... first + every - 1`, and validation of the state after them.

        Args:
            first: a multiple of `every`.
            validate: whether to, if there are validation data.
        """
        began = time.perf_counter()
        flowing = self._watch is not None and first % max(self._watch.every, self._every) == 0
        program = self._programs.flowing if flowing else self._programs.plain
        window = self._window_of(first)
        if self._checkup is not None:
            self._checkup.begin(self.state, window, self._every, self.history.first())
        self.state, record = program(self.state, window)
        validation = None
        if validate and self._validation is not None:
            validation = self._programs.evaluate(self.state, *self._validation)
        self._pending.append(_Pending(first, record, validation, began if flowing in self._known else float("nan")))
        self._known.add(flowing)

    def collect(self, in_flight: int = 0) -> None:
        """Read what the dispatches left behind, waiting for all but the newest.

        Args:
            in_flight: how many of the newest are not waited for.

        Raises:
            NonFiniteError: if one of them stopped.
        """
        while len(self._pending) > in_flight:
            first, record, validation, began = self._pending.pop(0)
            record, validation = jax.device_get((record, validation))
            flow = self._flow_of(first, record)
            if record.stopped:
                self._stop(first, record, flow)
            self._write(record)
            self._time(began, flow is not None)
            end = first + self._every
            self.history.add("train", end, record.metrics)
            if validation is not None:
                self.history.add("validation", end, validation)
            if flow is not None:
                self.history.add_flow(flow)
            self.report(end, self.history.last(), None if flow is None else _gradients(flow))
            if self._checkup is not None and self._checkup.due(metrics := self.history.last()):
                self._checkup.look(self.state, self._window[1], self._every, end, metrics)
                self._ready = time.perf_counter()

    def result(self) -> FitResult:
        """Return all that there is so far."""
        per_step, with_flow = (statistics.median(x) if x else float("nan") for x in self._seconds.values())
        looks = 0 if self._watch is None else max(1, self._every // self._watch.every)
        return FitResult(
            self.state,
            self.history.curve("train"),
            self.history.curve("validation"),
            self.history.flow,
            per_step / self._every,
            (with_flow - per_step) / looks if looks else float("nan"),
            None if self._checkup is None else self._checkup.diagnosis,
        )

    def _on_all_devices(self, tree: Any) -> Any:
        return tree if self._mesh is None else replicated(tree, self._mesh)

    def _window_of(self, first: int) -> Any:
        # A function is a window too, one without arrays.
        fetch = getattr(self._source, "window", None)
        window = jax.tree_util.Partial(self._source) if fetch is None else fetch(first, self._every)
        if window is not self._window[0]:
            self._window = window, self._on_all_devices(window)
        return self._window[1]

    def _flow_of(self, first: int, record: Record) -> FlowHistory | None:
        if record.flow is None or self._watch is None:
            return None
        steps = np.arange(first, first + self._every, min(self._watch.every, self._every))
        return FlowHistory(steps, record.layers, {name: np.asarray(x) for name, x in record.flow.items()})

    def _time(self, began: float, flowing: bool) -> None:
        now = time.perf_counter()
        if began == began:
            self._seconds[flowing].append(now - max(began, self._ready))
        self._ready = now

    def _write(self, record: Record, records: int | None = None) -> None:
        """Hand the recorded steps to the writers, or only the first of them."""
        if self._watch is not None and record.watched is not None:
            self._watch.write(jax.tree.map(lambda x: x[:records], record.watched))

    def _stop(self, first: int, record: Record, flow: FlowHistory | None) -> None:
        self.state = self.state._replace(finite=jnp.ones_like(self.state.finite))
        bad = int(self.state.step)
        self.history.add("train", bad, record.metrics)
        if flow is not None and (upto := int(np.sum(flow.steps <= bad))):
            self.history.add_flow(flow.until(upto))
            self._write(record, upto)
        window = self._window_of(first)
        if self._checkup is not None:
            self._checkup.look_at_stop(self.state, window)
        window = window if self._mesh is None else SplitWindow(window, self._mesh)
        breakdown = locate(self._loss_fn, self._optimizer, self.state, window)
        search = functools.partial(origin_in_step, self._loss_fn, self.state, window) if self._mesh is None else None
        raise NonFiniteError(bad, breakdown, self.result(), self.saved, search)


def _gradients(flow: FlowHistory) -> np.ndarray | None:
    chosen = [name for name in ("output_grad_rms", "weight_grad_rms", "input_grad_rms") if name in flow.values]
    return flow.values[chosen[0]][:, -1] if chosen else None
