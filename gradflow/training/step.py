"""The training step, and many of them as one program: pure functions of a `TrainState`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped

from gradflow.data.pytree_dataclass import pytree
from gradflow.training.contract import checked

if TYPE_CHECKING:
    import optax

__all__ = [
    "FlowStep",
    "Key",
    "LossFn",
    "Mean",
    "Metrics",
    "Step",
    "TrainState",
    "Tree",
    "as_mean",
    "draw",
    "init",
    "make_flow_step",
    "make_step",
    "means",
    "run",
    "start",
    "step_key",
]

Key: TypeAlias = PRNGKeyArray | Shaped[Array, "2"]
Tree: TypeAlias = Any


@pytree()
@dataclasses.dataclass(frozen=True, eq=False)
class Mean:
    """A mean that can be added up exactly: the sum of what is averaged, and how many there are.

    Attributes:
        total: sum.
        count: how many were summed, float32.
    """

    total: Float[Array, "*runs"]
    count: Float[Array, "*runs"]

    @property
    def value(self) -> Float[Array, "*runs"]:
        """The mean; NaN where there was nothing."""
        return jnp.where(self.count > 0, self.total / jnp.where(self.count > 0, self.count, 1), jnp.nan)


Metrics: TypeAlias = dict[str, Mean]


class TrainState(NamedTuple):
    """Everything that training carries from step to step, a pytree.

    Attributes:
        step: steps done so far, which is the number of the next one.
        params: what is differentiated.
        model_state: other variables of the model, such as running averages: {"batch_stats": ...}, or {}.
        opt_state: of the optimizer.
        key: randomness of the whole run, the same at every step.
        finite: False once a step gave a loss, parameters or running averages that are not finite. That step and all
            after it changed nothing: the state is the last good one and `step` is the number of the bad step.
    """

    step: Int[Array, ""]
    params: Tree
    model_state: Tree
    opt_state: Tree
    key: Key
    finite: Bool[Array, ""]


@runtime_checkable
class LossFn(Protocol):
    """A loss with its metrics, as `classification` and `regression` give it."""

    def __call__(
        self, params: Tree, model_state: Tree, batch: Any, key: Key, /
    ) -> tuple[Float[Array, ""], tuple[dict[str, Any], Tree]]:
        """Return (loss, (metrics, new model state)): pure, for `jit`, `scan`, `vmap` and `grad`.

        Args:
            params: what is differentiated.
            model_state: other variables of the model, {} for none.
            batch: from a source.
            key: a fresh one every step.

        Returns:
            The loss, a scalar; metrics by name, each a `Mean`, or a scalar that counts once a step; the model state
            after the step.
        """
        ...


@runtime_checkable
class Step(Protocol):
    """A training step, as `make_step` gives it."""

    def __call__(self, state: TrainState, batch: Any, /) -> tuple[TrainState, Metrics]:
        """Return the next state and the metrics of the step: pure.

        Args:
            state: before the step.
            batch: of the step.
        """
        ...


@runtime_checkable
class FlowStep(Protocol):
    """A training step that measures the flow, as `make_flow_step` gives it."""

    def __call__(self, state: TrainState, batch: Any, /) -> tuple[TrainState, Metrics, Any]:
        """Return the next state, the metrics and the flow of the step: pure.

        Args:
            state: before the step.
            batch: of the step.
        """
        ...


def start(params: Tree, optimizer: optax.GradientTransformation, key: Key, model_state: Tree = None) -> TrainState:
    """Return the state before the first step, for parameters of any framework.

    Args:
        params: pytree of floating-point arrays.
        optimizer: any of optax.
        key: randomness of the run: order of examples, dropout.
        model_state: what the loss function takes beside the parameters; {} for None.
    """
    model_state = {} if model_state is None else model_state
    return TrainState(jnp.int32(0), params, model_state, optimizer.init(params), key, jnp.bool_(True))


def init(model: Any, optimizer: optax.GradientTransformation, key: Key, example: Tree) -> TrainState:
    """Initialize a Flax Linen module and return the state before the first step; pure, so it works under `vmap`.

    Args:
        model: Flax Linen module.
        optimizer: any of optax.
        key: randomness of initialization and of the run, which get independent parts of it.
        example: inputs of the shape and type of a batch's; two rows are enough.
    """
    init_key, run_key = jax.random.split(key)
    variables = dict(model.init(init_key, example))
    params = variables.pop("params")
    return start(params, optimizer, run_key, variables)


def make_step(loss_fn: LossFn, optimizer: optax.GradientTransformation) -> Step:
    """Return the training step `(state, batch) -> (state, metrics)`: pure, for `jit`, `scan` and `vmap`.

    A step after which the loss, a parameter or a running average is not finite is not taken: see `TrainState.finite`.
    Its metrics and those of all later steps count 0 examples.

    Args:
        loss_fn: (params, model_state, batch, key) -> (loss, (metrics, new model_state)), as `classification` gives it;
            metrics are `Mean`s by name, or scalars, which count once a step; `key` is a fresh one every step.
        optimizer: any of optax.
    """
    grad_fn = jax.value_and_grad(checked(loss_fn), has_aux=True)

    def step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        (loss, (metrics, model_state)), grads = grad_fn(state.params, state.model_state, batch, step_key(state))
        return _advance(state, optimizer, loss, metrics, model_state, grads)

    return step


def make_flow_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    statistics: Iterable[str] | str | None = None,
    select: Any = None,
) -> FlowStep:
    """Return the same step as `make_step`, which also gives the flow: `(state, batch) -> (state, metrics, flow)`.

    Args:
        loss_fn: as for `make_step`.
        optimizer: any of optax.
        statistics: fields of `LayerFlow`; all by default. Each costs time.
        select: names of layers, as in `value_grad_and_flow`.
    """
    from gradflow.instrument import value_grad_and_flow

    grad_fn = value_grad_and_flow(checked(loss_fn), has_aux=True, statistics=statistics, select=select)

    def step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics, Any]:
        (loss, (metrics, model_state)), grads, flow = grad_fn(state.params, state.model_state, batch, step_key(state))
        return (*_advance(state, optimizer, loss, metrics, model_state, grads), flow)

    return step


def run(
    step: Step,
    state: TrainState,
    source: Any,
    steps: int,
    *,
    every: int = 1,
    data_key: Key | None = None,
    flow_step: FlowStep | None = None,
    record: Callable[[TrainState], Tree] | None = None,
) -> Any:
    """Take many steps as one program: a scan, pure, to be used in `jit`, also inside `vmap`.

    Args:
        step: from `make_step`.
        state: where to start; it may have steps behind it.
        source: anything with a pure `batch(key, step)`, such as `gf.data.on_device(...)` or a window of a stream, or
            such a function.
        steps: how many, a multiple of `every`.
        every: steps that one record of metrics is summed over.
        data_key: randomness of the batches, in place of the state's own: runs that share it see the same batches (and
            under `vmap` draw them only once).
        flow_step: from `make_flow_step`, takes the place of the first step of every record.
        record: state -> arrays to keep of it, whatever they are: accuracy on other data, distance from the start.

    Returns:
        The state afterwards and metrics, each a `Mean` of shape (steps / every,); with `flow_step` also the flow, whose
        statistics have this axis in front; with `record` also what it returned before each record and after the last
        step, with an axis of steps / every + 1 in front.

    Raises:
        ValueError: if `steps` is not a multiple of `every`, or negative.
    """
    if every < 1 or steps < 0 or steps % every:
        raise ValueError(
            f"run: expected steps to be a multiple of every >= 1, got steps={steps}, every={every}. "
            "Fix: every=1, or steps that every divides"
        )

    def take(state: TrainState, _: None) -> tuple[TrainState, Metrics]:
        return step(state, draw(source, state, data_key))

    def take_every(state: TrainState, _: None) -> tuple[TrainState, tuple[Any, ...]]:
        if flow_step is None and every == 1:
            state, metrics = take(state, None)
            return state, (metrics,)
        first = None
        if flow_step is not None:
            state, *first = flow_step(state, draw(source, state, data_key))
        state, metrics = jax.lax.scan(take, state, length=every - (first is not None))
        total = jax.tree.map(lambda x: x.sum(0), metrics)
        return state, (total,) if first is None else (jax.tree.map(jnp.add, first[0], total), first[1])

    if record is None:
        state, found = jax.lax.scan(take_every, state, length=steps // every)
        return state, *found
    return _run_recorded(take_every, record, state, steps // every)


def _run_recorded(
    take_every: Callable[[TrainState, None], tuple[TrainState, Any]],
    record: Callable[[TrainState], Tree],
    state: TrainState,
    records: int,
) -> Any:
    """Scan once more than there are records, without steps at the end, so that `record` is compiled only once."""

    def stay(state: TrainState) -> tuple[TrainState, Any]:
        shapes = jax.eval_shape(take_every, state, None)[1]
        return state, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def record_and_take(state: TrainState, index: Array) -> tuple[TrainState, Any]:
        kept = record(state)
        state, found = jax.lax.cond(index < records, lambda state: take_every(state, None), stay, state)
        return state, (found, kept)

    state, (found, kept) = jax.lax.scan(record_and_take, state, jnp.arange(records + 1))
    return state, *jax.tree.map(lambda x: x[:records], found), kept


def draw(source: Any, state: TrainState, data_key: Key | None = None) -> Any:
    """Draw the batch of the next step.

    Args:
        source: as for `run`.
        state: number of the step and key.
        data_key: in place of the state's.
    """
    key = jax.random.fold_in(state.key, 0) if data_key is None else data_key
    return getattr(source, "batch", source)(key, state.step)


def step_key(state: TrainState) -> Key:
    """Randomness of the model (dropout, noise) in the next step, independent of that of the data.

    Args:
        state: number of the step and key.
    """
    return jax.random.fold_in(jax.random.fold_in(state.key, 1), state.step)


def means(metrics: Metrics) -> dict[str, Float[Array, "*runs"]]:
    """Return the means.

    Args:
        metrics: sums and counts.
    """
    return {name: mean.value for name, mean in metrics.items()}


def as_mean(metric: Any) -> Mean:
    """Return a metric of a loss as a mean; a scalar counts once.

    Args:
        metric: a `Mean` or a scalar.
    """
    if isinstance(metric, Mean):
        return Mean(*(jnp.asarray(x).astype(jnp.float32) for x in (metric.total, metric.count)))
    return Mean(jnp.asarray(metric).astype(jnp.float32), jnp.float32(1))


def _advance(
    state: TrainState,
    optimizer: optax.GradientTransformation,
    loss: Array,
    metrics: Any,
    model_state: Tree,
    grads: Tree,
) -> tuple[TrainState, Metrics]:
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = jax.tree.map(lambda p, u: (p + u).astype(p.dtype), state.params, updates)
    finite = state.finite & _all_finite((loss, params, model_state))
    done = TrainState(state.step + 1, params, model_state, opt_state, state.key, finite)
    # Not a branch: as a selection it goes into the loops that write the new arrays anyway, and survives vmap.
    kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), done, state)
    counted = {name: as_mean(metric) for name, metric in metrics.items()}
    return kept._replace(finite=finite), jax.tree.map(lambda x: jnp.where(finite, x, jnp.zeros_like(x)), counted)


def _all_finite(tree: Tree) -> Bool[Array, ""]:
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(x), jnp.inexact)]
    return jnp.all(jnp.stack([jnp.isfinite(x).all() for x in leaves]))
