"""Sequence tasks with long-range dependencies, drawn inside `jit` from a key, and images read as sequences.

Every task is a frozen dataclass with the same three things: `sample(key, batch)` draws a `Batch`, `baseline()` is the
loss, in closed form, of what ignores the sequence, and `features`, `outputs` are the sizes of an input step and of the
output. `generate(task, batch_size)` makes a source of it.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Num, PRNGKeyArray, Shaped

from gradflow.data.pytree_dataclass import pytree
from gradflow.data.sources import Batch, Step

__all__ = [
    "Adding", "AddingOriginal", "CopyMemory", "Generated", "Images", "Key", "Latch", "Task", "TemporalOrder",
    "generate", "permuted_pixels", "pixels", "rows",
]  # fmt: skip

Key = PRNGKeyArray | Shaped[Array, "2"]
Images = Num[Array | np.ndarray, "examples height width channels"]


@runtime_checkable
class Task(Protocol):
    """A sequence task: what all classes of this module have in common."""

    @property
    def features(self) -> int:
        """Numbers in one step of the input."""
        ...

    @property
    def outputs(self) -> int:
        """Numbers that the model puts out: one for a real target, otherwise one a class."""
        ...

    def sample(self, key: Key, batch: int) -> Batch:
        """Draw sequences: pure, of static shape."""
        ...

    def baseline(self) -> float:
        """Loss of the best prediction that ignores the sequence: mean squared error, or nats."""
        ...


@dataclasses.dataclass(frozen=True)
class Adding:
    """Add the two marked numbers of a sequence; values in [0, 1].

    Step t is (value, marker): values uniform in [0, 1], marker 1 at one place in each half, 0 elsewhere. The target is
    the sum of the two marked values. The modern form: Le, Jaitly & Hinton 2015; Arjovsky, Shah & Bengio 2016.

    Attributes:
        length: T, at least 2.
    """

    length: int
    features: int = dataclasses.field(default=2, init=False)
    outputs: int = dataclasses.field(default=1, init=False)

    def __post_init__(self) -> None:
        _at_least("length", self.length, 2)

    def sample(self, key: Key, batch: int) -> Batch:
        """Draw sequences.

        Args:
            key: randomness.
            batch: how many.

        Returns:
            Inputs (batch, T, 2), targets (batch, 1), float32.
        """
        value_key, first_key, second_key = jax.random.split(key, 3)
        half = self.length // 2
        values = jax.random.uniform(value_key, (batch, self.length))
        first = jax.random.randint(first_key, (batch,), 0, half)
        second = jax.random.randint(second_key, (batch,), half, self.length)
        marks = jax.nn.one_hot(first, self.length) + jax.nn.one_hot(second, self.length)
        return Batch(jnp.stack([values, marks], -1), jnp.sum(values * marks, 1, keepdims=True))

    def baseline(self) -> float:
        """Mean squared error of predicting the mean, 1: the variance of two uniform numbers, 2/12 = 1/6."""
        return 1 / 6


@dataclasses.dataclass(frozen=True)
class AddingOriginal:
    """Add the two marked numbers of a sequence, as first posed; values in [-1, 1], lengths vary.

    Step t is (value, marker): values uniform in [-1, 1]. One of the first 10 pairs is marked by 1 (X1), then one of the
    other pairs among the first T/2 - 1 (X2); the first and the last pair have marker -1, all others 0. Where the first
    pair is marked, X1 is set to 0. The length is uniform in T ... T + T/10; the target .5 + (X1 + X2) / 4, at the end,
    counts as hit within .04. Hochreiter & Schmidhuber 1997.

    Attributes:
        length: T, the least length, at least 24.
    """

    length: int
    features: int = dataclasses.field(default=2, init=False)
    outputs: int = dataclasses.field(default=1, init=False)
    hit: float = dataclasses.field(default=0.04, init=False)

    def __post_init__(self) -> None:
        _at_least("length", self.length, 24)  # so that the first 10 pairs lie among the first T/2 - 1

    @property
    def longest(self) -> int:
        """Largest length, that of the arrays."""
        return self.length + self.length // 10

    def sample(self, key: Key, batch: int) -> Batch:
        """Draw sequences.

        Args:
            key: randomness.
            batch: how many.

        Returns:
            Inputs (batch, T + T/10, 2), 0 beyond each length; targets (batch, 1), float32; lengths (batch,).
        """
        value_key, first_key, second_key, length_key = jax.random.split(key, 4)
        steps = jnp.arange(self.longest)
        lengths = jax.random.randint(length_key, (batch,), self.length, self.longest + 1)
        first = jax.random.randint(first_key, (batch,), 0, 10)
        second = jax.random.randint(second_key, (batch,), 0, self.length // 2 - 2)
        second = second + (second >= first).astype(jnp.int32)  # skips the pair that is marked already
        at_first, at_second = steps == first[:, None], steps == second[:, None]
        marked = at_first | at_second
        values = jax.random.uniform(value_key, (batch, self.longest), minval=-1.0)
        values = jnp.where(at_first & marked[:, :1], 0.0, values)
        ends = (steps == 0) | (steps == lengths[:, None] - 1)
        marks = jnp.where(marked, 1.0, jnp.where(ends, -1.0, 0.0))
        inputs = jnp.where((steps < lengths[:, None])[..., None], jnp.stack([values, marks], -1), 0.0)
        sums = jnp.sum(jnp.where(marked, values, 0.0), 1, keepdims=True)
        return Batch(inputs, 0.5 + sums / 4, lengths)

    def baseline(self) -> float:
        """Mean squared error of predicting the mean, .5: (Var X1 + Var X2) / 16, X1 being 0 now and then."""
        zeroed = 1 / 10 + 9 / 10 / (self.length // 2 - 2)
        return ((1 - zeroed) / 3 + 1 / 3) / 16


@dataclasses.dataclass(frozen=True)
class TemporalOrder:
    """Tell in which order some symbols X and Y came, spread over a sequence of distractors.

    Input symbols, one-hot: 4 distractors, X and Y. Each of `symbols` places holds X or Y; the class is these read as a
    binary number, the first being the highest digit, Y as 1. The places are uniform in [T/10, 2T/10] and [iT/k, iT/k +
    T/10], i = 1 ... k - 1, for k = 2 and 3 symbols, as in Hochreiter & Schmidhuber 1997 (who add a first and a
    last symbol and vary the length); in [(i + 1/2) T/k, (i + 1) T/k) for more.

    Attributes:
        length: T.
        symbols: k, relevant symbols; bits to be kept.
    """

    length: int
    symbols: int = 2
    features: int = dataclasses.field(default=6, init=False)

    def __post_init__(self) -> None:
        _at_least("symbols", self.symbols, 2)
        _at_least("length", self.length, max(10, 2 * self.symbols))

    @property
    def outputs(self) -> int:
        """Number of classes, 2^k."""
        return 2**self.symbols

    @property
    def windows(self) -> tuple[tuple[int, int], ...]:
        """First place and the one after the last, for each symbol."""
        length, k = self.length, self.symbols
        if k > 3:
            return tuple(((2 * i + 1) * length // (2 * k), (i + 1) * length // k) for i in range(k))
        starts = [length // 10, *(i * length // k for i in range(1, k))]
        return tuple((start, start + length // 10 + 1) for start in starts)

    def sample(self, key: Key, batch: int) -> Batch:
        """Draw sequences.

        Args:
            key: randomness.
            batch: how many.

        Returns:
            Inputs (batch, T, 6) float32; classes (batch,) int32.
        """
        noise_key, bit_key, place_key = jax.random.split(key, 3)
        starts, stops = (jnp.asarray(column) for column in zip(*self.windows, strict=True))
        bits = jax.random.bernoulli(bit_key, shape=(batch, self.symbols)).astype(jnp.int32)
        places = jax.random.randint(place_key, (batch, self.symbols), starts, stops)
        codes = jax.random.randint(noise_key, (batch, self.length), 0, 4)
        codes = jax.vmap(lambda row, at, bit: row.at[at].set(4 + bit))(codes, places, bits)
        digits = jnp.asarray([2**i for i in reversed(range(self.symbols))])
        return Batch(jax.nn.one_hot(codes, 6), jnp.sum(bits * digits, 1))

    def baseline(self) -> float:
        """Cross-entropy, in nats, of predicting all classes equally: k ln 2."""
        return self.symbols * math.log(2)


@dataclasses.dataclass(frozen=True)
class CopyMemory:
    """Repeat ten symbols after a long pause.

    Inputs, one-hot of 10: ten symbols of 8, then T - 1 blanks, a delimiter, ten blanks. Targets, one class a step:
    T + 10 blanks, then the ten symbols. Arjovsky, Shah & Bengio 2016, after Hochreiter & Schmidhuber 1997.

    Attributes:
        pause: T, at least 1; sequences have T + 20 steps.
    """

    pause: int
    features: int = dataclasses.field(default=10, init=False)
    outputs: int = dataclasses.field(default=9, init=False)

    def __post_init__(self) -> None:
        _at_least("pause", self.pause, 1)

    def sample(self, key: Key, batch: int) -> Batch:
        """Draw sequences.

        Args:
            key: randomness.
            batch: how many.

        Returns:
            Inputs (batch, T + 20, 10) float32; classes (batch, T + 20) int32, 8 for a blank.
        """
        blank, delimiter = 8, 9
        symbols = jax.random.randint(key, (batch, 10), 0, blank)
        codes = jnp.full((batch, self.pause + 20), blank).at[:, :10].set(symbols)
        codes = codes.at[:, self.pause + 9].set(delimiter)
        targets = jnp.full((batch, self.pause + 20), blank).at[:, -10:].set(symbols)
        return Batch(jax.nn.one_hot(codes, 10), targets)

    def baseline(self) -> float:
        """Cross-entropy a step, in nats, without memory: blanks are certain, 8 symbols equal: 10 ln 8 / (T + 20)."""
        return 10 * math.log(8) / (self.pause + 20)


@dataclasses.dataclass(frozen=True)
class Latch:
    """Remember a sign that the first steps give, through noise on the same line.

    The first `informative` steps are +1 or -1, all later ones Gaussian noise of mean 0; the class is 1 for +1. The
    task of Bengio, Simard & Frasconi 1994 in the form of Hochreiter & Schmidhuber 1997.

    Attributes:
        length: T, more than `informative`.
        informative: N, steps that tell the class.
        noise_variance: of all later steps.
    """

    length: int
    informative: int = 3
    noise_variance: float = 0.2
    features: int = dataclasses.field(default=1, init=False)
    outputs: int = dataclasses.field(default=2, init=False)

    def __post_init__(self) -> None:
        _at_least("informative", self.informative, 1)
        _at_least("length", self.length, self.informative + 1)

    def sample(self, key: Key, batch: int) -> Batch:
        """Draw sequences.

        Args:
            key: randomness.
            batch: how many.

        Returns:
            Inputs (batch, T, 1) float32; classes (batch,) int32.
        """
        class_key, noise_key = jax.random.split(key)
        classes = jax.random.bernoulli(class_key, shape=(batch,)).astype(jnp.int32)
        signs = (2 * classes - 1).astype(jnp.float32)
        noise = math.sqrt(self.noise_variance) * jax.random.normal(noise_key, (batch, self.length))
        told = jnp.arange(self.length) < self.informative
        return Batch(jnp.where(told, signs[:, None], noise)[..., None], classes)

    def baseline(self) -> float:
        """Cross-entropy, in nats, without memory of the first steps: ln 2."""
        return math.log(2)


@pytree("task", "batch_size")
@dataclasses.dataclass(frozen=True)
class Generated:
    """Endless fresh sequences of a task: a `Source` that keeps no data at all.

    Attributes:
        task: what is drawn.
        batch_size: sequences a step.
    """

    task: Task
    batch_size: int

    def window(self, first: int, count: int) -> Generated:
        """Return itself: nothing has to be fetched.

        Args:
            first: first step.
            count: number of steps.
        """
        return self

    def batch(self, key: Key, step: Step) -> Batch:
        """Draw the batch of a step: pure, jittable.

        Args:
            key: randomness of the whole run, the same at every step.
            step: counted from 0.
        """
        return self.task.sample(jax.random.fold_in(key, step), self.batch_size)


def generate(task: Task, batch_size: int) -> Generated:
    """Make a source of a task.

    Args:
        task: such as `Adding(100)`.
        batch_size: sequences a step, at least 1.

    Raises:
        ValueError: for a batch size below 1.

    Examples:
        >>> source = generate(Adding(100), batch_size=20)
        >>> source.batch(jax.random.key(0), step=3).inputs.shape
        (20, 100, 2)
    """
    _at_least("batch size", batch_size, 1)
    return Generated(task, batch_size)


def rows(images: Images) -> Num[Array, "examples steps features"]:
    """Read images row by row: a step is one row of pixels.

    Args:
        images: (examples, height, width, channels), any dtype; also uint8 as stored.

    Returns:
        (examples, height, width x channels).
    """
    count, height, width, channels = images.shape
    return jnp.asarray(images).reshape(count, height, width * channels)


def pixels(images: Images) -> Num[Array, "examples steps channels"]:
    """Read images pixel by pixel, in scan order ("sequential MNIST", Le, Jaitly & Hinton 2015).

    Args:
        images: (examples, height, width, channels), any dtype.

    Returns:
        (examples, height x width, channels).
    """
    count, height, width, channels = images.shape
    return jnp.asarray(images).reshape(count, height * width, channels)


def permuted_pixels(images: Images, key: Key) -> Num[Array, "examples steps channels"]:
    """Read images pixel by pixel in one random order, the same for all ("permuted MNIST", Le, Jaitly & Hinton 2015).

    Args:
        images: (examples, height, width, channels), any dtype.
        key: the order; use one key for training and test images.

    Returns:
        (examples, height x width, channels).
    """
    sequence = pixels(images)
    order: Int[Array, " steps"] = jax.random.permutation(key, sequence.shape[1])
    return sequence[:, order]


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"expected a {name} of at least {least}, got {value}")
