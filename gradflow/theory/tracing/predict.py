"""Predict the flow of a model of the user's own, and show it beside the measured one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow.instrument import Flow, naming, value_grad_and_flow
from gradflow.instrument.analysis import find_sites
from gradflow.instrument.jaxprs import opened
from gradflow.instrument.origins import Kind, Origin
from gradflow.theory.tracing.abstract_values import Data, Known
from gradflow.theory.tracing.backward import Gradient, gradients_of
from gradflow.theory.tracing.layer_prediction import LayerPrediction
from gradflow.theory.tracing.measured_cotangents import MeasuredCotangents
from gradflow.theory.tracing.measured_fields import MeasuredFields
from gradflow.theory.tracing.propagation import Propagation, Steps
from gradflow.theory.tracing.random_fields import Gaussian
from gradflow.theory.tracing.report import html, table

__all__ = ["Prediction", "predict"]

_FLOOR = 0.1  # of ln rms: what terms of order 1/batch and 1/width beyond the first may amount to
_DEVIATIONS = 3.0
_KINDS = ("layer", "embedding")
_SENT_BACK = "what a branch outside the theory sends back is added as measured to its gradient"
_ROUNDS = 3  # walks: what the first asks for is measured, and seldom something more that the second asks for


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Predicted and measured profile of a model, layer by layer in forward order; `print` shows a table.

    Attributes:
        layers: one entry a layer and scan step.
        flow: the measured flow.
    """

    layers: tuple[LayerPrediction, ...]
    flow: Flow

    @property
    def coverage(self) -> tuple[float, float]:
        """Share of the layers whose output and whose gradient theory predicts; a gradient that is anchored is not."""
        count = max(len(self.layers), 1)
        forward = sum(not layer.starts_anew for layer in self.layers)
        backward = sum(not layer.anchored for layer in self.layers)
        return forward / count, backward / count

    @property
    def outside(self) -> dict[str, str]:
        """Layers that are outside the theory, or that it describes approximately, and why."""
        return {layer.name: layer.note for layer in self.layers if layer.note}

    @property
    def outliers(self) -> tuple[LayerPrediction, ...]:
        """Layers whose measured output or gradient is outside the predicted band."""
        return tuple(layer for layer in self.layers if layer.deviations)

    def __str__(self) -> str:
        return table(self.layers, self.coverage)

    def _repr_html_(self) -> str:
        return html(self.layers, self.coverage)


