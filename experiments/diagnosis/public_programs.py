"""Ten public programs that did not train, rebuilt from their descriptions, each with its repaired form.

Each was asked about on Stack Exchange; nine are among the subjects of deepmufl (Ghanbari et al. 2023) or DeepFD (Cao et
al. 2022). What is kept is what the question is about: layers, activations, initializers, loss, optimizer, batch size
and the range of inputs and targets. Data is drawn anew, dropout is left out, and images are of 8 x 8 or 16 x 16.
Six were found at first. The rule on outputs at their bound was written because of three others, with planted faults of
the same kind.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from experiments.diagnosis.specimen import Specimen
from experiments.diagnosis.tasks import Batches

__all__ = ["PROGRAMS", "Program"]

Activation = Callable[[Any], Any]
Draw = Callable[[Any, tuple[int, int]], Any]
Loss = Callable[[Any, Any], Any]
COUNT = 8  # batches
EPSILON = 1e-7  # that Keras keeps probabilities from 0 and 1 by

glorot = jax.nn.initializers.glorot_uniform()
he = jax.nn.initializers.he_normal()


def _uniform(key: Any, shape: tuple[int, int]) -> Any:
    return jax.random.uniform(key, shape, minval=-0.05, maxval=0.05)


def _standard(key: Any, shape: tuple[int, int]) -> Any:
    return jax.random.normal(key, shape)


def _linear(x: Any) -> Any:
    return x


def _affine(layer: Any, x: Any) -> Any:
    return x @ layer["kernel"] + layer["bias"]


def _binary(p: Any, y: Any) -> Any:
    p = jnp.clip(p, EPSILON, 1 - EPSILON)
    return -jnp.mean(y * jnp.log(p) + (1 - y) * jnp.log(1 - p))


def _categorical(p: Any, y: Any) -> Any:
    """Keras divides by the sum first, so that sigmoids become something like probabilities."""
    p = jnp.clip(p / jnp.sum(p, axis=-1, keepdims=True), EPSILON, 1 - EPSILON)
    return -jnp.mean(jnp.sum(y * jnp.log(p), axis=-1))


def _squared(p: Any, y: Any) -> Any:
    return jnp.mean((p - y) ** 2)


def _absolute(p: Any, y: Any) -> Any:
    return jnp.mean(jnp.abs(p - y))


@dataclasses.dataclass(frozen=True)
class Chain:
    """Dense layers, one after the other.

    Attributes:
        widths: of the input and of each layer.
        activations: of each layer.
        draw: of the kernels.
        normalized: whether batch normalization follows each hidden layer.
    """

    widths: tuple[int, ...]
    activations: tuple[Activation, ...]
    draw: Draw = glorot
    normalized: bool = False

    def init(self, key: Any) -> dict[str, dict[str, Array]]:
        """Draw the parameters."""
        shapes = list(zip(self.widths[:-1], self.widths[1:], strict=True))
        return {
            f"dense_{k}": {"kernel": self.draw(jax.random.fold_in(key, k), shape), "bias": jnp.zeros(shape[1])}
            for k, shape in enumerate(shapes)
        }

    def __call__(self, params: Any, x: Float[Array, "batch inputs"]) -> Float[Array, "batch outputs"]:
        """Return the outputs."""
        for k, activation in enumerate(self.activations):
            x = activation(_affine(params[f"dense_{k}"], x))
            if self.normalized and k < len(self.activations) - 1:
                x = (x - x.mean(0)) / jnp.sqrt(x.var(0) + 1e-3)
        return x


@dataclasses.dataclass(frozen=True)
class GatedChain:
    """Three layers of gated recurrent units over one step, which begin at 0, and a dense one.

    Attributes:
        widths: of the input and of the layers.
        last: activation of the dense layer.
    """

    widths: tuple[int, ...]
    last: Activation

    def init(self, key: Any) -> dict[str, dict[str, Array]]:
        """Draw the parameters; from a state of 0 the recurrent kernels play no part."""
        params: dict[str, dict[str, Array]] = {}
        for k, (fan_in, units) in enumerate(zip(self.widths[:-1], self.widths[1:], strict=True)):
            gates = 1 if k == len(self.widths) - 2 else 2
            shape = (fan_in, gates * units)
            kernel = glorot(jax.random.fold_in(key, k), shape)
            params[f"layer_{k}"] = {"kernel": kernel, "bias": jnp.zeros(shape[1])}
        return params

    def __call__(self, params: Any, x: Float[Array, "batch inputs"]) -> Float[Array, "batch outputs"]:
        """Return the outputs: (1 - z) tanh(candidate) of each layer, z the update gate."""
        *gated, last = (params[f"layer_{k}"] for k in range(len(self.widths) - 1))
        for layer in gated:
            update, candidate = jnp.split(_affine(layer, x), 2, axis=-1)
            x = (1 - jax.nn.sigmoid(update)) * jnp.tanh(candidate)
        return self.last(_affine(last, x))


@dataclasses.dataclass(frozen=True)
class Form:
    """A program: a network, what it is trained on and how.

    Attributes:
        network: with `init(key)`, and called with (params, x).
        batches: from a seed.
        loss: of predictions and targets.
        optimizer: that it is trained with.
    """

    network: Chain | GatedChain
    batches: Callable[[int], Batches]
    loss: Loss
    optimizer: optax.GradientTransformation

    def constant(self, targets: Float[np.ndarray, "count outputs"]) -> Float[np.ndarray, " outputs"]:
        """Return the constant prediction whose loss is least."""
        return np.median(targets, 0) if self.loss is _absolute else targets.mean(0)

    def specimen(self, name: str, seed: int, kinds: Sequence[str] = ()) -> Specimen:
        """Return it as a network of the zoo, whose chance is the loss of the best constant."""
        batches = self.batches(seed)

        def loss(params: Any, x: Any, y: Any) -> Any:
            return self.loss(self.network(params, x), y)

        params = self.network.init(jax.random.key(seed))
        targets = np.concatenate([y for _, y in batches])
        chance = float(self.loss(jnp.broadcast_to(self.constant(targets), targets.shape), jnp.asarray(targets)))
        return Specimen(name, loss, self.network, params, batches, self.optimizer, chance, kinds=tuple(kinds))


@dataclasses.dataclass(frozen=True)
class Program:
    """A public program.

    Attributes:
        post: where it was asked about.
        fault: what is wrong, in a sentence.
        kinds: findings that would be right.
        faulty: as it was asked about.
        repaired: as the answers say.
    """

    post: str
    fault: str
    kinds: tuple[str, ...]
    faulty: Form
    repaired: Form


def _drawn(seed: int, size: int, make: Callable[[np.random.Generator, int], tuple[Any, Any]]) -> Batches:
    rng = np.random.default_rng(seed)
    made = [make(rng, size) for _ in range(COUNT)]
    return [(np.asarray(x, np.float32), np.asarray(y, np.float32)) for x, y in made]


def _ones_or_zeros(seed: int) -> Batches:
    def make(rng: np.random.Generator, size: int) -> tuple[Any, Any]:
        y = rng.integers(0, 2, (size, 1))
        return np.repeat(y, 128, 1), y

    return _drawn(seed, 24, make)


def _exclusive_or(seed: int) -> Batches:
    def make(rng: np.random.Generator, size: int) -> tuple[Any, Any]:
        x = rng.integers(0, 2, (size, 2))
        return x, x[:, :1] ^ x[:, 1:]

    return _drawn(seed, 32, make)


def _weighted_sum(scale: float) -> Callable[[int], Batches]:
    """2 a + b + c / 2 + 2.2 of numbers up to 10,000; `scale` brings them to about 1."""

    def make(rng: np.random.Generator, size: int) -> tuple[Any, Any]:
        x = 1e4 * rng.random((size, 3))
        y = x @ np.array([[2.0], [1.0], [0.5]]) + 2.2
        return (x, y) if scale == 1 else ((x - 5e3) / scale, (y - 1.75e4) / scale)

    return lambda seed: _drawn(seed, 32, make)


def _regression(features: int, size: int, deviation: float, inputs: float = 1.0, mean: float = 0.0) -> Any:
    """Targets that are linear in the inputs, with a deviation of their own."""

    def make(rng: np.random.Generator, size: int) -> tuple[Any, Any]:
        x = rng.standard_normal((size, features))
        y = x @ np.ones((features, 1)) / np.sqrt(features)
        return inputs * (x + mean), deviation * (y + mean)

    return lambda seed: _drawn(seed, size, make)


def _digits(classes: int, side: int, size: int, scale: float) -> Callable[[int], Batches]:
    """Images of strokes on black, one pattern a class, of bytes times `scale`."""

    def batches(seed: int) -> Batches:
        patterns = np.random.default_rng(seed).random((classes, side * side)) ** 3

        def make(rng: np.random.Generator, size: int) -> tuple[Any, Any]:
            y = rng.integers(0, classes, size)
            x = np.clip(patterns[y] + 0.1 * rng.standard_normal((size, side * side)), 0, 1)
            return 255 * scale * x, np.eye(classes)[y]

        return _drawn(seed, size, make)

    return batches


def _tumours(seed: int) -> Batches:
    """Thirty features on scales from 0.01 to 1,000, and two classes."""

    def make(rng: np.random.Generator, size: int) -> tuple[Any, Any]:
        y = rng.integers(0, 2, (size, 1))
        x = rng.standard_normal((size, 30)) + 1.5 * (2 * y - 1) * np.linspace(-1, 1, 30)
        return x * np.logspace(-2, 3, 30), y

    return _drawn(seed, 32, make)


relu, tanh, sigmoid, softmax = jax.nn.relu, jnp.tanh, jax.nn.sigmoid, jax.nn.softmax
rmsprop, nesterov = optax.rmsprop(1e-3), lambda rate: optax.sgd(rate, momentum=0.9, nesterov=True)
NO_GRADIENT = ("vanishing", "stalled_layer", "saturation", "batch_norm")
TOO_LARGE = ("learning_rate", "unstable_update", "nonfinite", "exploding", "poor_initialization", "saturation")

PROGRAMS: dict[str, Program] = {
    "one softmax, ones and zeros": Program(
        "stackoverflow.com/q/31880720", "A softmax over one unit is 1 for every input.", NO_GRADIENT,
        Form(Chain((128, 128, 50, 1), (relu, relu, softmax)), _ones_or_zeros, _binary, rmsprop),
        Form(Chain((128, 128, 50, 1), (relu, relu, sigmoid)), _ones_or_zeros, _binary, rmsprop),
    ),
    "one softmax, batch norm": Program(
        "stackoverflow.com/q/57397440", "A softmax over one unit is 1 for every input.", NO_GRADIENT,
        Form(Chain((30, 30, 60, 1), (relu, relu, softmax), normalized=True), _tumours, _binary, optax.adam(1e-3)),
        Form(Chain((30, 30, 60, 1), (relu, relu, sigmoid), normalized=True), _tumours, _binary, optax.adam(1e-2)),
    ),
    "one softmax, exclusive or": Program(
        "stackoverflow.com/q/34311586", "A softmax over one unit, weights of .03, and a rate of .001.",
        (*NO_GRADIENT, "poor_initialization", "learning_rate"),
        Form(Chain((2, 2, 3, 1), (sigmoid, sigmoid, softmax), _uniform), _exclusive_or, _squared, nesterov(1e-3)),
        Form(Chain((2, 16, 1), (tanh, sigmoid)), _exclusive_or, _binary, optax.adam(0.05)),
    ),
    "rectified output, exclusive or": Program(
        "stats.stackexchange.com/q/433365", "No activation in the first layer, and a ReLU of one unit as output.",
        ("dead_units", "vanishing", "learning_rate", "stalled_layer"),
        Form(Chain((2, 2, 2, 1), (_linear, relu, relu)), _exclusive_or, _squared, optax.sgd(0.01)),
        Form(Chain((2, 16, 1), (relu, sigmoid)), _exclusive_or, _binary, optax.adam(0.05)),
    ),
    "softmax for a sum": Program(
        "stackoverflow.com/q/33969059", "Inputs and targets of 10,000, tanh, and a softmax of one unit as output.",
        NO_GRADIENT,
        Form(Chain((3, 3, 2, 1), (tanh, tanh, softmax), _uniform), _weighted_sum(1.0), _squared, nesterov(0.1)),
        Form(Chain((3, 16, 1), (tanh, _linear)), _weighted_sum(5e3), _squared, nesterov(0.02)),
    ),
    "softmax for a number": Program(
        "stackoverflow.com/q/45442843", "Targets of deviation 50, one sigmoid unit, and a softmax as output.",
        (*NO_GRADIENT, "poor_initialization", "learning_rate"),
        Form(Chain((1, 1, 2), (sigmoid, softmax)), _regression(1, 90, 50.0), _absolute, rmsprop),
        Form(Chain((1, 16, 1), (tanh, _linear)), _regression(1, 90, 1.0), _absolute, optax.rmsprop(1e-2)),
    ),
    "rectified number": Program(
        "stackoverflow.com/q/48251943", "Inputs of about 100 and a rate of .01: the units die.",
        ("dead_units", *TOO_LARGE),
        Form(Chain((2, 4, 1), (relu, relu)), _regression(2, 10, 30.0, 30.0, 3.0), _squared, optax.sgd(0.01)),
        Form(Chain((2, 16, 1), (relu, _linear)), _regression(2, 10, 1.0), _squared, optax.sgd(0.05)),
    ),
    "standard normal weights": Program(
        "stackoverflow.com/q/48385830", "Weights of deviation 1, no activation, squared error, and a rate of 3.",
        TOO_LARGE,
        Form(Chain((256, 30, 10), (_linear, _linear), _standard), _digits(10, 16, 10, 1 / 255), _squared,
             optax.sgd(3.0)),
        Form(Chain((256, 30, 10), (relu, softmax)), _digits(10, 16, 10, 1 / 255), _categorical, optax.sgd(0.1)),
    ),
    "raw pixels": Program(
        "stackoverflow.com/q/55328966", "Inputs of 255, no activation in the first layer, sigmoids before the entropy.",
        (*TOO_LARGE, "dead_units", "vanishing", "stalled_layer"),
        Form(Chain((256, 256, 50, 10), (_linear, relu, sigmoid)), _digits(10, 16, 32, 1.0), _categorical,
             optax.sgd(1e-4)),
        Form(Chain((256, 256, 50, 10), (relu, relu, softmax), he), _digits(10, 16, 32, 1 / 255), _categorical,
             optax.sgd(0.1)),
    ),
    "sigmoid for a number": Program(
        "stackoverflow.com/q/60574843", "Targets of deviation 200, and a sigmoid as output.",
        (*NO_GRADIENT, "learning_rate", "exploding"),
        Form(GatedChain((12, 512, 256, 256, 1), sigmoid), _regression(12, 256, 200.0), _squared, optax.adam(1e-3)),
        Form(GatedChain((12, 512, 256, 256, 1), _linear), _regression(12, 256, 1.0), _squared, optax.adam(1e-3)),
    ),
}  # fmt: skip
