"""Training of deep networks that differ in their activation: accuracy, dead and saturated units, gradients over time.

Activations are data: one compiled program trains all those that have nothing to learn, one after the other, every one
with all its runs side by side. PReLU has parameters of its own and is a program of its own.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped

import gradflow as gf
from experiments.framework.images import Images
from experiments.framework.saturation import saturated_fraction
from experiments.framework.stretches import in_stretches, take

STATISTICS = ("dead_fraction", "weight_grad_norm")
PROBE = 256  # training images that the flow is measured on, the same ones at every record

Tree = dict[str, Any]
Phi = gf.activations.Activation | Callable[[Array], Array]


class Setup(NamedTuple):
    """What all networks of one program have in common.

    Attributes:
        depth: hidden layers.
        width: units of each.
        batch: images a step.
        steps: training steps.
        every: steps between two records; divides steps.
        clip: largest norm of a gradient, so that a large rate kills rather than explodes; None for no clipping.
        kick: steps after which the rate becomes `calm_rate`; None for never.
        calm_rate: rate after the kick.
    """

    depth: int
    width: int
    batch: int
    steps: int
    every: int
    clip: float | None = None
    kick: int | None = None
    calm_rate: float = 0.0

    def optimizer(self, rate: Float[Array, ""]) -> optax.GradientTransformation:
        """Plain gradient descent.

        Args:
            rate: learning rate, of the kick if there is one.
        """
        if self.kick is None:
            return gf.training.with_clipping_and_decay(optax.sgd(rate), clip_norm=self.clip)
        schedule = optax.join_schedules([_constant(rate), _constant(self.calm_rate)], [self.kick])
        return gf.training.with_clipping_and_decay(optax.sgd(schedule), clip_norm=self.clip)


@dataclasses.dataclass(frozen=True)
class Training:
    """Training of every activation at every depth and rate; what layers have is their mean.

    Attributes:
        steps: at which there is a record.
        depths: hidden layers.
        names: activations.
        accuracy: on the test images.
        loss: on `PROBE` training images.
        spread: largest range of a logit over them.
        finite: whether the network is still finite.
        dead: fraction of units.
        saturated: fraction of activations.
        gradient: norm of the weight gradient.
        slopes: that PReLU has learned; 0 for the others.
    """

    steps: Int[np.ndarray, " records"]
    depths: Int[np.ndarray, " depths"]
    names: Shaped[np.ndarray, " activations"]
    accuracy: Float[np.ndarray, "depths activations rates records"]
    loss: Float[np.ndarray, "depths activations rates records"]
    spread: Float[np.ndarray, "depths activations rates records"]
    finite: Bool[np.ndarray, "depths activations rates records"]
    dead: Float[np.ndarray, "depths activations rates records"]
    saturated: Float[np.ndarray, "depths activations rates records"]
    gradient: Float[np.ndarray, "depths activations rates records"]
    slopes: Float[np.ndarray, "depths activations rates records"]


@dataclasses.dataclass(frozen=True)
class Kick:
    """ReLU (first) and leaky ReLU networks of the same weights under a rate far too large for a while."""

    steps: Int[np.ndarray, " records"]
    accuracy: Float[np.ndarray, "2 networks records"]
    spread: Float[np.ndarray, "2 networks records"]
    finite: Bool[np.ndarray, "2 networks records"]
    dead: Float[np.ndarray, "2 networks records depth"]
    gradient: Float[np.ndarray, "2 networks records depth"]


def _constant(rate: Any) -> optax.Schedule:
    return lambda _: jnp.asarray(rate, jnp.float32)


def build(phi: Phi, depth: int, width: int) -> gf.models.MLP:
    """Build a network of sigma_w^2 = 1, biases 0: images (batch, pixels) to logits (batch, 10).

    Args:
        phi: activation.
        depth: hidden layers.
        width: units of each.
    """
    return gf.models.MLP(
        depth=depth, width=width, outputs=10, activation=phi, initializer=gf.initializers.gaussian(1.0), scan=True
    )


def scale_kernels(params: Tree, gain: Float[Array, ""]) -> Tree:
    """Bring every kernel but the first from sigma_w^2 = 1 to gain^2: all layers then have variance 1.

    Args:
        params: of a network from `build`.
        gain: of its activation.
    """

    def scaled(path: tuple[Any, ...], leaf: Array) -> Array:
        return leaf * gain if path[-1].key == "kernel" and path[0].key != "Dense_0" else leaf

    return jax.tree_util.tree_map_with_path(scaled, params)


def any_of(names: Sequence[str], kind: Int[Array, ""]) -> Phi:
    """Return the activation of a number: a switch, or the record itself where there is only one.

    Args:
        names: activations, without learned parameters if there are several.
        kind: which of them.
    """
    records = [gf.activations.get(name) for name in names]
    return records[0] if len(records) == 1 else lambda x: jax.lax.switch(kind, records, x)


def train(
    keys: PRNGKeyArray,
    rates: Float[Array, " runs"],
    data_key: PRNGKeyArray,
    train: Images,
    test: Images,
    *,
    names: tuple[str, ...],
    setup: Setup,
) -> dict[str, np.ndarray]:
    """Train every activation once for each run, on the same images in the same order, by plain gradient descent.

    Args:
        keys: of the runs' initializations, (runs,).
        rates: learning rates of the runs.
        data_key: of the order of images.
        train: training images.
        test: test images.
        names: activations; one with learned parameters is alone.
        setup: sizes and steps.

    Returns:
        `accuracy` on the test images, `loss`, `spread`, the largest range of a logit over the probe, and `finite`
        (activations, runs, records); `dead`, `saturated`, `gradient` and `slopes` of hidden layers (activations, runs,
        records, depth), the last what PReLU has learned, 0 for the others.
    """

    def further(states: Any, steps: int) -> Any:
        return advance(states, keys, rates, data_key, train, test, names=names, setup=setup, steps=steps)

    kind = "" if setup.kick is None else ", large rate"
    return in_stretches(
        f"{setup.depth} layers, {', '.join(names)}{kind}", further, steps=setup.steps, every=setup.every,
        work=6.0 * len(names) * rates.size * setup.batch * setup.width * (setup.depth * setup.width + train.x.shape[1]),
        axis=2,
    )[1]  # fmt: skip


@functools.partial(jax.jit, static_argnames=("names", "setup", "steps"))
def advance(
    states: gf.training.TrainState | None,
    keys: PRNGKeyArray,
    rates: Float[Array, " runs"],
    data_key: PRNGKeyArray,
    train: Images,
    test: Images,
    *,
    names: tuple[str, ...],
    setup: Setup,
    steps: int,
) -> tuple[gf.training.TrainState, dict[str, Array]]:
    """Take some steps of `train`.

    Args:
        states: of all networks, (activations, runs); None to start.
        keys: as `train` takes them.
        rates: the same.
        data_key: the same.
        train: training images.
        test: test images.
        names: activations.
        setup: sizes.
        steps: how many.

    Returns:
        The states after them, and the records.
    """
    gains = jnp.array([gf.activations.get(name).gain for name in names], jnp.float32)
    source = gf.data.OnDevice(train.x, train.y, None, setup.batch, None, True)

    def of_kind(kind: Int[Array, ""], gain: Float[Array, ""], states: Any) -> Any:
        model = build(any_of(names, kind), setup.depth, setup.width)
        loss = gf.training.classification(model)

        def one(key: PRNGKeyArray, rate: Float[Array, ""], state: Any) -> Any:
            optimizer = setup.optimizer(rate)
            step = gf.training.make_step(loss, optimizer)
            if state is None:
                drawn = model.init(key, train.x[:2])["params"]
                state = gf.training.start(scale_kernels(drawn, gain), optimizer, key)

            def record(state: gf.training.TrainState) -> dict[str, Array]:
                return observe(model, state.params, train.first(PROBE), test) | {"finite": state.finite}

            return take(step, state, source, steps, every=setup.every, record=record, data_key=data_key)

        return jax.vmap(one)(keys, rates, states)

    return jax.lax.map(lambda args: of_kind(*args), (jnp.arange(len(names)), gains, states))


def observe(model: gf.models.MLP, params: Tree, probe: Images, test: Images) -> dict[str, Array]:
    """Measure a network as it is.

    Args:
        model: the network.
        params: its parameters.
        probe: training images for the flow.
        test: test images.

    Returns:
        The records of `train` of one network and moment, but `finite`.
    """

    def loss(params: Tree, batch: Images) -> tuple[Array, Array]:
        logits: Any = model.apply({"params": params}, batch.x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch.y).mean(), logits

    def saturated(slope: Array, z: Array) -> Array:
        return saturated_fraction(functools.partial(_apply, model.activation, slope), z)

    (value, logits), _, flow = gf.value_grad_and_flow(loss, has_aux=True, statistics=STATISTICS)(params, probe)
    slopes = learned_slopes(params, model.depth)
    answers: Any = model.apply({"params": params}, test.x)
    return {
        "loss": value,
        "spread": (logits.max(0) - logits.min(0)).max(),
        "accuracy": jnp.mean(jnp.argmax(answers, -1) == test.y),
        "dead": by_layer(flow, "dead_fraction"),
        "gradient": by_layer(flow, "weight_grad_norm"),
        "saturated": jax.vmap(saturated)(slopes, pre_activations(model, params, probe)),
        "slopes": slopes,
    }


def by_layer(flow: gf.Flow, statistic: str) -> Float[Array, " depth"]:
    """Line up a statistic over the hidden layers: the first, then those of the scan.

    Args:
        flow: of a network from `build`.
        statistic: name.
    """
    values = [jnp.atleast_1d(getattr(flow[name], statistic)) for name in flow.layers]
    return jnp.concatenate(values[:-1])


def pre_activations(model: gf.models.MLP, params: Tree, batch: Images) -> Float[Array, "depth batch width"]:
    """Return z of every hidden layer.

    Args:
        model: the network.
        params: its parameters.
        batch: images.
    """
    _, captured = model.apply({"params": params}, batch.x, capture_intermediates=True)
    found: Any = captured["intermediates"]
    return jnp.concatenate([found["Dense_0"]["__call__"][0][None], found["Hidden"]["Dense"]["__call__"][0]])


def learned_slopes(params: Tree, depth: int) -> Float[Array, " depth"]:
    """Return the slopes of PReLU by hidden layer; zeros for a network without.

    Args:
        params: of a network from `build`.
        depth: hidden layers.
    """
    if "PReLU_0" not in params:
        return jnp.zeros(depth)
    rest = params["Hidden"]["PReLU"]["negative_slope"]
    return jnp.concatenate([params["PReLU_0"]["negative_slope"][None], rest])


def _apply(phi: Any, slope: Array, x: Array) -> Array:
    learnable = isinstance(phi, gf.activations.Activation) and phi.learnable
    return phi.fn(x, slope) if learnable else phi(x)