def predict(model: Any, params: Any = None, *args: Any, initial: Any = None) -> Prediction:
    """Predict forward and backward rms of every layer by mean-field theory, and measure them.

    The model, or its loss, is traced, whatever framework it is written in. Theory starts from the measured input of the
    first layers and from the mean square of every weight, and follows the signal upwards. The output of a layer is
    Gaussian with variance E[x^2] sum(w^2), over the weights that reach one unit. What happens elementwise between two
    layers is integrated over that Gaussian. The gradient is followed downwards from the measured one of the layers that
    feed the loss, by mean square slopes (Poole et al. 2016; Schoenholz et al. 2017; Yang & Schoenholz 2017; Xiao et al.
    2018; Chen et al. 2018; Yang et al. 2019, here without terms of order 1/batch).

    Where a branch that theory does not follow is added to a signal, its second moment and its correlation with the
    signal are measured on the batch, and theory goes on with the sum. Backward, the mean square of what the branch
    sends back into the signal, and its correlation with the gradient of the sum, are measured and added to the
    predicted gradient of the signal. A layer whose gradient comes from there for more than half has the measured one,
    as have layers that the branch alone reads, such as queries, keys and values.

    Followed are skip connections, biases, noise, dropout and stochastic depth, batch, layer, group and rms
    normalization, grouped and depthwise convolutions, average and maximum pooling, padding, concatenation and slices of
    units, embeddings, recurrent networks step by step, and gates, which are products of two signals that are
    independent at initialization, and sums over the neighbours of a graph. `gradflow.register_rule` adds an operation.
    Outside the theory are attention and loops without a fixed length. The note of the next layer says what and where,
    and there theory starts anew from the measured input. Where gradients of positions or nodes add up, as in the gate
    of a channel or in a graph, it counts how alike they are; that is measured at the layers that feed the loss, and
    followed downwards.

    Theory assumes that weights are random, independent of each other and of the gradient that arrives. A loss such as
    mean(output^2) sends the output itself back, which is not independent. After training, the outliers are the layers
    that have learned. A flow alone does not say what lies between its layers, so the model is needed to predict one.

    Args:
        model: function of parameters and further arguments, or an object with such a function as its `apply` (a Flax
            Linen module, a transformed Haiku function). It gives the loss, a scalar; or outputs, whose loss is then
            their product with a random projection, summed over units and averaged over the batch.
        params: pytree of floating-point arrays, differentiated; the variables of a Linen module.
        *args: further arguments of the model: the batch.
        initial: the parameters before training, or of a fresh draw. Theory then reads the mean squares of these, and
            what is measured is that of `params`: layers whose scale has changed are outliers, too.

    Returns:
        The prediction, with the measured flow. A layer is an outlier where measured and predicted rms differ by more
        than three standard deviations of the finite-width law and 10 %. For outputs of dense layers the law is that of
        the average over the examples, elsewhere that of a single one, so that the band errs on the wide side.

    Raises:
        TypeError: for a flow, or a model that is neither a function nor has one as its `apply`.
        ValueError: if `initial` is not made like `params`.
        FlowError: as `value_grad_and_flow`.

    Examples:
        >>> import jax.numpy as jnp
        >>> keys = jax.random.split(jax.random.key(0), 6)
        >>> params = [jax.random.normal(k, (500, 500)) / 500**0.5 for k in keys]
        >>> def model(params, x):
        ...     for w in params:
        ...         x = jnp.tanh(x) @ w
        ...     return x
        >>> prediction = predict(model, params, jax.random.normal(jax.random.key(1), (64, 500)))
        >>> prediction.outliers, prediction.outside
        ((), {})
    """
    loss_fn = _loss_of(model)
    initial = params if initial is None else _made_like(params, initial)
    _, _, flow = jax.jit(value_grad_and_flow(loss_fn))(params, *args)
    flat, tree = jax.tree_util.tree_flatten_with_path(params)
    leaves = [leaf for _, leaf in flat]

    batch, batch_tree = jax.tree_util.tree_flatten(args)

    def of_leaves(leaves: Any, batch: Any) -> Any:
        return loss_fn(jax.tree_util.tree_unflatten(tree, leaves), *jax.tree_util.tree_unflatten(batch_tree, batch))

    closed = jax.make_jaxpr(of_leaves)(leaves, batch)
    data = Origin(Kind.DATA)
    origins = [Origin(Kind.VIEW, frozenset({k}), active=True) for k in range(len(leaves))] + [data] * len(batch)
    found = find_sites(closed, origins, [data] * len(opened(closed)[1]), activations=False).sites
    names = naming.name_sites(found, naming.leaf_names([path for path, _ in flat], ["params"], single=True))
    # A table that is sliced and added is tapped before the addition: for theory it is no layer, but data that is added.
    sites = {s.path: (n, s) for s, n in zip(found, names, strict=True) if s.kind in _KINDS and not s.entering}

    def measured(name: str, field: str, steps: Steps) -> float:
        return float(np.asarray(getattr(flow[name], field))[steps])

    fields, graph = MeasuredFields(), False
    gains: dict[tuple[int, ...], tuple[Any, float]] = {}
    for round_ in range(_ROUNDS):
        propagation = Propagation(sites, measured, fields, gains, follow_nodes=graph)
        outs = propagation.walk(closed, [*map(Known, jax.tree_util.tree_leaves(initial)), *map(Data, batch)])
        followed, graph = graph, propagation.algebra.nodes_wanted
        if not fields.missing and graph == followed:
            break
        if fields.missing:
            fields.measure(closed, [*leaves, *batch])
        fields.final |= round_ == _ROUNDS - 2
    propagation.mark_unpredictable(outs)
    return Prediction(_rows(propagation, _gradients(propagation, closed, [*leaves, *batch]), flow), flow)


