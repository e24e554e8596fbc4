"""The host loop over dispatches, with flow, checkpoints, validation and progress."""

from __future__ import annotations

import contextlib
import inspect
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import Mesh

from gradflow.live.watch import Watch
from gradflow.training.checkpoints import Checkpoints, open_store
from gradflow.training.checkup import Checkup
from gradflow.training.contract import validate_signature
from gradflow.training.dispatch import Dispatches
from gradflow.training.errors import CheckpointError
from gradflow.training.history import FitResult, History
from gradflow.training.interruption import Interruption, defer_signals
from gradflow.training.progress import report_progress
from gradflow.training.step import LossFn, TrainState

if TYPE_CHECKING:
    import optax

    from gradflow.data import Source

__all__ = ["fit"]


def fit(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    source: Source | Callable[..., Any],
    steps: int,
    *,
    every: int = 100,
    watch: Watch | None = None,
    checkpoints: Checkpoints | None = None,
    validation: tuple[Any, Any] | None = None,
    validate_every: int | None = None,
    mesh: Mesh | None = None,
    progress: bool = True,
    diagnose: bool = False,
) -> FitResult:
    """Train until `steps` steps are done, `every` of them as one dispatch.

    The host reads the metrics of one dispatch while the next one runs. Dispatches begin at multiples of `every`
    whatever happened before, so a run that was stopped at any moment and goes on from a checkpoint runs the same
    programs on the same data: the same bits on the same device.

    With checkpoints, SIGTERM and Ctrl-C save at the end of the dispatch that they come in, and then end the process as
    they would have done.

    Args:
        loss_fn: as for `make_step`: `classification(model)`, `regression(model)` or your own.
        optimizer: any of optax, also from `with_clipping_and_decay`.
        state: from `init` or `start`, or a later one. It is copied and stays as it is.
        source: of `gf.data`: on the device, generated or streamed; or a pure function (key, step) -> batch.
        steps: of the whole run, those behind `state` or a checkpoint included; a multiple of `every`.
        every: steps of a dispatch, and of a record of the curve.
        watch: flow during training; its `every` is a multiple or a divisor of the one here. Its writers get every
            record; close it, or leave its `with` block, after the run.
        checkpoints: where to, how often, whether to resume; saved at ends of dispatches.
        validation: inputs and targets as batches have them, for `evaluate`.
        validate_every: steps between validations, a multiple of `every`; None: at the end only.
        mesh: data-parallel over all its devices, of one or more processes: every device computes its part of a batch
            and holds a copy of all else; batch statistics are those of the whole batch. None: one device.
        progress: a bar on stderr, or plain lines where that is no terminal.
        diagnose: say on stderr what is wrong where the metric "loss" has not fallen by a tenth after two records, where
            half of its fall is lost again, or where a step is not finite. `gf.diagnose` looks at the parameters and
            the optimizer's state of that moment, on the latest batches. The programs of the steps stay the same; the
            loss is compiled once more, forward, for its value at the start. One process.

    Raises:
        ValueError: for settings that do not fit together.
        TypeError: for a loss of another form; for a source, a state or a validation that is none.
        CheckpointError: if a checkpoint cannot be written, read or continued.
        NonFiniteError: at the first step that went non-finite, with layer and direction where that began.

    Examples:
        >>> import jax, jax.numpy as jnp, optax
        >>> from gradflow import training
        >>> loss = lambda w, model_state, batch, key: (jnp.mean((w - batch) ** 2), ({}, model_state))
        >>> state = training.start(jnp.zeros(()), optax.sgd(0.1), jax.random.key(0))
        >>> fitted = fit(loss, optax.sgd(0.1), state, lambda key, step: jnp.full(4, 3.0), 100, progress=False)
        >>> round(float(fitted.state.params), 6)
        3.0
    """
    _check_schedule(steps, every, watch, validate_every, mesh)
    if diagnose and jax.process_count() > 1:
        raise ValueError(
            f"fit(diagnose=True): expected one process, got {jax.process_count()}. Likely cause: a script that several "
            "hosts run. Fix: diagnose=False, and gf.diagnose in one process on a checkpoint"
        )
    _check_arguments(loss_fn, optimizer, state, source, validation)
    checkup = Checkup(loss_fn, optimizer, state) if diagnose else None
    dispatches = Dispatches(loss_fn, optimizer, state, source, every, watch, validation, mesh, checkup)
    with contextlib.ExitStack() as stack:
        saver = None
        if checkpoints is not None:
            saver = _Saver(checkpoints, _settings(every, watch))
            stack.callback(saver.close)
            saver.restore(dispatches)
        done = int(dispatches.state.step)
        if done % every or done > steps:
            raise ValueError(
                f"fit: expected a state at a multiple of every={every} and at most steps={steps}, "
                f"got one of step {done}. Fix: more steps, or an every that divides {done}"
            )
        interruption = stack.enter_context(defer_signals()) if saver is not None else Interruption()
        dispatches.report = stack.enter_context(report_progress(done, steps, progress and jax.process_index() == 0))
        for first in range(done, steps, every):
            end = first + every
            dispatches.queue(first, validate=end == steps or (validate_every is not None and end % validate_every == 0))
            dispatches.collect(in_flight=1)
            if saver is not None:
                saver.serve(dispatches, end, interruption, last=end == steps)
        dispatches.collect()
        interruption.obey()
    return dispatches.result()


