"""Loss functions that `make_step` takes, made from Flax Linen modules, and evaluation over a whole split."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Num

from gradflow.training.step import Key, Mean, Metrics, TrainState, Tree

__all__ = ["Classification", "EvaluationLoss", "ModelLoss", "Regression", "classification", "evaluate", "regression"]


@dataclasses.dataclass(frozen=True)
class ModelLoss:
    """A loss function of a Flax Linen module; see `classification` and `regression`.

    Attributes:
        model: module whose call takes inputs and, where it has such arguments, `train` and `lengths`.
    """

    model: Any

    def __call__(
        self, params: Tree, model_state: Tree, batch: Any, key: Key | None, *, train: bool = True
    ) -> tuple[Float[Array, ""], tuple[Metrics, Tree]]:
        """Return (loss, (metrics, new model_state)).

        Args:
            params: parameters of the model.
            model_state: its other collections; {"batch_stats": ...} or {}.
            batch: (inputs, targets) or (inputs, targets, lengths).
            key: randomness of dropout, given to the model as "dropout"; None for none.
            train: whether the model trains: batch statistics instead of running averages.
        """
        inputs, targets, *rest = batch
        lengths = rest[0] if rest else None
        outputs, model_state = self._apply(params, model_state, inputs, lengths, key, train)
        # A batch of one sum of losses and one count: their quotient is the mean over what counts.
        metrics = self.metrics(outputs.astype(jnp.float32), targets, _counts(targets, lengths, self._per_step(targets)))
        loss = metrics["loss"]
        return loss.total / loss.count, (metrics, model_state)

    def metrics(self, outputs: Float[Array, "..."], targets: Num[Array, "..."], counts: Bool[Array, "..."]) -> Metrics:
        """Return the sums of losses and of what else is reported.

        Args:
            outputs: of the model, float32.
            targets: of the batch.
            counts: which targets count.
        """
        raise NotImplementedError

    def _per_step(self, targets: Array) -> bool:
        raise NotImplementedError

    def _apply(
        self, params: Tree, model_state: Tree, inputs: Array, lengths: Array | None, key: Key | None, train: bool
    ) -> tuple[Array, Tree]:
        known = inspect.signature(type(self.model).__call__).parameters
        options: dict[str, Any] = {"train": train} if "train" in known else {}
        if lengths is not None and "lengths" in known:
            options["lengths"] = lengths
        variables = {"params": params, **model_state}
        rngs = None if key is None else {"dropout": key}
        if not train or not model_state:
            return self.model.apply(variables, inputs, rngs=rngs, **options), model_state
        outputs, changed = self.model.apply(variables, inputs, rngs=rngs, mutable=list(model_state), **options)
        return outputs, dict(changed)


class Classification(ModelLoss):
    """Cross-entropy; see `classification`."""

    def metrics(self, outputs: Float[Array, "..."], targets: Num[Array, "..."], counts: Bool[Array, "..."]) -> Metrics:
        """Return sums of cross-entropies, "loss", and of correct predictions, "accuracy".

        Args:
            outputs: logits (batch, classes) or (batch, steps, classes), float32.
            targets: classes (batch,) or (batch, steps).
            counts: which targets count.
        """
        log_p = jax.nn.log_softmax(outputs)
        losses = -jnp.take_along_axis(log_p, targets[..., None], -1)[..., 0]
        right = (jnp.argmax(outputs, -1).astype(targets.dtype) == targets).astype(jnp.float32)
        return {"loss": _mean(losses, counts), "accuracy": _mean(right, counts)}

    def _per_step(self, targets: Array) -> bool:
        return targets.ndim == 2


class Regression(ModelLoss):
    """Mean squared error; see `regression`."""

    def metrics(self, outputs: Float[Array, "..."], targets: Num[Array, "..."], counts: Bool[Array, "..."]) -> Metrics:
        """Return the sum of squared errors, "loss".

        Args:
            outputs: (batch, outputs) or (batch, steps, outputs), float32.
            targets: of the same shape.
            counts: which examples or steps count.
        """
        if outputs.shape != targets.shape:
            raise ValueError(
                f"regression: expected targets of the outputs' shape {outputs.shape}, got {targets.shape}. Likely "
                "cause: targets without an axis of outputs. Fix: targets[:, None], or classification(model) for classes"
            )
        return {"loss": _mean(jnp.square(outputs - targets).mean(-1), counts)}

    def _per_step(self, targets: Array) -> bool:
        return targets.ndim == 3


def classification(model: Any, *, compute_dtype: Any = None) -> Classification:
    """Mean cross-entropy in nats of a model's logits; metrics "loss" and "accuracy".

    Batches are (inputs, classes) or (inputs, classes, lengths), classes (batch,) or, one a step, (batch, steps), of
    which then only the first `lengths` count. Without label smoothing.

    Args:
        model: Flax Linen module, inputs -> logits; trained with `train=True` where its call has that argument.
        compute_dtype: mixed precision: bfloat16 computes in that type, with parameters, statistics, loss and optimizer
            in float32. None: as the model says.

    Raises:
        ValueError: for mixed precision with a module that has no field `dtype`.
    """
    return Classification(_in_precision(model, compute_dtype))


def regression(model: Any, *, compute_dtype: Any = None) -> Regression:
    """Mean squared error of a model's outputs, averaged over outputs and examples; metric "loss".

    Batches are (inputs, targets) or (inputs, targets, lengths), targets of the shape of the outputs.

    Args:
        model: Flax Linen module, inputs -> outputs.
        compute_dtype: as for `classification`.

    Raises:
        ValueError: for mixed precision with a module that has no field `dtype`.
    """
    return Regression(_in_precision(model, compute_dtype))


@runtime_checkable
class EvaluationLoss(Protocol):
    """A loss that `evaluate` takes: one with an argument `train`, as `classification` and `regression` give it."""

    def __call__(
        self, params: Tree, model_state: Tree, batch: Any, key: Key | None, /, *, train: bool = True
    ) -> tuple[Float[Array, ""], tuple[Metrics, Tree]]:
        """Return (loss, (metrics, new model state)).

        Args:
            params: parameters of the model.
            model_state: its other collections.
            batch: inputs and targets.
            key: randomness of dropout; None for none.
            train: whether the model trains: batch statistics instead of running averages.
        """
        ...


def evaluate(
    loss_fn: EvaluationLoss, state: TrainState, inputs: Array, targets: Array, batch_size: int = 1000
) -> Metrics:
    """Average over all examples of a split exactly, with running averages; pure, to be used in `jit`.

    Args:
        loss_fn: from `classification` or `regression`, or your own with an argument `train`.
        state: parameters and running averages.
        inputs: one example a row, as a batch has them.
        targets: one a row.
        batch_size: rows at a time; the last batch may be smaller.

    Returns:
        Sums and counts over all examples.

    Raises:
        ValueError: for no examples, or not one target an example.
    """
    if not len(inputs) or len(inputs) != len(targets):
        raise ValueError(
            f"evaluate: expected one target an input and at least one, got {len(inputs)} inputs and {len(targets)} "
            "targets. Likely cause: an empty split, or inputs and targets of different splits. "
            "Fix: pass both from one split"
        )

    def of(batch: tuple[Array, Array]) -> Metrics:
        return loss_fn(state.params, state.model_state, batch, None, train=False)[1][0]

    full = len(inputs) // batch_size * batch_size
    parts = []
    if full:
        stacked = [x[:full].reshape(-1, batch_size, *x.shape[1:]) for x in (inputs, targets)]
        parts.append(jax.tree.map(lambda x: x.sum(0), jax.lax.map(of, tuple(stacked))))
    if full < len(inputs):
        parts.append(of((inputs[full:], targets[full:])))
    return jax.tree.map(lambda *sums: sum(sums[1:], sums[0]), *parts)


def _mean(values: Array, counts: Array) -> Mean:
    return Mean(jnp.sum(values, where=counts), jnp.sum(counts.astype(jnp.float32)))


def _counts(targets: Array, lengths: Array | None, per_step: bool) -> Bool[Array, "..."]:
    if not per_step:
        return jnp.ones(targets.shape[:1], bool)
    steps = jnp.arange(targets.shape[1])
    if lengths is None:
        return jnp.ones(targets.shape[:2], bool)
    return steps < lengths[:, None]


def _in_precision(model: Any, dtype: Any) -> Any:
    if dtype is None:
        return model
    if not hasattr(model, "dtype"):
        raise ValueError(
            f"compute_dtype={jnp.dtype(dtype).name}: expected a module with a field `dtype`, got "
            f"{type(model).__name__}, which has none. Fix: give it one and pass it on to its layers"
        )
    return model.clone(dtype=dtype)
