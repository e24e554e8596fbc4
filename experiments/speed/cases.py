"""Training steps that `speed` times: gradflow's models and the same networks in stock Flax."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

import gradflow as gf
from experiments.framework.processes import usable_cores

OUTPUTS = 10
RATE = 0.01  # small enough for every network to stay finite however often it is stepped
AXIS = "data"  # over which a batch is cut


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of one network.

    Attributes:
        batch: examples a step.
        shape: of one example: (time, features), (height, width, channels) or (features,).
        units: hidden units; channels of a convolution stack.
        depth: hidden layers.
    """

    batch: int
    shape: tuple[int, ...]
    units: int
    depth: int


def sizes(name: str, shrink: int) -> Sizes:
    """Sizes of a case, divided by `shrink`.

    Args:
        name: of the case.
        shrink: 1 for the sizes that the targets are for.
    """
    full = {
        "lstm": Sizes(64, (100, 128), 128, 1),
        "gru": Sizes(64, (100, 128), 128, 1),
        "rnn": Sizes(64, (100, 128), 128, 1),
        "mlp": Sizes(256, (512,), 512, 20),
        "resnet-20": Sizes(128, (32, 32, 3), 16, 20),
        "convolutions": Sizes(64, (16, 16, 32), 32, 12),
    }[name]
    if shrink == 1:
        return full
    fixed = name == "resnet-20"
    return Sizes(
        batch=max(4, full.batch // shrink**2),
        shape=full.shape if fixed else tuple(max(4, size // shrink) for size in full.shape),
        units=full.units if fixed else max(4, full.units // shrink),
        depth=full.depth if fixed else max(3, full.depth // shrink),
    )


class StockRecurrent(nn.Module):
    """Flax's own cell in Flax's own scan, and a linear layer on the last output."""

    cell: str
    units: int

    @nn.compact
    def __call__(self, x: Float[Array, "batch time features"]) -> Float[Array, "batch outputs"]:
        """Map sequences to outputs."""
        cells = {"lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell, "rnn": nn.SimpleCell}
        states: Any = nn.RNN(cells[self.cell](self.units))(x)
        return nn.Dense(OUTPUTS)(states[:, -1])


class StockMLP(nn.Module):
    """Dense layers with ReLU."""

    depth: int
    units: int

    @nn.compact
    def __call__(self, x: Float[Array, "batch features"]) -> Float[Array, "batch outputs"]:
        """Map features to logits."""
        for _ in range(self.depth):
            x = nn.relu(nn.Dense(self.units, kernel_init=nn.initializers.he_normal())(x))
        return nn.Dense(OUTPUTS)(x)


class StockResNet(nn.Module):
    """He et al. 2016's CIFAR network as a Flax user would write it: option A, batch norm in training mode."""

    depth: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = True
    ) -> Float[Array, "batch outputs"]:
        """Map images to logits."""
        conv = functools.partial(nn.Conv, kernel_size=(3, 3), use_bias=False, kernel_init=nn.initializers.he_normal())
        norm = functools.partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
        x = nn.relu(norm()(conv(16)(x)))
        for channels in (16, 32, 64):
            for block in range((self.depth - 2) // 6):
                stride = 2 if block == 0 and channels != 16 else 1
                y = nn.relu(norm()(conv(channels, strides=stride)(x)))
                y = norm()(conv(channels)(y))
                if stride == 2:
                    x = jnp.pad(x[:, ::2, ::2], ((0, 0),) * 3 + ((0, channels // 2),))
                x = nn.relu(x + y)
        return nn.Dense(OUTPUTS)(x.mean((1, 2)))


class _StockLayer(nn.Module):
    units: int

    @nn.compact
    def __call__(self, x: Array, _: None) -> tuple[Array, None]:
        return jnp.tanh(nn.Conv(self.units, (3, 3), padding="CIRCULAR")(x)), None


class StockConvolutions(nn.Module):
    """A stack of 3x3 convolutions with tanh and one readout, unrolled or as `nn.scan`."""

    depth: int
    units: int
    scan: bool

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channels"]) -> Float[Array, "batch outputs"]:
        """Map images to logits."""
        if self.scan:
            layers = nn.scan(_StockLayer, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.depth)
            x, _ = layers(self.units)(x, None)
        else:
            for _ in range(self.depth):
                x, _ = _StockLayer(self.units)(x, None)
        return nn.Dense(OUTPUTS)(x.mean((1, 2)))


def stock(name: str, size: Sizes, *, scan: bool = False) -> nn.Module:
    """Return the network of a case in stock Flax.

    Args:
        name: of the case.
        size: its sizes.
        scan: for "convolutions": as a scan.
    """
    if name == "mlp":
        return StockMLP(size.depth, size.units)
    if name == "resnet-20":
        return StockResNet(size.depth)
    if name == "convolutions":
        return StockConvolutions(size.depth, size.units, scan)
    return StockRecurrent(name, size.units)


def ours(name: Any, size: Sizes, *, scan: bool = False, axis_name: str | None = None) -> nn.Module:
    """Return the network of a case in gradflow.

    Args:
        name: of the case.
        size: its sizes.
        scan: for "convolutions": as a scan.
        axis_name: for "resnet-20": mapped axis over which batch statistics are averaged.
    """
    if name == "mlp":
        return gf.models.MLP(depth=size.depth, width=size.units, outputs=OUTPUTS)
    if name == "resnet-20":
        return gf.models.ResNet(depth=size.depth, outputs=OUTPUTS, axis_name=axis_name)
    if name == "convolutions":
        return gf.models.CNN(depth=size.depth, channels=size.units, outputs=OUTPUTS, scan=scan)
    return gf.models.Recurrent(cell=name, hidden=size.units, outputs=OUTPUTS)


def ask_for_a_device_a_core() -> None:
    """Ask for as many CPU devices as this process may use cores; without effect once JAX has begun."""
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", usable_cores())


def step(model: nn.Module, size: Sizes) -> Callable[[], object]:
    """Compile a training step: cross-entropy, gradients, plain gradient descent, parameters updated in place.

    Args:
        model: inputs to logits; with batch norm it takes `train`.
        size: of the batch.

    Returns:
        Runs one step to its end.
    """
    batch, held = _batch(size), _variables(model, size)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def update(params: Any, state: Any) -> tuple[Any, Any]:
        grads, state = jax.grad(_loss, has_aux=True)(params, state, model, *batch)
        return _descended(params, grads), state

    def run() -> None:
        held[:] = jax.block_until_ready(update(*held))

    return run


def step_over_devices(name: str, size: Sizes) -> Callable[[], object]:
    """Compile the step of `step` with the batch cut over all devices, which on a CPU are its cores.

    Gradients and batch statistics are means over the devices, so that the step is that of the whole batch.

    Args:
        name: of the case.
        size: of the batch, a multiple of the number of devices.

    Returns:
        Runs one step to its end.
    """
    mesh = jax.make_mesh((len(jax.devices()),), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,))
    model, whole, cut = ours(name, size, axis_name=AXIS), jax.P(), jax.P(AXIS)
    batch = jax.device_put(_batch(size), jax.NamedSharding(mesh, cut))
    held = [jax.device_put(part, jax.NamedSharding(mesh, whole)) for part in _variables(model, size)]

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(whole, whole, cut, cut), out_specs=whole)
    def update(params: Any, state: Any, x: Any, labels: Any) -> tuple[Any, Any]:
        def loss(params: Any) -> tuple[Any, Any]:
            value, changed = _loss(params, state, model, x, labels)
            return jax.lax.pmean(value, AXIS), changed

        grads, state = jax.grad(loss, has_aux=True)(params)
        return _descended(params, grads), state

    def run() -> None:
        held[:] = jax.block_until_ready(update(*held, *batch))

    return run


def _batch(size: Sizes) -> tuple[Float[Array, "batch ..."], Int[Array, " batch"]]:
    x = jax.random.normal(jax.random.key(1), (size.batch, *size.shape))
    return x, jax.random.randint(jax.random.key(2), (size.batch,), 0, OUTPUTS)


def _variables(model: nn.Module, size: Sizes) -> list[Any]:
    """Return parameters and state."""
    variables = model.init(jax.random.key(0), _batch(size)[0])
    return [variables["params"], {name: value for name, value in variables.items() if name != "params"}]


def _loss(params: Any, state: Any, model: nn.Module, x: Array, labels: Array) -> tuple[Float[Array, ""], Any]:
    options: dict[str, Any] = {"train": True} if state else {}
    logits, changed = model.apply({"params": params, **state}, x, mutable=list(state), **options)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), dict(changed)


def _descended(params: Any, grads: Any) -> Any:
    return jax.tree.map(lambda p, g: p - RATE * g, params, grads)
