"""The networks that `overhead` times, and the two alternatives that it times them against."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

import gradflow as gf

# What the alternatives record of outputs and cotangents, as far as the instrument has it: no zeros of outputs.
LIKE = ("output_rms", "output_mean", "output_grad_rms", "zero_grad_fraction")
FULL = {
    "mlp 20 x 512": (20, 512, 256),
    "mlp 50 x 100": (50, 100, 128),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A training step's loss with everything it is called with.

    Attributes:
        name: as shown.
        loss: (params, x) -> scalar.
        params: parameters.
        x: one batch.
        target: largest ratio of step times that the instrument may cost.
    """

    name: str
    loss: Callable[[Any, Any], Float[Array, ""]]
    params: Any
    x: Any
    target: float


def sizes(name: str, shrink: int) -> tuple[int, int, int]:
    """Return depth, width and batch of an MLP, depth and width divided by `shrink`."""
    depth, width, batch = FULL[name]
    return max(2, depth // shrink), max(16, width // shrink), batch


def mlp(name: str, shrink: int, target: float) -> Case:
    """Return a He-initialized ReLU MLP of stock Flax layers, sizes divided by `shrink`."""
    depth, width, batch = sizes(name, shrink)
    model = gf.models.MLP(depth=depth, width=width, outputs=10)
    x = jax.random.normal(jax.random.key(1), (batch, width))
    params = model.init(jax.random.key(0), x)

    def loss(params: Any, x: Any) -> Float[Array, ""]:
        logits: Any = model.apply(params, x)
        return _objective(logits)

    return Case(name, loss, params, x, target)


def lstm(shrink: int, target: float) -> Case:
    """Return Flax's own optimized LSTM over 100 steps, 128 units, batch 64."""
    hidden, steps, batch = 128 // shrink, 100 // shrink, 64
    model = nn.RNN(nn.OptimizedLSTMCell(hidden))
    x = jax.random.normal(jax.random.key(1), (batch, steps, hidden))
    params = model.init(jax.random.key(0), x)

    def loss(params: Any, x: Any) -> Float[Array, ""]:
        states: Any = model.apply(params, x)
        return jnp.mean(jnp.square(states[:, -1]))

    return Case("lstm T = 100", loss, params, x, target)


def resnet(shrink: int, target: float) -> Case:
    """Return ResNet-20 with batch norm in training mode, 32 x 32 images, batch 128."""
    model = gf.models.ResNet(depth=20, outputs=10)
    x = jax.random.normal(jax.random.key(1), (128 // shrink**2, 32, 32, 3))
    variables = model.init(jax.random.key(0), x)
    state = {k: v for k, v in variables.items() if k != "params"}

    def loss(params: Any, x: Any) -> Float[Array, ""]:
        logits, _ = model.apply({"params": params, **state}, x, train=True, mutable=list(state))
        return _objective(logits)

    return Case("resnet-20", loss, variables["params"], x, target)


def _objective(logits: Float[Array, "batch outputs"]) -> Float[Array, ""]:
    return -jnp.mean(jax.nn.log_softmax(logits)[:, 0])


class PerturbedMLP(nn.Module):
    """The MLP as it has to be rewritten for Flax's own tools: a `perturb` after every layer."""

    depth: int
    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "batch width"]) -> Float[Array, "batch 10"]:
        """Return logits."""
        for i in range(self.depth + 1):
            x = nn.Dense(self.width if i < self.depth else 10, kernel_init=nn.initializers.he_normal())(x)
            x = self.perturb(f"grad_{i}", x)
            x = nn.relu(x) if i < self.depth else x
        return x


def flax_alternative(case: Case, shrink: int) -> Callable[[Any, Any], Any]:
    """Return the step that Flax offers, by `capture_intermediates` and `perturb`.

    It needs an edited model and gives rms, mean and fraction of zeros of outputs and cotangents, which is less than
    the instrument gives.
    """
    depth, width, _ = sizes(case.name, shrink)
    model = PerturbedMLP(depth, width)
    variables = model.init(jax.random.key(0), case.x)

    def loss(params: Any, perturbations: Any, x: Any) -> tuple[Any, Any]:
        def dense(module: nn.Module, _: str) -> bool:
            return isinstance(module, nn.Dense)

        logits, state = model.apply(
            {"params": params, "perturbations": perturbations},
            x,
            capture_intermediates=dense,
            mutable=["intermediates"],
        )
        return _objective(logits), state["intermediates"]

    def step(params: Any, x: Any) -> Any:
        run = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
        (value, seen), (grads, cotangents) = run(params["params"], variables["perturbations"], x)
        return value, grads, jax.tree.map(_reduced, (seen, cotangents))

    return step


def _reduced(x: Array) -> tuple[Array, Array, Array]:
    return jnp.sqrt(jnp.mean(jnp.square(x))), jnp.mean(x), jnp.mean((x == 0).astype(jnp.float32))


def torch_alternative(case: Case, shrink: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return a plain PyTorch step of the same MLP and one with hooks that record comparable statistics."""
    import torch

    depth, width, batch = sizes(case.name, shrink)

    def build() -> Any:
        layers: list[Any] = []
        for i in range(depth + 1):
            layers.append(torch.nn.Linear(width, width if i < depth else 10))
            if i < depth:
                layers.append(torch.nn.ReLU())
        return torch.nn.Sequential(*layers)

    x = torch.randn(batch, width)
    labels = torch.zeros(batch, dtype=torch.long)

    def step_of(model: Any) -> Callable[[], None]:
        def step() -> None:
            for p in model.parameters():
                p.grad = None
            torch.nn.functional.cross_entropy(model(x), labels).backward()

        return step

    hooked = build()
    for module in hooked:
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(_on_forward)
            module.register_full_backward_hook(_on_backward)
    return step_of(build()), step_of(hooked)


def _on_forward(module: Any, _: Any, y: Any) -> None:
    _torch_reduced(module, "forward", y)


def _on_backward(module: Any, _: Any, cotangents: Any) -> None:
    _torch_reduced(module, "backward", cotangents[0])


def _torch_reduced(module: Any, which: str, x: Any) -> None:
    import torch

    with torch.no_grad():
        setattr(
            module, f"{which}_statistics", torch.stack([x.square().mean().sqrt(), x.mean(), (x == 0).float().mean()])
        )