class _Saver:
    """Saves when it is time to."""

    def __init__(self, checkpoints: Checkpoints, settings: dict[str, Any]) -> None:
        self._checkpoints, self._settings = checkpoints, settings
        self._store = open_store(checkpoints)
        self.close = self._store.close
        self._step, self._time = 0, time.monotonic()

    def restore(self, dispatches: Dispatches) -> None:
        """Go on from the newest good checkpoint, if there is one."""
        found = self._store.restore(dispatches.state)
        if found is not None:
            state, notes = found
            differing = [
                f"{name}: it has {notes['settings'][name]}, asked for {wanted}"
                for name, wanted in self._settings.items()
                if notes["settings"][name] != wanted
            ]
            if differing:
                raise CheckpointError(
                    f"the run in {self._checkpoints.folder} was recorded with other settings: {'; '.join(differing)}. "
                    "Fix: continue with those that it began with, or choose another folder"
                )
            dispatches.start_from(state)
            dispatches.history = History.from_notes(notes)
            self._step = int(state.step)
        self._say(dispatches)

    def serve(self, dispatches: Dispatches, step: int, interruption: Interruption, *, last: bool) -> None:
        """Save at the end of a dispatch where it is due, asked for by a signal, or the last one; obey the signal."""
        interruption.received, due = _agreed(interruption.received, int(self._due(step)))
        if not (interruption.received or due or last):
            return
        dispatches.collect()
        self._store.save(dispatches.state, {"settings": self._settings, **dispatches.history.to_notes()})
        self._step, self._time = step, time.monotonic()
        self._say(dispatches)
        if interruption.received or last:
            self._store.wait()
        interruption.obey()

    def _due(self, step: int) -> bool:
        steps, minutes = self._checkpoints.every_steps, self._checkpoints.every_minutes
        by_steps = steps is not None and step // steps > self._step // steps
        return by_steps or (minutes is not None and time.monotonic() - self._time >= 60 * minutes)

    def _say(self, dispatches: Dispatches) -> None:
        folder = self._checkpoints.folder
        where = f"the last good checkpoint, of step {self._step}, is in {folder}"
        dispatches.saved = where if self._step else f"there is no checkpoint in {folder} yet"


def _agreed(*numbers: int) -> tuple[int, ...]:
    """Return the largest of each over all processes, which must save together."""
    if jax.process_count() == 1:
        return numbers
    from jax.experimental import multihost_utils

    return tuple(int(n) for n in multihost_utils.process_allgather(np.asarray(numbers, np.int32)).max(0))


def _settings(every: int, watch: Watch | None) -> dict[str, Any]:
    recorded = None if watch is None else [watch.every, *watch.statistics]
    return {"every": every, "watch": recorded}


def _check_schedule(steps: int, every: int, watch: Watch | None, validate_every: int | None, mesh: Mesh | None) -> None:
    if every < 1 or steps < 0 or steps % every:
        fitting = max((n for n in range(1, min(steps, 200) + 1) if steps % n == 0), default=1)
        raise ValueError(
            f"fit: expected steps to be a multiple of every >= 1, got steps={steps}, every={every}. "
            f"Fix: every={fitting}, or steps={-(-max(steps, 0) // max(every, 1)) * max(every, 1)}"
        )
    if watch is not None and watch.every % every and every % watch.every:
        raise ValueError(
            f"fit: expected watch(every=...) to be a multiple or a divisor of every={every}, got {watch.every}. "
            f"Fix: gf.watch(every={every})"
        )
    if validate_every is not None and (validate_every < 1 or validate_every % every):
        raise ValueError(f"fit: expected validate_every to be a multiple of every={every}, got {validate_every}")
    if mesh is None and jax.process_count() > 1:
        raise ValueError(
            f"fit: expected a mesh, since there are {jax.process_count()} processes, got none. Fix: mesh=data_mesh()"
        )


def _check_arguments(loss_fn: Any, optimizer: Any, state: Any, source: Any, validation: Any) -> None:
    validate_signature(loss_fn, "fit")
    if not isinstance(state, TrainState):
        raise TypeError(
            f"fit: expected a TrainState, got {type(state).__name__}. Fix: training.init(model, optimizer, key, "
            "inputs), or training.start(params, optimizer, key)"
        )
    made: Any = jax.tree.structure(jax.eval_shape(optimizer.init, state.params))
    if made != (had := jax.tree.structure(state.opt_state)):
        raise ValueError(
            f"fit: expected a state of this optimizer, {made}, got {had}. "
            "Likely cause: init or start was called with another one. Fix: the same optimizer there and here"
        )
    if not hasattr(source, "window") and not callable(source):
        raise TypeError(
            f"fit: expected a source of batches, got {type(source).__name__}. Fix: gf.data.on_device(images, labels, "
            "batch_size), gf.data.stream(...), or a function (key, step) -> batch"
        )
    if validation is not None and "train" not in inspect.signature(loss_fn).parameters:
        raise TypeError(
            "fit: expected a loss with an argument train=, for validation=, got one without. Fix: "
            "classification(model) or regression(model), or validation=None"
        )
    if not bool(state.finite):
        raise ValueError("fit: expected a state with finite=True, got one that stopped. Fix: one from before that")
