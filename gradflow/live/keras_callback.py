"""The flow of `keras.Model.fit` on the JAX backend; imported only where it is used, since it imports Keras."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import keras

from gradflow.instrument.transform import value_grad_and_flow
from gradflow.live.record import Record

if TYPE_CHECKING:
    from gradflow.live.watch import Watch

__all__ = ["KerasCallback"]


class KerasCallback(keras.callbacks.Callback):
    """Records the flow while `model.fit(..., callbacks=[gf.live.KerasCallback(watch)])` runs.

    At a recorded step the loss runs once more, with the flow, on the batch and the variables of that step; the step
    itself, and all others, are those of Keras. `watch` is one without a loss: `gf.watch(every=100, writers=[...])`.
    Steps are counted over epochs, and over calls of `fit`. The end of the training closes nothing: close the watch.

    Args:
        watch: when to record, what, and who gets it.
        first_step: number of the first step, where training goes on.
    """

    def __init__(self, watch: Watch, first_step: int = 0) -> None:
        super().__init__()
        self._watch, self._step = watch, first_step
        self._measure: Callable[..., Any] | None = None
        self._original: Any = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Look at every batch before the step of Keras takes it."""
        model: Any = self.model
        if keras.backend.backend() != "jax":
            raise RuntimeError(
                f"KerasCallback: expected the JAX backend, got {keras.backend.backend()}. "
                'Fix: os.environ["KERAS_BACKEND"] = "jax" before Keras is imported'
            )
        self._watch.plan(None)
        self._measure = jax.jit(_measure_of(model, self._watch))
        self._original = model.train_function

        def train_function(state: Any, iterator: Any) -> Any:
            at_once = max(1, int(model.steps_per_execution or 1))
            batches = list(itertools.islice(iterator, at_once))
            if batches and self._step % self._watch.every == 0:
                self._record(state, batches[0])
            self._step += len(batches)
            return self._original(state, iter(batches))

        model.train_function = train_function

    def on_train_end(self, logs: Any = None) -> None:
        """Give Keras its function back."""
        if self._original is not None:
            self.model.train_function = self._original
            self._original = None

    def _record(self, state: Any, data: Any) -> None:
        assert self._measure is not None
        x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
        trainable, rest, optimizer, metrics = state
        loss, flow = self._measure(list(trainable), list(rest), list(metrics), list(optimizer), x, y, weights)
        self._watch.write(Record(True, jnp.int32(self._step), loss, flow))


class _Loss:
    """The loss of a compiled model as a pure function of the state and a batch.

    An object and not a function: the variables of the model hold nothing while Keras trains, so that the instrument,
    which looks after those that a function closes over, must not look for them.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self.paths = [variable.path for variable in model.trainable_variables]

    def __call__(
        self, params: dict[str, Any], rest: Any, metrics: Any, optimizer: Any, x: Any, y: Any, weights: Any
    ) -> tuple[Any, Any]:
        trainable = [params[path] for path in self.paths]
        loss, (unscaled, *_) = self._model.compute_loss_and_updates(
            trainable, rest, metrics, x, y, weights, training=True, optimizer_variables=optimizer
        )
        return loss, unscaled


def _measure_of(model: Any, watch: Watch) -> Callable[..., Any]:
    """Return (loss, flow) as a pure function of the variables and a batch."""
    loss = _Loss(model)
    options: dict[str, Any] = {"statistics": watch.statistics, "select": watch.select, "data_gradients": False}
    measure = value_grad_and_flow(loss, has_aux=True, **options)

    def run(trainable: list[Any], *args: Any) -> tuple[Any, Any]:
        (_, unscaled), _, flow = measure(dict(zip(loss.paths, trainable, strict=True)), *args)
        return unscaled, flow

    return run