def _gradients(propagation: Propagation, closed: Any, args: list[Any]) -> dict[Gaussian, Gradient]:
    """The gradient of every Gaussian; what has to be measured for it is measured once, and what that asks for."""
    cotangents = MeasuredCotangents()
    for round_ in range(_ROUNDS):
        cotangents.final |= round_ == _ROUNDS - 1
        found = gradients_of(propagation, cotangents)
        if not cotangents.missing:
            break
        cotangents.measure(closed, args)
    return found


def _loss_of(model: Any) -> Callable[..., Any]:
    """The model as a function to a scalar."""
    if isinstance(model, Flow):
        raise TypeError(
            "expected a model, got its flow, which holds what was measured at the layers but not what lies between "
            "them (activations, skip connections, normalization). Fix: gf.theory.predict(model, params, batch), which "
            "measures the flow itself and returns it as `.flow`"
        )
    apply = getattr(model, "apply", model)
    if not callable(apply):
        raise TypeError(
            f"expected a function of parameters and batch, or an object with such an `apply`, got a "
            f"{type(model).__name__}. Fix: gf.theory.predict(lambda params, x: ..., params, x)"
        )

    def loss(params: Any, *args: Any) -> Any:
        outs = [
            out for out in jax.tree_util.tree_leaves(apply(params, *args)) if jnp.issubdtype(out.dtype, jnp.floating)
        ]
        if len(outs) == 1 and outs[0].ndim == 0:
            return outs[0]
        total = jnp.zeros((), jnp.float32)
        for number, out in enumerate(outs):
            projection = jax.random.normal(jax.random.key(number), out.shape, out.dtype)
            total += jnp.sum((out * projection).astype(jnp.float32)) / max(out.shape[0] if out.ndim else 1, 1)
        return total

    return loss


def _made_like(params: Any, initial: Any) -> Any:
    """The initial parameters, which have to be made like the present ones."""
    pairs = [
        (jax.tree_util.tree_structure(tree), [jnp.shape(leaf) for leaf in jax.tree_util.tree_leaves(tree)])
        for tree in (params, initial)
    ]
    if pairs[0] != pairs[1]:
        raise ValueError(
            f"expected `initial` with the structure and the shapes of `params`, got {pairs[1]} instead of {pairs[0]}. "
            "Fix: pass the whole parameters of the same model before training, or of a fresh draw"
        )
    return initial


def _rows(propagation: Propagation, gradients: dict[Gaussian, Gradient], flow: Flow) -> tuple[LayerPrediction, ...]:
    order = {name: k for k, name in enumerate(flow.layers)}
    rows = []
    for gaussian in propagation.algebra.gaussians:
        if gaussian.layer is None or gaussian.layer[0] not in order:
            continue
        name, steps = gaussian.layer
        gradient = gradients[gaussian]
        ran, reached = _visits(flow, name, steps)
        row = LayerPrediction(
            name,
            steps,
            math.sqrt(gaussian.variance) if ran else math.nan,
            math.sqrt(gradient.square) if reached else math.nan,
            propagation.measured(name, "output_rms", steps),
            propagation.measured(name, "output_grad_rms", steps),
            _band(gaussian.log_variance),
            _band(gradient.spread),
            gradient.anchored,
            propagation.notes.get(name, _SENT_BACK if _is_mixed(gradient) else ""),
            gaussian in propagation.anew,
        )
        rows.append(row)
    return tuple(sorted(rows, key=lambda row: (order[row.name], row.step)))


def _is_mixed(gradient: Gradient) -> bool:
    """Whether a share of a predicted gradient that counts was measured."""
    return not gradient.anchored and gradient.measured > 0.01 * gradient.square


def _visits(flow: Flow, name: str, steps: Steps) -> tuple[bool, bool]:
    """Tell whether a layer ran, and whether a cotangent reached it."""
    calls, backward_calls = np.asarray(flow[name].calls), np.asarray(flow[name].backward_calls)
    return bool(calls[steps] > 0), bool(backward_calls[steps] > 0)


def _band(log_variance: float) -> float:
    """Factor of the rms, from the variance of ln of the mean square."""
    return math.exp((_DEVIATIONS * math.sqrt(max(log_variance, 0.0)) + log_variance / 2) / 2 + _FLOOR)
